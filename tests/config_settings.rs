//! Settings in their layers, and every fault with its file and line or its variable.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in the helpers of tests, too, a surprise is a failure")]

use std::path::{Path, PathBuf};

use stagehook::config::secret::{Environment, SecretRef};
use stagehook::config::settings::{Auth, Credentials, DEFAULT, LogFormat, Scope, Settings};
use stagehook::config::tls::ClientAuth;
use stagehook::domain::glob::Glob;
use stagehook::domain::loadtester::TaskKind;
use stagehook::domain::names::{Namespace, Source};
use stagehook::domain::span::Span;

fn env(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The settings of a file (none when empty) and variables, or the faults as `line:column message; hint`.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stagehook.yaml");
    std::fs::write(&path, text).unwrap();
    let file = (!text.is_empty()).then_some(path.as_path());
    Settings::load(file, &env(variables)).map_err(|faults| {
        let line = |fault: &stagehook::config::diagnostic::Diagnostic| {
            let hint = fault.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
            let at = if fault.line == 0 { fault.file.clone() } else { format!("{}:{}", fault.line, fault.column) };
            format!("{at} {}{hint}", fault.message)
        };
        faults.iter().map(line).collect()
    })
}

fn good(text: &str, variables: &[(&str, &str)]) -> Settings {
    load(text, variables).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn expect(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let found = load(text, variables).expect_err(text);
    let same = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(same, "{text}\nfound {found:#?}\nexpected {expected:#?}");
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let settings = good("", &[]);
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.server.shutdown_grace, Span::from_secs(30));
    assert_eq!(settings.server.public_url, None);
    assert_eq!(settings.ledger.url, "sqlite://data/stagehook.db");
    assert_eq!(settings.ledger.path, Path::new("data/stagehook.db"));
    assert_eq!(settings.ledger.retain, None);
    assert_eq!(settings.pipelines, Path::new("config/pipelines"));
    assert_eq!(settings.stale_after, Span::from_secs(86_400));
    assert_eq!(settings.rollback.signal_timeout, Span::from_secs(120));
    let execution = &settings.execution;
    assert_eq!((execution.max_concurrent, execution.queue, execution.output_limit), (8, 64, 1 << 20));
    assert_eq!((execution.default_timeout, execution.kill_grace), (Span::from_secs(3600), Span::from_secs(10)));
    assert_eq!(execution.work_dir, Path::new("data/work"));
    assert!(execution.inherit_env.iter().any(|name| name == "PATH"));
    let flagger = &settings.sources[&Source::Flagger];
    assert_eq!((flagger.enabled, &flagger.auth, flagger.respond_within), (true, &None, None));
    assert_eq!((flagger.max_body, flagger.rejected, flagger.pending), (1 << 20, 501, 503));
    assert_eq!(settings.sources[&Source::Generic].respond_within, Some(Span::from_secs(300)));
    assert_eq!(
        (settings.api_tokens.len(), settings.log.format, settings.log.level.as_str()),
        (0, LogFormat::Auto, "info")
    );
    assert_eq!(settings.pipeline_defaults().timeout, Span::from_secs(3600));
}

#[test]
fn every_default_has_a_comment_or_a_twin_that_has() {
    for key in [
        "listen",
        "shutdownGrace",
        "publicUrl",
        "url",
        "staleAfter",
        "signalTimeout",
        "maxConcurrent",
        "queue",
        "workDir",
        "runAs",
        "cpuTime",
        "coreSize",
    ] {
        let at = DEFAULT.find(&format!("{key}:")).unwrap();
        let before = DEFAULT[..at].trim_end().lines().last().unwrap();
        assert!(before.trim_start().starts_with('#'), "{key}");
    }
}

#[test]
fn a_public_url_is_one_that_callers_can_use() {
    let url = |text: &str| good("", &[("STAGEHOOK_SERVER__PUBLIC_URL", text)]).server.public_url;
    assert_eq!(url("https://hooks.example.com/").as_deref(), Some("https://hooks.example.com"));
    assert_eq!(url("http://[::1]:8080/stagehook").as_deref(), Some("http://[::1]:8080/stagehook"));
    assert_eq!(url(""), None);
    for wrong in ["hooks.example.com", "ftp://hooks.example.com", "https://a@b", "https://b/?x", "https://b/#x", "/x"] {
        let found = load(&format!("server: {{publicUrl: '{wrong}'}}"), &[]).unwrap_err();
        assert!(found.len() == 1 && found[0].contains("server.publicUrl must be an http or https URL"), "{found:?}");
    }
}

#[test]
fn the_password_of_a_url_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stagehook.yaml");
    for setting in ["server: {publicUrl: URL}", "sources: {github: {api: {url: URL}}}"] {
        let text = setting.replace("URL", "'https://ann:hunter2@hooks.example.com'");
        std::fs::write(&path, text).unwrap();
        let faults = Settings::load(Some(&path), &env(&[])).unwrap_err();
        let shown: String = faults.iter().map(ToString::to_string).collect();
        assert!(shown.contains("there is an @ in it") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn variables_lie_over_the_file_and_the_file_over_the_defaults() {
    let file = "execution: {maxConcurrent: 2, queue: 3, inheritEnv: [A]}\nlog: {level: debug}\nrollback:\n";
    let settings = good(
        file,
        &[
            ("STAGEHOOK_EXECUTION__MAX_CONCURRENT", "5"),
            ("STAGEHOOK_SERVER__LISTEN", "[::1]:9"),
            ("STAGEHOOK_EXECUTION__INHERITENV", "PATH, HOME,"),
            ("STAGEHOOK_STALE_AFTER", "2h"),
            ("STAGEHOOK_SOURCES__GENERIC__ENABLED", "false"),
            ("STAGEHOOK_SOURCES__GENERIC__RESPOND_WITHIN", ""),
        ],
    );
    assert_eq!((settings.execution.max_concurrent, settings.execution.queue), (5, 3));
    assert_eq!(settings.execution.inherit_env, ["PATH", "HOME"]);
    assert_eq!(settings.server.listen.to_string(), "[::1]:9");
    assert_eq!((settings.log.level.as_str(), settings.stale_after), ("debug", Span::from_secs(7200)));
    let generic = &settings.sources[&Source::Generic];
    assert_eq!((generic.enabled, generic.respond_within), (false, None));
    assert_eq!(settings.rollback.signal_timeout, Span::from_secs(120));
    assert_eq!(good("", &[("STAGEHOOK_EXECUTION__MAXCONCURRENT", "7")]).execution.max_concurrent, 7);
}

#[test]
fn a_source_with_a_hyphen_is_set_by_a_variable_that_has_none() {
    for name in ["STAGEHOOK_SOURCES__ARGO_ROLLOUTS__ENABLED", "STAGEHOOK_SOURCES__ARGOROLLOUTS__ENABLED"] {
        assert!(good("", &[(name, "true")]).sources[&Source::ArgoRollouts].enabled, "{name}");
    }
    expect(
        "",
        &[("STAGEHOOK_SOURCES__ARGO_ROLLOUT__ENABLED", "true")],
        &[
            "STAGEHOOK_SOURCES__ARGO_ROLLOUT__ENABLED there is no such setting; did you mean STAGEHOOK_SOURCES__ARGO_ROLLOUTS?",
        ],
    );
}

#[test]
fn variables_of_others_are_no_settings() {
    good(
        "",
        &[
            ("STAGEHOOK_CONFIG", "x"),
            ("STAGEHOOK_SERVER", "http://x"),
            ("STAGEHOOK_TOKEN", "x"),
            ("STAGEHOOK_SERVICE_HOST", "10.0.0.1"),
            ("STAGEHOOK_PORT", "tcp://10.0.0.1:80"),
            ("STAGEHOOK_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("STAGEHOOK_HEADLESS_SERVICE_HOST", "10.0.0.1"),
            ("STAGEHOOK_HEADLESS_SERVICE_PORT", "80"),
            ("STAGEHOOK_HEADLESS_SERVICE_PORT_HTTP_ALT", "80"),
            ("STAGEHOOK_HEADLESS_PORT", "tcp://10.0.0.1:80"),
            ("STAGEHOOK_X_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("STAGEHOOK_X_PORT_80_TCP_PROTO", "tcp"),
            ("STAGEHOOK_X_PORT_53_UDP_PORT", "53"),
            ("STAGEHOOK_X_PORT_9_SCTP_ADDR", "10.0.0.1"),
            ("STAGEHOOK_RUN_ID", "run_1"),
            ("STAGEHOOK_METADATA_A__B", "x"),
            ("PATH", "/bin"),
        ],
    );
}

#[test]
fn what_only_resembles_a_service_variable_is_a_slip() {
    for (name, value) in [
        ("STAGEHOOK_PORT", "8080"),
        ("STAGEHOOK_LISTEN_PORT", "8080"),
        ("STAGEHOOK_SERVICE_HOSTS", "x"),
        ("STAGEHOOK_SERVER__SERVICE_HOST", "x"),
        ("STAGEHOOK_X_SERVICE_PORT_", "80"),
        ("STAGEHOOK_X_PORT_80_HTTP", "x"),
        ("STAGEHOOK_X_PORT_A_TCP", "x"),
        ("STAGEHOOK_X_PORT_80_TCP_NAME", "x"),
        ("STAGEHOOK_PORT_80", "x"),
    ] {
        expect("", &[(name, value)], &[&format!("{name} there is no such setting")]);
    }
}

#[test]
fn relative_paths_are_relative_to_what_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stagehook.yaml");
    let load = |text: &str, variables: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        Settings::load(Some(&file), &env(variables)).unwrap()
    };
    let settings = load("pipelines: p\nledger: {url: 'sqlite://d/l.db'}\n", &[]);
    assert_eq!(settings.pipelines, folder.path().join("p"));
    assert_eq!(settings.ledger.path, folder.path().join("d/l.db"));
    assert_eq!(settings.execution.work_dir, folder.path().join("d/work"));

    let settings = load(
        "ledger: {url: 'sqlite:///abs/l.db'}\nexecution: {workDir: w}\n\
         sources: {generic: {auth: {type: bearer, tokens: [{fromFile: t}, {fromEnv: T}]}}}\n",
        &[("STAGEHOOK_PIPELINES", "here")],
    );
    assert_eq!(settings.ledger.path, Path::new("/abs/l.db"));
    assert_eq!((settings.pipelines, settings.execution.work_dir), (PathBuf::from("here"), folder.path().join("w")));
    let Some(Auth::Bearer { tokens }) = &settings.sources[&Source::Generic].auth else { panic!() };
    assert_eq!(tokens[0].secret.reference, SecretRef::File(folder.path().join("t")));
    assert_eq!(tokens[1].secret.reference, SecretRef::Variable("T".to_owned()));
    assert_eq!(tokens[1].setting, "sources.generic.auth.tokens[1]");
}

#[test]
fn faults_of_a_file() {
    expect("serer: {}\n", &[], &["1:1 unknown key \"serer\" in the settings; did you mean \"server\"?"]);
    expect(
        "server:\n  lisen: a\n  listen: here\n",
        &[],
        &[
            "2:3 unknown key \"lisen\" in server; did you mean \"listen\"?",
            "3:11 server.listen must be an address and a port, and not \"here\"; 127.0.0.1:8080 listens on loopback",
        ],
    );
    expect(
        "execution: {maxConcurrent: 0, queue: x, killGrace: 5, outputLimit: big, inheritEnv: A, defaultTimeout: ~}\n",
        &[],
        &[
            "1:28 maxConcurrent must be a whole number from 1 to 10000, and this is \"0\"",
            "1:38 queue must be a whole number from 0 to 1000000, and this is \"x\"",
            "1:52 killGrace is a length of time, and \"5\" has no unit",
            "1:68 outputLimit must be a size of at most 1GiB; it is written like 64KiB or 1MiB",
            "1:85 inheritEnv must be a list, and this is text",
            "1:88 defaultTimeout may not be empty; leave it out for its default",
        ],
    );
    expect(
        "sources: {generic: {enabled: yes, status: {rejected: 200}}, gitlab: {}}\n",
        &[],
        &[
            "1:30 enabled must be true or false, and this is \"yes\"",
            "1:54 rejected must be a whole number from 400 to 599, and this is \"200\"",
            "1:61 unknown key \"gitlab\" in sources; did you mean \"github\"?",
        ],
    );
    expect(
        "log: {format: xml, level: 'a=b=c'}\nledger: {url: 'postgres://x'}\n",
        &[],
        &[
            "1:15 format is one of auto, text, json, and not \"xml\"",
            "1:20 log.level is not understood",
            "2:15 ledger.url must name an SQLite file; sqlite://data/stagehook.db",
        ],
    );
    expect("ledger: {retain: 3m}\n", &[], &["1:10 ledger.retain must be at least 1d: what is pruned is gone; 30d, or"]);
    expect("ledger: {retain: 90}\n", &[], &["1:18 retain is a length of time, and \"90\" has no unit"]);
    assert_eq!(good("ledger: {retain: 90d}\n", &[]).ledger.retain, Some(Span::from_secs(90 * 86_400)));
    assert_eq!(good("", &[("STAGEHOOK_LEDGER__RETAIN", "1d")]).ledger.retain, Some(Span::from_secs(86_400)));
    expect("log: {level: warning}\n", &[], &["1:7 log.level is not understood: \"warning\" is no level; it is error,"]);
    expect("log: {level: 'info,inof'}\n", &[], &["1:7 log.level is not understood: \"inof\" is no level"]);
    assert_eq!(good("log: {level: 'WARN,stagehook::engine=debug'}\n", &[]).log.level, "WARN,stagehook::engine=debug");
    expect("- a\n", &[], &["1:1 settings are a map, and this is a list"]);
    expect("server: 5\n", &[], &["1:9 server must be a map, and this is a number"]);
    expect("log: {level: info}\n---\nlog: {}\n", &[], &["3:1 a settings file holds one document"]);
    expect("log: {level: info, level: debug}\n", &[], &["1:20 the key \"level\" stands twice"]);
    let missing = Settings::load(Some(Path::new("/nowhere/s.yaml")), &env(&[])).unwrap_err();
    assert!(missing[0].to_string().starts_with("/nowhere/s.yaml: error: it can't be read: No such file"));
}

#[test]
fn faults_of_variables_name_the_variable() {
    let of = |name: &str, value: &str, fault: &str| expect("", &[(name, value)], &[&format!("{name} {fault}")]);
    of("STAGEHOOK_SERVER__LISTE", "x", "there is no such setting; did you mean STAGEHOOK_SERVER__LISTEN?");
    of("STAGEHOOK_PIPELINE", "x", "there is no such setting; did you mean STAGEHOOK_PIPELINES?");
    of("STAGEHOOK_SERVER__LISTEN__X", "x", "there is no such setting; server.listen is a value");
    of("STAGEHOOK_LOG", "x", "log is a section and no value; it holds STAGEHOOK_LOG__FORMAT, STAGEHOOK_LOG__LEVEL");
    of("STAGEHOOK_EXECUTION__QUEUE", "many", "queue must be a whole number");
    of("STAGEHOOK_SERVER__LISTEN", "here", "server.listen must be an address and a port");
    expect(
        "",
        &[("STAGEHOOK_LOG__LEVEL", "info"), ("STAGEHOOK_LOG__LE_VEL", "info")],
        &["STAGEHOOK_LOG__LE_VEL it sets the same as STAGEHOOK_LOG__LEVEL"],
    );
}

#[test]
fn a_source_that_would_be_open_to_the_world_is_refused() {
    let everywhere = ("STAGEHOOK_SERVER__LISTEN", "0.0.0.0:8080");
    expect(
        "",
        &[everywhere],
        &[
            "STAGEHOOK_SERVER__LISTEN flagger would be open to everyone who reaches 0.0.0.0:8080; set sources.flagger.auth; {type: none}",
            "STAGEHOOK_SERVER__LISTEN generic would be open to everyone",
        ],
    );
    expect(
        "server:\n  listen: 10.0.0.1:80\nsources: {flagger: {auth: {type: none}}}\n",
        &[],
        &["2:11 generic would be open"],
    );
    let off = ("STAGEHOOK_SOURCES__FLAGGER__ENABLED", "false");
    let none = ("STAGEHOOK_SOURCES__GENERIC__AUTH__TYPE", "none");
    assert_eq!(good("", &[everywhere, off, none]).sources[&Source::Generic].auth, Some(Auth::None));
}

#[test]
fn faults_of_auth() {
    let of =
        |auth: &str, expected: &[&str]| expect(&format!("sources:\n  generic:\n    auth: {auth}\n"), &[], expected);
    of(
        "{}",
        &[
            "3:11 sources.generic.auth.type is missing; it is one of none, basic, bearer, hmac-sha256, standard-webhooks",
        ],
    );
    of(
        "{type: barer}",
        &[
            "3:18 type is one of none, basic, bearer, hmac-sha256, standard-webhooks, and not \"barer\"; did you mean \"bearer\"?",
        ],
    );
    of("{type: none, tokens: []}", &["3:24 unknown key \"tokens\" in sources.generic.auth"]);
    of("{type: basic, password: {fromEnv: P}}", &["3:11 sources.generic.auth.username is missing; username: flagger"]);
    of("{type: bearer}", &["3:11 sources.generic.auth.tokens is missing; tokens: [{fromFile: /path}]"]);
    of("{type: basic, username: a}", &["3:11 sources.generic.auth.password is missing"]);
    of("{type: basic, username: a:b, password: {fromEnv: P}}", &["3:25 a username can't have a colon in it"]);
    of(
        "{type: bearer, tokens: [plain, {fromFile: a, fromEnv: b}, {}]}",
        &[
            "3:35 sources.generic.auth.tokens[0] must say where the secret comes from; {fromFile: /path} or",
            "3:42 sources.generic.auth.tokens[1] is taken from one place",
            "3:69 sources.generic.auth.tokens[2] is taken from one place",
        ],
    );
    of("{type: hmac-sha256, secrets: []}", &["3:40 sources.generic.auth.secrets is empty"]);
    expect(
        "sources: {flagger: {auth: {type: hmac-sha256, secrets: [{fromEnv: S}]}}}\n",
        &[],
        &["1:34 Flagger can't sign its calls, so none would ever pass; use {type: basic, …}"],
    );
}

#[test]
fn a_credential_has_a_name_and_limits() {
    let settings = good(
        "sources:\n  generic:\n    auth:\n      type: standard-webhooks\n      secrets:\n\
         \x20     - {fromEnv: A, name: ci, cluster: eu, namespaces: ['team-*', shared]}\n\
         \x20     - {fromEnv: B, clusters: ['{eu,us}-*']}\n\
         \x20 flagger:\n    auth: {type: basic, username: f, passwords: [{fromEnv: A}, {fromEnv: B, name: next}]}\n",
        &[],
    );
    let Some(Auth::StandardWebhooks { secrets }) = &settings.sources[&Source::Generic].auth else { panic!() };
    let texts = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect::<Vec<_>>();
    let [first, second] = secrets.as_slice() else { panic!() };
    assert_eq!((first.name.as_deref(), first.limits.cluster.as_ref().unwrap().as_str()), (Some("ci"), "eu"));
    assert_eq!(
        (texts(&first.limits.namespaces), texts(&first.limits.clusters)),
        (vec!["team-*".into(), "shared".into()], vec![])
    );
    assert_eq!((texts(&second.limits.clusters), &second.name), (vec!["{eu,us}-*".to_owned()], &None));
    assert_eq!(second.setting, "sources.generic.auth.secrets[1]");
    let Some(Auth::Basic { passwords, .. }) = &settings.sources[&Source::Flagger].auth else { panic!() };
    assert_eq!((passwords.len(), passwords[1].setting.as_str()), (2, "sources.flagger.auth.passwords[1]"));

    let env = env(&[("A", "whsec_QUJDRA"), ("B", "QUJDRA==")]);
    let errors = settings.resolve(&env).unwrap_err();
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "the secret sources.generic.auth.secrets[1] can't be read from the variable B: it is not written as whsec_ and base64"
        ]
    );
}

#[test]
fn github_is_closed_until_it_has_a_secret_and_that_is_its_webhooks() {
    let everywhere = [("STAGEHOOK_SERVER__LISTEN", "0.0.0.0:8080")];
    let others = "flagger: {enabled: false}, generic: {enabled: false}";
    let settings = good(&format!("sources: {{{others}, github: {{enabled: true}}}}\n"), &everywhere);
    assert_eq!(settings.sources[&Source::Github].auth, None);
    for auth in
        ["{type: none}", "{type: bearer, tokens: [{fromEnv: T}]}", "{type: standard-webhooks, secrets: [{fromEnv: T}]}"]
    {
        expect(
            &format!("sources:\n  github:\n    auth: {auth}\n"),
            &[],
            &["3:18 GitHub signs its calls, and nothing else proves that they are its own; use {type: hmac-sha256, "],
        );
    }
    let signed = good("sources: {github: {auth: {type: hmac-sha256, secrets: [{fromEnv: T}]}}}\n", &[]);
    assert!(matches!(signed.sources[&Source::Github].auth, Some(Auth::HmacSha256 { .. })));
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    assert_eq!(good("", &[]).server.tls, None);
    let tls = [("STAGEHOOK_SERVER__TLS__CERTIFICATE", "c.pem"), ("STAGEHOOK_SERVER__TLS__KEY", "k.pem")];
    let found = good("server: {tls: {clientCa: ca.pem, clientAuth: optional}}\n", &tls).server.tls.unwrap();
    assert_eq!((found.certificate, found.key), (PathBuf::from("c.pem"), PathBuf::from("k.pem")));
    assert!(found.client_ca.unwrap().ends_with("ca.pem") && found.client_auth == ClientAuth::Optional);
    expect("server: {tls: {certificate: a}}\n", &[], &["1:16 server.tls has certificate, and no key; {certificate:"]);
    expect("server: {tls: {key: a}}\n", &[], &["1:16 server.tls has key, and no certificate"]);
    expect("server: {tls: {clientCa: a}}\n", &[], &["1:16 server.tls has clientCa, and no certificate"]);
    expect("server: {tls: {clientAuth: maybe}}\n", &[], &["1:28 clientAuth is one of required, optional, and not"]);
    expect("server: {tls: {cert: a}}\n", &[], &["1:16 unknown key \"cert\" in tls"]);
}

#[test]
fn faults_of_names_and_limits() {
    let of = |token: &str, expected: &[&str]| {
        expect(&format!("sources: {{generic: {{auth: {{type: bearer, tokens: [\n{token}]}}}}}}\n"), &[], expected);
    };
    of("{fromEnv: A, name: ci}, {fromEnv: B, name: ci}", &["2:25 the name \"ci\" is taken"]);
    of("{fromEnv: A, name: '7'}", &["2:14 sources.generic.auth.tokens[0].name can't be a number; name: ci"]);
    of("{fromEnv: A, name: a:b}", &["2:14 sources.generic.auth.tokens[0].name can't have a colon"]);
    of("{fromEnv: A, cluster: a/b}", &["2:23 the cluster is not valid: it has the character '/'"]);
    of(
        "{fromEnv: A, cluster: eu, clusters: [eu]}",
        &["2:27 sources.generic.auth.tokens[0] has both `cluster` and `clusters`"],
    );
    of(
        "{fromEnv: A, namespaces: []}",
        &["2:26 sources.generic.auth.tokens[0].namespaces is empty, so no call would ever pass"],
    );
    of("{fromEnv: A, namespaces: team}", &["2:26 namespaces must be a list, and this is text"]);
    of(
        "{fromEnv: A, namespaces: ['{a', '']}",
        &[
            "2:27 sources.generic.auth.tokens[0].namespaces is no glob: unclosed alternate group",
            "2:33 sources.generic.auth.tokens[0].namespaces is no glob: it is empty",
        ],
    );
    of(
        "{fromEnv: A, namespace: a}",
        &["2:14 unknown key \"namespace\" in sources.generic.auth.tokens[0]; did you mean \"namespaces\"?"],
    );
    expect(
        "sources: {generic: {auth: {type: basic, username: a, password: {fromEnv: A}, passwords: [{fromEnv: B}]}}}\n",
        &[],
        &["1:89 sources.generic.auth has both `password` and `passwords`; keep `passwords` alone"],
    );
    expect(
        "sources: {flagger: {auth: {type: standard-webhooks, secrets: [{fromEnv: S}]}}}\n",
        &[],
        &["1:34 Flagger can't sign its calls"],
    );
}

#[test]
fn a_plain_secret_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.yaml");
    std::fs::write(&file, "api: {tokens: [{name: a, scope: read, secret: hunter2}]}\n").unwrap();
    let faults = Settings::load(Some(&file), &env(&[])).unwrap_err();
    assert!(faults.len() == 1 && !faults[0].to_string().contains("hunter2"), "{}", faults[0]);
    for slip in [
        "api: {tokens: {name: a, secret: hunter2}}\n",
        "api: {tokens: [{name: a, scope: read, token: hunter2}]}\n",
        "sources: {generic: {auth: {type: bearer, tokens: hunter2}}}\n",
        "sources: {generic: {auth: {type: bearer, token: hunter2}}}\n",
        "sources: {generic: {auth: {type: basic, username: a, password: {value: hunter2}}}}\n",
        "sources: {generic: {auth: {secrets: hunter2}}}\n",
    ] {
        std::fs::write(&file, slip).unwrap();
        let faults = Settings::load(Some(&file), &env(&[])).unwrap_err();
        for fault in faults {
            assert!(!fault.to_string().contains("hunter2"), "{slip}{fault}");
        }
    }
    let name = "STAGEHOOK_SOURCES__GENERIC__AUTH__TOKENS";
    let variables = env(&[(name, "hunter2"), ("STAGEHOOK_SOURCES__GENERIC__AUTH__TYPE", "bearer")]);
    let faults = Settings::load(None, &variables).unwrap_err();
    assert!(faults.len() == 1 && !faults[0].to_string().contains("hunter2"), "{}", faults[0]);
}

#[test]
fn a_higher_layer_replaces_a_choice_as_a_whole() {
    let file = "sources: {generic: {auth: {type: basic, username: a, password: {fromFile: p}}}}\n";
    let none = [("STAGEHOOK_SOURCES__GENERIC__AUTH__TYPE", "none")];
    assert_eq!(good(file, &none).sources[&Source::Generic].auth, Some(Auth::None));
    let other = [("STAGEHOOK_SOURCES__GENERIC__AUTH__PASSWORD__FROM_ENV", "P")];
    let settings = good(file, &other);
    let Some(Auth::Basic { username, passwords }) = &settings.sources[&Source::Generic].auth else { panic!() };
    assert_eq!((username.as_str(), &passwords[0].secret.reference), ("a", &SecretRef::Variable("P".to_owned())));
}

#[test]
fn secrets_are_resolved_each_time_and_all_errors_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.yaml");
    std::fs::write(
        &file,
        "sources:\n  generic: {auth: {type: bearer, tokens: [{fromFile: t}, {fromEnv: T}]}}\n\
         api: {tokens: [{name: ops, scope: operate, secret: {fromEnv: O}}]}\n",
    )
    .unwrap();
    let settings = Settings::load(Some(&file), &env(&[])).unwrap();
    let errors = settings.resolve(&env(&[])).unwrap_err();
    let named: Vec<_> = errors.iter().map(|error| error.setting.as_str()).collect();
    assert_eq!(named, ["sources.generic.auth.tokens[0]", "sources.generic.auth.tokens[1]", "api.tokens[0].secret"]);

    let env = env(&[("T", "two"), ("O", "ops")]);
    for value in ["before", "rotated"] {
        std::fs::write(folder.path().join("t"), format!("{value}\n")).unwrap();
        let secrets = settings.resolve(&env).unwrap();
        let Credentials::Bearer { tokens } = &secrets.sources[&Source::Generic] else { panic!() };
        assert_eq!((tokens[0].secret.expose(), tokens[1].secret.expose()), (value.as_bytes(), b"two".as_slice()));
        assert!(matches!(secrets.sources[&Source::Flagger], Credentials::None));
        assert_eq!(
            (secrets.api_tokens[0].scope, secrets.api_tokens[0].token.expose()),
            (Scope::Operate, b"ops".as_slice())
        );
        assert!(!format!("{secrets:?}").contains(value));
    }
}

#[test]
fn the_load_tester_runs_nothing_by_default() {
    let settings = good("", &[]);
    assert!(!settings.sources[&Source::Loadtester].enabled);
    assert_eq!((settings.load_tester.timeout, settings.load_tester.allow.0.len()), (Span::from_secs(3600), 0));
    let source = &settings.sources[&Source::Loadtester];
    assert_eq!((source.respond_within, source.rejected, source.pending), (None, 500, 503));
}

#[test]
fn rules_of_the_load_tester() {
    let allow = |rules: &str| format!("sources:\n  loadtester:\n    timeout: 5m\n    allow: {rules}\n");
    let settings = good(
        &allow(
            "[{namespaces: [test, 'te*'], types: [cmd, cmd], command: 'hey http://*/'}, {namespaces: '*', types: helm, command: [list, 'test run *']}]",
        ),
        &[],
    );
    let permits = |namespace: &str, kind, command: &str| {
        settings.load_tester.allow.permits(&Namespace::new(namespace).unwrap(), kind, command)
    };
    assert_eq!(settings.load_tester.timeout, Span::from_secs(300));
    assert!(permits("test", TaskKind::Cmd, "hey http://a/") && permits("prod", TaskKind::Helm, "test run a"));
    assert!(!permits("prod", TaskKind::Cmd, "hey http://a/") && !permits("test", TaskKind::Cmd, "hey http://a/;id"));
    let variable =
        ("STAGEHOOK_SOURCES__LOADTESTER__ALLOW", "[{namespaces: [a], types: [cmd], command: '*', shell: true}]");
    let settings = good("", &[variable]);
    let any = |command: &str| settings.load_tester.allow.permits(&Namespace::new("a").unwrap(), TaskKind::Cmd, command);
    assert!(any("true; id"));

    let of = |rules: &str, expected: &[&str]| expect(&allow(rules), &[], expected);
    of("[cmd]", &["4:13 sources.loadtester.allow[0] must be a map; {namespaces: [test]"]);
    of("{}", &["4:12 allow must be a list"]);
    of(
        "[{}]",
        &[
            "4:13 sources.loadtester.allow[0].namespaces is missing; {namespaces:",
            "4:13 sources.loadtester.allow[0].types is missing",
            "4:13 sources.loadtester.allow[0].command is missing",
        ],
    );
    of(
        "[{namespaces: [], types: [bahs], command: '*', commands: x}]",
        &[
            "4:26 sources.loadtester.allow[0].namespaces is empty",
            "4:38 types are cmd, bash, helm, helmv3, kubectl, and not \"bahs\"; did you mean \"bash\"?",
            "4:54 this command can't be allowed: its first word has a *",
            "4:59 unknown key \"commands\" in sources.loadtester.allow[0]; did you mean \"command\"?",
        ],
    );
    of("[{namespaces: ['[a'], types: [cmd], command: x}]", &["4:27 \"[a\" in namespaces is no glob"]);
    of("[{namespaces: [a], types: [cmd], command: x, shell: maybe}]", &["4:64 shell must be true or false"]);
    expect("sources: {loadtester: {timeout: 5}}\n", &[], &["1:33 timeout is a length of time"]);
    expect("sources: {loadtester: {status: {rejected: 501}}}\n", &[], &["1:24 unknown key \"status\""]);
    expect(
        "sources: {loadtester: {enabled: true}}\nserver: {listen: '0.0.0.0:80'}\n",
        &[("STAGEHOOK_SOURCES__FLAGGER__ENABLED", "false"), ("STAGEHOOK_SOURCES__GENERIC__ENABLED", "false")],
        &["2:18 loadtester would be open to everyone who reaches 0.0.0.0:80; set sources.loadtester.auth"],
    );
}

#[test]
fn whom_scripts_run_as_is_a_user_and_perhaps_a_group() {
    let run_as = |value: &str| {
        let settings = good(&format!("execution: {{runAs: {value}}}"), &[]);
        settings.execution.run_as.map(|run_as| (run_as.user, run_as.group))
    };
    let one = |user: &str, group: Option<&str>| Some((user.to_owned(), group.map(str::to_owned)));
    assert_eq!(run_as("null"), None);
    assert_eq!(run_as("deploy"), one("deploy", None));
    assert_eq!(run_as("1000"), one("1000", None));
    assert_eq!(run_as("'deploy:web'"), one("deploy", Some("web")));
    assert_eq!(run_as("1000:1000"), one("1000", Some("1000")));
    let settings = good("", &[("STAGEHOOK_EXECUTION__RUN_AS", "1000:100")]);
    assert_eq!(settings.execution.run_as.map(|run_as| run_as.to_string()).as_deref(), Some("1000:100"));
    for wrong in ["':'", "'a:'", "':b'", "'a:b:c'", "'a b'"] {
        let found = load(&format!("execution: {{runAs: {wrong}}}"), &[]).unwrap_err();
        assert!(found.len() == 1 && found[0].contains("runAs is a user, and perhaps a group"), "{wrong} {found:?}");
    }
}

#[test]
fn limits_of_scripts_have_units_and_are_none_by_default() {
    assert_eq!(good("", &[]).execution.limits.entries().count(), 0);
    let file = "execution: {limits: {cpuTime: 1500ms, memory: 4GiB, fileSize: 1MiB, openFiles: 64, processes: 100, coreSize: 0}}";
    let limits = good(file, &[("STAGEHOOK_EXECUTION__LIMITS__OPENFILES", "65")]).execution.limits;
    let all = [
        ("cpuTime", 2),
        ("memory", 4 << 30),
        ("fileSize", 1 << 20),
        ("openFiles", 65),
        ("processes", 100),
        ("coreSize", 0),
    ];
    assert_eq!(limits.entries().collect::<Vec<_>>(), all);
    expect("execution: {limits: {cpuTime: 10}}", &[], &["1:31 cpuTime is a length of time, and \"10\" has no unit"]);
    expect("execution: {limits: {memory: 0}}", &[], &["1:30 memory must be a size"]);
    expect("execution: {limits: {openFiles: 0}}", &[], &["1:33 openFiles must be a whole number from 1"]);
    expect("execution: {limits: {nofile: 1}}", &[], &["1:22 unknown key \"nofile\" in limits"]);
}

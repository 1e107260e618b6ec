//! Every fault, with its place.

use proptest::prelude::*;
use stagehook::config::catalog::Catalog;
use stagehook::config::secret::Environment;
use stagehook::config::settings::Settings;

use crate::*;

#[test]
fn faults_of_a_document() {
    expect("", &["0:0 the file holds no pipeline; it begins with apiVersion"]);
    expect("# nothing\n---\n---\n", &["0:0 the file holds no pipeline"]);
    expect("- a\n", &["1:1 a pipeline must be a map, and this is a list"]);
    expect("kind: Pipeline\n", &["1:1 apiVersion is missing; it is stagehook.dev/v1"]);
    expect("apiVersion: v1\n", &["1:13 the apiVersion \"v1\" is not known"]);
    expect("apiVersion: 1\n", &["1:13 apiVersion must be text, and this is a number; quote it: \"1\""]);
    expect(
        "apiVersion: stagehook.dev/v1\nkind: Pipelin\nspec: 5\n",
        &[
            "1:1 metadata is missing; it gives the pipeline its name",
            "2:7 the kind is not known; it is Pipeline",
            "3:7 spec must be a map, and this is a number",
        ],
    );
    expect(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a b}\nspec: {selector: , stage: []}\n",
        &[
            "3:18 the name is not valid: it has the character ' '",
            "4:7 stages are missing",
            "4:8 the selector is missing",
            "4:20 unknown key \"stage\" in spec; did you mean \"stages\"?",
        ],
    );
}

#[test]
fn faults_of_the_yaml_itself() {
    expect("a: 1\n\ttab: 2\n", &["2:1 there is a tab in the indentation; YAML is indented with spaces"]);
    expect("a:\n  b: 1\n \tc: 1\n", &["3:2 there is a tab in the indentation"]);
    expect(
        "a: {{ x }} y\n",
        &[
            "1:5 a key must be text; quote it",
            "1:12 this is not valid YAML: while parsing a block mapping, did not find expected key; a value that begins with {{ must be quoted",
        ],
    );
    expect("a: [1\n", &["1:4 this is not valid YAML: unclosed bracket"]);
    expect("a: &x [*x]\n", &["1:8 this alias stands inside of what it names"]);
    expect("a: *none\n", &["1:4 this is not valid YAML"]);
    expect("a: !secret x\n", &["1:1 apiVersion is missing", "1:4 the tag !secret means nothing here; leave it out"]);
    expect("? [a]\n: b\n", &["1:1 apiVersion is missing", "1:3 a key must be text; quote it"]);
    expect(
        "apiVersion: a\napiVersion: b\n",
        &[
            "1:13 the apiVersion \"a\" is not known",
            "2:1 the key \"apiVersion\" stands twice in this map; it was first in line 1",
        ],
    );
}

#[test]
fn bytes_that_are_no_text() {
    let faults = |bytes: &[u8]| shown(&Catalog::load(folder(&[("a.yml", bytes)]).path(), &DEFAULTS).unwrap_err());
    assert_eq!(faults(b"a: 1\nb: \xff\n"), ["2:4 it is not UTF-8 here; save the file as UTF-8"]);
    assert_eq!(faults(b"a: 1\nb: x\0\n"), ["2:5 there is a NUL byte here"]);
    assert_eq!(faults(&vec![b'#'; 1 << 21]), ["0:0 it is larger than 1MiB; keep long scripts in files of their own"]);
}

#[test]
fn bombs_are_refused_in_no_time() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{},", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(faults(&bomb)[0].contains("too large once its aliases are expanded"), "{:?}", faults(&bomb));
    let deep = faults(&"[".repeat(100_000));
    assert!(deep[0].contains("nested deeper") || deep[0].contains("not valid YAML"), "{deep:?}");
    let mut tower = format!("a0: &a0 {}{}\n", "[".repeat(100), "]".repeat(100));
    tower += &format!("a1: {}*a0{}\n", "[".repeat(100), "]".repeat(100));
    assert!(faults(&tower)[0].contains("with this alias it is nested deeper"), "{:?}", faults(&tower));
}

#[test]
fn faults_of_stages() {
    expect(
        &native("    - {}\n"),
        &[
            "7:7 the stage has no id",
            "7:7 the stage has no hook; it is one of confirm-rollout, pre",
            "7:7 the stage has no name",
        ],
    );
    expect(
        &native("    - {id: a, name: SCRIPT_RUNN, hook: pre-rolout, with: {run: x}, wiht: 1}\n"),
        &[
            "7:21 the stage type \"SCRIPT_RUNN\" is not known; did you mean \"SCRIPT_RUN\"?",
            "7:40 the hook \"pre-rolout\" is not known; did you mean \"pre-rollout\"? hooks are confirm-rollout",
            "7:68 unknown key \"wiht\" in a stage; did you mean \"with\"?",
        ],
    );
    expect(
        &native(
            "    - {id: a, name: WAIT, hook: rollout, with: {duration: 5s}}\n    - {id: a, name: WAIT, hook: rollout, with: {duration: 5s}}\n",
        ),
        &["8:12 the stage id \"a\" stands twice in this pipeline; it was first in line 7"],
    );
    expect(
        &native("    - {id: a/b, name: K8S_SYNC, hook: rollout}\n"),
        &[
            "7:12 the stage id is not valid: it has the character '/'",
            "7:23 the stage type \"K8S_SYNC\" is not known; known are SCRIPT_RUN, WAIT",
        ],
    );
    expect(&native("    - {id: a, name: WAIT_APPROVAL, hook: rollout}\n"), &["7:21 WAIT_APPROVAL can't be run yet"]);
    expect(&pipecd("      - name: WAIT_APPROVAL\n"), &["7:15 WAIT_APPROVAL can't be run yet"]);
    expect(
        &native("    - {id: a, name: WAIT, hook: rollback, with: {duration: 5}}\n"),
        &[
            "7:7 a WAIT on the hook rollback would never run",
            "7:60 duration is a length of time, and \"5\" has no unit; it is written like 250ms",
        ],
    );
    expect(&native("    - {id: a, name: WAIT, hook: rollout, with: {}}\n"), &["7:42 the stage has no duration"]);
    expect(&native("    - {id: a, name: SCRIPT_RUN, hook: rollout}\n"), &["7:7 the stage has nothing to run"]);
}

#[test]
fn a_stage_does_not_choose_its_user() {
    expect(
        &native("    - {id: a, name: SCRIPT_RUN, hook: rollout, with: {run: x, runAs: root}}\n"),
        &["7:63 unknown key \"runAs\" in with; whom scripts run as is execution.runAs of the service's settings"],
    );
}

#[test]
fn a_stage_of_no_known_type_is_checked_as_far_as_it_can_be() {
    expect(
        &native("    - {id: a, hook: rollout, wiht: 1, with: {run: x, timout: 5m}}\n"),
        &[
            "7:7 the stage has no name",
            "7:30 unknown key \"wiht\" in a stage; did you mean \"with\"?",
            "7:54 unknown key \"timout\" in with; did you mean \"timeout\"?",
        ],
    );
    expect(
        &native("    - {id: a, name: SCRIPTRUN, hook: rollout, with: {rum: x}}\n"),
        &[
            "7:21 the stage type \"SCRIPTRUN\" is not known; did you mean \"SCRIPT_RUN\"?",
            "7:53 the stage has nothing to run",
            "7:54 unknown key \"rum\" in with; did you mean \"run\"?",
        ],
    );
    expect(
        &native("    - {id: a, name: PAUSE, hook: rollout, with: {duration: 5}}\n"),
        &["7:21 the stage type \"PAUSE\" is not known", "7:60 duration is a length of time, and \"5\" has no unit"],
    );
    expect(
        &native("    - {id: a, name: 5, hook: rollout, hok: x, with: {runs: 5}}\n"),
        &["7:21 name must be text", "7:39 unknown key \"hok\"", "7:60 runs must be text"],
    );
    expect(
        &native("    - {id: a, name: WAIT_APPROVAL, hook: rollout, hok: x, with: {approvers: [me]}}\n"),
        &["7:21 WAIT_APPROVAL can't be run yet", "7:51 unknown key \"hok\""],
    );
    expect(
        &pipecd("      - {hook: rolout, dsc: x, with: {run: a, retires: 1}}\n"),
        &[
            "7:9 the stage has no name",
            "7:16 the hook \"rolout\" is not known",
            "7:24 unknown key \"dsc\" in a stage",
            "7:47 unknown key \"retires\" in with",
        ],
    );
    expect(
        &pipecd("      - {name: WAIT_APPROVAL, dsc: x, hook: rolout}\n"),
        &["7:16 WAIT_APPROVAL can't be run yet", "7:31 unknown key \"dsc\"", "7:45 the hook \"rolout\" is not known"],
    );
    expect("apiVersion: pipecd.dev/v1beta1\nspec: {input: {}}\n", &["1:1 kind is missing", "2:7 spec.name is missing"]);
}

#[test]
fn a_hint_names_each_known_key_once() {
    expect(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a, annotations: {}}\nspec: {selector: {}, stages: []}\n",
        &["3:21 unknown key \"annotations\" in metadata; known are name"],
    );
    let found = faults(&native("    - {id: a, name: WAIT, hook: rollout, with: {duration: 5s, message: x}}\n"));
    assert_eq!(found, ["7:63 unknown key \"message\" in with; known are duration, repeat"]);
    let found = faults(&pipecd("      - {name: WAIT, with: {duration: 5s, message: x}}\n"));
    assert_eq!(found, ["7:43 unknown key \"message\" in with; known are duration, repeat, skipOn"]);
}

#[test]
fn a_slip_in_a_stage_type_of_pipecd_is_a_warning() {
    for (slip, meant) in [
        ("WAIT_APROVAL", "WAIT_APPROVAL"),
        ("SCRIPTRUN", "SCRIPT_RUN"),
        ("SCRIPT_RUNN", "SCRIPT_RUN"),
        ("Wait", "WAIT"),
        ("wiat", "WAIT"),
    ] {
        let (_, warnings) = load(&pipecd(&format!("      - name: {slip}\n"))).unwrap();
        let expected = format!(
            "7:15 the stage type {slip:?} is not known here, so the delivery tool is taken to act there; did you mean {meant:?}?"
        );
        assert_eq!(shown(&warnings), [expected]);
    }
    for known in [
        "ANALYSIS",
        "K8S_SYNC",
        "K8S_PRIMARY_ROLLOUT",
        "K8S_CANARY_ROLLOUT",
        "K8S_CANARY_CLEAN",
        "K8S_BASELINE_ROLLOUT",
        "K8S_BASELINE_CLEAN",
        "K8S_TRAFFIC_ROUTING",
        "K8S_MULTI_SYNC",
        "TERRAFORM_SYNC",
        "TERRAFORM_PLAN",
        "TERRAFORM_APPLY",
        "CLOUDRUN_SYNC",
        "CLOUDRUN_PROMOTE",
        "LAMBDA_SYNC",
        "LAMBDA_CANARY_ROLLOUT",
        "LAMBDA_PROMOTE",
        "ECS_SYNC",
        "ECS_CANARY_ROLLOUT",
        "ECS_PRIMARY_ROLLOUT",
        "ECS_TRAFFIC_ROUTING",
        "ECS_CANARY_CLEAN",
        "CUSTOM_SYNC",
        "CUSTOM_SYNC_ROLLBACK",
        "SCRIPT_RUN_ROLLBACK",
        "ROLLBACK",
    ] {
        one(&pipecd(&format!("      - name: {known}\n")));
    }
}

#[test]
fn faults_of_a_script() {
    let of = |with: &str, expected: &[&str]| expect(&script("pre-rollout", with), expected);
    of("        timout: 5m\n        run: x\n", &["11:9 unknown key \"timout\" in with; did you mean \"timeout\"?"]);
    of("        run: 5\n", &["11:14 run must be text, and this is a number; quote it: \"5\""]);
    of("        run: ' '\n", &["11:14 run is empty"]);
    of("        run: []\n", &["11:14 run is empty"]);
    of("        run: [a, {b: c}]\n", &["11:18 run must be text, and this is a map"]);
    of("        run: a\n        runs: [b]\n", &["12:9 both run and runs are given; keep one of them"]);
    of("        onRollback: a\n", &["11:9 the stage has nothing to run"]);
    of(
        "        run: |\n          echo one\n          echo {{ .Secret }}\n",
        &["13:16 run has a {{ … }} template in it; templates are not"],
    );
    of("        run: a\n        onRollback: \"{{a}}\"\n", &["12:22 onRollback has a {{ … }} template in it"]);
    of("        run: \"a\\0b\"\n", &["11:14 run has a NUL character in it"]);
    of("        run: a\n        timeout: 5 apples\n", &["12:18 timeout is no length of time"]);
    of("        run: a\n        timeout: 0s\n", &["12:18 timeout must be longer than nothing"]);
    of(
        "        run: a\n        retries: -1\n",
        &["12:18 retries must be a whole number from 0 to 1000, and this is \"-1\""],
    );
    of(
        "        run: a\n        repeat: alway\n",
        &["12:17 repeat is one of retry-failed, once, always, and not \"alway\"; did you mean \"always\"?"],
    );
    of("        run: a\n        onInterrupt: [x]\n", &["12:22 onInterrupt must be text, and this is a list"]);
    of("        run: a\n        shell: []\n", &["12:16 the shell is empty"]);
    of(
        "        run: a\n        env: {A=B: x, C: [], D: {fromFile: a, fromEnv: b}, E: {fromVault: x}}\n",
        &[
            "12:15 \"A=B\" can't be the name of a variable",
            "12:26 C must be text, {fromFile: …} or {fromEnv: …}, and this is a list",
            "12:33 a secret is taken from one place",
            "12:63 a secret is taken from one place",
            "12:64 unknown key \"fromVault\" in a secret; known are fromFile, fromEnv",
        ],
    );
    expect(
        &script("rollback", "        run: a\n        onRollback: b\n"),
        &["12:21 onRollback of a stage on the hook rollback would never run"],
    );
}

#[test]
fn faults_of_an_application_of_pipecd() {
    expect(
        "apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  input: {}\n",
        &["4:3 spec.name is missing, and it selects the application"],
    );
    expect("apiVersion: pipecd.dev/v1beta1\nkind: Piped\nspec: {}\n", &["2:7 the kind \"Piped\" is no application"]);
    expect(
        &pipecd("      - name: SCRIPT_RUN\n        with: {rum: x}\n"),
        &["8:15 the stage has nothing to run", "8:16 unknown key \"rum\" in with; did you mean \"run\"?"],
    );
    expect(
        "apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec: {name: my app}\n",
        &[
            "3:14 the name is not valid: it has the character ' ', which is not allowed there; callers name the application by it",
        ],
    );
    expect(
        &pipecd("      - name: WAIT\n        with: {duration: 5}\n"),
        &[
            "8:26 duration is a length of time, and \"5\" has no unit; write it like 30s, 5m or 1h30m: a bare number is nanoseconds in PipeCD",
        ],
    );
    expect(
        &pipecd("      - name: K8S_SYNC\n        id: stage-1\n      - name: K8S_SYNC\n"),
        &["9:9 the stage id \"stage-1\" stands twice"],
    );
}

#[test]
fn a_fault_shows_its_file_and_line() {
    let folder = folder(&[("a.yaml", script("rollout", "        run: x\n        timout: 5m\n").as_bytes())]);
    let shown = Catalog::load(folder.path(), &DEFAULTS).unwrap_err()[0].to_string();
    let expected = format!(
        "{}/a.yaml:12:9: error: unknown key \"timout\" in with; did you mean \"timeout\"?\n 12 |         timout: 5m\n    |         ^",
        folder.path().display()
    );
    assert_eq!(shown, expected);
}

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Catalog::load(folder(&[("a.yaml", &bytes)]).path(), &DEFAULTS);
    }

    #[test]
    fn no_broken_pipeline_makes_the_loader_panic(at in 0usize..400, cut in 0usize..20, put in "[\\[\\]{}:,&*!|>'\"\\-\\n\\t a-z{é]{0,6}") {
        let text = script("pre-rollout", "        env: &e {A: text, F: {fromFile: token}}\n        run: |\n          a\n        onRollback: [undo]\n        timeout: 1h\n");
        let mut chars: Vec<char> = text.chars().collect();
        let start = at.min(chars.len());
        let end = (start + cut).min(chars.len());
        chars.splice(start..end, put.chars());
        let broken: String = chars.into_iter().collect();
        for fault in load(&broken).err().unwrap_or_default() {
            let _ = fault.to_string();
        }
        let _ = load(&pipecd(&broken));
    }
}

/// The service reads it, whomever the script runs as.
#[test]
fn the_service_s_own_secrets_are_no_script_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["token", "key", "other"] {
        std::fs::write(path(name), name).unwrap();
    }
    std::os::unix::fs::symlink(path("token"), path("link")).unwrap();
    std::fs::create_dir(path("pipelines")).unwrap();
    let settings = serde_json::json!({
        "server": {"tls": {"certificate": path("certificate"), "key": path("key")}},
        "sources": {
            "generic": {"auth": {"type": "bearer", "tokens": [{"fromEnv": "CI_TOKEN"}]}},
            "github": {"enabled": false, "auth": {"type": "hmac-sha256", "secrets": [{"fromEnv": "UNUSED"}]}},
        },
        "api": {"tokens": [{"name": "ops", "scope": "operate", "secret": {"fromFile": path("token")}}]},
    });
    std::fs::write(path("stagehook.yaml"), settings.to_string()).unwrap();
    let settings = Settings::load(Some(&path("stagehook.yaml")), &Environment::new()).unwrap();
    let load = |env: &str| {
        let text = format!(
            "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: a}}\nspec:\n  selector: {{name: a}}\n  stages:\n    \
             - id: migrate\n      name: SCRIPT_RUN\n      hook: rollout\n      with:\n        run: 'true'\n        env: {{A: {env}}}\n"
        );
        std::fs::write(path("pipelines/a.yaml"), text).unwrap();
        Catalog::load(&path("pipelines"), &settings.pipeline_defaults()).map(drop)
    };
    for (env, setting) in [
        ("{fromEnv: CI_TOKEN}".to_owned(), "sources.generic.auth.tokens[0]"),
        (format!("{{fromFile: {}}}", path("token").display()), "api.tokens[0].secret"),
        ("{fromFile: ../token}".to_owned(), "api.tokens[0].secret"),
        ("{fromFile: ../link}".to_owned(), "api.tokens[0].secret"),
        ("{fromFile: ../key}".to_owned(), "server.tls.key"),
    ] {
        let faults = load(&env).unwrap_err();
        let line = faults[0].to_string();
        let told = format!("a.yaml:12:18: error: the stage migrate takes the service's own secret {setting}");
        assert!(faults.len() == 1 && line.contains(&told), "{env}: {line}");
    }
    for env in ["{fromFile: ../other}", "{fromEnv: OTHER}", "{fromEnv: UNUSED}", "{fromFile: ../not-there}"] {
        load(env).unwrap_or_else(|faults| panic!("{env}: {faults:?}"));
    }
}

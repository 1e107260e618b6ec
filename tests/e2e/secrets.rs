//! Secrets, in every place that one can stand in, each with the same few letters in it; and then those letters are looked
//! for in everything that the service writes, answers, stores or starts.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::certificates::Authority;
use crate::support::github::{Api, deployment, signature, signed};
use crate::support::http::{flagger, generic};
use crate::support::pipelines::{pipeline, stage_with};
use crate::support::{Client, Reply, World};

/// In every secret, and in every wrong credential that resembles one.
const MARK: &str = "xq7Zk";
/// The same in base64, however its first byte lies.
const MARKS_IN_BASE64: [&str; 3] = ["eHE3Wm", "hxN1pr", "4cTdaa"];

fn secret(name: &str) -> String {
    format!("{MARK}-{name}-w0rd")
}

/// Where in a text a secret shows, with what stands around it.
fn shown(bytes: &[u8]) -> Option<String> {
    let marks = [MARK].into_iter().chain(MARKS_IN_BASE64).map(str::as_bytes);
    let at = marks.filter_map(|mark| bytes.windows(mark.len()).position(|window| window == mark)).min()?;
    let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 100)];
    Some(String::from_utf8_lossy(around).into_owned())
}

#[track_caller]
fn hidden(what: &str, bytes: impl AsRef<[u8]>) {
    if let Some(around) = shown(bytes.as_ref()) {
        panic!("{what} shows a secret: …{around}…");
    }
}

#[track_caller]
fn hidden_in(reply: &Reply) {
    hidden("an answer", format!("{:?} {}", reply.headers, reply.text));
}

/// Everything below a folder is looked at, but for names that `except` has.
fn hidden_below(folder: &Path, except: &[&str]) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if except.iter().any(|known| name.starts_with(known)) {
            continue;
        }
        if path.is_dir() {
            hidden_below(&path, except);
        } else if let Ok(bytes) = std::fs::read(&path) {
            hidden(&path.display().to_string(), bytes);
        }
    }
}

/// What a script does with its secrets: shows them whole, in pieces and with colours, leaves them as outputs, and ends
/// with one of them.
const LEAK: &str = r#"
echo "token $TOKEN, other $OTHER"; echo "$TOKEN" >&2
head=${TOKEN%????}; printf %s "$head"; printf '%s\n' "${TOKEN#"$head"}"
printf '%s\033[1m%s\033[0m\n' "$head" "${TOKEN#"$head"}" > /dev/null
printf '%s\n' "$KEY"
{ echo "token=$TOKEN"; echo "$PADDED"; echo "$TOKEN=1"; echo "ok=yes"; } >> "$STAGEHOOK_OUTPUT"
if [ -p "$E2E_DIR/leak.in" ] && [ "$SR_IS_ROLLBACK" = false ]; then
  echo $$ > "$E2E_DIR/leak.in"
  read -r _ < "$E2E_DIR/leak.out"
fi
printf 'it failed with \033[31m%s\033[0m' "$TOKEN"
exit 3
"#;

/// Files with secrets, and settings that name them.
fn settings(world: World, api: &str) -> World {
    let whsec = format!("whsec_{}", STANDARD.encode(secret("whsec")));
    for name in ["basic", "bearer", "hmac", "read", "operate", "github", "github-token", "token"] {
        world.write(name, &format!("{}\n", secret(name)));
    }
    world.write("whsec", &whsec);
    world.write("padded", &STANDARD.encode(format!("{MARK}-padded")));
    world
        .write("key", &format!("-----BEGIN KEY-----\n{}\n{}\n-----END KEY-----\n", secret("line-1"), secret("line-2")));
    let file = |name: &str| json!({"fromFile": name});
    let hmac = |name: &str| json!({"type": "hmac-sha256", "secrets": [file(name)]});
    let env = json!({
        "TOKEN": file("../token"), "OTHER": {"fromEnv": "DEPLOY_SECRET"}, "KEY": file("../key"), "PADDED": file("../padded"),
    });
    let leak = stage_with("leak", "pre-rollout", &json!({"env": env, "run": LEAK, "onRollback": LEAK}));
    let missing = json!({"env": {"GONE": file("../nowhere"), "TOKEN": file("../token")}, "run": "true"});
    world
        .set("/sources/flagger/auth", json!({"type": "basic", "username": "flagger", "password": file("basic")}))
        .set("/sources/generic/auth", json!({"type": "bearer", "tokens": [file("bearer"), {"fromEnv": "BEARER_SECRET"}]}))
        .set("/sources/flux", json!({"enabled": true, "auth": hmac("hmac")}))
        .set("/sources/argocd", json!({"enabled": true, "auth": {"type": "standard-webhooks", "secrets": [file("whsec")]}}))
        .set("/sources/github", json!({"enabled": true, "auth": hmac("github"),
            "api": {"url": api, "token": file("github-token")}}))
        .set("/api/tokens", json!([
            {"name": "eyes", "scope": "read", "secret": file("read")},
            {"name": "hands", "scope": "operate", "secret": file("operate")},
        ]))
        .variable("BEARER_SECRET", &secret("bearer-env"))
        .variable("DEPLOY_SECRET", &secret("deploy-env"))
        .pipeline("podinfo.yaml", &pipeline(&[leak]))
        .pipeline("app.yaml", &json!({
            "apiVersion": "stagehook.dev/v1", "kind": "Pipeline", "metadata": {"name": "app"},
            "spec": {"selector": {"namespace": "production"}, "stages": [stage_with("gone", "pre-rollout", &missing)]},
        }))
}

/// A pipeline with this environment. What stands there as plain text is no secret: it is pinned as it is.
fn faulty_pipeline(env: &str) -> String {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: a}}\nspec:\n  selector: {{name: a}}\n  stages:\n  \
         - {{id: a, name: SCRIPT_RUN, hook: rollout, with: {{run: 'true', env: {env}}}}}\n"
    )
}

fn basic(client: &Client, user: &str, password: &str) -> Client {
    client.with("Authorization", &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn bearer(client: &Client, token: &str) -> Client {
    client.with("Authorization", &format!("Bearer {token}"))
}

/// A message of Standard Webhooks, signed with the bytes of a secret.
fn webhook(client: &Client, secret: &str, body: &Value) -> Client {
    let now = stagehook::engine::clock::now().as_second();
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    let mac = mac.chain_update(format!("msg_1.{now}.{body}")).finalize().into_bytes();
    client
        .with("webhook-id", "msg_1")
        .with("webhook-timestamp", &now.to_string())
        .with("webhook-signature", &format!("v1,{}", STANDARD.encode(mac)))
}

/// Everything that resembles a credential and is none.
async fn wrong_credentials(client: &Client) {
    let body = generic("v1");
    let near = [secret("basic") + "!", MARK.to_owned(), String::new(), secret("bearer"), secret("operate")];
    for word in &near {
        for client in [basic(client, "flagger", word), basic(client, word, &secret("basic")), bearer(client, word)] {
            hidden_in(&client.post("/hooks/flagger/pre-rollout", &flagger("Progressing", "a1")).await.expect(401));
            if !["bearer", "operate"].iter().any(|name| *word == secret(name)) {
                hidden_in(&client.post("/hooks/generic/rollout", &body).await.expect(401));
                hidden_in(&client.get("/api/v1/deployments").await.expect(401));
            }
        }
        let odd = client.with("Authorization", &format!("Digest {word}"));
        hidden_in(&odd.post("/hooks/generic/rollout", &body).await.expect(401));
        for value in [format!("sha256={word}"), word.clone(), signature(word, b"")] {
            let client = client.with("X-Signature", &value).with("X-Hub-Signature-256", &value);
            hidden_in(&client.post("/hooks/flux", &body).await.expect(401));
            hidden_in(&client.with("X-GitHub-Event", "push").post("/hooks/github", &body).await.expect(401));
        }
        hidden_in(&webhook(client, word, &body).post("/hooks/argocd/pre-rollout", &body).await.expect(401));
        let odd = client.with("webhook-id", "m").with("webhook-timestamp", word).with("webhook-signature", word);
        hidden_in(&odd.post("/hooks/argocd/pre-rollout", &body).await.expect(401));
    }
    hidden_in(&bearer(client, &secret("read")).post("/api/v1/deployments/x/rollback", &json!({})).await);
}

fn command(world: &World, token: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagehook"));
    command.args(arguments).current_dir(world.path()).env_clear().env("STAGEHOOK_TOKEN", token);
    command.env("STAGEHOOK_CONFIG", world.path().join("stagehook.yaml"));
    command.env("STAGEHOOK_SERVER", format!("http://{}", world.server().address));
    command.env("BEARER_SECRET", secret("bearer-env")).env("DEPLOY_SECRET", secret("deploy-env"));
    command.output().unwrap()
}

fn hidden_in_output(what: &[&str], output: &Output) {
    hidden(&format!("{what:?}"), [&output.stdout[..], &output.stderr[..]].concat());
}

/// While a script runs: no command line on this machine has a secret, and no environment but the script's own, and
/// that of the service where the settings say `fromEnv`.
fn hidden_in_processes(world: &World, script: rustix::process::Pid) {
    let parents: BTreeMap<i32, i32> = processes()
        .filter_map(|(pid, folder)| {
            let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
            Some((pid, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let is_below = |above: rustix::process::Pid, mut pid: i32| loop {
        if pid == above.as_raw_nonzero().get() {
            return true;
        }
        match parents.get(&pid) {
            Some(parent) if *parent > 1 => pid = *parent,
            _ => return false,
        }
    };
    let service = world.server().pid();
    let (mut looked_at, mut have) = (0, 0);
    for (pid, folder) in processes() {
        let Ok(line) = std::fs::read(folder.join("cmdline")) else { continue };
        hidden(&format!("the command line of {pid}"), &line);
        // Other tests have servers of their own.
        if !is_below(service, pid) || pid == service.as_raw_nonzero().get() {
            continue;
        }
        looked_at += 1;
        if shown(&std::fs::read(folder.join("environ")).unwrap_or_default()).is_some() {
            have += 1;
            assert!(is_below(script, pid), "{pid} has a secret: {}", String::from_utf8_lossy(&line));
        }
    }
    assert!(looked_at > have && have > 0, "the supervisor is there, and the script, which has its secrets");
}

fn processes() -> impl Iterator<Item = (i32, PathBuf)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

async fn no_secret_shows(format: &str) {
    let api = Api::start().await;
    let mut world = settings(World::new(), &api.url)
        .set("/log", json!({"format": format, "level": "trace"}))
        .set("/execution/inheritEnv", json!(["PATH", "E2E_DIR"]));
    let mut gate = world.gate("leak");
    world.start().await;
    let client = world.client();
    let (flagger_client, hands) = (basic(&client, "flagger", &secret("basic")), bearer(&client, &secret("operate")));

    // A script that shows all it has, while it runs.
    let held = flagger_client.hold("/hooks/flagger/pre-rollout", &flagger("Progressing", "a1"));
    let script = gate.entered().await;
    hidden_in_processes(&world, script);
    // The file that the script writes its outputs to is its own.
    hidden_below(&world.path().join("data"), &["output-"]);
    let follower = hands.get("/api/v1/deployments").await.expect(200);
    hidden_in(&follower);
    gate.open().await;
    let answer = held.answer().await.expect(501);
    assert!(answer.text.contains("it failed with ***"), "{answer:?}");
    hidden_in(&answer);
    let id = answer.deployment();

    wrong_credentials(&client).await;
    // The right ones, each once.
    for token in ["bearer", "bearer-env"] {
        hidden_in(&bearer(&client, &secret(token)).post("/hooks/generic/rollout", &generic("v1")).await.expect(200));
    }
    let body = generic("v1");
    hidden_in(&webhook(&client, &secret("whsec"), &body).post("/hooks/argocd/rollout", &body).await.expect(200));
    let event = json!({"involvedObject": {"kind": "Pod", "namespace": "a", "name": "b"}, "reason": "x"}).to_string();
    let flux = client.with("X-Signature", &signature(&secret("hmac"), event.as_bytes()));
    hidden_in(&flux.send("POST", "/hooks/flux", event.as_bytes()).await.expect(200));
    // GitHub is told of a stage that could not read its secret, with the token.
    let told = deployment(42, "abc").to_string();
    let right = signature(&secret("github"), told.as_bytes());
    let taken = signed(&client, "deployment", "d-1", "application/json", &right, told.as_bytes()).await;
    assert!([200, 202].contains(&taken.status), "{taken:?}");
    hidden_in(&taken);
    let posted = api.posts("/statuses", 1).await;
    assert_eq!(posted[0].authorization, format!("Bearer {}", secret("github-token")));
    hidden("what GitHub is told", posted[0].body.to_string());

    hidden_in(&flagger_client.post("/hooks/flagger/post-rollout", &flagger("Failed", "a1")).await);
    let record = hands.get(&format!("/api/v1/deployments/{id}/records")).await.expect(200);
    assert!(record.text.contains("\"token\":\"***\"") && record.text.contains("\"ok\":\"yes\""), "{record:?}");
    let run = hands.get(&format!("/api/v1/deployments/{id}")).await.expect(200);
    let run_id = run.json()["runs"][0]["id"].as_str().unwrap().to_owned();
    let logs = hands.get(&format!("/api/v1/runs/{run_id}/logs")).await.expect(200);
    assert!(logs.text.contains("token ***, other ***"), "{logs:?}");
    for path in [
        "/api/v1/deployments".to_owned(),
        format!("/api/v1/deployments/{id}"),
        format!("/api/v1/deployments/{id}/records"),
        format!("/api/v1/runs/{run_id}"),
        format!("/api/v1/runs/{run_id}/logs"),
        format!("/api/v1/runs/{run_id}/logs?follow=true"),
        format!("/hooks/generic/deployments/{id}/pre-rollout"),
        "/metrics".to_owned(),
        "/readyz".to_owned(),
        "/".to_owned(),
    ] {
        hidden_in(&hands.get(&path).await);
    }

    for arguments in [
        &["check"][..],
        &["plan", "test/podinfo"],
        &["deployments", "--output", "json"],
        &["show", &id],
        &["show", &id, "--output", "json"],
        &["logs", &run_id],
        &["webhooks", "flagger", "--pipeline", "pipelines/podinfo.yaml", "--url", "https://hooks.example"],
        &["send", "generic", "rollout", "--app", "test/podinfo"],
        &["ledger", "verify"],
        &["ledger", "head"],
        &["health"],
    ] {
        for token in ["read", "bearer", "wrong"] {
            let output = command(&world, &secret(token), arguments);
            assert_ne!(output.status.code(), Some(2), "it is written as it has to be: {output:?}");
            hidden_in_output(arguments, &output);
        }
    }

    let copy = world.path().join("copy.db");
    let output = command(&world, "", &["ledger", "backup", copy.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    hidden("the backup", std::fs::read(&copy).unwrap());
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o600, "the backup is private");

    // What goes wrong while it runs.
    std::fs::remove_file(world.path().join("bearer")).unwrap();
    world.server().signal(Signal::HUP);
    world.server().logged("the credentials stay as they were").await;
    world.write("bearer", &secret("bearer"));
    world.write_pipeline("podinfo.yaml", &faulty_pipeline(&format!("{{T: {{value: {}}}}}", secret("pipeline"))));
    world.server().logged("unknown key").await;
    world.write("stagehook.yaml", &format!("api: {{tokens: [{}]}}\nserver: {{token: {MARK}}}", secret("operate")));
    world.server().signal(Signal::HUP);
    world.server().logged("the settings stay as they were").await;

    hidden_below(&world.path().join("data"), &[]);
    let server_log = world.server().log().join("\n");
    assert!(server_log.contains("TRACE"), "the log is as talkative as it can be");
    hidden("the log", &server_log);
    world.write_pipeline("podinfo.yaml", &pipeline(&[]).to_string());
    world.stop().await;
    hidden_below(&world.path().join("data"), &[]);
    assert!(std::fs::read_dir(world.path().join("data/work")).unwrap().next().is_none(), "runs leave no file behind");
}

#[tokio::test]
async fn no_secret_shows_with_a_log_in_json() {
    no_secret_shows("json").await;
}

#[tokio::test]
async fn no_secret_shows_with_a_log_in_text() {
    no_secret_shows("text").await;
}

/// A secret in place of its reference, or near a slip, is in no message about that.
#[tokio::test]
async fn faults_of_settings_and_pipelines_repeat_no_secret() {
    let world = World::new();
    let word = secret("inline");
    let check = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stagehook"));
        command.arg("check").current_dir(world.path()).env_clear().envs(variables.iter().copied());
        command.env("STAGEHOOK_CONFIG", world.path().join("stagehook.yaml")).output().unwrap()
    };
    let auth = |auth: &str| format!("sources: {{generic: {{auth: {auth}}}}}");
    for settings in [
        auth(&format!("{{type: basic, username: f, password: {word}}}")),
        auth(&format!("{{type: basic, username: f, password: {{value: {word}}}}}")),
        auth(&format!("{{type: basic, username: f, passwords: [{word}]}}")),
        auth(&format!("{{type: bearer, token: {word}}}")),
        auth(&format!("{{type: bearer, tokens: {word}}}")),
        auth(&format!("{{type: bearer, tokens: [{{fromFile: a, name: 7, secret: {word}}}]}}")),
        auth(&format!("{{type: hmac-sha256, secrets: [[{word}]]}}")),
        auth(&format!("{{type: standard-webhooks, secrets: ['whsec_{}']}}", STANDARD.encode(&word))),
        auth(&format!("\"{word}")),
        format!("sources:\n  generic:\n    token: {word}\n"),
        format!("sources:\n  flagger:\n    auth:\n      type: bearer\n      tokens:\n        - {word}\n\t- x\n"),
        format!("sources: {{github: {{api: {{token: {word}}}}}}}"),
        format!("sources: {{github: {{api: {{tokn: {word}}}}}}}"),
        format!("sources: {{github: {{api: {{url: 'https://user:{word}@github.example'}}}}}}"),
        format!("sources: {{github: {{api: {{app: {{id: 1, key: {word}}}}}}}}}"),
        format!("sources: {{github: {{api: {{app: {{id: 1, key: {{fromFile: a}}, secret: {word}}}}}}}}}"),
        format!("api: {{tokens: [{word}]}}"),
        format!("api: {{token: {word}}}"),
        format!("api: {{tokens: [{{name: ops, scope: operate, secret: {word}}}]}}"),
        format!("api: {{tokens: [{{name: ops, scope: operate, secrt: {word}}}]}}"),
        format!("server: {{tls: {{password: {word}}}}}"),
        format!("server: {{tls: {{certificate: a, key: [{word}]}}}}"),
        format!(
            "server:\n  tls:\n    certificate: a\n    key: |\n      -----BEGIN PRIVATE KEY-----\n      {word}\n      -----END PRIVATE KEY-----\n"
        ),
        format!("token: {word}\n"),
        format!("password: {word}\npassword: {word}\n"),
        format!("ledger: {{url: 'postgres://user:{word}@db/x'}}"),
    ] {
        world.write("stagehook.yaml", &settings);
        let output = check(&[]);
        assert_eq!(output.status.code(), Some(2), "{settings}");
        hidden_in_output(&[&settings.replace(MARK, "…")], &output);
    }
    world.write("stagehook.yaml", "");
    for name in
        ["SOURCES__GENERIC__AUTH__TOKENS", "API__TOKENS", "SOURCES__FLAGGER__AUTH__PASSWORD", "TOKN", "API__TOKEN"]
    {
        for value in [word.clone(), format!("[{word}]"), format!("[{{secret: {word}}}]"), format!("[{{{word}")] {
            let output = check(&[(&format!("STAGEHOOK_{name}"), &value)]);
            assert_eq!(output.status.code(), Some(2), "{name}");
            hidden_in_output(&[name], &output);
        }
    }
    for env in [
        format!("{{T: {{value: {word}}}}}"),
        format!("{{T: {{fromFile: a, fromEnv: {word}, x: y}}}}"),
        format!("{{T: {{fromFile: [{word}]}}}}"),
        format!("{{T: {{secret: {word}}}}}"),
    ] {
        world.write_pipeline("a.yaml", &faulty_pipeline(&env));
        world.write("stagehook.yaml", "pipelines: pipelines");
        let output = check(&[]);
        assert_eq!(output.status.code(), Some(2), "{env}: {output:?}");
        hidden_in_output(&[&env.replace(MARK, "…")], &output);
    }
}

/// The key of the certificate is nowhere but in its file, also when it does not fit, or is no key.
#[tokio::test]
async fn the_key_of_the_certificate_does_not_show() {
    let world = World::new();
    let authority = Authority::new(world.path());
    authority.sign("tls");
    authority.sign("other");
    let tls = json!({"certificate": "tls.crt", "key": "tls.key"});
    let world = world.set("/server/tls", tls).set("/log", json!({"format": "json", "level": "trace"})).started().await;
    let key = world.read("tls.key");
    let line = key.lines().nth(1).unwrap().to_owned();
    std::fs::copy(authority.path("other.key"), authority.path("tls.key")).unwrap();
    world.server().logged("does not belong to the certificate").await;
    world.write("tls.key", &format!("-----BEGIN PRIVATE KEY-----\n{line}!\n-----END PRIVATE KEY-----\n"));
    world.server().logged("is not base64").await;
    world.write("tls.key", &line);
    world.server().logged("no PEM private key").await;
    let log = world.server().log().join("\n");
    let other = world.read("other.key").lines().nth(1).unwrap().to_owned();
    assert!(!log.contains(&line[..20]) && !log.contains(&other[..20]), "{log}");
}

/// What the service makes is for its own user alone, whatever the umask; what it finds open it tells of.
#[tokio::test]
async fn what_is_kept_is_for_the_services_own_user() {
    const OPEN: &[&str] = &["/bin/sh", "-c", "umask 000; exec \"$@\"", "sh"];
    let script =
        json!({"run": "echo x > \"$STAGEHOOK_OUTPUT\"; echo $$ > \"$E2E_DIR/a.in\"; read -r _ < \"$E2E_DIR/a.out\""});
    let mut world =
        World::new().launched_by(OPEN).pipeline("podinfo.yaml", &pipeline(&[stage_with("a", "pre-rollout", &script)]));
    let elsewhere = world.path().join("runs/of/scripts");
    world = world.set("/execution/workDir", json!(elsewhere));
    let mut gate = world.gate("a");
    world.start().await;
    let held = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let mut found = 0;
    let mut open = vec![world.path().join("data"), world.path().join("runs")];
    while let Some(path) = open.pop() {
        let about = std::fs::symlink_metadata(&path).unwrap();
        let wanted = if about.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(about.permissions().mode() & 0o7777, wanted, "{}", path.display());
        found += 1;
        if about.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    // The ledger with its WAL, its index and its lock; the folders down to the run's, its event and its outputs.
    assert_eq!(found, 5 + 4 + 2, "what is made is looked at");
    assert!(world.server().log_with("chmod").is_empty(), "{:?}", world.server().log_with("chmod"));
    gate.open().await;
    held.answer().await.expect(200);
    world.stop().await;

    for (path, mode) in [("data", 0o755), ("data/stagehook.db", 0o640), ("runs/of/scripts", 0o777)] {
        std::fs::set_permissions(world.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    world.start().await;
    for what in ["the ledger's folder", "the ledger", "execution.workDir"] {
        let line = world.server().logged(&format!("{what} is open to other users")).await;
        assert!(line.contains("WARN") && line.contains("chmod 0"), "{line}");
    }
}

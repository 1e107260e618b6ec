//! In place of Flagger's load tester: gates that outlive the service, commands that run once, end, and leave nothing.

use serde_json::{Value, json};

use crate::support::http::Held;
use crate::support::{Client, World, processes};

/// It leaves a process in a session of its own, and minds no SIGTERM.
const LINGERS: &str = "setsid sleep 60 & trap '' TERM; echo began >> $E2E_DIR/began; sleep 60";

/// What the tests run: scripts of the world's own, and whatever fits the star.
const PATTERNS: [&str; 5] =
    [". $E2E_DIR/library.sh", "echo said-*", "echo out; echo err >&2; exit *", LINGERS, "kill -9 $$"];

fn world() -> World {
    World::new().set("/sources/loadtester/enabled", json!(true)).set(
        "/sources/loadtester/allow",
        json!([
            {"namespaces": ["test"], "types": ["cmd", "bash"], "command": PATTERNS},
            {"namespaces": ["te*"], "types": ["helm", "helmv3", "kubectl"], "command": "test run * 'a b'"},
        ]),
    )
}

fn canary(metadata: &Value) -> Value {
    json!({"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "7d7b", "metadata": metadata})
}

fn command(kind: &str, cmd: &str) -> Value {
    canary(&json!({"type": kind, "cmd": cmd, "returnCmdOutput": "true"}))
}

/// The library runs under the name of the stage, which is the command's kind.
fn library(kind: &str) -> Value {
    command(kind, PATTERNS[0])
}

async fn is_open(world: &World, gate: &str) -> bool {
    let reply = world.client().post(&format!("/{gate}/check"), &canary(&Value::Null)).await;
    match (reply.status, reply.text.as_str()) {
        (200, "Approved") => true,
        (403, "Forbidden") => false,
        _ => panic!("{reply:?}"),
    }
}

#[tokio::test]
async fn gates_outlive_a_kill() {
    let mut world = world().started().await;
    let set = |path: &'static str, client: Client| async move {
        let reply = client.post(path, &canary(&Value::Null)).await.expect(202);
        assert_eq!(reply.text, "");
    };
    set("/gate/open", world.client()).await;
    set("/rollback/open", world.client()).await;
    set("/rollback/close", world.client()).await;
    world.crash().await;
    assert!(is_open(&world, "gate").await && !is_open(&world, "rollback").await);
    // Also across deployments of the same stream.
    world.client().post("/", &command("bash", "echo said-a")).await.expect(200);
    world.crash().await;
    assert!(is_open(&world, "gate").await);
    set("/gate/close", world.client()).await;
    world.crash().await;
    assert!(!is_open(&world, "gate").await);
    world.stop().await;
    world.verify();
    assert_eq!(world.command(&["ledger", "verify"]).status.code(), Some(0));
}

#[tokio::test]
async fn a_held_command_answers_as_the_original_does() {
    let world = world().started().await;
    let client = world.client();
    let reply = client.post("/", &command("bash", "echo said-hello")).await.expect(200);
    assert_eq!(
        (reply.text.as_str(), reply.header("content-type")),
        ("said-hello\n", Some("text/plain; charset=utf-8"))
    );
    let quiet = canary(&json!({"type": "bash", "cmd": "echo said-hello"}));
    let reply = client.post("/", &quiet).await.expect(200);
    assert_eq!((reply.text.as_str(), reply.header("content-type")), ("", None));
    let cmd = "echo out; echo err >&2; exit 3";
    let reply = client.post("/", &command("bash", cmd)).await.expect(500);
    assert_eq!(reply.text, format!("command {cmd} failed: out\nerr\n: exit status 3"));
    let failed = client.deployment(&reply.deployment()).await;
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("RolledBack"), &json!("StageFailed")));
    let reply = client.post("/", &command("bash", "kill -9 $$")).await.expect(500);
    assert_eq!(reply.text, "command kill -9 $$ failed: : signal: killed");
    world.verify();
}

#[tokio::test]
async fn helm_and_kubectl_get_their_words() {
    let mut world = world();
    let bin = world.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["helm", "helmv3", "kubectl"] {
        let file = bin.join(program);
        std::fs::write(&file, format!("#!/bin/sh\necho {program}; printf '<%s>\\n' \"$@\"\n")).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    // Nothing else is found, and these scripts need nothing else.
    world = world.variable("PATH", bin.to_str().unwrap());
    world.start().await;
    for program in ["helm", "helmv3"] {
        let reply = world.client().post("/", &command(program, "test run podinfo 'a b'")).await.expect(200);
        assert_eq!(reply.text, format!("{program}\n<test>\n<run>\n<podinfo>\n<'a>\n<b'>\n"));
    }
    std::fs::remove_file(bin.join("kubectl")).unwrap();
    let reply = world.client().post("/", &command("kubectl", "test run x 'a b'")).await;
    assert_eq!(reply.status, 500);
    assert!(
        reply.text.starts_with("command test run x 'a b' failed: : kubectl could not be started"),
        "{}",
        reply.text
    );
}

#[tokio::test]
async fn a_background_command_is_joined_and_what_it_printed_is_kept() {
    let world = world().started().await;
    let client = world.client();
    let mut gate = world.gate("cmd");
    let first = client.post("/", &library("cmd")).await.expect(202);
    assert_eq!((first.text.as_str(), first.header("content-type")), ("", None));
    gate.entered().await;
    let again = client.post("/", &library("cmd")).await.expect(202);
    assert_eq!(again.deployment(), first.deployment(), "it runs, so it is joined");
    // Another one of the same canary runs beside it.
    client.post("/", &command("bash", "echo said-x")).await.expect(200);
    gate.open().await;
    let over = world.reaches(&first.deployment(), "Succeeded").await;
    assert_eq!(world.starts(), ["cmd"]);
    let types: Vec<_> = client.records(&first.deployment()).await.iter().map(|r| r["event"]["type"].clone()).collect();
    assert_eq!(types, ["opened", "called", "stageStarted", "stageFinished", "ended"]);
    assert!(over["revision"].as_str().unwrap().starts_with("cmd:"), "{over:#}");
    let logged = canary(&json!({"cmd": "echo said-loud", "logCmdOutput": "true"}));
    let id = client.post("/", &logged).await.expect(202).deployment();
    assert!(world.server().logged("command printed").await.contains("said-loud"));
    let run = world.reaches(&id, "Succeeded").await["runs"][0]["id"].as_str().unwrap().to_owned();
    let logs = world.command(&["logs", &run]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "said-loud\n");
    world.verify();
}

#[tokio::test]
async fn a_held_command_runs_once_however_often_its_caller_gives_up() {
    let world = world().started().await;
    let client = world.client();
    let mut gate = world.gate("bash");
    let first = client.hold("/", &library("bash"));
    gate.entered().await;
    first.hang_up().await;
    client.held_calls(0).await;
    let [one, two]: [Held; 2] = [client.hold("/", &library("bash")), client.hold("/", &library("bash"))];
    client.held_calls(2).await;
    gate.open().await;
    let ids = [one.answer().await.expect(200).deployment(), two.answer().await.expect(200).deployment()];
    assert_eq!(ids[0], ids[1]);
    assert_eq!(world.starts(), ["bash"]);

    // Nobody waits when it ends: the next call has the result, and it does not run again.
    world.fail("bash");
    let given_up = client.hold("/", &library("bash"));
    gate.entered().await;
    given_up.hang_up().await;
    client.held_calls(0).await;
    gate.open().await;
    let id = client.deployments().await.last().unwrap()["id"].as_str().unwrap().to_owned();
    world.reaches(&id, "RolledBack").await;
    let late = client.post("/", &library("bash")).await.expect(500);
    assert_eq!(late.deployment(), id);
    assert!(late.text.ends_with("bash says no\n: exit status 3"), "{}", late.text);
    assert_eq!(world.starts().len(), 2);
    world.verify();
}

#[tokio::test]
async fn a_kill_leaves_no_command_and_runs_none_again() {
    let mut world = world().started().await;
    world.make_stubborn("cmd");
    let mut gate = world.gate("cmd");
    let id = world.client().post("/", &library("cmd")).await.expect(202).deployment();
    let script = gate.entered().await;
    world.crash().await;
    assert!(!processes::is_alive(script));
    let client = world.client();
    let ended = client.deployment(&id).await;
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("Abandoned"), &json!("Interrupted")), "{ended:#}");
    assert_eq!(ended["runs"][0]["state"], "Interrupted");
    assert_eq!(world.starts().len(), 1);
    // Flagger calls again.
    assert_ne!(client.post("/", &library("cmd")).await.expect(202).deployment(), id);
    gate.entered().await;
    gate.open().await;
    assert_eq!(world.starts().len(), 2);
    world.verify();
}

#[tokio::test]
async fn at_its_timeout_all_of_a_command_is_dead() {
    let world = world().set("/sources/loadtester/timeout", json!("700ms")).started().await;
    let reply = world.client().post("/", &command("bash", LINGERS)).await.expect(500);
    assert!(reply.text.ends_with("failed: : timed out after 700ms"), "{}", reply.text);
    assert_eq!(world.read("began"), "began\n");
    let left: Vec<_> = processes::of(world.path()).into_iter().filter(|p| p.command.contains("sleep")).collect();
    assert!(left.is_empty(), "{left:?}");
    world.verify();
}

#[tokio::test]
async fn what_is_not_allowed_does_not_run() {
    let world = world().started().await;
    let client = world.client();
    let touch = format!("touch {}", world.path().join("pwned").display());
    let star = |put: &str| format!("echo said-{put}");
    for cmd in [
        touch.clone(),
        star(&format!("x; {touch}")),
        star(&format!("x && {touch}")),
        star(&format!("x | {touch}")),
        star(&format!("x\n{touch}")),
        star(&format!("$({touch})")),
        star(&format!("`{touch}`")),
        star(&format!("x & {touch}")),
        star(&format!("x > {}", world.path().join("pwned").display())),
        star("$E2E_DIR"),
        star("x y"),
        "echo said".to_owned(),
        format!("{}; {touch}", PATTERNS[0]),
        format!("{touch}; echo said-x"),
        format!(" ; {touch}; echo said-x"),
    ] {
        for kind in ["cmd", "bash"] {
            let reply = client.post("/", &command(kind, &cmd)).await.expect(403);
            assert!(reply.text.contains("`sources.loadtester.allow`"), "{reply:?}");
            assert!(!reply.text.contains("touch"), "it is not repeated: {reply:?}");
        }
    }
    // Of another namespace, or another type.
    let mut elsewhere = command("bash", "echo said-x");
    elsewhere["namespace"] = json!("prod");
    client.post("/", &elsewhere).await.expect(403);
    client.post("/", &command("kubectl", "echo said-x")).await.expect(403);
    client.post("/", &command("helm", "test run --debug 'a b'")).await.expect(403);
    assert!(client.deployments().await.is_empty(), "nothing is opened");
    assert!(!world.path().join("pwned").exists());
    assert_eq!(client.post("/", &command("bash", "echo said-x")).await.expect(200).text, "said-x\n");
}

#[tokio::test]
async fn without_a_rule_nothing_runs_and_gates_work() {
    let world = World::new().set("/sources/loadtester/enabled", json!(true)).started().await;
    let reply = world.client().post("/", &command("cmd", "true")).await.expect(403);
    assert!(reply.text.contains("`sources.loadtester.allow`"), "{reply:?}");
    world.client().post("/gate/open", &canary(&Value::Null)).await.expect(202);
    assert!(is_open(&world, "gate").await);
}

#[tokio::test]
async fn a_full_line_refuses_and_starts_nothing() {
    let world = world().set("/execution/maxConcurrent", json!(1)).set("/execution/queue", json!(0)).started().await;
    let client = world.client();
    let mut gate = world.gate("cmd");
    client.post("/", &library("cmd")).await.expect(202);
    gate.entered().await;
    for kind in ["cmd", "bash"] {
        let busy = client.post("/", &command(kind, "echo said-x")).await.expect(503);
        assert!(busy.header("retry-after").is_some() && busy.text.contains("execution.queue"), "{busy:?}");
    }
    assert_eq!(client.deployments().await.len(), 1);
    gate.open().await;
}

#[tokio::test]
async fn a_rollback_of_the_application_holds_commands_and_no_other_does() {
    let stages = [crate::support::pipelines::stage("migrate", "pre-rollout")];
    let world = world().pipeline("podinfo.yaml", &crate::support::pipelines::pipeline(&stages)).started().await;
    let client = world.client();
    client.generic("pre-rollout", "v1").await.expect(200);
    let mut gate = world.gate("undo.migrate");
    let undo = client.hold("/hooks/generic/rollback", &json!({"name": "podinfo", "namespace": "test"}));
    gate.entered().await;
    let id = client.post("/", &library("cmd")).await.expect(202).deployment();
    let late = client.post("/?wait=50ms", &command("bash", "echo said-x")).await.expect(503);
    assert!(late.text.starts_with("pending: ") && late.header("retry-after").is_some(), "{late:?}");
    assert_eq!(client.deployment(&id).await["runs"], json!([]), "it is held");
    let mut elsewhere = command("bash", "echo said-x");
    elsewhere["name"] = json!("other");
    client.post("/", &elsewhere).await.expect(200);
    gate.open().await;
    undo.answer().await.expect(200);
    world.reaches(&id, "Succeeded").await;
    world.reaches(&late.deployment(), "Succeeded").await;
    // Nor does a command hold a rollout.
    let mut gate = world.gate("cmd");
    client.post("/", &library("cmd")).await.expect(202);
    gate.entered().await;
    client.generic("pre-rollout", "v2").await.expect(200);
    gate.open().await;
    world.verify();
}

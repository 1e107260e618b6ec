//! The service's own life: ready, observed, reloaded, asked to stop.

use rustix::process::Signal;
use serde_json::json;

use crate::support::World;
use crate::support::http::flagger;
use crate::support::pipelines::{pipeline, stage, stage_with};
use crate::support::poll::poll_until;

#[tokio::test]
async fn it_is_ready_on_an_empty_ledger_and_small() {
    let world = World::new();
    let mut world = world;
    let began = std::time::Instant::now();
    world.start().await;
    let client = world.client();
    client.get("/readyz").await.expect(200);
    let ready = began.elapsed();
    client.get("/healthz").await.expect(200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.server().pid().as_raw_nonzero())).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    println!("ready after {ready:?}, {resident} (this build, this machine)");
}

#[tokio::test]
async fn a_script_that_ends_in_the_grace_is_answered_while_nothing_new_begins() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    world.server().signal(Signal::TERM);
    poll_until("not ready", || async { (client.get("/readyz").await.status == 503).then_some(()) }).await;
    client.get("/healthz").await.expect(200);
    let other = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(other.header("retry-after").is_some(), "{other:?}");
    gate.open().await;
    held.answer().await.expect(200);
    assert_eq!(world.server().exited().await.code(), Some(0));
    assert_eq!(world.starts(), ["migrate"]);
    world.verify();
}

#[tokio::test]
async fn a_script_that_does_not_end_in_the_grace_is_interrupted() {
    let mut world = World::new()
        .set("/server/shutdownGrace", json!("50ms"))
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    world.make_stubborn("migrate");
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    let script = gate.entered().await;
    world.stop().await;
    assert!(!crate::support::processes::is_alive(script));
    let answer = held.result().await;
    assert!(answer.is_ok_and(|reply| reply.status == 503), "it is told to come again");
    world.start().await;
    let client = world.client();
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(client.deployment(&id).await["runs"][0]["state"], "Interrupted");
    let again = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    gate.open().await;
    again.answer().await.expect(200);
    world.stop().await;
    world.verify();
}

#[tokio::test]
async fn a_failure_report_is_committed_even_while_draining_and_replayed_after() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("smoke");
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    // Another application keeps the drain going.
    let held = client.hold_flagger("rollout", "Progressing", "a1");
    gate.entered().await;
    world.server().signal(Signal::TERM);
    poll_until("not ready", || async { (client.get("/readyz").await.status == 503).then_some(()) }).await;
    let report = client.hold_flagger("post-rollout", "Failed", "a1");
    let told = report.answer().await;
    assert!([202, 503].contains(&told.status), "{told:?}");
    let _ = held.result().await;
    assert_eq!(world.server().exited().await.code(), Some(0));
    world.start().await;
    world.reaches(&id, "RolledBack").await;
    assert_eq!(world.starts(), ["migrate", "smoke", "undo.migrate", "undo.smoke"]);
}

#[tokio::test]
async fn an_idle_service_stops_at_once() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.restart().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate"]);
    world.stop().await;
}

#[tokio::test]
async fn a_reload_drops_no_call() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    world.server().signal(Signal::HUP);
    world.server().logged("pipelines are loaded").await;
    world.write_pipeline("podinfo.yaml", &pipeline(&[stage("other", "pre-rollout")]).to_string());
    world.server().logged_times("pipelines are loaded", 2).await;
    assert!(held.is_held());
    gate.open().await;
    held.answer().await.expect(200);
    // The open deployment keeps its pipeline; the next one has the new.
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a2").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "other"]);
}

#[tokio::test]
async fn a_bad_file_keeps_the_pipelines_in_force() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    world.write_pipeline("podinfo.yaml", "apiVersion: stagehook.dev/v1\nkind: Pipeline\nstages: 7\n");
    poll_until("the reload is refused", || async {
        client.get("/metrics").await.text.contains("stagehook_pipelines_last_reload_successful 0").then_some(())
    })
    .await;
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.write_pipeline("podinfo.yaml", &pipeline(&[stage("other", "pre-rollout")]).to_string());
    poll_until("the reload is good", || async {
        client.get("/metrics").await.text.contains("stagehook_pipelines_last_reload_successful 1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_settings_are_refused_at_the_start() {
    for (pointer, value) in [
        ("/server/listen", json!("nowhere")),
        ("/server/grace", json!("1s")),
        ("/execution/killGrace", json!("soon")),
        ("/server/listen", json!("0.0.0.0:0")),
    ] {
        let mut world = World::new().set(pointer, value);
        world.spawn();
        assert_eq!(world.server().exited().await.code(), Some(2), "{pointer}: {:?}", world.server().log());
    }
    let mut world = World::new();
    world.write_pipeline("bad.yaml", "apiVersion: stagehook.dev/v1\nkind: Pipeline\n");
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    world.server().logged("bad.yaml").await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.fail("undo.migrate");
    client.flagger("post-rollout", "Failed", "a1").await.expect(501);
    client.send("POST", "/hooks/flagger/rollout", b"{").await.expect(400);
    let text = client.get("/metrics").await.expect(200).text;
    println!("{text}");
    for line in [
        r#"stagehook_calls_total{source="flagger",hook="pre-rollout",verdict="approved"} 1"#,
        r#"stagehook_calls_total{source="flagger",hook="post-rollout",verdict="rejected"} 1"#,
        r#"stagehook_runs_total{purpose="forward",outcome="Succeeded"} 1"#,
        r#"stagehook_runs_total{purpose="rollback",outcome="Failed"} 1"#,
        r#"stagehook_requests_refused_total{source="flagger",status="400"} 1"#,
        r#"stagehook_deployments{state="RollbackFailed"} 1"#,
        "stagehook_held_calls 0",
        "stagehook_running_scripts 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn log_lines_carry_the_deployment_and_the_run() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let id = world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    let run = world.journal()[0].run.clone();
    world.server().logged(&id).await;
    world.server().logged(&run).await;
    for line in world.server().log() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}

const PASSWORD: &str = "correct-horse-battery";
const TOKEN: &str = "staple-token-from-the-environment";

#[tokio::test]
async fn secrets_show_nowhere() {
    let with = json!({
        "env": {"FILE_SECRET": {"fromFile": "../password"}, "ENV_SECRET": {"fromEnv": "E2E_TOKEN"}},
        "run": "echo \"have $FILE_SECRET and $ENV_SECRET\"; [ \"$FILE_SECRET$ENV_SECRET\" ] || exit 1; . \"$E2E_DIR/library.sh\"",
        "onRollback": "[ \"$FILE_SECRET\" ] && echo \"undo with $FILE_SECRET\"",
    });
    let world = World::new().variable("E2E_TOKEN", TOKEN);
    world.write("password", &format!("{PASSWORD}\n"));
    let mut world =
        world.pipeline("podinfo.yaml", &pipeline(&[stage_with("migrate", "pre-rollout", &with)])).started().await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    for process in crate::support::processes::of(world.path()) {
        assert!(!process.command.contains(PASSWORD) && !process.command.contains(TOKEN), "{}", process.command);
    }
    gate.open().await;
    let id = held.answer().await.expect(200).deployment();
    let run = client.deployment(&id).await["runs"][0]["id"].as_str().unwrap().to_owned();
    let logs = client.get(&format!("/api/v1/runs/{run}/logs")).await.expect(200).text;
    assert!(logs.starts_with("have ") && logs.contains(" and "), "{logs}");
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    let mut told = vec![logs, world.server().log().join("\n")];
    for path in [format!("deployments/{id}"), format!("deployments/{id}/records"), "deployments".to_owned()] {
        told.push(client.get(&format!("/api/v1/{path}")).await.expect(200).text);
    }
    world.stop().await;
    for file in std::fs::read_dir(world.path().join("data")).unwrap().flatten() {
        if file.path().is_file() {
            told.push(String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned());
        }
    }
    for text in told {
        assert!(!text.contains(PASSWORD) && !text.contains(TOKEN), "a secret shows in {text:.2000}");
    }
}

#[tokio::test]
async fn a_hook_payload_stays_one_line_in_the_log() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let mut body = flagger("Progressing", "a1");
    body["metadata"] = json!({"eventMessage": "one\n{\"level\":\"ERROR\",\"message\":\"forged\"}"});
    world.client().post("/hooks/flagger/event", &body).await.expect(200);
    world.client().post("/hooks/flagger/pre-rollout", &body).await.expect(200);
    for line in world.server().log() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_ne!(line["message"], "forged");
    }
}

#[tokio::test]
async fn callers_that_say_nothing_do_not_hold_up_the_end() {
    use tokio::io::AsyncWriteExt as _;
    let mut world = World::new()
        .set("/server/shutdownGrace", json!("10m"))
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let mut silent = Vec::new();
    for said in
        [&b""[..], b"POST /hooks/flagger/rollout HT", b"POST /hooks/flagger/rollout HTTP/1.1\r\nHost: localhost\r\n"]
    {
        for _ in 0..50 {
            let mut stream = tokio::net::TcpStream::connect(&world.server().address).await.unwrap();
            stream.write_all(said).await.unwrap();
            silent.push(stream);
        }
    }
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let began = std::time::Instant::now();
    world.stop().await;
    println!("stopped after {:?} with {} silent connections", began.elapsed(), silent.len());
}

#[tokio::test]
async fn a_body_that_does_not_come_does_not_hold_up_the_end_either() {
    use tokio::io::AsyncWriteExt as _;
    let mut world = World::new().set("/server/shutdownGrace", json!("10m")).started().await;
    let mut stream = tokio::net::TcpStream::connect(&world.server().address).await.unwrap();
    let head = "POST /hooks/flagger/rollout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"name\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    world.client().get("/healthz").await.expect(200);
    let began = std::time::Instant::now();
    world.stop().await;
    println!("stopped after {:?} with half a body", began.elapsed());
}

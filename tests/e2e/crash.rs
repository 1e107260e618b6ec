//! The server dies at any moment: what was acknowledged is there, what was started is known, what was being undone goes on.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::pipelines::{pipeline, stage, stage_with};
use crate::support::poll::poll_until;
use crate::support::processes::is_alive;

#[tokio::test]
async fn a_script_that_was_running_is_interrupted_and_runs_again_only_when_it_is_dead() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.make_stubborn("migrate");
    let mut gate = world.gate("migrate");
    let held = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    let script = gate.entered().await;
    world.crash().await;
    assert!(!is_alive(script), "the server listens while the old script is alive");
    assert!(held.result().await.is_err());
    let client = world.client();
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    let deployment = client.deployment(&id).await;
    assert_eq!(deployment["state"], "Progressing");
    assert_eq!(deployment["runs"][0]["state"], "Interrupted", "{deployment:#}");
    let again = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    gate.open().await;
    again.answer().await.expect(200);
    assert_eq!(world.starts(), ["migrate", "migrate"]);
    world.verify();
}

#[tokio::test]
async fn an_interrupted_script_is_held_for_a_person_where_it_says_so() {
    let held = stage_with("migrate", "pre-rollout", &json!({"onInterrupt": "hold"}));
    let mut world = World::with_stages(&[held]).await;
    let mut gate = world.gate("migrate");
    let call = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    world.crash().await;
    let _ = call.result().await;
    let client = world.client();
    let refused = client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert!(refused.text.contains("release"), "{refused:?}");
    let id = refused.deployment();
    client.post(&format!("/api/v1/deployments/{id}/release"), &json!({})).await.expect(202);
    let again = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    gate.open().await;
    again.answer().await.expect(200);
}

#[tokio::test]
async fn an_interrupted_script_counts_as_executed() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let mut gate = world.gate("migrate");
    let call = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    world.crash().await;
    let _ = call.result().await;
    world.client().flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn a_rollback_goes_on_after_a_crash_without_being_asked() {
    let mut world =
        World::with_stages(&[stage("one", "pre-rollout"), stage("two", "pre-rollout"), stage("three", "pre-rollout")])
            .await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    let mut gate = world.gate("undo.two");
    let report = client.hold_flagger("post-rollout", "Failed", "a1");
    gate.entered().await;
    world.crash().await;
    let _ = report.result().await;
    gate.entered().await;
    gate.open().await;
    world.reaches(&id, "RolledBack").await;
    // What had succeeded stays; what was interrupted runs again.
    assert_eq!(world.starts()[3..], ["undo.one", "undo.two", "undo.two", "undo.three"]);
    world.client().flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts().len(), 7);
    world.verify();
}

#[tokio::test]
async fn post_rollout_stages_go_on_after_a_crash_since_no_call_will_come_again() {
    let mut world = World::with_stages(&[stage("one", "post-rollout"), stage("two", "post-rollout")]).await;
    let mut gate = world.gate("one");
    let call = world.client().hold_flagger("post-rollout", "Succeeded", "a1");
    gate.entered().await;
    let id = world.client().deployments().await[0]["id"].as_str().unwrap().to_owned();
    world.crash().await;
    let _ = call.result().await;
    gate.entered().await;
    gate.open().await;
    let deployment = poll_until("the stages after the rollout have all succeeded", || async {
        let found = world.client().deployment(&id).await;
        (found["state"] == "Succeeded" && found["reason"].is_null()).then_some(found)
    })
    .await;
    assert_eq!(deployment["runs"][0]["state"], "Interrupted", "{deployment:#}");
    assert_eq!(world.starts(), ["one", "one", "two"]);
}

#[tokio::test]
async fn a_wait_goes_on_where_it_was() {
    let wait = json!({"id": "pause", "name": "WAIT", "hook": "rollout", "with": {"duration": "2s"}});
    let mut world = World::with_stages(&[wait, stage("smoke", "rollout")]).await;
    let call = world.client().hold_flagger("rollout", "Progressing", "a1");
    let id = poll_until("the wait has begun", || async {
        let all = world.client().deployments().await;
        let id = all.first()?["id"].as_str()?.to_owned();
        (world.client().deployment(&id).await["runs"][0]["state"] == "Running").then_some(id)
    })
    .await;
    let before = world.client().deployment(&id).await["runs"].clone();
    world.crash().await;
    let _ = call.result().await;
    let client = world.client();
    let after = client.deployment(&id).await["runs"].clone();
    assert_eq!(before, after, "the same run, the same time at which it is over");
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    let deployment = client.deployment(&id).await;
    assert_eq!(deployment["runs"].as_array().unwrap().len(), 2, "{deployment:#}");
    assert_eq!(deployment["runs"][0]["id"], before[0]["id"]);
    // Not as text: a fraction of a second is written without its last zeros.
    let instant = |at: &Value| at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(instant(&deployment["runs"][0]["finishedAt"]) >= instant(&before[0]["until"]));
}

/// Where to kill: after so many bytes of the journal, or at once. Each seed is another moment.
#[tokio::test]
async fn killed_at_many_moments_it_has_lost_nothing_that_it_acknowledged() {
    let mut all = pipeline(&[
        stage("one", "pre-rollout"),
        stage("two", "pre-rollout"),
        stage("smoke", "rollout"),
        stage("notify", "post-rollout"),
    ]);
    all["spec"]["stages"][2]["with"]["repeat"] = json!("retry-failed");
    for moment in 0..24_u64 {
        let mut world = World::new().pipeline("podinfo.yaml", &all).started().await;
        let pid = world.server().pid();
        // Anything may be going on then: that is the point.
        let killer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(moment * 2_500)).await;
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        });
        let client = world.client();
        let failed = moment % 2 == 0;
        let plan = [
            ("pre-rollout", "Progressing"),
            ("rollout", "Progressing"),
            ("post-rollout", if failed { "Failed" } else { "Succeeded" }),
        ];
        let mut acknowledged = Vec::new();
        for (hook, phase) in plan {
            let body = crate::support::http::flagger(phase, "a1").to_string();
            let path = format!("/hooks/flagger/{hook}");
            match client.try_send("POST", &path, body.as_bytes(), Duration::from_secs(30)).await {
                Ok(reply) => {
                    assert_eq!(reply.status, 200, "{reply:?}");
                    acknowledged.push(hook);
                }
                Err(_) => break,
            }
        }
        killer.await.unwrap();
        world.kill().await;
        world.start().await;
        let client = world.client();
        let found = client.deployments().await;
        assert!(found.len() <= 1, "{found:#?}");
        let journal = world.journal();
        if let Some(found) = found.first() {
            let deployment = client.deployment(found["id"].as_str().unwrap()).await;
            let runs = deployment["runs"].as_array().unwrap();
            // Every script that ran is in the ledger, and no acknowledged hook has lost its stages.
            for line in &journal {
                assert!(runs.iter().any(|run| run["id"] == line.run.as_str()), "{moment}: {line:?} of {runs:#?}");
            }
            for hook in &acknowledged {
                let unfinished = runs.iter().filter(|run| run["hook"] == **hook).any(|run| run["state"] != "Succeeded");
                assert!(!unfinished, "{moment}: {hook} in {runs:#?}");
            }
            if acknowledged.len() == 3 {
                let expected = if failed { "RolledBack" } else { "Succeeded" };
                assert_eq!(deployment["state"], expected, "{moment}");
            }
        } else {
            assert!(acknowledged.is_empty() && journal.is_empty(), "{moment}: {acknowledged:?} {journal:?}");
        }
        // The caller goes on as if nothing had been.
        for (hook, phase) in plan.iter().skip(acknowledged.len()) {
            client.flagger(hook, phase, "a1").await.expect(200);
        }
        let deployment = &client.deployments().await[0];
        assert_eq!(deployment["state"], if failed { "RolledBack" } else { "Succeeded" }, "{moment}");
        let executed: std::collections::BTreeSet<_> =
            world.journal().into_iter().map(|line| line.key).filter(|key| !key.starts_with("undo.")).collect();
        for key in executed {
            let undone = world.starts().iter().any(|start| *start == format!("undo.{key}"));
            assert_eq!(undone, failed, "{moment}: {key} in {:?}", world.starts());
        }
        world.verify();
    }
}

#[tokio::test]
async fn a_service_that_cannot_listen_resumes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    let mut gate = world.gate("undo.migrate");
    let report = client.hold_flagger("post-rollout", "Failed", "a1");
    gate.entered().await;
    world.kill().await;
    let _ = report.result().await;
    let mut world = world.set("/server/listen", json!(address));
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
    let mut world = world.set("/server/listen", json!("127.0.0.1:0"));
    world.start().await;
    gate.entered().await;
    gate.open().await;
    world.reaches(&id, "RolledBack").await;
}

/// As under `nsenter` or a runner that enters a container: the leaders of the server's session and process
/// group are outside its PID namespace, where the kernel shows them as 0.
#[tokio::test]
async fn it_recovers_where_its_session_began_outside_its_namespace() {
    const LAUNCHER: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !std::process::Command::new(LAUNCHER[0]).args(&LAUNCHER[1..]).arg("true").status().is_ok_and(|it| it.success()) {
        assert!(std::env::var_os("CI").is_none(), "unshare can't make a PID namespace here");
        eprintln!("NOT TESTED: unshare can't make a PID namespace here (it takes util-linux, and root)");
        return;
    }
    let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]));
    let mut world = world.launched_by(LAUNCHER).started().await;
    let mut gate = world.gate("migrate");
    let call = world.client().hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    world.crash().await;
    let _ = call.result().await;
    world.client().flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
    world.verify();
}

//! Callers repeat: they join what runs, take what nobody has taken, and start again only what may.

use std::time::Duration;

use serde_json::json;

use crate::support::World;
use crate::support::http::{Lost, flagger};
use crate::support::pipelines::{stage, stage_with};
use crate::support::poll::poll_until;

#[tokio::test]
async fn a_call_that_timed_out_joins_the_same_run() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let body = flagger("Progressing", "a1").to_string();
    let impatient = Duration::from_millis(300);
    let lost = client.try_send("POST", "/hooks/flagger/pre-rollout", body.as_bytes(), impatient).await;
    assert_eq!(lost.err(), Some(Lost::TimedOut));
    gate.entered().await;
    world.server().logged("hung up").await;
    let joined = client.hold_flagger("pre-rollout", "Progressing", "a1");
    client.held_calls(1).await;
    gate.open().await;
    joined.answer().await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate"]);
}

#[tokio::test]
async fn many_calls_at_once_are_one_run() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let calls: Vec<_> = (0..20).map(|_| client.hold_flagger("pre-rollout", "Progressing", "a1")).collect();
    gate.entered().await;
    client.held_calls(20).await;
    gate.open().await;
    for call in calls {
        call.answer().await.expect(200);
    }
    assert_eq!(world.starts(), ["migrate"]);
    assert_eq!(client.deployments().await.len(), 1);
}

#[tokio::test]
async fn a_failure_that_nobody_waited_for_goes_to_the_next_call_and_only_the_one_after_runs_again() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    world.fail("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    held.hang_up().await;
    world.server().logged("hung up").await;
    gate.open().await;
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    poll_until("the run is over", || async {
        (client.deployment(&id).await["runs"][0]["state"] == "Failed").then_some(())
    })
    .await;
    world.mend("migrate");
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert_eq!(world.starts(), ["migrate"]);
    let again = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    gate.open().await;
    again.answer().await.expect(200);
    assert_eq!(world.starts(), ["migrate", "migrate"]);
}

#[tokio::test]
async fn stages_are_repeated_as_they_say() {
    let world = World::with_stages(&[
        stage("kept", "pre-rollout"),
        stage("step", "rollout"),
        stage_with("once", "confirm-promotion", &json!({"repeat": "once"})),
        stage_with("always", "confirm-rollout", &json!({"repeat": "always"})),
    ])
    .await;
    let client = world.client();
    for _ in 0..3 {
        client.flagger("confirm-rollout", "Initialized", "a0").await.expect(200);
    }
    for hook in ["pre-rollout", "rollout", "rollout", "pre-rollout"] {
        client.flagger(hook, "Progressing", "a1").await.expect(200);
    }
    world.fail("once");
    client.flagger("confirm-promotion", "Progressing", "a1").await.expect(501);
    world.mend("once");
    client.flagger("confirm-promotion", "Progressing", "a1").await.expect(501);
    assert_eq!(world.starts(), ["always", "always", "always", "kept", "step", "step", "once"]);
}

#[tokio::test]
async fn the_first_failure_stops_the_stages_after_it_and_a_success_is_kept() {
    let world =
        World::with_stages(&[stage("one", "pre-rollout"), stage("two", "pre-rollout"), stage("three", "pre-rollout")])
            .await;
    let client = world.client();
    world.fail("two");
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert_eq!(world.starts(), ["one", "two"]);
    world.mend("two");
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["one", "two", "two", "three"]);
}

#[tokio::test]
async fn a_call_is_held_no_longer_than_it_may() {
    let world = World::new()
        .set("/sources/flagger/respondWithin", json!("50ms"))
        .pipeline("podinfo.yaml", &crate::support::pipelines::pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let pending = client.flagger("pre-rollout", "Progressing", "a1").await.expect(503);
    assert!(pending.text.starts_with("pending: "), "{pending:?}");
    assert!(pending.header("retry-after").is_some(), "{pending:?}");
    let pending = client.post("/hooks/flagger/pre-rollout?wait=1ms", &flagger("Progressing", "a1")).await.expect(503);
    assert!(pending.text.starts_with("pending: "), "{pending:?}");
    gate.entered().await;
    let held = client.hold("/hooks/flagger/pre-rollout?wait=1m", &flagger("Progressing", "a1"));
    client.held_calls(1).await;
    gate.open().await;
    held.answer().await.expect(200);
    assert_eq!(world.starts(), ["migrate"]);
    client.post("/hooks/flagger/pre-rollout?wait=soon", &flagger("Progressing", "a1")).await.expect(400);
}

#[tokio::test]
async fn a_full_queue_refuses_and_starts_nothing() {
    let world = World::new()
        .set("/execution/maxConcurrent", json!(1))
        .set("/execution/queue", json!(1))
        .pipeline("one.yaml", &crate::support::pipelines::pipeline_for("test", "one", &[stage("a", "rollout")]))
        .pipeline("two.yaml", &crate::support::pipelines::pipeline_for("test", "two", &[stage("b", "rollout")]))
        .pipeline("three.yaml", &crate::support::pipelines::pipeline_for("test", "three", &[stage("c", "rollout")]))
        .started()
        .await;
    let client = world.client();
    let body = |name: &str| json!({"namespace": "test", "name": name, "phase": "Progressing", "checksum": "a1"});
    let mut gate = world.gate("a");
    let first = client.hold("/hooks/flagger/rollout", &body("one"));
    gate.entered().await;
    let second = client.hold("/hooks/flagger/rollout", &body("two"));
    client.held_calls(2).await;
    let refused = client.post("/hooks/flagger/rollout", &body("three")).await.expect(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    // A failure report is never refused for load, and its replay goes before the forward script that waits.
    let failed = json!({"namespace": "test", "name": "one", "phase": "Failed", "checksum": "a1"});
    client.post("/hooks/flagger/post-rollout", &failed).await.expect(200);
    first.answer().await.expect(501);
    second.answer().await.expect(200);
    assert_eq!(world.starts(), ["a", "undo.a", "b"]);
    client.post("/hooks/flagger/rollout", &body("three")).await.expect(200);
}

#[tokio::test]
async fn a_held_call_is_answered_however_many_deployments_have_come_after_its_own() {
    let world = World::with_stages(&[stage("notify", "post-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("notify");
    let held = client.hold_flagger("post-rollout", "Succeeded", "a0");
    gate.entered().await;
    // Failures of which nothing is known open a deployment each, and end it at once.
    for number in 1..=20 {
        client.flagger("post-rollout", "Failed", &format!("a{number}")).await.expect(200);
    }
    assert!(held.is_held());
    gate.open().await;
    held.answer().await.expect(200);
    assert_eq!(client.deployments().await.len(), 21);
}

//! What goes wrong only at the wrong moment: callers that vanish, lines that fill at once, memory that is short.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::http::{Lost, flagger, generic};
use crate::support::pipelines::{pipeline, pipeline_for, stage};
use crate::support::poll::poll_until;
use crate::support::server::field;

/// Flagger's payload about `test/NAME`.
fn about(name: &str, phase: &str) -> Value {
    json!({"namespace": "test", "name": name, "phase": phase, "checksum": "a1"})
}

fn time(line: &str) -> Timestamp {
    field(line, "timestamp").unwrap().parse().unwrap()
}

#[tokio::test]
async fn no_length_of_time_is_too_long() {
    let absurd = json!("20000y");
    let mut world = World::new()
        .set("/staleAfter", absurd.clone())
        .set("/server/shutdownGrace", absurd.clone())
        .set("/rollback/signalTimeout", absurd.clone())
        .set("/execution/killGrace", absurd.clone())
        .set("/execution/defaultTimeout", absurd.clone())
        .set("/sources/generic/respondWithin", absurd)
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    for wait in ["20000y", "292277026580y", "400000000000y", "500000000000y"] {
        let path = format!("/hooks/flagger/pre-rollout?wait={wait}");
        client.post(&path, &flagger("Progressing", "a1")).await.expect(200);
    }
    client.generic("pre-rollout", "a1").await.expect(200);
    client.generic("rollback", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.server().log_with("panicked").len(), 0);
    world.stop().await;
}

#[tokio::test]
async fn what_was_called_about_before_a_restart_is_not_stale_right_after_it() {
    let mut world = World::new()
        .set("/staleAfter", json!("2s"))
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.server().logged("no call about this deployment for staleAfter").await;
    // Answered from the ledger, which leaves no record in it.
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.restart().await;
    let warned = time(&world.server().logged("no call about this deployment for staleAfter").await);
    let began = time(&world.server().logged("listening").await);
    // The watcher begins a moment before the service listens.
    assert!(warned.duration_since(began) > SignedDuration::from_millis(1500), "warned {warned}, began {began}");
}

#[tokio::test]
async fn a_drain_says_what_the_next_start_takes_up_and_what_is_to_be_called_again() {
    let stages = |id: &str, hook: &str| vec![stage(id, hook)];
    let mut world = World::new()
        .set("/execution/maxConcurrent", json!(1))
        .pipeline("one.yaml", &pipeline_for("test", "one", &stages("a", "rollout")))
        .pipeline("two.yaml", &pipeline_for("test", "two", &stages("b", "rollout")))
        .pipeline("three.yaml", &pipeline_for("test", "three", &stages("c", "post-rollout")))
        .pipeline("four.yaml", &pipeline_for("test", "four", &stages("d", "rollout")))
        .pipeline("five.yaml", &pipeline_for("test", "five", &stages("e", "post-rollout")))
        .started()
        .await;
    let client = world.client();
    client.post("/hooks/flagger/rollout", &about("four", "Progressing")).await.expect(200);
    world.fail("e");
    client.post("/hooks/flagger/post-rollout", &about("five", "Succeeded")).await.expect(501);
    let mut gate = world.gate("a");
    let running = client.hold("/hooks/flagger/rollout", &about("one", "Progressing"));
    gate.entered().await;
    let forward = client.hold("/hooks/flagger/rollout", &about("two", "Progressing"));
    let after = client.hold("/hooks/flagger/post-rollout", &about("three", "Succeeded"));
    let replay = client.hold("/hooks/flagger/post-rollout", &about("four", "Failed"));
    // Over since its first post-rollout failed, and called for again.
    let repeated = client.hold("/hooks/flagger/post-rollout", &about("five", "Succeeded"));
    client.held_calls(5).await;
    world.server().signal(Signal::TERM);
    for (held, taken_up) in [(forward, false), (after, true), (replay, true), (repeated, true)] {
        let told = held.answer().await.text;
        let (says, not) = ("shutting down and takes it up when it starts again", "shutting down; call again");
        assert!(told.contains(if taken_up { says } else { not }), "{taken_up}: {told}");
    }
    gate.open().await;
    running.answer().await.expect(200);
    assert_eq!(world.server().exited().await.code(), Some(0));
    assert_eq!(world.starts(), ["d", "e", "a"]);
    world.start().await;
    poll_until("what was promised is done", || async { (world.starts().len() == 6).then_some(()) }).await;
    let client = world.client();
    client.post("/hooks/flagger/rollout", &about("two", "Progressing")).await.expect(200);
    client.post("/hooks/flagger/post-rollout", &about("five", "Succeeded")).await.expect(501);
    let mut starts = world.starts();
    starts[3..6].sort_unstable();
    assert_eq!(starts, ["d", "e", "a", "c", "e", "undo.d", "b"]);
}

#[tokio::test]
async fn a_burst_does_not_overrun_the_line() {
    let everybody = |file: &str, stages: &[Value]| pipeline_for("test", file, stages);
    let world = World::new()
        .set("/execution/maxConcurrent", json!(1))
        .set("/execution/queue", json!(3))
        .pipeline("all.yaml", &everybody("app-*", &[stage("a", "rollout"), stage("z", "post-rollout")]))
        .started()
        .await;
    let client = world.client();
    let mut gate = world.gate("a");
    let first = client.hold("/hooks/flagger/rollout", &about("app-0", "Progressing"));
    gate.entered().await;
    let burst: Vec<_> = (1..=40)
        .map(|number| client.hold("/hooks/flagger/rollout", &about(&format!("app-{number}"), "Progressing")))
        .collect();
    poll_until("all but as many as the line holds are refused", || async {
        (burst.iter().filter(|call| call.is_held()).count() <= 3).then_some(())
    })
    .await;
    client.held_calls(4).await;
    // It comes once only, so it is not refused.
    let after = client.hold("/hooks/flagger/post-rollout", &about("app-41", "Succeeded"));
    client.held_calls(5).await;
    gate.open().await;
    first.answer().await.expect(200);
    for _ in 0..3 {
        gate.entered().await;
        gate.open().await;
    }
    let (mut done, mut refused) = (0, 0);
    for call in burst {
        match call.answer().await.status {
            200 => done += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    after.answer().await.expect(200);
    assert_eq!((done, refused), (3, 37));
    assert_eq!(world.starts(), ["a", "a", "a", "a", "z"]);
}

#[tokio::test]
async fn what_is_over_gives_its_place_in_the_line_to_others() {
    let world = World::new()
        .set("/execution/maxConcurrent", json!(1))
        .set("/execution/queue", json!(1))
        .pipeline("all.yaml", &pipeline_for("test", "app-*", &[stage("a", "rollout")]))
        .started()
        .await;
    let client = world.client();
    let mut gate = world.gate("a");
    let call = |name: &str, revision: &str| json!({"namespace": "test", "name": name, "revision": revision});
    let first = client.hold("/hooks/generic/rollout", &call("app-0", "v1"));
    gate.entered().await;
    // Each takes the place of the one before, which is over: superseded, then undone.
    let path = "/hooks/generic/rollout?wait=1ms";
    for revision in ["v1", "v2", "v3"] {
        let pending = client.post(path, &call("app-1", revision)).await.expect(503);
        assert!(pending.text.contains("pending"), "{pending:?}");
    }
    let refused = client.post(path, &call("app-2", "v1")).await.expect(503);
    assert!(refused.text.contains("too many scripts"), "{refused:?}");
    client.post("/hooks/generic/rollback", &call("app-1", "v3")).await.expect(200);
    let next = client.hold("/hooks/generic/rollout", &call("app-2", "v1"));
    client.held_calls(2).await;
    gate.open().await;
    first.answer().await.expect(200);
    gate.entered().await;
    gate.open().await;
    next.answer().await.expect(200);
    assert_eq!(world.starts(), ["a", "a"]);
}

/// Between the grant of a slot and its decision a joining call takes a second place, which must not
/// be kept while the script runs.
#[tokio::test]
async fn calls_that_join_at_the_moment_of_a_grant_leave_nobody_in_line() {
    let world = World::new()
        .set("/execution/maxConcurrent", json!(1))
        .set("/execution/queue", json!(1))
        .pipeline("x.yaml", &pipeline_for("test", "x", &[stage("a", "rollout")]))
        .pipeline("y.yaml", &pipeline_for("test", "y", &[stage("b", "rollout")]))
        .pipeline("z.yaml", &pipeline_for("test", "z", &[stage("c", "rollout")]))
        .started()
        .await;
    let client = world.client();
    let (mut first, mut second) = (world.gate("a"), world.gate("b"));
    let x = client.hold("/hooks/flagger/rollout", &about("x", "Progressing"));
    first.entered().await;
    let y = client.hold("/hooks/flagger/rollout", &about("y", "Progressing"));
    client.held_calls(2).await;
    // Each event is a commit under y's lock, so the calls between them stand at the lock when x ends.
    let mut joining = Vec::new();
    for _ in 0..20 {
        joining.push(client.hold("/hooks/flagger/event", &about("y", "Progressing")));
        joining.push(client.hold("/hooks/flagger/rollout", &about("y", "Progressing")));
    }
    first.open().await;
    x.answer().await.expect(200);
    second.entered().await;
    client.held_calls(21).await;
    let z = client.hold("/hooks/flagger/rollout", &about("z", "Progressing"));
    client.held_calls(22).await;
    second.open().await;
    for call in joining.into_iter().chain([y, z]) {
        call.answer().await.expect(200);
    }
    assert_eq!(world.starts(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_rollback_comes_before_the_next_stage_of_another_application() {
    let world = World::new()
        .set("/execution/maxConcurrent", json!(1))
        .pipeline("one.yaml", &pipeline_for("test", "one", &[stage("a", "rollout"), stage("then", "rollout")]))
        .pipeline("two.yaml", &pipeline_for("test", "two", &[stage("b", "rollout"), stage("c", "rollout")]))
        .started()
        .await;
    let client = world.client();
    client.post("/hooks/flagger/rollout", &about("two", "Progressing")).await.expect(200);
    let mut gate = world.gate("a");
    let forward = client.hold("/hooks/flagger/rollout", &about("one", "Progressing"));
    gate.entered().await;
    let rollback = client.hold("/hooks/flagger/post-rollout", &about("two", "Failed"));
    client.held_calls(2).await;
    gate.open().await;
    rollback.answer().await.expect(200);
    forward.answer().await.expect(200);
    assert_eq!(world.starts(), ["b", "c", "a", "undo.b", "undo.c", "then"]);
}

#[tokio::test]
async fn a_call_that_hangs_up_before_its_turn_does_not_take_the_result_along() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    world.fail("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    held.hang_up().await;
    world.server().logged_times("hung up", 1).await;
    gate.open().await;
    world.server().logged("stage finished").await;
    let ledger = world.hold_the_ledger();
    // Whichever of the two comes first: the one that hangs up does so before its result is committed.
    let event = client.hold_flagger("event", "Progressing", "a1");
    let body = flagger("Progressing", "a1").to_string();
    let impatient = Duration::from_secs(2);
    let lost = client.try_send("POST", "/hooks/flagger/pre-rollout", body.as_bytes(), impatient).await;
    assert_eq!(lost.err(), Some(Lost::TimedOut));
    world.server().logged_times("hung up", 2).await;
    drop(ledger);
    event.answer().await.expect(200);
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    poll_until("the call that hung up was decided", || async {
        let records = client.records(&id).await;
        records.iter().any(|record| record["event"]["type"] == "delivered").then_some(())
    })
    .await;
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert_eq!(world.starts(), ["migrate"]);
    world.verify();
}

#[tokio::test]
async fn what_is_told_of_a_deployment_of_long_ago_is_about_that_one() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    for number in 0..12 {
        client.generic("pre-rollout", &format!("v{number}")).await.expect(200);
        client.generic("post-rollout", &format!("v{number}")).await.expect(200);
    }
    let mut gate = world.gate("migrate");
    let live = client.hold("/hooks/generic/pre-rollout", &generic("live"));
    gate.entered().await;
    // A repetition: nothing is opened for it, and the rollout in progress is not given up.
    let mut failed = generic("v0");
    failed["phase"] = json!("Failed");
    for _ in 0..2 {
        let told = client.post("/hooks/generic/post-rollout", &failed).await.expect(200);
        assert!(told.text.contains("has already Succeeded"), "{told:?}");
    }
    gate.open().await;
    live.answer().await.expect(200);
    let deployments = client.deployments().await;
    assert_eq!(deployments.len(), 13);
    assert_eq!(deployments[12]["state"], "Progressing");
    client.generic("post-rollout", "live").await.expect(200);
    for _ in 0..2 {
        let undone = client.generic("rollback", "v1").await.expect(200);
        assert_eq!(undone.deployment(), deployments[1]["id"].as_str().unwrap());
    }
    client.generic("rollback", "v99").await.expect(404);
    assert_eq!(world.starts().iter().filter(|key| *key == "undo.migrate").count(), 1);
    assert_eq!(client.deployments().await.len(), 13);
    world.verify();
}

#[tokio::test]
async fn a_hang_up_is_noticed_behind_bytes_that_nobody_reads() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    world.fail("migrate");
    let next = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (number, beyond) in [(1, "\r\n"), (2, next)] {
        let body = flagger("Progressing", "a1").to_string();
        let (length, path) = (body.len(), "/hooks/flagger/pre-rollout");
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}{beyond}");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.raw(request.as_bytes()).await });
        gate.entered().await;
        client.held_calls(1).await;
        call.abort();
        world.server().logged_times("hung up", number).await;
        client.held_calls(0).await;
        gate.open().await;
        world.server().logged_times("stage finished", number).await;
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
        assert_eq!(world.starts().len(), number);
    }
}

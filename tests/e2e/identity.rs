//! Which deployment a call is about: openings, adoptions, lost ends, superseded revisions.

use serde_json::{Value, json};

use crate::support::http::flagger;
use crate::support::pipelines::{pipeline, stage};
use crate::support::{Client, World};

fn stages() -> [Value; 4] {
    [
        stage("confirm", "confirm-rollout"),
        stage("migrate", "pre-rollout"),
        stage("smoke", "rollout"),
        stage("notify", "post-rollout"),
    ]
}

async fn states(client: &Client) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    client.deployments().await.iter().map(|d| (text(&d["revision"]), text(&d["state"]), text(&d["reason"]))).collect()
}

fn is(revision: &str, state: &str, reason: &str) -> (String, String, String) {
    (revision.to_owned(), state.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn without_proof_a_lost_success_is_abandoned_untouched() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    // No confirm-rollout is wired, and the post-rollout of a1 was lost: it may be live.
    client.flagger("pre-rollout", "Progressing", "a2").await.expect(200);
    assert_eq!(states(&client).await, [is("a1", "Abandoned", "Superseded"), is("a2", "Progressing", "-")]);
    assert_eq!(world.starts(), ["migrate", "smoke", "migrate"]);
}

#[tokio::test]
async fn with_proof_the_old_revision_is_rolled_back_before_the_new_ones_first_stage() {
    for noted in [false, true] {
        let world = World::with_stages(&stages()).await;
        let client = world.client();
        if noted {
            client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
            let mut event = flagger("Progressing", "a2");
            event["metadata"] = json!({
                "eventMessage": "New revision detected! Restarting analysis for podinfo.test",
                "eventType": "Normal",
                "timestamp": "1578607635167",
            });
            client.post("/hooks/flagger/event", &event).await.expect(200);
        } else {
            client.flagger("confirm-rollout", "Initialized", "a0").await.expect(200);
            client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        }
        let mut undo = world.gate("undo.migrate");
        let held = client.hold_flagger("pre-rollout", "Progressing", "a2");
        undo.entered().await;
        client.held_calls(1).await;
        assert!(held.is_held());
        assert_eq!(world.starts().iter().filter(|key| *key == "migrate").count(), 1);
        undo.open().await;
        held.answer().await.expect(200);
        assert_eq!(states(&client).await, [is("a1", "RolledBack", "Superseded"), is("a2", "Progressing", "-")]);
        let starts = world.starts();
        let expected: &[&str] = if noted {
            &["migrate", "undo.migrate", "migrate"]
        } else {
            &["confirm", "migrate", "undo.confirm", "undo.migrate", "migrate"]
        };
        assert_eq!(starts, expected);
    }
}

#[tokio::test]
async fn a_superseded_revision_may_be_kept() {
    let mut kept = pipeline(&stages());
    kept["spec"]["onSupersede"] = json!("keep");
    let world = World::new().pipeline("podinfo.yaml", &kept).started().await;
    let client = world.client();
    client.flagger("confirm-rollout", "Initialized", "a0").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a2").await.expect(200);
    assert_eq!(states(&client).await, [is("a1", "Abandoned", "Superseded"), is("a2", "Progressing", "-")]);
}

#[tokio::test]
async fn two_confirm_rollouts_in_the_tick_after_a_failed_rollout_are_one_deployment() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    client.flagger("confirm-rollout", "Initialized", "a0").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    let before = world.starts();
    // After a failure the checksum is already that of the new content. Two webhooks, and a retry of each.
    for _ in 0..4 {
        client.flagger("confirm-rollout", "Failed", "a2").await.expect(200);
    }
    assert_eq!(world.starts()[before.len()..], ["confirm"]);
    assert_eq!(states(&client).await, [is("a1", "RolledBack", "Failed"), is("-", "Progressing", "-")]);
    client.flagger("pre-rollout", "Progressing", "a2").await.expect(200);
    assert_eq!(states(&client).await[1], is("a2", "Progressing", "-"));
    assert_eq!(world.starts()[before.len()..], ["confirm", "migrate"]);
}

#[tokio::test]
async fn at_the_same_moment_they_are_one_too() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    let before = world.starts();
    let mut gate = world.gate("confirm");
    let calls = [0, 1].map(|_| client.hold_flagger("confirm-rollout", "Failed", "a2"));
    gate.entered().await;
    client.held_calls(2).await;
    gate.open().await;
    for call in calls {
        call.answer().await.expect(200);
    }
    assert_eq!(world.starts()[before.len()..], ["confirm"]);
    assert_eq!(client.deployments().await.len(), 2);
}

#[tokio::test]
async fn the_next_opening_tells_how_a_rollout_ended_whose_report_was_lost() {
    // Phase and checksum of the next confirm-rollout, and what they prove.
    for (phase, checksum, state, reason) in [
        ("Failed", "a2", "RolledBack", "FailureMissed"),
        ("Succeeded", "a1", "Succeeded", "SuccessMissed"),
        ("Waiting", "a1", "Succeeded", "SuccessMissed"),
        ("Waiting", "a2", "RolledBack", "FailureMissed"),
    ] {
        let world = World::with_stages(&stages()).await;
        let client = world.client();
        client.flagger("confirm-rollout", "Initialized", "a0").await.expect(200);
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        client.flagger("confirm-rollout", phase, checksum).await.expect(200);
        let states = states(&client).await;
        assert_eq!(states, [is("a1", state, reason), is("-", "Progressing", "-")], "{phase} {checksum}");
        let undone = world.starts().iter().any(|key| key == "undo.migrate");
        assert_eq!(undone, state == "RolledBack", "{phase} {checksum}");
    }
}

#[tokio::test]
async fn the_same_content_deployed_again_is_a_new_deployment() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    for _ in 0..2 {
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    }
    assert_eq!(states(&client).await, [is("a1", "Succeeded", "-"), is("a1", "Succeeded", "-")]);
    assert_eq!(world.starts(), ["migrate", "notify", "migrate", "notify"]);
}

#[tokio::test]
async fn a_failure_without_any_call_before_is_rolled_back_at_once() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(states(&client).await, [is("a1", "RolledBack", "Failed")]);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(states(&client).await.len(), 1);
    assert!(world.starts().is_empty());
}

#[tokio::test]
async fn a_late_repetition_of_an_end_changes_nothing() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(states(&client).await, [is("a1", "Succeeded", "-")]);
    assert_eq!(world.starts(), ["migrate", "notify"]);
}

#[tokio::test]
async fn sources_do_not_end_each_others_deployments() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.generic("pre-rollout", "v7").await.expect(200);
    assert_eq!(states(&client).await, [is("a1", "Progressing", "-"), is("v7", "Progressing", "-")]);
    client.generic("rollback", "v7").await.expect(200);
    assert_eq!(states(&client).await, [is("a1", "Progressing", "-"), is("v7", "RolledBack", "Failed")]);
}

#[tokio::test]
async fn every_event_is_answered_200_and_noted_where_a_deployment_is_open() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    let event = |message: &str| {
        let mut body = flagger("Progressing", "a1");
        body["metadata"] = json!({"eventMessage": message, "eventType": "Warning", "timestamp": "1"});
        body
    };
    client.post("/hooks/flagger/event", &event("nobody listens")).await.expect(200);
    assert!(client.deployments().await.is_empty());
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    client.post("/hooks/flagger/event", &event("Halt advancement\nof podinfo")).await.expect(200);
    let stranger = json!({"name": "nobody", "namespace": "nowhere", "phase": "Progressing", "checksum": ""});
    client.post("/hooks/flagger/event", &stranger).await.expect(200);
    let records = client.records(&id).await;
    let noted = records.iter().find(|record| record["event"]["type"] == "noted").unwrap();
    assert_eq!(noted["event"]["message"], "Warning Halt advancement of podinfo");
}

#[tokio::test]
async fn two_flaggers_at_once_start_nothing_twice() {
    let world = World::with_stages(&stages()).await;
    let client = world.client();
    // Replicas that disagree, and a storm of everything at once.
    let mut calls = Vec::new();
    for round in 0..6 {
        for (hook, phase, checksum) in [
            ("confirm-rollout", "Initialized", "a0"),
            ("pre-rollout", "Progressing", "a1"),
            ("rollback", "Progressing", "a1"),
            ("rollout", "Progressing", if round % 2 == 0 { "a1" } else { "a2" }),
            ("post-rollout", if round % 3 == 0 { "Failed" } else { "Succeeded" }, "a1"),
        ] {
            calls.push(client.hold_flagger(hook, phase, checksum));
        }
    }
    for call in calls {
        let reply = call.answer().await;
        assert!([200, 404, 501].contains(&reply.status), "{reply:?}");
    }
    let nobody = crate::flagger_sim::Flagger::new(world.address(), &[]);
    crate::history::check(&world, &nobody).await;
}

//! What people ask for: a rollback that Flagger is told of first, a cancel, a close, a release.

use serde_json::{Value, json};

use crate::support::pipelines::{pipeline, stage};
use crate::support::{Client, Reply, World};

async fn ask(client: &Client, id: &str, what: &str) -> Reply {
    client.post(&format!("/api/v1/deployments/{id}/{what}"), &json!({})).await
}

async fn world() -> (World, Client) {
    let world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    (world, client)
}

fn is(deployment: &Value, state: &str, reason: &str) {
    assert_eq!((&deployment["state"], &deployment["reason"]), (&json!(state), &json!(reason)), "{deployment:#}");
}

#[tokio::test]
async fn a_requested_rollback_is_signalled_and_replayed_when_flagger_reports_the_failure() {
    let (world, client) = world().await;
    let no = client.flagger("rollback", "Progressing", "a1").await.expect(404);
    assert!(no.text.contains("no rollback of test/podinfo is requested"), "{no:?}");
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    client.flagger("rollback", "Progressing", "a1").await.expect(404);
    ask(&client, &id, "rollback").await.expect(202);
    assert_eq!(client.deployment(&id).await["state"], "Progressing");
    assert_eq!(world.starts(), ["migrate"]);
    // Flagger's rollback can abort and come again, so the yes stays.
    for _ in 0..2 {
        client.flagger("rollback", "Progressing", "a1").await.expect(200);
    }
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    is(&client.deployment(&id).await, "RolledBack", "Requested");
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
    // It never reaches the next deployment.
    client.flagger("rollback", "Progressing", "a2").await.expect(404);
    client.flagger("pre-rollout", "Progressing", "a2").await.expect(200);
    client.flagger("rollback", "Progressing", "a2").await.expect(404);
}

#[tokio::test]
async fn a_request_survives_a_restart() {
    let (mut world, client) = world().await;
    client.flagger("rollback", "Progressing", "a1").await.expect(404);
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    ask(&client, &id, "rollback").await.expect(202);
    world.crash().await;
    let client = world.client();
    client.flagger("rollback", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    is(&client.deployment(&id).await, "RolledBack", "Requested");
}

#[tokio::test]
async fn after_the_signal_the_replay_does_not_wait_for_ever() {
    let world = World::new()
        .set("/rollback/signalTimeout", json!("50ms"))
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    client.flagger("rollback", "Progressing", "a1").await.expect(404);
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    ask(&client, &id, "rollback").await.expect(202);
    client.flagger("rollback", "Progressing", "a1").await.expect(200);
    is(&world.reaches(&id, "RolledBack").await, "RolledBack", "Requested");
    // Until Flagger's own end is seen, it hears yes, and gets no further.
    client.flagger("rollback", "Progressing", "a1").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    client.flagger("rollback", "Progressing", "a1").await.expect(404);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn a_request_lapses_when_the_rollout_succeeds_before_it_asks() {
    let (world, client) = world().await;
    client.flagger("rollback", "Progressing", "a1").await.expect(404);
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    ask(&client, &id, "rollback").await.expect(202);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    assert_eq!(client.deployment(&id).await["state"], "Succeeded");
    client.flagger("rollback", "Progressing", "a1").await.expect(404);
    assert_eq!(world.starts(), ["migrate"]);
}

#[tokio::test]
async fn without_the_question_a_request_is_refused_unless_it_shall_be_now() {
    let (world, client) = world().await;
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    let refused = ask(&client, &id, "rollback").await.expect(409);
    assert!(refused.text.contains("/hooks/flagger/rollback"), "{refused:?}");
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    ask(&client, &id, "rollback?now=true").await.expect(202);
    is(&world.reaches(&id, "RolledBack").await, "RolledBack", "Requested");
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn a_generic_deployment_is_rolled_back_at_once() {
    let (world, client) = world().await;
    let id = client.generic("pre-rollout", "v1").await.expect(200).deployment();
    ask(&client, &id, "rollback").await.expect(202);
    is(&world.reaches(&id, "RolledBack").await, "RolledBack", "Requested");
    client.generic("rollout", "v1").await.expect(501);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn a_succeeded_deployment_can_be_rolled_back_by_a_person() {
    let (world, client) = world().await;
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    ask(&client, &id, "rollback").await.expect(202);
    is(&world.reaches(&id, "RolledBack").await, "RolledBack", "Requested");
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn a_cancelled_rollout_goes_no_further_until_its_end_is_seen() {
    let (world, client) = world().await;
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    ask(&client, &id, "cancel").await.expect(202);
    is(&world.reaches(&id, "RolledBack").await, "RolledBack", "Cancelled");
    for hook in ["pre-rollout", "rollout", "confirm-promotion", "confirm-traffic-increase"] {
        client.flagger(hook, "Progressing", "a1").await.expect(501);
    }
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(client.deployments().await.len(), 2);
}

#[tokio::test]
async fn a_cancelled_rollout_goes_on_when_a_person_releases_it() {
    let (_world, client) = world().await;
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    ask(&client, &id, "release").await.expect(409);
    ask(&client, &id, "rollback?now").await.expect(202);
    client.flagger("rollout", "Progressing", "a1").await.expect(501);
    ask(&client, &id, "release").await.expect(202);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(client.deployments().await.len(), 2);
}

#[tokio::test]
async fn one_script_can_be_stopped_and_does_not_run_again_by_itself() {
    let (world, client) = world().await;
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    let run = client.deployment(&id).await["runs"][0]["id"].as_str().unwrap().to_owned();
    let accepted = client.post(&format!("/api/v1/runs/{run}/cancel"), &json!({})).await.expect(202);
    assert!(accepted.header("location").unwrap().ends_with(&run), "{accepted:?}");
    held.answer().await.expect(501);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert_eq!(world.starts(), ["migrate"]);
    assert_eq!(client.api(&format!("runs/{run}")).await["state"], "Cancelled");
    client.post(&format!("/api/v1/runs/{run}/cancel"), &json!({})).await.expect(409);
    ask(&client, &id, "release").await.expect(202);
    let again = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    gate.open().await;
    again.answer().await.expect(200);
}

#[tokio::test]
async fn a_closed_deployment_is_abandoned_and_nothing_is_replayed() {
    let (world, client) = world().await;
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    ask(&client, &id, "close").await.expect(202);
    is(&client.deployment(&id).await, "Abandoned", "Closed");
    ask(&client, &id, "close").await.expect(409);
    ask(&client, &id, "explode").await.expect(404);
    ask(&client, "dep_nonsense", "close").await.expect(404);
    ask(&client, "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV", "close").await.expect(404);
    assert_eq!(world.starts(), ["migrate"]);
}

//! Generic calls that name themselves, by a header or as an event, and events that find their hook by their type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::World;
use crate::support::http::{Client, Reply, generic};
use crate::support::pipelines::{pipeline, stage, stage_with};

const ROLLOUT: &str = "/hooks/generic/rollout";

async fn keyed(client: &Client, key: &str, path: &str, revision: &str) -> Reply {
    client.with("Idempotency-Key", key).post(path, &generic(revision)).await
}

#[tokio::test]
async fn a_repeated_key_runs_nothing_again_before_or_after_a_restart_or_the_end() {
    let mut world = World::with_stages(&[stage("step", "rollout"), stage("notify", "post-rollout")]).await;
    let key = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"";
    let first = keyed(&world.client(), key, ROLLOUT, "v1").await.expect(200);
    let again = keyed(&world.client(), key, ROLLOUT, "v1").await.expect(200);
    assert_eq!(first.deployment(), again.deployment());
    assert_eq!(world.starts(), ["step"], "although it repeats always");
    keyed(&world.client(), "another", ROLLOUT, "v1").await.expect(200);
    assert_eq!(world.starts(), ["step", "step"]);
    world.crash().await;
    keyed(&world.client(), key, ROLLOUT, "v1").await.expect(200);
    world.client().generic("post-rollout", "v1").await.expect(200);
    let after = keyed(&world.client(), key, ROLLOUT, "v1").await.expect(200);
    assert_eq!(after.deployment(), first.deployment(), "and opens nothing");
    assert_eq!(world.starts(), ["step", "step", "notify"]);
    assert_eq!(world.client().deployments().await.len(), 1);
    world.verify();
}

#[tokio::test]
async fn a_key_is_known_however_many_deployments_ago_it_was() {
    let world = World::with_stages(&[stage("step", "rollout")]).await;
    let first = keyed(&world.client(), "k", ROLLOUT, "v0").await.expect(200);
    for n in 1..12 {
        world.client().generic("rollout", &format!("v{n}")).await.expect(200);
    }
    let before = world.starts().len();
    let again = keyed(&world.client(), "k", ROLLOUT, "v0").await;
    assert_eq!(again.deployment(), first.deployment());
    assert_eq!((world.starts().len(), world.client().deployments().await.len()), (before, 12));
    world.verify();
}

#[tokio::test]
async fn a_failure_is_told_again_to_its_key_and_tried_again_for_another() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.fail("migrate");
    let client = world.client();
    let path = "/hooks/generic/pre-rollout";
    for _ in 0..3 {
        let rejected = keyed(&client, "deploy-1", path, "v1").await.expect(501);
        assert!(rejected.text.contains("migrate says no"), "{rejected:?}");
    }
    assert_eq!(world.starts(), ["migrate"]);
    world.mend("migrate");
    keyed(&client, "deploy-2", path, "v1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "migrate"]);
}

#[tokio::test]
async fn the_same_key_joins_what_runs() {
    let world = World::with_stages(&[stage("step", "rollout")]).await;
    let mut gate = world.gate("step");
    let named = world.client().with("Idempotency-Key", "k1");
    let (first, second) = (named.hold(ROLLOUT, &generic("v1")), named.hold(ROLLOUT, &generic("v1")));
    gate.entered().await;
    world.client().held_calls(2).await;
    gate.open().await;
    first.answer().await.expect(200);
    second.answer().await.expect(200);
    assert_eq!(world.starts(), ["step"]);
    named.with("Idempotency-Key", "k2").post(ROLLOUT, &generic("v1")).await.expect(400);
}

#[tokio::test]
async fn a_rollback_with_a_key_is_replayed_once() {
    let mut world = World::with_stages(&[stage("one", "pre-rollout")]).await;
    let client = world.client();
    client.generic("pre-rollout", "v1").await.expect(200);
    world.fail("undo.one");
    keyed(&client, "undo-1", "/hooks/generic/rollback", "v1").await.expect(501);
    keyed(&client, "undo-1", "/hooks/generic/rollback", "v1").await.expect(501);
    world.crash().await;
    keyed(&world.client(), "undo-1", "/hooks/generic/rollback", "v1").await.expect(501);
    assert_eq!(world.starts(), ["one", "undo.one"]);
}

fn binary(client: &Client, kind: &str, id: &str) -> Client {
    let with = [("ce-specversion", "1.0"), ("ce-type", kind), ("ce-source", "/ci/podinfo"), ("ce-id", id)];
    with.iter().fold(client.with("Content-Type", "application/json"), |client, (name, value)| client.with(name, value))
}

fn structured(kind: &str, id: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "type": kind, "source": "/ci/podinfo", "id": id, "data": data})
}

#[tokio::test]
async fn an_event_on_a_hook_is_held_for_its_verdict_and_runs_once_in_either_mode() {
    let world = World::with_stages(&[stage("step", "rollout"), stage("migrate", "pre-rollout")]).await;
    world.fail("migrate");
    let client = world.client();
    for _ in 0..2 {
        binary(&client, "com.example.step", "e%201").post(ROLLOUT, &generic("v1")).await.expect(200);
        let event = structured("com.example.step", "e 1", &generic("v1"));
        let cloud = client.with("Content-Type", "application/cloudevents+json");
        cloud.post(ROLLOUT, &event).await.expect(200);
        let event = structured("com.example.step", "e 2", &generic("v1"));
        cloud.post("/hooks/generic/pre-rollout", &event).await.expect(501);
    }
    assert_eq!(world.starts(), ["step", "migrate"], "the same source and id, whatever the mode");
    binary(&client, "com.example.step", "e%203").post(ROLLOUT, &generic("v1")).await.expect(200);
    assert_eq!(world.starts().len(), 3);
}

#[tokio::test]
async fn an_event_by_its_type_is_not_waited_for_and_goes_on_after_a_crash() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let mut gate = world.gate("migrate");
    let send = async |world: &World| {
        let client = world.client().with("Content-Type", "application/cloudevents+json; charset=utf-8");
        client.post("/hooks/generic/event", &structured("dev.stagehook.hook.pre-rollout", "7", &generic("v1"))).await
    };
    let taken_on = send(&world).await.expect(202);
    let id = taken_on.deployment();
    assert_eq!(taken_on.json()["hook"], "pre-rollout", "{taken_on:?}");
    gate.entered().await;
    assert_eq!(send(&world).await.expect(202).deployment(), id, "delivered twice");
    world.crash().await;
    gate.entered().await;
    gate.open().await;
    let path = format!("/hooks/generic/deployments/{id}/pre-rollout");
    crate::support::poll::poll_until("the stage has succeeded", || async {
        (world.client().get(&path).await.json()["status"] == "SUCCEEDED").then_some(())
    })
    .await;
    let after = send(&world).await.expect(200);
    assert_eq!((after.deployment(), &after.json()["verdict"]), (id, &json!("approved")));
    assert_eq!(world.starts(), ["migrate", "migrate"]);
}

/// An event of a service, as CDEvents has it.
fn service(artifact: &str) -> Value {
    json!({
        "context": {"version": "0.4.1"},
        "subject": {"id": "podinfo", "type": "service",
            "content": {"environment": {"id": "test"}, "artifactId": artifact}},
    })
}

#[tokio::test]
async fn cdevents_end_rollouts_and_undo_what_was_gone_back_from() {
    let notify = stage_with("notify", "post-rollout", &json!({"repeat": "retry-failed"}));
    let world = World::with_stages(&[stage("migrate", "pre-rollout"), notify]).await;
    let client = world.client();
    let tell = async |kind: &str, id: &str, artifact: &str| {
        let kind = format!("dev.cdevents.service.{kind}");
        binary(&client, &kind, id).post("/hooks/generic/event", &service(artifact)).await
    };
    let (one, two) = ("pkg:oci/podinfo@sha256%3A01", "pkg:oci/podinfo@sha256%3A02");
    client.generic("pre-rollout", one).await.expect(200);
    let first = tell("deployed.0.3.0", "1", one).await.deployment();
    world.reaches(&first, "Succeeded").await;
    client.generic("pre-rollout", two).await.expect(200);
    let second = tell("upgraded.0.2.0", "2", two).await.deployment();
    world.reaches(&second, "Succeeded").await;
    assert_ne!(first, second);
    tell("published.0.2.0", "3", two).await.expect(200);
    assert_eq!(tell("rolledback.0.3.0", "4", one).await.deployment(), second);
    world.reaches(&second, "RolledBack").await;
    tell("rolledback.0.3.0", "4", one).await.expect(200);
    assert_eq!(world.starts(), ["migrate", "notify", "migrate", "notify", "undo.migrate", "undo.notify"]);
    assert_eq!(client.deployment(&first).await["state"], "Succeeded", "that is what serves");
    world.verify();
}

/// The same caller, its body signed as Standard Webhooks has it.
fn signed(client: &Client, id: &str, at: i64, body: &Value) -> Client {
    let mac = Hmac::<Sha256>::new_from_slice(b"0123456789abcdef01234567").unwrap();
    let mac = mac.chain_update(format!("{id}.{at}.{body}")).finalize().into_bytes();
    let signature = format!("v1,{}", STANDARD.encode(mac));
    let headers = [("webhook-id", id), ("webhook-timestamp", &at.to_string()), ("webhook-signature", &signature)];
    headers.iter().fold(client.clone(), |client, (name, value)| client.with(name, value))
}

#[tokio::test]
async fn a_message_that_is_sent_again_runs_nothing_and_one_that_is_played_again_is_refused() {
    let auth = json!({"type": "standard-webhooks", "secrets": [{"fromEnv": "WEBHOOK_SECRET"}]});
    let mut world = World::new()
        .set("/sources/generic/auth", auth)
        .variable("WEBHOOK_SECRET", &format!("whsec_{}", STANDARD.encode("0123456789abcdef01234567")))
        .pipeline("podinfo.yaml", &pipeline(&[stage("step", "rollout")]))
        .started()
        .await;
    let now = stagehook::engine::clock::now().as_second();
    let body = generic("v1");
    let send = async |world: &World, id: &str, at: i64| {
        let caller = signed(&world.client(), id, at, &body).with("Idempotency-Key", "beside-the-signature");
        caller.post(ROLLOUT, &body).await
    };
    send(&world, "msg_1", now).await.expect(200);
    send(&world, "msg_1", now + 1).await.expect(200);
    let played = send(&world, "msg_1", now).await.expect(409);
    assert!(played.text.contains("a replay"), "{played:?}");
    let caught = signed(&world.client(), "msg_1", now, &body);
    caught.post("/hooks/generic/rollback", &body).await.expect(409);
    assert_eq!(world.starts(), ["step"]);
    world.crash().await;
    send(&world, "msg_1", now).await.expect(409);
    send(&world, "msg_1", now + 2).await.expect(200);
    assert_eq!(world.starts(), ["step"]);
    send(&world, "msg_2", now).await.expect(200);
    assert_eq!(world.starts(), ["step", "step"], "what is signed names the call");
    send(&world, "msg_3", now - 400).await.expect(401);
}

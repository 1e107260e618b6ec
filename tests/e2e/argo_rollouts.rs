//! Rollouts of Argo Rollouts against the real program: its web metric, with the body of the example, and its
//! notifications.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::http::{Client, Reply};
use crate::support::pipelines::{pipeline, stage};
use crate::support::poll::poll_until;

async fn world() -> World {
    let stages = [stage("check", "rollout"), stage("promote", "confirm-promotion"), stage("smoke", "post-rollout")];
    World::new()
        .set("/sources/argo-rollouts/enabled", json!(true))
        .set("/sources/argo-rollouts/respondWithin", json!("50ms"))
        .pipeline("podinfo.yaml", &pipeline(&stages))
        .started()
        .await
}

/// The metric of the example: its method, and the body with the arguments filled in.
fn metric(revision: &str) -> (String, Value) {
    let text = include_str!("../../examples/argo-rollouts/analysis-template.yaml");
    let arguments = [
        ("namespace", "test"),
        ("name", "podinfo"),
        ("uid", "0b9d3c1e-9d0c-4a53-8b67-0f9f1b2f3c4d"),
        ("revision", revision),
        ("pod-hash", "7bf84f9696"),
    ];
    let filled = arguments
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{args.{name}}}}}"), value));
    let template: Value = serde_saphyr::from_str(&filled).unwrap();
    let web = &template["spec"]["metrics"][0]["provider"]["web"];
    (web["method"].as_str().unwrap().to_owned(), web["jsonBody"].clone())
}

async fn measured(client: &Client, hook: &str, revision: &str) -> Reply {
    let (method, body) = metric(revision);
    client.send(&method, &format!("/hooks/argo-rollouts/{hook}"), body.to_string().as_bytes()).await
}

/// Measures as Argo Rollouts does: what is no 2xx is an error, and asked again.
async fn polled(client: &Client, hook: &str, revision: &str) -> String {
    poll_until("a measurement", || async {
        let reply = measured(client, hook, revision).await;
        if reply.status == 503 {
            assert!(reply.header("retry-after").is_some());
            return None;
        }
        Some(reply.expect(200).json()["status"].as_str().unwrap().to_owned())
    })
    .await
}

async fn told(client: &Client, event: &str, revision: &str) -> Reply {
    let (_, mut body) = metric(revision);
    body["event"] = event.into();
    let hook = if event == "on-rollout-aborted" { "rollback" } else { "post-rollout" };
    client.post(&format!("/hooks/argo-rollouts/{hook}"), &body).await
}

#[tokio::test]
async fn a_rollout_is_asked_about_aborted_undone_and_tried_again() {
    let mut world = world().await;
    let mut gate = world.gate("check");
    world.fail("promote");
    let client = world.client();
    let first = measured(&client, "rollout", "4").await.expect(503);
    assert_eq!(first.json()["status"], "pending");
    gate.entered().await;
    measured(&client, "rollout", "4").await.expect(503);
    gate.open().await;
    assert_eq!(polled(&client, "rollout", "4").await, "succeeded");
    for _ in 0..2 {
        assert_eq!(polled(&client, "confirm-promotion", "4").await, "failed");
    }
    assert_eq!(world.starts(), ["check", "promote"], "each poll is the same question");

    let mut undo = world.gate("undo.check");
    let aborted = told(&client, "on-rollout-aborted", "4").await.expect(202);
    let id = aborted.deployment();
    assert_eq!(id, first.deployment());
    undo.entered().await;
    world.crash().await;
    undo.entered().await;
    undo.open().await;
    let undone = world.reaches(&id, "RolledBack").await;
    assert_eq!(undone["revision"], "4-7bf84f9696@0b9d3c1e");
    told(&world.client(), "on-rollout-aborted", "4").await.expect(200);

    // `kubectl argo rollouts retry`: the same revision, hash and uid.
    world.mend("promote");
    let client = world.client();
    let retried = measured(&client, "rollout", "4").await.expect(503);
    assert_ne!(retried.deployment(), id);
    gate.entered().await;
    gate.open().await;
    for (hook, answer) in [("rollout", "succeeded"), ("confirm-promotion", "succeeded"), ("post-rollout", "succeeded")]
    {
        assert_eq!(polled(&client, hook, "4").await, answer, "{hook}");
    }
    assert_eq!(client.deployment(&retried.deployment()).await["state"], "Progressing", "it may still be aborted");
    told(&client, "on-rollout-completed", "4").await.expect(200);
    world.reaches(&retried.deployment(), "Succeeded").await;
    let starts = world.starts();
    assert_eq!(starts.iter().filter(|key| *key == "smoke").count(), 1, "{starts:?}");
    world.verify();
}

#[tokio::test]
async fn a_metric_may_put_and_is_told_that_it_can_not_get() {
    let world = world().await;
    let client = world.client().with("Accept", "text/plain");
    let (_, body) = metric("4");
    let put = client.send("PUT", "/hooks/argo-rollouts/confirm-promotion?wait=1m", body.to_string().as_bytes()).await;
    assert_eq!(put.expect(200).json()["status"], "succeeded", "JSON, whatever it accepts");
    let got = client.get("/hooks/argo-rollouts/confirm-promotion").await.expect(405);
    assert!(got.text.contains("`method: POST`"), "{got:?}");
    client.send("PUT", "/hooks/generic/rollout", b"{}").await.expect(405);
    let mut partial = body.clone();
    partial.as_object_mut().unwrap().remove("podHash");
    let refused = client.post("/hooks/argo-rollouts/rollout", &partial).await.expect(400);
    assert!(refused.text.contains("no `podHash`"), "{refused:?}");
}

//! Events of Flux against the real program.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::http::Reply;
use crate::support::pipelines::{pipeline, rollback_stage, stage};
use crate::support::poll::poll_until;

async fn world() -> World {
    let stages = [stage("warm", "rollout"), stage("smoke", "post-rollout"), rollback_stage("tell")];
    World::new().set("/sources/flux/enabled", json!(true)).pipeline("podinfo.yaml", &pipeline(&stages)).started().await
}

fn event(kind: &str, reason: &str, revision: &str, minute: u8) -> Value {
    json!({
        "involvedObject": {
            "kind": kind, "namespace": "test", "name": "podinfo", "uid": "0b9d3c1e", "apiVersion": "helm.toolkit.fluxcd.io/v2",
        },
        "severity": if reason.ends_with("Failed") { "error" } else { "info" },
        "timestamp": format!("2026-01-01T10:{minute:02}:00Z"),
        "reason": reason, "message": format!("{reason} of podinfo"),
        "metadata": {"helm.toolkit.fluxcd.io/revision": revision},
        "reportingController": "helm-controller",
    })
}

async fn helm(world: &World, reason: &str, revision: &str, minute: u8) -> Reply {
    world.client().post("/hooks/flux", &event("HelmRelease", reason, revision, minute)).await
}

#[tokio::test]
async fn a_release_succeeds_and_its_failed_tests_undo_it_through_two_deaths_of_the_server() {
    let mut world = world().await;
    let (mut smoke, mut undo) = (world.gate("smoke"), world.gate("undo.smoke"));
    let upgraded = helm(&world, "UpgradeSucceeded", "1.1.0", 1).await.expect(202);
    let id = upgraded.deployment();
    smoke.entered().await;
    world.crash().await;
    smoke.entered().await;
    smoke.open().await;
    world.reaches(&id, "Succeeded").await;
    // The attempt whose answer was lost.
    let again = helm(&world, "UpgradeSucceeded", "1.1.0", 1).await.expect(200);
    assert_eq!(again.deployment(), id);
    let failed = helm(&world, "TestFailed", "1.1.0", 2).await.expect(202);
    assert_eq!(failed.deployment(), id);
    undo.entered().await;
    world.crash().await;
    undo.entered().await;
    undo.open().await;
    let undone = world.reaches(&id, "RolledBack").await;
    assert_eq!(undone["reason"], "Failed");
    helm(&world, "RollbackSucceeded", "1.0.0", 3).await.expect(200);
    assert_eq!(world.starts(), ["smoke", "smoke", "undo.smoke", "undo.smoke", "undo.tell"]);
    assert_eq!(world.client().deployments().await.len(), 1);
    world.verify();
}

#[tokio::test]
async fn a_kustomization_succeeds_once_however_often_it_says_so() {
    let world = world().await;
    let client = world.client();
    let said = |reason, minute| event("Kustomization", reason, "main@sha1:4f1d2c", minute);
    let progress = client.post("/hooks/flux", &said("Progressing", 0)).await;
    let id = progress.deployment();
    // Flux does not wait for what it has set going; the count of records below must.
    poll_until("the first stage is over", || async {
        (client.deployment(&id).await["runs"][0]["state"] == "Succeeded").then_some(())
    })
    .await;
    client.post("/hooks/flux", &said("ReconciliationSucceeded", 1)).await;
    let found = world.reaches(&id, "Succeeded").await;
    assert_eq!(found["revision"], "main@sha1:4f1d2c");
    let records = client.records(&id).await.len();
    for minute in 2..6 {
        let reply = client.post("/hooks/flux", &said("ReconciliationSucceeded", minute)).await.expect(200);
        assert!(reply.text.contains("found in place once more"), "{reply:?}");
    }
    assert_eq!(client.records(&id).await.len(), records);
    let starts = world.starts();
    assert_eq!(starts.iter().filter(|key| *key == "smoke").count(), 1, "{starts:?}");
}

#[tokio::test]
async fn what_is_nothing_to_do_is_acknowledged_and_what_is_nobodys_is_not_found() {
    let world = world().await;
    let client = world.client();
    let ignored =
        client.post("/hooks/flux", &event("GitRepository", "NewArtifact", "main@sha1:a", 0)).await.expect(200);
    assert!(ignored.json()["ignored"].as_str().unwrap().contains("NewArtifact of GitRepository"), "{ignored:?}");
    let ignored = helm(&world, "DriftDetected", "1.0.0", 0).await.expect(200);
    assert!(ignored.json()["ignored"].as_str().unwrap().contains("a drift"), "{ignored:?}");
    let mut other = event("HelmRelease", "UpgradeSucceeded", "1.0.0", 0);
    other["involvedObject"]["name"] = "other".into();
    client.post("/hooks/flux", &other).await.expect(404);
    client.post("/hooks/flux", &json!({"reason": "UpgradeSucceeded"})).await.expect(400);
    client.post("/hooks/flux/rollout", &other).await.expect(404);
    assert_eq!(client.deployments().await.len(), 0);
}

//! The example of the rollback rules: a PipeCD file with seven stages, of which 3, 5 and 7 run scripts, 2 waits, and
//! the rest marks where the delivery tool acts.

use serde_json::{Value, json};

use crate::support::{Client, World, pipelines::SCRIPT};

/// Stage 5 stands after the promotion, so it is on post-rollout unless told otherwise.
fn seven(fifth_hook: Option<&str>) -> Value {
    let script = |hook: Option<&str>| {
        let mut stage = json!({"name": "SCRIPT_RUN", "with": {"run": SCRIPT, "onRollback": SCRIPT}});
        if let Some(hook) = hook {
            stage["hook"] = json!(hook);
        }
        stage
    };
    json!({
        "apiVersion": "pipecd.dev/v1beta1",
        "kind": "KubernetesApp",
        "spec": {
            "name": "podinfo",
            "labels": {"env": "example"},
            "pipeline": {"stages": [
                {"name": "K8S_CANARY_ROLLOUT", "with": {"replicas": "10%"}},
                {"name": "WAIT", "with": {"duration": "10ms"}},
                script(None),
                {"name": "K8S_PRIMARY_ROLLOUT"},
                script(fifth_hook),
                {"name": "K8S_CANARY_CLEAN"},
                script(None),
            ]},
        },
    })
}

// PipeCD counts from 0: the third stage is `stage-2`.
const THIRD: &str = "stage-2";
const FIFTH: &str = "stage-4";

async fn world(fifth_hook: Option<&str>) -> (World, Client) {
    let world = World::new().pipeline("app.pipecd.yaml", &seven(fifth_hook)).started().await;
    let client = world.client();
    (world, client)
}

async fn only_deployment(client: &Client) -> Value {
    let all = client.deployments().await;
    assert_eq!(all.len(), 1, "{all:?}");
    client.deployment(all[0]["id"].as_str().unwrap()).await
}

#[tokio::test]
async fn a_failure_at_the_third_rolls_back_the_third() {
    let (world, client) = world(None).await;
    world.fail(THIRD);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(501);
    assert!(refused.text.contains(THIRD) && refused.text.contains("exit code 3"), "{refused:?}");
    assert!(refused.text.contains("stage-2 says no"), "{refused:?}");
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), [THIRD, "undo.stage-2"]);
    let deployment = only_deployment(&client).await;
    assert_eq!((&deployment["state"], &deployment["reason"]), (&json!("RolledBack"), &json!("Failed")));
    world.verify();
}

#[tokio::test]
async fn a_failure_at_the_fourth_rolls_back_the_third() {
    let (world, client) = world(None).await;
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    // The promotion is Flagger's; that it failed shows only in the end of the canary.
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), [THIRD, "undo.stage-2"]);
    assert_eq!(only_deployment(&client).await["state"], "RolledBack");
}

#[tokio::test]
async fn a_failure_at_the_sixth_rolls_back_the_third_then_the_fifth() {
    let (world, client) = world(Some("confirm-promotion")).await;
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    client.flagger("confirm-promotion", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), [THIRD, FIFTH, "undo.stage-2", "undo.stage-4"]);
    let deployment = only_deployment(&client).await;
    assert_eq!(deployment["state"], "RolledBack");
    let stage = &deployment["stages"][6];
    assert_eq!((&stage["id"], &stage["state"]), (&json!("stage-6"), &json!("Skipped")));
}

#[tokio::test]
async fn a_cancel_at_the_third_rolls_back_the_third() {
    let (world, client) = world(None).await;
    let mut gate = world.gate(THIRD);
    let held = client.hold_flagger("rollout", "Progressing", "a1");
    let script = gate.entered().await;
    let id = only_deployment(&client).await["id"].as_str().unwrap().to_owned();
    let accepted = client.post(&format!("/api/v1/deployments/{id}/cancel"), &json!({})).await.expect(202);
    assert_eq!(accepted.deployment(), id);
    let refused = held.answer().await;
    assert_eq!(refused.status, 501, "{refused:?}");
    let deployment = world.reaches(&id, "RolledBack").await;
    assert_eq!(deployment["reason"], "Cancelled");
    assert!(!crate::support::processes::is_alive(script));
    assert_eq!(world.starts(), [THIRD, "undo.stage-2"]);
    assert_eq!(deployment["runs"][1]["state"], "Cancelled", "{deployment:#}");
}

#[tokio::test]
async fn a_whole_rollout_runs_all_and_undoes_nothing() {
    let (world, client) = world(None).await;
    for hook in ["confirm-rollout", "pre-rollout", "rollout", "rollout", "confirm-promotion"] {
        let phase = if hook == "confirm-rollout" { "Initialized" } else { "Progressing" };
        client.flagger(hook, phase, if hook == "confirm-rollout" { "" } else { "a1" }).await.expect(200);
    }
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    // PipeCD knows no repetition: what has succeeded is not run for each step.
    assert_eq!(world.starts(), [THIRD, FIFTH, "stage-6"]);
    assert_eq!(only_deployment(&client).await["state"], "Succeeded");
    world.verify();
}

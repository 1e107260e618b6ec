//! Spinnaker's Webhook stage, as Orca plays it: one POST that must be answered at once, again after a 5xx, then polls of
//! the status document until it says an end, with the same headers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::World;
use crate::support::http::{Client, Reply};
use crate::support::pipelines::{pipeline, stage};
use crate::support::poll::poll_until;

/// Orca gives a call so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stage of a pipeline whose POST was taken on.
struct Stage {
    /// What is polled.
    path: String,
}

impl Stage {
    /// Posts as the stage does, and finds the status document.
    async fn post(client: &Client, address: &str, hook: &str, body: &Value) -> Self {
        let client = client.with("Prefer", "respond-async");
        let path = format!("/hooks/generic/{hook}");
        let answer = client.try_send("POST", &path, body.to_string().as_bytes(), PATIENCE).await.unwrap();
        Self::taken_on(&answer, address)
    }

    fn taken_on(answer: &Reply, address: &str) -> Self {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.header("preference-applied"), Some("respond-async"));
        let location = answer.header("location").unwrap();
        let path = location.strip_prefix(&format!("http://{address}"));
        Self { path: path.unwrap_or_else(|| panic!("{location} is not of {address}")).to_owned() }
    }

    /// One poll, with the paths that Orca is told: a status of one of the words, a progress that is text.
    async fn poll(&self, client: &Client) -> Value {
        let document = client.get(&self.path).await.expect(200).json();
        assert!(document["progress"].is_string() && document["results"].is_object(), "{document:#}");
        let status = document["status"].as_str().unwrap();
        assert!(["RUNNING", "SUCCEEDED", "FAILED", "CANCELED"].contains(&status), "{document:#}");
        document
    }

    /// Polls until the end.
    async fn ends(&self, client: &Client) -> Value {
        poll_until("the status document says an end", || async {
            let document = self.poll(client).await;
            (document["status"] != "RUNNING").then_some(document)
        })
        .await
    }
}

fn body() -> Value {
    json!({"namespace": "test", "name": "podinfo", "revision": "01JD2ZV8Q3"})
}

async fn post(world: &World, hook: &str) -> Stage {
    Stage::post(&world.client(), &world.server().address, hook, &body()).await
}

#[tokio::test]
async fn a_stage_is_answered_at_once_and_polled_to_its_success() {
    let mut counted = stage("migrate", "pre-rollout");
    counted["with"]["run"] = json!(r#". "$E2E_DIR/library.sh"; echo rows=12 >> "$STAGEHOOK_OUTPUT""#);
    let world = World::with_stages(&[counted, stage("warm", "pre-rollout")]).await;
    let mut gate = world.gate("migrate");
    let stage = post(&world, "pre-rollout").await;
    let client = world.client();
    assert_eq!(stage.poll(&client).await["status"], "RUNNING", "readable at once");
    gate.entered().await;
    let running = stage.poll(&client).await;
    assert!(running["progress"].as_str().unwrap().contains("stage migrate is running"), "{running:#}");
    gate.open().await;
    let done = stage.ends(&client).await;
    assert_eq!((&done["status"], &done["progress"]), (&json!("SUCCEEDED"), &json!("approved: migrate, warm")));
    assert_eq!(done["results"], json!({"migrate": {"rows": "12"}}));
    // A stage that is restarted keeps what has succeeded.
    assert_eq!(post(&world, "pre-rollout").await.ends(&client).await["status"], "SUCCEEDED");
    assert_eq!(world.starts(), ["migrate", "warm"]);
    world.verify();
}

#[tokio::test]
async fn a_rejected_script_is_told_in_the_document_and_never_as_5xx() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.fail("migrate");
    let client = world.client();
    let failed = post(&world, "pre-rollout").await.ends(&client).await;
    assert_eq!(failed["status"], "FAILED");
    assert_eq!(failed["progress"], "stage migrate failed (exit code 3): migrate says no");
    // A person restarts the stage: what failed runs again, although the execution has the same id.
    let known = client.with("Prefer", "respond-async, wait=20");
    let again = known.post("/hooks/generic/pre-rollout", &body()).await.expect(202);
    assert_eq!(again.json()["verdict"], "rejected", "it waited, and says so: {again:?}");
    world.mend("migrate");
    assert_eq!(post(&world, "pre-rollout").await.ends(&client).await["status"], "SUCCEEDED");
    assert_eq!(world.starts(), ["migrate", "migrate", "migrate"]);
}

#[tokio::test]
async fn the_scripts_go_on_after_a_crash_without_another_call() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("warm", "pre-rollout")]).await;
    let mut gate = world.gate("migrate");
    let stage = post(&world, "pre-rollout").await;
    gate.entered().await;
    world.crash().await;
    // Nobody has called since: it has begun again by itself.
    gate.entered().await;
    let client = world.client();
    assert_eq!(stage.poll(&client).await["status"], "RUNNING");
    gate.open().await;
    assert_eq!(stage.ends(&client).await["status"], "SUCCEEDED");
    assert_eq!(world.starts(), ["migrate", "migrate", "warm"]);
    // What became of it is read in the next life, too.
    world.crash().await;
    assert_eq!(stage.poll(&world.client()).await["status"], "SUCCEEDED");
    world.verify();
}

#[tokio::test]
async fn a_failed_pipeline_is_rolled_back_also_over_a_crash() {
    let mut world = World::with_stages(&[stage("one", "pre-rollout"), stage("two", "pre-rollout")]).await;
    post(&world, "pre-rollout").await.ends(&world.client()).await;
    let mut gate = world.gate("undo.two");
    let rollback = post(&world, "rollback").await;
    gate.entered().await;
    assert_eq!(rollback.poll(&world.client()).await["status"], "RUNNING");
    world.crash().await;
    gate.entered().await;
    gate.open().await;
    let client = world.client();
    let done = rollback.ends(&client).await;
    assert_eq!((&done["status"], &done["state"]), (&json!("SUCCEEDED"), &json!("RolledBack")));
    assert_eq!(post(&world, "rollback").await.ends(&client).await["status"], "SUCCEEDED", "said twice");
    assert_eq!(world.starts(), ["one", "two", "undo.one", "undo.two", "undo.two"]);
    world.verify();
}

#[tokio::test]
async fn a_rollback_that_fails_has_failed_and_one_with_nothing_to_undo_has_succeeded() {
    let world = World::with_stages(&[stage("one", "pre-rollout")]).await;
    let client = world.client();
    let nothing =
        Stage::post(&client, &world.server().address, "rollback", &json!({"namespace": "test", "name": "podinfo"}))
            .await;
    assert_eq!(nothing.poll(&client).await["status"], "SUCCEEDED", "no deployment was ever opened");
    post(&world, "pre-rollout").await.ends(&client).await;
    world.fail("undo.one");
    let failed = post(&world, "rollback").await.ends(&client).await;
    assert_eq!(failed["status"], "FAILED");
    assert!(failed["progress"].as_str().unwrap().contains("undo.one says no"), "{failed:#}");
}

#[tokio::test]
async fn a_rollout_that_a_person_cancels_is_canceled() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let mut gate = world.gate("migrate");
    let stage = post(&world, "pre-rollout").await;
    gate.entered().await;
    let client = world.client();
    let id = stage.poll(&client).await["deployment"].as_str().unwrap().to_owned();
    client.post(&format!("/api/v1/deployments/{id}/cancel"), &json!({})).await.expect(202);
    assert_eq!(stage.ends(&client).await["status"], "CANCELED");
    world.reaches(&id, "RolledBack").await;
}

#[tokio::test]
async fn the_token_of_the_call_reads_the_document_too() {
    let auth = json!({"type": "bearer", "tokens": [{"fromEnv": "CALL_TOKEN"}]});
    let world = World::new()
        .set("/sources/generic/auth", auth)
        .set("/server/publicUrl", json!("https://hooks.example.com/"))
        .variable("CALL_TOKEN", "t0ken")
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let known = world.client().with("Authorization", "Bearer t0ken");
    let answer = known.with("Prefer", "respond-async").post("/hooks/generic/pre-rollout", &body()).await.expect(202);
    let path = answer.header("location").unwrap().strip_prefix("https://hooks.example.com").unwrap();
    let stage = Stage { path: path.to_owned() };
    assert_eq!(stage.ends(&known).await["status"], "SUCCEEDED");
    world.client().get(path).await.expect(401);
    world.client().with("Authorization", "Bearer other").get(path).await.expect(401);
}

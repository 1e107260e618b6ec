//! Syncs of Argo CD against the real program: hook Jobs, as the example has them, and notifications.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::pipelines::{pipeline, rollback_stage, stage};
use crate::support::{World, programs};

const OPERATION: &str = "1767261600";
const STARTED: &str = "0b9d3c1e-9d0c-4a53-8b67-0f9f1b2f3c4d/2026-01-01T10:00:00Z";

async fn world(respond_within: &str) -> World {
    let stages = [
        stage("migrate", "pre-rollout"),
        stage("warm", "rollout"),
        stage("smoke", "post-rollout"),
        rollback_stage("tell"),
    ];
    World::new()
        .set("/sources/argocd/enabled", json!(true))
        .set("/sources/argocd/respondWithin", json!(respond_within))
        .pipeline("podinfo.yaml", &pipeline(&stages))
        .started()
        .await
}

fn body(more: &Value) -> Value {
    let mut body = json!({"namespace": "test", "name": "podinfo"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn told(event: &str) -> Value {
    body(&json!({"event": event, "operation": STARTED, "phase": "Running", "revision": "8f2c"}))
}

/// The hook Jobs of the example: the phase, and the script of the only container.
fn jobs() -> Vec<(String, String, String)> {
    let text = include_str!("../../examples/argocd/hook-jobs.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let job = |job: &Value| {
        let phase = job["metadata"]["annotations"]["argocd.argoproj.io/hook"].as_str().unwrap().to_owned();
        let name = job["metadata"]["generateName"].as_str().unwrap().to_owned();
        let script = job["spec"]["template"]["spec"]["containers"][0]["args"][0].as_str().unwrap().to_owned();
        (phase, name, script)
    };
    documents.iter().map(job).collect()
}

/// Runs the Job of a phase as Argo CD would name it.
async fn run(world: &World, phase: &str, operation: &str) -> Output {
    run_as(world, phase, &|name| format!("{name}8f2c1d3-{}-{operation}", phase.to_lowercase())).await
}

/// Runs the Job of a phase under a name that is made of its own.
async fn run_as(world: &World, phase: &str, named: &dyn Fn(&str) -> String) -> Output {
    let (_, name, script) = jobs().into_iter().find(|(of, ..)| of == phase).unwrap();
    let script = script.replace("http://stagehook.stagehook", &format!("http://{}", world.server().address));
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", &script]).env("JOB", named(&name)).env("TOKEN", "secret");
    command.output().await.unwrap()
}

#[tokio::test]
async fn the_jobs_of_the_example_gate_a_sync_and_have_it_undone() {
    if !programs::is_there("curl") {
        return;
    }
    let world = world("1m").await;
    let phases: Vec<_> = jobs().into_iter().map(|(phase, ..)| phase).collect();
    assert_eq!(phases, ["PreSync", "Sync", "PostSync", "SyncFail"]);
    assert_eq!(run(&world, "PreSync", OPERATION).await.status.code(), Some(0));
    world.fail("warm");
    let refused = run(&world, "Sync", OPERATION).await;
    assert_eq!(refused.status.code(), Some(22), "the exit code that the Job does not try again");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("warm says no"), "{refused:?}");
    let undone = run(&world, "SyncFail", OPERATION).await;
    assert_eq!(undone.status.code(), Some(0), "{undone:?}");
    assert_eq!(world.starts(), ["migrate", "warm", "undo.migrate", "undo.warm", "undo.tell"]);
    // What the notification tells of the same operation is known.
    let client = world.client();
    let known = client.post("/hooks/argocd/rollback", &told("on-sync-failed")).await.expect(200);
    let all = client.deployments().await;
    assert_eq!((all.len(), &all[0]["state"]), (1, &json!("RolledBack")));
    assert_eq!(known.deployment(), all[0]["id"].as_str().unwrap());
    assert_eq!(client.deployment(&known.deployment()).await["rollout"], OPERATION);

    world.mend("warm");
    for phase in ["PreSync", "Sync", "PostSync"] {
        let output = run(&world, phase, "1767265200").await;
        assert_eq!(output.status.code(), Some(0), "{phase}: {output:?}");
    }
    let all = client.deployments().await;
    assert_eq!((all.len(), &all[1]["state"]), (2, &json!("Succeeded")));
    world.verify();
}

/// Kustomize takes no `generateName`, so that the names of such Jobs are always the same.
#[tokio::test]
async fn jobs_with_a_name_of_their_own_mean_the_deployment_in_progress() {
    if !programs::is_there("curl") {
        return;
    }
    let world = world("1m").await;
    let named = |name: &str| name.trim_end_matches('-').to_owned();
    for undone in [true, false, false] {
        let phases: &[&str] = if undone { &["PreSync", "Sync", "SyncFail"] } else { &["PreSync", "Sync", "PostSync"] };
        for phase in phases {
            let output = run_as(&world, phase, &named).await;
            assert_eq!(output.status.code(), Some(0), "{phase}: {output:?}");
        }
    }
    let first = ["migrate", "warm", "undo.migrate", "undo.warm", "undo.tell"];
    let further = ["migrate", "warm", "smoke"];
    assert_eq!(world.starts(), [first.as_slice(), &further, &further].concat());
    let client = world.client();
    client.post("/hooks/argocd/post-rollout", &told("on-deployed")).await.expect(200);
    let all = client.deployments().await;
    let states: Vec<_> = all.iter().map(|deployment| deployment["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["RolledBack", "Succeeded", "Succeeded"]);
    world.verify();
}

#[tokio::test]
async fn a_job_asks_until_there_is_a_verdict_and_sync_fail_until_all_is_undone() {
    if !programs::is_there("curl") {
        return;
    }
    let world = world("50ms").await;
    let client = world.client().with("Idempotency-Key", OPERATION);
    let (mut migrate, mut undo) = (world.gate("migrate"), world.gate("undo.migrate"));
    let pending = client.post("/hooks/argocd/pre-rollout", &body(&json!({}))).await.expect(503);
    assert!(pending.header("retry-after").is_some() && pending.text.contains("\"pending\""), "{pending:?}");
    migrate.entered().await;
    migrate.open().await;
    let id = pending.deployment();
    world.reaches(&id, "Progressing").await;
    let approved = client.post("/hooks/argocd/pre-rollout?wait=1m", &body(&json!({}))).await.expect(200);
    assert_eq!(approved.deployment(), id);

    let pending = client.post("/hooks/argocd/rollback", &body(&json!({}))).await.expect(503);
    assert!(pending.header("retry-after").is_some() && pending.deployment() == id, "{pending:?}");
    undo.entered().await;
    undo.open().await;
    world.reaches(&id, "RolledBack").await;
    client.post("/hooks/argocd/rollback", &body(&json!({}))).await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate", "undo.tell"]);
}

#[tokio::test]
async fn a_notification_is_taken_at_once_and_survives_the_death_of_the_server() {
    let mut world = world("1m").await;
    let (mut warm, mut undo) = (world.gate("warm"), world.gate("undo.warm"));
    let taken = world.client().post("/hooks/argocd/rollout", &told("on-sync-running")).await.expect(202);
    let id = taken.deployment();
    warm.entered().await;
    world.crash().await;
    // Nobody asks again, and still it goes on.
    warm.entered().await;
    let again = world.client().post("/hooks/argocd/rollout", &told("on-sync-running")).await.expect(202);
    assert_eq!(again.deployment(), id);
    warm.open().await;
    let failed = world.client().post("/hooks/argocd/rollback", &told("on-sync-failed")).await.expect(202);
    assert_eq!(failed.deployment(), id);
    undo.entered().await;
    world.crash().await;
    undo.entered().await;
    undo.open().await;
    world.reaches(&id, "RolledBack").await;
    world.client().post("/hooks/argocd/rollback", &told("on-sync-failed")).await.expect(200);
    let starts = world.starts();
    assert_eq!(starts, ["warm", "warm", "undo.warm", "undo.warm", "undo.tell"]);
    world.verify();
}

#[tokio::test]
async fn a_notification_at_the_wrong_path_is_told_its_place() {
    let world = world("1m").await;
    let client = world.client();
    let refused = client.post("/hooks/argocd/rollback", &told("on-deployed")).await.expect(400);
    assert!(refused.text.contains("belongs to /hooks/argocd/post-rollout"), "{refused:?}");
    let refused = client.with("Idempotency-Key", "1").post("/hooks/argocd/rollout", &told("on-sync-running")).await;
    assert!(refused.expect(400).text.contains("names the operation 1, and the field `operation` names 1767261600"));
    let other = json!({"namespace": "test", "name": "other", "event": "on-deployed"});
    client.post("/hooks/argocd/post-rollout", &other).await.expect(404);
    assert_eq!(world.starts(), Vec::<String>::new());
}

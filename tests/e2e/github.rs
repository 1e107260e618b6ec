//! GitHub's deliveries, and what is told to its API, across crashes.

use serde_json::{Value, json};

use crate::support::github::{Api, Mood, SECRET, deliver, deployment, protection_rule, signature, signed, status};
use crate::support::pipelines::{pipeline_for, stage};
use crate::support::poll::poll_until;
use crate::support::{Client, World};

const STATUSES: &str = "/deployments/42/statuses";
const CALLBACK: &str = "/deployment_protection_rule";

fn stages() -> [Value; 3] {
    [stage("migrate", "pre-rollout"), stage("smoke", "rollout"), stage("notify", "post-rollout")]
}

fn pipeline() -> Value {
    pipeline_for("production", "octo/app", &stages())
}

/// A world that GitHub may call; nothing is told to its API.
fn world(pipeline: &Value) -> World {
    World::new()
        .pipeline("app.yaml", pipeline)
        .set("/sources/github/enabled", json!(true))
        .set("/sources/github/auth", json!({"type": "hmac-sha256", "secrets": [{"fromEnv": "WEBHOOK_SECRET"}]}))
        .variable("WEBHOOK_SECRET", SECRET)
}

/// The same, with a token for the API.
fn reporting(pipeline: &Value, api: &Api) -> World {
    world(pipeline)
        .set("/sources/github/api", json!({"url": api.url, "token": {"fromEnv": "GITHUB_TOKEN"}}))
        .variable("GITHUB_TOKEN", "ghp_hunter2")
}

async fn told(client: &Client, id: &str) -> Vec<Value> {
    let records = client.records(id).await;
    records.into_iter().map(|record| record["event"].clone()).filter(|event| event["type"] == "reportSent").collect()
}

async fn told_times(client: &Client, id: &str, count: usize) -> Vec<Value> {
    poll_until(&format!("{count} outcomes of {id} are told or given up"), || async {
        let told = told(client, id).await;
        (told.len() >= count).then_some(told)
    })
    .await
}

#[tokio::test]
async fn a_deployment_runs_its_stages_and_says_so_at_github() {
    let api = Api::start().await;
    let world = reporting(&pipeline(), &api).started().await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let created = deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(202);
    assert_eq!(created.json()["application"], "production/octo/app");
    let id = created.deployment();
    gate.entered().await;
    // Again, while it runs: a redelivery joins.
    let again = deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(202);
    assert_eq!(again.deployment(), id);
    gate.open().await;
    let posted = api.posts(STATUSES, 1).await;
    assert_eq!(
        posted[0].body,
        json!({"state": "in_progress", "description": "Stagehook: pre-rollout approved: migrate", "auto_inactive": false})
    );
    assert_eq!(posted[0].authorization, "Bearer ghp_hunter2");
    told_times(&client, &id, 1).await;

    deliver(&client, "deployment_status", "d-2", &status(42, "abc", "in_progress")).await.expect(202);
    api.posts(STATUSES, 2).await;
    // GitHub tells us of our own status.
    let mut own = status(42, "abc", "failure");
    own["deployment_status"]["description"] = json!("Stagehook: rollout approved: smoke");
    let ignored = deliver(&client, "deployment_status", "d-3", &own).await.expect(200);
    assert!(ignored.json()["ignored"].as_str().unwrap().contains("Stagehook itself"));

    api.says(42, "success");
    deliver(&client, "deployment_status", "d-4", &status(42, "abc", "success")).await.expect(202);
    world.reaches(&id, "Succeeded").await;
    told_times(&client, &id, 3).await;
    // The deployer's success stands for itself.
    assert_eq!(api.posted(STATUSES).len(), 2);

    // A redelivery, long after: answered from the ledger, nothing runs again.
    let again = deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(200);
    assert_eq!(again.json()["verdict"], "approved");
    assert_eq!(world.starts(), ["migrate", "smoke", "notify"]);
    assert_eq!(client.deployments().await.len(), 1);
    world.verify();
}

#[tokio::test]
async fn a_failure_replays_what_was_started_and_says_what_was_undone() {
    let api = Api::start().await;
    let world = reporting(&pipeline(), &api).started().await;
    let client = world.client();
    let id = deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(202).deployment();
    told_times(&client, &id, 1).await;
    world.fail("smoke");
    deliver(&client, "deployment_status", "d-2", &status(42, "abc", "in_progress")).await.expect(202);
    let posted = api.posts(STATUSES, 2).await;
    assert_eq!(posted[1].body["state"], "failure");
    assert_eq!(posted[1].body["description"], "Stagehook: rollout stage smoke failed (exit code 3): smoke says no");
    api.says(42, "failure");
    deliver(&client, "deployment_status", "d-3", &status(42, "abc", "failure")).await.expect(202);
    world.reaches(&id, "RolledBack").await;
    let posted = api.posts(STATUSES, 3).await;
    assert_eq!(posted[2].body["state"], "failure");
    let description = posted[2].body["description"].as_str().unwrap();
    assert!(description.contains("RolledBack: migrate, smoke"), "{description}");
    told_times(&client, &id, 3).await;
    // The same failure once more, as another delivery: known, nothing runs.
    deliver(&client, "deployment_status", "d-4", &status(42, "abc", "error")).await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke", "undo.migrate", "undo.smoke"]);
    world.verify();
}

#[tokio::test]
async fn a_rollback_that_fails_is_an_error_there() {
    let api = Api::start().await;
    let world = reporting(&pipeline(), &api).started().await;
    let client = world.client();
    let id = deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(202).deployment();
    told_times(&client, &id, 1).await;
    world.fail("undo.migrate");
    deliver(&client, "deployment_status", "d-2", &status(42, "abc", "failure")).await.expect(202);
    world.reaches(&id, "RollbackFailed").await;
    let posted = api.posts(STATUSES, 2).await;
    assert_eq!(posted[1].body["state"], "error");
}

#[tokio::test]
async fn a_success_that_is_not_followed_through_stays_one_and_says_so() {
    let api = Api::start().await;
    let world =
        reporting(&pipeline(), &api).set("/server/publicUrl", json!("https://stagehook.test/x/")).started().await;
    let client = world.client();
    world.fail("notify");
    api.says(42, "success");
    let id = deliver(&client, "deployment_status", "d-1", &status(42, "abc", "success")).await.expect(202).deployment();
    let posted = api.posts(STATUSES, 1).await;
    assert_eq!(posted[0].body["state"], "success");
    assert_eq!(
        posted[0].body["description"],
        "Stagehook: post-rollout stage notify failed (exit code 3): notify says no"
    );
    assert_eq!(posted[0].body["log_url"], format!("https://stagehook.test/x/api/v1/deployments/{id}"));
    world.reaches(&id, "Succeeded").await;
}

#[tokio::test]
async fn a_protection_rule_is_approved_or_rejected_at_its_callback() {
    let api = Api::start().await;
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/github-app/key.pem");
    let app = json!({"url": api.url, "app": {"id": 12345, "key": {"fromFile": key}}});
    let world = world(&pipeline()).set("/sources/github/api", app).started().await;
    let client = world.client();
    let first = protection_rule(&api.url, 42, "abc");
    let id = deliver(&client, "deployment_protection_rule", "d-1", &first).await.expect(202).deployment();
    let posted = api.posts(CALLBACK, 1).await;
    assert_eq!(posted[0].path, "/repos/octo/app/actions/runs/77/deployment_protection_rule");
    assert_eq!(
        posted[0].body,
        json!({"environment_name": "production", "state": "approved", "comment": "Stagehook: approved: migrate"})
    );
    assert_eq!(posted[0].authorization, "Bearer ghs_installation");
    told_times(&client, &id, 1).await;

    world.fail("migrate");
    let second = protection_rule(&api.url, 43, "def");
    deliver(&client, "deployment_protection_rule", "d-2", &second).await.expect(202);
    let posted = api.posts(CALLBACK, 2).await;
    assert_eq!(posted[1].body["state"], "rejected");
    assert_eq!(posted[1].body["comment"], "Stagehook: stage migrate failed (exit code 3): migrate says no");
    // One token for the installation of the deliveries, got by a signature of the app.
    let tokens = api.posted("/access_tokens");
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/app/installations/7/access_tokens");
    assert_eq!(tokens[0].authorization.split('.').count(), 3);
}

#[tokio::test]
async fn a_token_is_exchanged_when_its_file_changes() {
    let api = Api::start().await;
    let world = world(&pipeline());
    world.write("token", "ghp_old\n");
    let token = json!({"url": api.url, "token": {"fromFile": "token"}});
    let world = world.set("/sources/github/api", token).started().await;
    let client = world.client();
    deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(202);
    assert_eq!(api.posts(STATUSES, 1).await[0].authorization, "Bearer ghp_old");
    world.write("token.new", "ghp_new\n");
    std::fs::rename(world.path().join("token.new"), world.path().join("token")).unwrap();
    world.server().logged("credentials are loaded").await;
    deliver(&client, "deployment_status", "d-2", &status(42, "abc", "in_progress")).await.expect(202);
    assert_eq!(api.posts(STATUSES, 2).await[1].authorization, "Bearer ghp_new");
}

#[tokio::test]
async fn a_callback_that_leads_elsewhere_gets_no_token() {
    let (api, evil) = (Api::start().await, Api::start().await);
    let world = reporting(&pipeline(), &api).started().await;
    let client = world.client();
    let payload = protection_rule(&evil.url, 42, "abc");
    let id = deliver(&client, "deployment_protection_rule", "d-1", &payload).await.expect(202).deployment();
    let told = told_times(&client, &id, 1).await;
    let problem = told[0]["problem"].as_str().unwrap();
    assert!(problem.contains("is not at sources.github.api.url"), "{problem}");
    assert!(evil.asked().is_empty() && api.asked().is_empty());
}

#[tokio::test]
async fn a_verdict_is_told_after_a_crash_that_came_between() {
    let api = Api::start().await;
    let mut world = reporting(&pipeline(), &api).started().await;
    let payload = protection_rule(&api.url, 42, "abc");
    // The verdict is known and on its way, and nobody says that it has arrived.
    api.moods([Mood::Silence]);
    let id = deliver(&world.client(), "deployment_protection_rule", "d-1", &payload).await.expect(202).deployment();
    api.posts(CALLBACK, 1).await;
    world.crash().await;
    let posted = api.posts(CALLBACK, 2).await;
    assert_eq!(posted[1].body["state"], "approved");
    let told = told_times(&world.client(), &id, 1).await;
    assert_eq!(told.len(), 1);
    assert!(told[0]["problem"].is_null(), "{told:?}");
    assert_eq!(world.starts(), ["migrate"]);
    world.verify();
}

#[tokio::test]
async fn a_script_that_a_crash_cut_goes_on_by_itself_and_is_told() {
    let api = Api::start().await;
    let mut world = reporting(&pipeline(), &api).started().await;
    let mut gate = world.gate("migrate");
    let payload = protection_rule(&api.url, 42, "abc");
    deliver(&world.client(), "deployment_protection_rule", "d-1", &payload).await.expect(202);
    gate.entered().await;
    world.crash().await;
    gate.entered().await;
    gate.open().await;
    let posted = api.posts(CALLBACK, 1).await;
    assert_eq!(posted[0].body["state"], "approved");
    assert_eq!(world.starts(), ["migrate", "migrate"]);
}

#[tokio::test]
async fn an_api_that_is_down_or_tired_is_asked_again_and_one_that_refuses_is_not() {
    let api = Api::start().await;
    let world = reporting(&pipeline(), &api).started().await;
    let client = world.client();
    api.moods([Mood::HangUp, Mood::Status(403, json!({"message": "You have exceeded a secondary rate limit"}))]);
    let payload = protection_rule(&api.url, 42, "abc");
    let id = deliver(&client, "deployment_protection_rule", "d-1", &payload).await.expect(202).deployment();
    let told = told_times(&client, &id, 1).await;
    assert!(told[0]["problem"].is_null(), "{told:?}");
    // The client itself may try a broken connection once more.
    assert!(api.posted(CALLBACK).len() >= 3);

    api.moods([Mood::Status(422, json!({"message": "No pending deployment requests"}))]);
    let payload = protection_rule(&api.url, 43, "abd");
    let id = deliver(&client, "deployment_protection_rule", "d-2", &payload).await.expect(202).deployment();
    let told = told_times(&client, &id, 1).await;
    let problem = told[0]["problem"].as_str().unwrap();
    assert!(problem.contains("422") && problem.contains("No pending deployment requests"), "{problem}");
    let log = world.server().log().join("\n");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn without_the_api_a_protection_rule_is_a_recorded_problem_and_no_status_is_wanted() {
    let world = world(&pipeline()).started().await;
    let client = world.client();
    let payload = protection_rule("https://api.github.com", 42, "abc");
    let id = deliver(&client, "deployment_protection_rule", "d-1", &payload).await.expect(202).deployment();
    let told = told_times(&client, &id, 1).await;
    assert!(told[0]["problem"].as_str().unwrap().contains("no sources.github.api"), "{told:?}");
    let warning = world.server().logged("no sources.github.api").await;
    assert!(warning.contains("set sources.github.api.app"), "{warning}");
    deliver(&client, "deployment_status", "d-2", &status(42, "abc", "success")).await.expect(202);
    world.reaches(&id, "Succeeded").await;
    let records = client.records(&id).await;
    assert_eq!(records.iter().filter(|record| record["event"]["type"] == "reportWanted").count(), 1);
}

#[tokio::test]
async fn pushes_releases_and_runs_are_what_the_pipeline_says() {
    let mut pipeline = pipeline();
    pipeline["spec"]["sources"] = json!({"github": {
        "push": {"branch": "main", "environment": "production", "hook": "pre-rollout"},
        "workflow_run": [
            {"workflow": "deploy.yml", "conclusion": "success", "environment": "production", "hook": "post-rollout"},
            {"workflow": "deploy.yml", "conclusion": "failure", "environment": "production", "hook": "rollback"},
        ],
        "release": {"tag": "v*", "prerelease": false, "environment": "production", "hook": "rollout"},
    }});
    let world = world(&pipeline).started().await;
    let client = world.client();
    let repository = json!({"id": 11, "full_name": "octo/app"});
    let push = json!({"ref": "refs/heads/main", "after": "abc", "head_commit": {"id": "abc", "message": "Ship it"},
        "repository": repository, "sender": {"login": "ann"}});
    let id = deliver(&client, "push", "p-1", &push).await.expect(202).deployment();
    poll_until("the script of the push has ended", || async {
        (client.deployment(&id).await["runs"][0]["state"] == "Succeeded").then_some(())
    })
    .await;
    // Another delivery about the same commit is a call of its own, and its stage has succeeded already.
    deliver(&client, "push", "p-2", &push).await.expect(200);
    let run = |conclusion: &str| {
        json!({"action": "completed", "workflow": {"name": "Deploy", "path": ".github/workflows/deploy.yml"},
            "workflow_run": {"head_sha": "abc", "head_branch": "main", "conclusion": conclusion, "event": "push"},
            "repository": repository, "sender": {"login": "ann"}})
    };
    let skipped = deliver(&client, "workflow_run", "w-1", &run("skipped")).await.expect(200);
    assert!(skipped.json()["ignored"].as_str().unwrap().contains("no pipeline maps it"));
    let failed = deliver(&client, "workflow_run", "w-2", &run("failure")).await.expect(202);
    assert_eq!(failed.deployment(), id);
    world.reaches(&id, "RolledBack").await;
    let release = |tag: &str, prerelease: bool| {
        json!({"action": "published", "release": {"tag_name": tag, "prerelease": prerelease}, "repository": repository,
            "sender": {"login": "ann"}})
    };
    assert!(deliver(&client, "release", "r-1", &release("v1", true)).await.expect(200).json()["ignored"].is_string());
    deliver(&client, "release", "r-2", &release("v1", false)).await.expect(202);
    poll_until("the stage of the release has started", || async {
        world.starts().contains(&"smoke".to_owned()).then_some(())
    })
    .await;
    assert_eq!(world.starts(), ["migrate", "undo.migrate", "smoke"]);
}

#[tokio::test]
async fn a_form_runs_as_well_and_a_wrong_secret_runs_nothing() {
    let world = world(&pipeline()).started().await;
    let client = world.client();
    let payload = deployment(42, "abc").to_string();
    let forged = signature("another", payload.as_bytes());
    let refused =
        signed(&client, "deployment", "d-1", "application/json", &forged, payload.as_bytes()).await.expect(401);
    assert!(refused.text.contains("X-Hub-Signature-256 does not belong to this body"), "{refused:?}");
    assert!(client.deployments().await.is_empty());
    let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload).finish();
    let kind = "application/x-www-form-urlencoded";
    let right = signature(SECRET, form.as_bytes());
    let id = signed(&client, "deployment", "d-1", kind, &right, form.as_bytes()).await.expect(202).deployment();
    poll_until("the script has ended", || async {
        (client.deployment(&id).await["runs"][0]["state"] == "Succeeded").then_some(())
    })
    .await;
    let ping = deliver(&client, "ping", "d-2", &json!({"zen": "Keep it logically awesome."})).await.expect(200);
    assert!(ping.json()["ignored"].is_string());
}

#[tokio::test]
async fn what_is_told_of_one_deployment_arrives_in_its_order() {
    let api = Api::start().await;
    let mut pipeline = pipeline();
    pipeline["spec"]["onFailure"] = json!("rollback");
    let world = reporting(&pipeline, &api).started().await;
    let client = world.client();
    world.fail("smoke");
    // The first word is not taken, and the next is known before it is said again.
    let tired = || Mood::Status(502, json!({"message": "Bad gateway"}));
    api.moods([tired(), tired()]);
    let id = deliver(&client, "deployment", "d-1", &deployment(42, "abc")).await.expect(202).deployment();
    api.posts(STATUSES, 1).await;
    deliver(&client, "deployment_status", "d-2", &status(42, "abc", "in_progress")).await.expect(202);
    world.reaches(&id, "RolledBack").await;
    told_times(&client, &id, 2).await;
    let states: Vec<_> = api.posted(STATUSES).iter().map(|posted| posted.body["state"].clone()).collect();
    assert_eq!(states, ["in_progress", "in_progress", "in_progress", "failure"]);
}

#[tokio::test]
async fn a_refused_credential_is_tried_again_and_a_refused_answer_when_the_delivery_comes_again() {
    let api = Api::start().await;
    let world = reporting(&pipeline(), &api).started().await;
    let client = world.client();
    api.moods([
        Mood::Status(401, json!({"message": "Bad credentials"})),
        Mood::Status(403, json!({"message": "Resource not accessible by integration"})),
    ]);
    let payload = protection_rule(&api.url, 42, "abc");
    let id = deliver(&client, "deployment_protection_rule", "d-1", &payload).await.expect(202).deployment();
    let told = told_times(&client, &id, 1).await;
    assert!(told[0]["problem"].as_str().unwrap().contains("403"), "{told:?}");
    assert_eq!(api.posted(CALLBACK).len(), 2);
    // The app was given the permission.
    deliver(&client, "deployment_protection_rule", "d-1", &payload).await.expect(200);
    let told = told_times(&client, &id, 2).await;
    assert!(told[1]["problem"].is_null(), "{told:?}");
    assert_eq!(api.posted(CALLBACK)[2].body["state"], "approved");
    deliver(&client, "deployment_protection_rule", "d-1", &payload).await.expect(200);
    assert_eq!((world.starts().len(), api.posted(CALLBACK).len()), (1, 3));
}

#[tokio::test]
async fn an_endless_complaint_is_tried_again_and_a_wish_to_be_left_alone_is_kept() {
    let api = Api::start().await;
    let world = reporting(&pipeline(), &api).started().await;
    let endless = json!({"message": "x".repeat(2 << 20)});
    api.moods([Mood::Status(502, endless), Mood::Busy(120)]);
    let payload = protection_rule(&api.url, 42, "abc");
    deliver(&world.client(), "deployment_protection_rule", "d-1", &payload).await.expect(202);
    let waits = world.server().logged("429 Too Many Requests").await;
    assert!(waits.contains("again_in") && waits.contains("120s"), "{waits}");
}

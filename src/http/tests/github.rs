//! Deliveries of GitHub over the routes: every example payload that its users have collected, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use axum::body::Body;
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Answered, Site};
use crate::config::catalog::Catalog;
use crate::config::pipeline::Defaults;
use crate::domain::names::Source;
use crate::domain::span::Span;
use crate::http::{Access, Settings, SourceSettings};
use crate::source::auth::{Credentials, Grant, Key};
use crate::source::{Read, github};

const SECRET: &str = "It's a Secret to Everybody";

/// For everything that GitHub tells of, without a stage; and what is mapped where.
const PIPELINE: &str = r#"
apiVersion: stagehook.dev/v1
kind: Pipeline
metadata: {name: everything}
spec:
  selector: {source: github}
  sources:
    github:
      push: {environment: production, hook: pre-rollout, branch: "*", tag: "*"}
      release: {environment: production, hook: rollout}
      workflow_run:
        - {environment: production, hook: post-rollout, conclusion: success}
        - {environment: production, hook: rollback, conclusion: [failure, timed_out, cancelled]}
  stages: []
"#;

async fn site(pipeline: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), pipeline).unwrap();
    let (catalog, _) =
        Catalog::load(folder.path(), &Defaults { timeout: Span::from_secs(60), reserved: Vec::new() }).unwrap();
    let mut settings = Settings::default();
    let github = SourceSettings { max_body: 25 << 20, ..SourceSettings::default() };
    settings.sources.insert(Source::Github, github);
    let credentials = Credentials::HmacSha256 { secrets: vec![Key::new(SECRET, None, Grant::default())] };
    settings.access = Access { sources: [(Source::Github, credentials)].into(), ..Access::default() }.for_ever();
    Site::of(settings, true, catalog).await
}

fn signature(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// A delivery, to be changed by a test.
struct Delivery {
    event: &'static str,
    id: String,
    kind: &'static str,
    body: Vec<u8>,
    signature: Option<String>,
}

impl Delivery {
    fn new(event: &'static str, id: &str, payload: &Value) -> Self {
        let body = payload.to_string().into_bytes();
        let signature = Some(signature(SECRET, &body));
        Self { event, id: id.to_owned(), kind: "application/json", body, signature }
    }

    fn form(mut self) -> Self {
        let text = String::from_utf8(self.body).unwrap();
        let mut form = form_urlencoded::Serializer::new(String::new());
        self.body = form.append_pair("payload", &text).finish().into_bytes();
        self.kind = "application/x-www-form-urlencoded";
        self.signature = Some(signature(SECRET, &self.body));
        self
    }

    async fn send(&self, site: &Site) -> Answered {
        let mut request = Request::post("/hooks/github").header("content-type", self.kind);
        for (name, value) in [("x-github-event", self.event), ("x-github-delivery", &self.id)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        if let Some(signature) = &self.signature {
            request = request.header("x-hub-signature-256", signature);
        }
        site.send(request.body(Body::from(self.body.clone())).unwrap()).await
    }
}

fn examples() -> Vec<(&'static str, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/github");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let event: &'static str = path.file_stem().unwrap().to_str().unwrap().to_owned().leak();
            let payloads: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            found.extend(payloads.into_iter().map(|payload| (event, payload)));
        }
    }
    found.sort_by_key(|(event, _)| *event);
    found
}

/// Whether an example is a call, by what GitHub's documentation says of its fields.
fn is_call(event: &str, payload: &Value) -> bool {
    match event {
        "deployment" | "deployment_protection_rule" => true,
        "deployment_status" => {
            let state = payload["deployment_status"]["state"].as_str().unwrap();
            ["in_progress", "success", "failure", "error"].contains(&state)
        }
        "push" => payload["deleted"] == false,
        "release" => payload["action"] == "published",
        "workflow_run" => {
            let ended = payload["workflow_run"]["conclusion"].as_str().unwrap_or_default();
            // One of the examples is of somebody else's repository.
            payload["workflow_run"]["head_repository"]["id"] == payload["repository"]["id"]
                && payload["action"] == "completed"
                && ["success", "failure", "timed_out", "cancelled"].contains(&ended)
        }
        _ => false,
    }
}

#[tokio::test]
async fn every_example_is_a_call_or_declined_and_only_with_its_signature() {
    let site = site(PIPELINE).await;
    let examples = examples();
    assert_eq!(examples.len(), 405, "the fixtures are not all there");
    let mut calls = 0;
    for (number, (event, payload)) in examples.iter().enumerate() {
        let delivery = Delivery::new(event, &format!("delivery-{number}"), payload);
        let forged = signature("another secret", &delivery.body);
        for wrong in [None, Some(forged)] {
            let refused =
                Delivery { signature: wrong, body: delivery.body.clone(), id: delivery.id.clone(), ..delivery };
            let detail = refused.send(&site).await.problem(401);
            assert!(detail.contains("X-Hub-Signature-256"), "{event} {number}: {detail}");
        }
        let answered = delivery.send(&site).await;
        assert_eq!(answered.status, 200, "{event} {number}: {answered:?}");
        let (ignored, verdict) = (&answered.json()["ignored"], &answered.json()["verdict"]);
        if is_call(event, payload) {
            assert!(verdict.is_string() && ignored.is_null(), "{event} {number}: {answered:?}");
            calls += 1;
        } else {
            assert!(ignored.is_string() && verdict.is_null(), "{event} {number}: {answered:?}");
            assert_eq!(answered.header("location"), "");
        }
    }
    assert!(calls >= 15, "{calls}");
}

#[tokio::test]
async fn a_form_is_the_same_delivery_signed_as_it_came() {
    let site = site(PIPELINE).await;
    for (number, (event, payload)) in examples().iter().enumerate().filter(|(_, (event, _))| event.contains("deploy")) {
        let answered = Delivery::new(event, &format!("delivery-{number}"), payload).form().send(&site).await;
        assert_eq!(answered.status, 200, "{event} {number}: {answered:?}");
    }
    let mut form = Delivery::new("ping", "1", &json!({"zen": "x"})).form();
    form.signature = Some(signature(SECRET, br#"{"zen":"x"}"#));
    form.send(&site).await.problem(401);
}

#[tokio::test]
async fn what_is_no_delivery_says_what_is_wrong() {
    let site = site(PIPELINE).await;
    let created = || examples().into_iter().find(|(event, _)| *event == "deployment").unwrap().1;
    let sent = async |change: &dyn Fn(&mut Delivery)| {
        let mut delivery = Delivery::new("deployment", "1", &created());
        change(&mut delivery);
        delivery.send(&site).await.problem(400)
    };
    assert!(sent(&|d| d.event = "").await.contains("the header X-GitHub-Event is missing"));
    assert!(sent(&|d| d.id.clear()).await.contains("the header X-GitHub-Delivery is missing"));
    assert!(sent(&|d| d.id = "x".repeat(201)).await.contains("X-GitHub-Delivery is not a word"));
    let text = Delivery { kind: "text/plain", ..Delivery::new("deployment", "1", &created()) };
    assert!(text.send(&site).await.problem(415).contains("content type \"text/plain\" is not understood"));
    let with = async |payload: Value| Delivery::new("deployment", "1", &payload).send(&site).await.problem(400);
    let without = async |pointer: &str, key: &str| {
        let mut payload = created();
        payload.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
        with(payload).await
    };
    assert!(without("", "repository").await.contains("`repository.full_name`"));
    assert!(without("/deployment", "sha").await.contains("`deployment.sha`"));
    assert!(without("/deployment", "id").await.contains("`deployment.id`"));
    let mut payload = created();
    payload["deployment"]["id"] = json!("12");
    assert!(with(payload).await.contains("`deployment.id` of the event deployment must be a whole number"));
    let mut payload = created();
    payload["deployment"]["description"] = json!("a\0b");
    assert!(with(payload).await.contains("`deployment.description` has the character NUL"));
    assert!(with(json!([1])).await.contains("the body is an array"));
    let mut payload = created();
    payload["deployment"]["original_environment"] = json!("/".repeat(100));
    assert!(with(payload).await.contains("the environment is not valid"));

    let mut unsigned = Delivery::new("deployment", "1", &created());
    unsigned.body = b"payload=%7B".to_vec();
    unsigned.kind = "application/x-www-form-urlencoded";
    unsigned.signature = Some(signature(SECRET, &unsigned.body));
    assert!(unsigned.send(&site).await.problem(400).contains("the body is not JSON"));
    unsigned.body = b"other=1".to_vec();
    unsigned.signature = Some(signature(SECRET, &unsigned.body));
    assert!(unsigned.send(&site).await.problem(400).contains("no field `payload`"));
}

#[tokio::test]
async fn an_environment_of_any_name_is_an_application() {
    let site = site(PIPELINE).await;
    for (number, (environment, namespace)) in
        [("production", "production"), ("eu/west 1", "eu%2Fwest%201"), ("Prod:Blue", "Prod%3ABlue")].iter().enumerate()
    {
        let mut payload = examples().into_iter().find(|(event, _)| *event == "deployment").unwrap().1;
        payload["deployment"]["environment"] = json!(environment);
        payload["deployment"]["original_environment"] = json!(environment);
        let answered = Delivery::new("deployment", &number.to_string(), &payload).send(&site).await;
        assert_eq!(answered.json()["application"], format!("{namespace}/Codertocat/Hello-World"), "{answered:?}");
    }
}

#[tokio::test]
async fn a_mapping_is_about_what_its_own_pipeline_selects() {
    const ONE: &str = r#"
apiVersion: stagehook.dev/v1
kind: Pipeline
metadata: {name: one}
spec:
  selector: {namespace: staging}
  sources:
    github:
      push:
        - {environment: staging, hook: rollout, branch: [main, "release/*"]}
        - {environment: staging, hook: pre-rollout, branch: "*", tag: "v*"}
  stages: []
---
apiVersion: stagehook.dev/v1
kind: Pipeline
metadata: {name: other}
spec:
  selector: {namespace: staging, name: octo/other}
  stages: []
"#;
    let site = site(ONE).await;
    let push = |name: &str, repository: &str| {
        json!({
            "ref": name, "before": "0".repeat(40), "after": "a1b2".repeat(10), "deleted": false,
            "repository": {"id": 1, "full_name": repository, "html_url": "https://github.com/x"},
            "sender": {"login": "ann"}, "head_commit": {"id": "a1b2".repeat(10), "message": "one\n\ntwo"},
        })
    };
    let mut number = 0;
    let mut send = async |payload: Value| {
        number += 1;
        Delivery::new("push", &number.to_string(), &payload).send(&site).await.json()
    };
    for (name, hook) in [
        ("refs/heads/main", "rollout"),
        ("refs/heads/release/1.0", "rollout"),
        ("refs/heads/topic", "pre-rollout"),
        ("refs/tags/v1", "pre-rollout"),
    ] {
        let answer = send(push(name, "octo/app")).await;
        assert_eq!((&answer["hook"], &answer["application"]), (&json!(hook), &json!("staging/octo/app")), "{name}");
    }
    for (name, repository, why) in [
        ("refs/tags/w1", "octo/app", "no pipeline maps it"),
        ("refs/notes/x", "octo/app", "no pipeline maps it"),
        ("refs/heads/main", "octo/other", "is not selected by the pipeline \"one\", which maps it"),
    ] {
        let answer = send(push(name, repository)).await;
        assert!(answer["ignored"].as_str().unwrap().contains(why), "{answer}");
    }
    let mut deleted = push("refs/heads/main", "octo/app");
    deleted["after"] = json!("0".repeat(40));
    assert!(send(deleted).await["ignored"].as_str().unwrap().contains("was deleted"));
}

/// What scripts of the one call of a delivery find as `STAGEHOOK_METADATA_X`.
fn metadata(pipeline: &str, event: &'static str, payload: &Value) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), pipeline).unwrap();
    let (catalog, _) =
        Catalog::load(folder.path(), &Defaults { timeout: Span::from_secs(60), reserved: Vec::new() }).unwrap();
    let (selected, rules) = catalog.github().next().unwrap();
    let mappings = [github::Mapping { pipeline: &selected.pipeline.name, rules, selects: &|_| true }];
    let request = Request::post("/").header("content-type", "application/json").header("x-github-event", event);
    let headers = request.header("x-github-delivery", "1").body(()).unwrap().into_parts().0.headers;
    let known = github::Known { reports: false, mappings: &mappings };
    let read = github::read(&headers, payload.to_string().as_bytes(), None, known).unwrap();
    let Read::Calls(mut calls) = read else { panic!("{read:?}") };
    calls.remove(0).call.payload.metadata
}

#[test]
fn scripts_see_the_environment_as_github_writes_it_and_no_value_that_none_could_be_started_with() {
    let repository = json!({"id": 1, "full_name": "octo/app"});
    let pipeline = PIPELINE.replace("push: {environment: production,", "push: {environment: 'eu/west 1 %',");
    let push = json!({"ref": "refs/heads/main", "after": "abc", "repository": repository});
    assert_eq!(metadata(&pipeline, "push", &push)["environment"], "eu/west 1 %");
    let payload = json!({"fail": "yes", "long": "x".repeat(1 << 17), "x".repeat(1 << 17): 1});
    let deployment = json!({"id": 7, "sha": "abc", "environment": "eu/west 1 %", "payload": payload});
    let created = json!({"deployment": deployment, "repository": repository});
    let found = metadata(PIPELINE, "deployment", &created);
    assert_eq!(found["environment"], "eu/west 1 %");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["environment", "fail"]);
    let many: serde_json::Map<_, _> = (0..2000).map(|n| (format!("k{n}"), json!("x"))).collect();
    let deployment = json!({"id": 7, "sha": "abc", "environment": "eu/west 1 %", "payload": many});
    let created = json!({"deployment": deployment, "repository": repository});
    assert_eq!(metadata(PIPELINE, "deployment", &created).len(), 1001, "a thousand, and what GitHub says itself");
}

#[tokio::test]
async fn a_fork_runs_nothing() {
    let site = site(PIPELINE).await;
    let repository = json!({"id": 1, "full_name": "octo/app", "html_url": "https://github.com/octo/app"});
    let own = json!({"id": 1, "full_name": "octo/app"});
    let fork = json!({"id": 2, "full_name": "eve/app"});
    let pull = |id: u64| json!([{"number": 7, "head": {"ref": "main", "repo": {"id": id}}}]);
    let push = json!({"event": "push", "head_repository": own, "pull_requests": []});
    let inside = json!({"event": "pull_request", "head_repository": own, "pull_requests": pull(1)});
    let untold = json!({"event": "pull_request", "pull_requests": pull(1)});
    let outside = json!({"event": "pull_request", "head_repository": fork, "pull_requests": []});
    let target = json!({"event": "pull_request_target", "head_repository": fork, "pull_requests": []});
    let deleted = json!({"event": "pull_request", "head_repository": null, "pull_requests": []});
    let elsewhere = json!({"event": "pull_request", "pull_requests": pull(2)});
    let mut number = 0;
    for (run, runs) in [
        (push, true),
        (inside, true),
        (untold, true),
        (outside, false),
        (target, false),
        (deleted, false),
        (elsewhere, false),
    ] {
        let mut mapped = run.clone();
        // A fork has a branch of that name, too.
        for (key, value) in [("head_branch", "main"), ("head_sha", "abc"), ("conclusion", "failure")] {
            mapped[key] = json!(value);
        }
        let deployment = json!({"id": 7, "sha": "abc", "environment": "production", "ref": "main"});
        let created = json!({"action": "created", "deployment": deployment, "workflow_run": run});
        let mut failed = created.clone();
        failed["deployment_status"] = json!({"state": "failure", "description": ""});
        let mut rule = run.clone();
        rule["action"] = json!("requested");
        rule["deployment"] = deployment;
        rule["environment"] = json!("production");
        rule["deployment_callback_url"] =
            json!("https://api.github.com/repos/octo/app/actions/runs/7/deployment_protection_rule");
        let ended = json!({"action": "completed", "workflow": {"name": "Deploy"}, "workflow_run": mapped});
        for (event, mut payload) in [
            ("workflow_run", ended),
            ("deployment", created),
            ("deployment_status", failed),
            ("deployment_protection_rule", rule),
        ] {
            payload["repository"] = repository.clone();
            number += 1;
            let answered = Delivery::new(event, &number.to_string(), &payload).send(&site).await;
            let ignored = answered.json()["ignored"].as_str().is_some_and(|why| why.contains("fork"));
            assert_eq!((answered.status, ignored), (200, !runs), "{event} {run}: {answered:?}");
        }
    }
}

#[tokio::test]
async fn a_draft_is_no_release_and_one_that_was_unpublished_was_one() {
    let every = r#"{environment: production, hook: rollout, action: [created, edited, published, unpublished]}"#;
    let pipeline = PIPELINE.replace("{environment: production, hook: rollout}", every);
    assert_ne!(pipeline, PIPELINE);
    let site = site(&pipeline).await;
    let repository = json!({"id": 1, "full_name": "octo/app"});
    for (number, (action, draft, tag, runs)) in [
        ("created", true, "", false),
        ("edited", true, "v1", false),
        ("created", false, "v1", true),
        ("published", false, "v1", true),
        ("unpublished", true, "v1", true),
    ]
    .into_iter()
    .enumerate()
    {
        let payload = json!({"action": action, "release": {"tag_name": tag, "draft": draft}, "repository": repository});
        let answered = Delivery::new("release", &number.to_string(), &payload).send(&site).await;
        assert_eq!(answered.status, 200, "{action}: {answered:?}");
        assert_eq!(answered.json()["verdict"].is_string(), runs, "{action}: {answered:?}");
    }
}

#[tokio::test]
async fn our_own_statuses_are_nobodys_word() {
    let site = site(PIPELINE).await;
    let (_, mut payload) = examples().into_iter().find(|(event, _)| *event == "deployment_status").unwrap();
    payload["deployment_status"]["state"] = json!("failure");
    payload["deployment_status"]["description"] = json!("Stagehook: rollout stage smoke failed");
    let answered = Delivery::new("deployment_status", "1", &payload).send(&site).await;
    assert!(answered.json()["ignored"].as_str().unwrap().contains("reported by Stagehook itself"), "{answered:?}");
    for state in ["queued", "pending", "waiting", "inactive"] {
        payload["deployment_status"]["state"] = json!(state);
        payload["deployment_status"]["description"] = json!("");
        let answered = Delivery::new("deployment_status", state, &payload).send(&site).await;
        assert!(answered.json()["ignored"].as_str().unwrap().contains(state), "{answered:?}");
    }
}

//! Callers that do not wait: what their calls are answered, and what they read later.

use axum::body::Body;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};

use super::{Answered, DEPLOYMENT, Site};
use crate::domain::glob::Glob;
use crate::domain::names::Source;
use crate::http::{Access, ApiToken, Scope, Settings};
use crate::source::auth::{Credentials, Grant, Key};

fn undo() -> String {
    format!(r#"{{"namespace": "test", "name": "podinfo", "deployment": "{DEPLOYMENT}"}}"#)
}

fn document(hook: &str) -> String {
    format!("/hooks/generic/deployments/{DEPLOYMENT}/{hook}")
}

async fn post(site: &Site, path: &str, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Answered {
    let mut request = Request::post(path).header(HOST, "stagehook.test.svc:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    site.send(request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn what_became_of_a_hook_is_read_without_taking_it_from_anybody() {
    let site = Site::new().await;
    let head = site.head().await;
    let read = site.get(&document("pre-rollout")).await;
    assert_eq!((read.status, read.header("cache-control")), (200, "no-store"), "{read:?}");
    let read = read.json();
    assert_eq!(read["status"], "FAILED");
    assert_eq!(read["progress"], "stage migrate failed (exit code 3): no such table");
    assert_eq!(read["results"], serde_json::json!({}));
    assert_eq!(
        (&read["verdict"], &read["state"], &read["revision"]),
        (&"rejected".into(), &"Progressing".into(), &"7d7b".into())
    );
    assert_eq!((&read["application"], &read["hook"]), (&"test/podinfo".into(), &"pre-rollout".into()));
    assert_eq!(read["stages"][0]["id"], "migrate");
    assert_eq!(site.get(&document("confirm-promotion")).await.json()["status"], "SUCCEEDED", "no stage runs there");
    assert_eq!(site.head().await, head, "nothing is recorded");
    let body = r#"{"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "7d7b"}"#;
    assert_eq!(
        site.post("/hooks/flagger/pre-rollout", body).await.status,
        501,
        "the caller's own result is still there"
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let site = Site::new().await;
    let unknown = "/hooks/generic/deployments/dep_01BX5ZZKBKACTAV9WEVGEMMVS0/rollout";
    assert!(site.get(unknown).await.problem(404).contains("there is no deployment dep_01BX"));
    assert!(site.get("/hooks/generic/deployments/7/rollout").await.problem(404).contains("names no deployment"));
    assert!(site.get(&document("nope")).await.problem(404).contains("\"nope\" is no hook"));
    assert!(site.get(&document("rollout")).await.problem(404).contains("rollout was not called for dep_01ARZ3"));
    assert!(site.get(&document("rollback")).await.problem(404).contains("rollback was not called for"));
    let nothing = site.get("/hooks/generic/deployments/none/rollback").await;
    assert_eq!((nothing.status, &nothing.json()["status"]), (200, &"SUCCEEDED".into()));
}

#[tokio::test]
async fn respond_async_is_taken_on_with_the_place_to_read_more() {
    let site = Site::new().await;
    let answered = post(&site, "/hooks/generic/rollback", &[("prefer", "respond-async, wait=20")], undo()).await;
    assert_eq!(answered.status, 202, "although the verdict is there: {answered:?}");
    assert_eq!(answered.header("preference-applied"), "respond-async, wait=20");
    let location = answered.header("location").to_owned();
    assert_eq!(location, format!("http://stagehook.test.svc:8080{}", document("rollback")));
    assert_eq!(answered.json()["verdict"], "approved");
    let read = site.get(location.strip_prefix("http://stagehook.test.svc:8080").unwrap()).await.json();
    assert_eq!((&read["status"], &read["state"]), (&"SUCCEEDED".into(), &"RolledBack".into()));
    assert!(read["progress"].as_str().unwrap().contains("nothing to undo"), "{read}");
}

#[tokio::test]
async fn the_public_url_is_the_one_of_the_settings() {
    let public_url = Some("https://hooks.example.com/stagehook".to_owned());
    let site = Site::with(Settings { public_url, ..Settings::default() }, true).await;
    let answered = post(&site, "/hooks/generic/rollback", &[("prefer", "respond-async")], undo()).await;
    assert_eq!(answered.header("location"), format!("https://hooks.example.com/stagehook{}", document("rollback")));
}

#[tokio::test]
async fn a_wait_is_followed_and_the_query_wins() {
    let site = Site::new().await;
    let applied = async |path: &str| {
        let answered = post(&site, path, &[("prefer", "wait=5")], undo()).await;
        assert_eq!(answered.status, 200, "{answered:?}");
        answered.header("preference-applied").to_owned()
    };
    assert_eq!(applied("/hooks/generic/rollback").await, "wait=5");
    assert_eq!(applied("/hooks/generic/rollback?wait=7s").await, "");
}

#[tokio::test]
async fn what_is_not_taken_on_is_refused_as_ever() {
    let site = Site::new().await;
    let prefer = [("prefer", "respond-async")];
    let unknown = r#"{"namespace": "test", "name": "unknown"}"#;
    let refused = post(&site, "/hooks/generic/rollout", &prefer, unknown).await;
    assert!(refused.problem(404).contains("no pipeline selects test/unknown"));
    post(&site, "/hooks/generic/rollout", &prefer, "nope").await.problem(400);
}

#[tokio::test]
async fn whoever_may_call_may_read_and_so_may_a_token_of_the_api() {
    let read = async |settings: Settings, name: &'static str, value: &str| {
        let request = Request::get(document("pre-rollout")).header(name, value).body(Body::empty()).unwrap();
        Site::with(settings, true).await.send(request).await
    };
    let with = |credentials: Credentials| {
        let mut access = Access::default();
        access.sources.insert(Source::Generic, credentials);
        access.api_tokens.push(ApiToken { name: "eyes".into(), secret: "looking".into(), scope: Scope::Read });
        Settings { access: access.for_ever(), ..Settings::default() }
    };
    let limited = |namespace: &str| Grant::new("here", None, &[], &[Glob::new(namespace).unwrap()]);
    let in_cluster = Grant::new("here", Some("eu".parse().unwrap()), &[], &[]);
    let bearer = || {
        let tokens = [
            ("any", Grant::default()),
            ("test", limited("te*")),
            ("other", limited("other")),
            ("eu", in_cluster.clone()),
        ];
        with(Credentials::Bearer { tokens: tokens.map(|(token, grant)| Key::new(token, None, grant)).into() })
    };
    for (token, status) in [("any", 200), ("test", 200), ("looking", 200), ("other", 403), ("eu", 403), ("no", 401)] {
        let answered = read(bearer(), AUTHORIZATION.as_str(), &format!("Bearer {token}")).await;
        assert_eq!(answered.status, status, "{token}: {answered:?}");
    }
    // HMAC-SHA256 of nothing under this secret.
    let hmac = || with(Credentials::HmacSha256 { secrets: vec![Key::new("key", None, Grant::default())] });
    let signed = "sha256=5d5d139563c95b5967b9bd9a8c9b233a9dedb45072794cd232dc1b74832607d0";
    assert_eq!(read(hmac(), "x-signature", signed).await.status, 200);
    read(hmac(), "x-signature", &signed.replace("5d", "00")).await.problem(401);
}

#[tokio::test]
async fn events_are_read_in_both_modes_and_what_is_none_of_ours_is_acknowledged() {
    let site = Site::new().await;
    let json = |form: &'static str| [(CONTENT_TYPE.as_str(), form)];
    let batch = post(&site, "/hooks/generic/rollback", &json("application/cloudevents-batch+json"), "[]").await;
    assert!(batch.problem(415).contains("send each event by itself"));
    let event = |version: &str, kind: &str| {
        format!(r#"{{"specversion": "{version}", "id": "1", "source": "/ci", "type": "{kind}", "data": {}}}"#, undo())
    };
    let structured = json("application/cloudevents+json; charset=utf-8");
    let old = post(&site, "/hooks/generic/rollback", &structured, event("0.3", "x")).await;
    assert!(old.problem(400).contains("only \"1.0\" is understood"));
    let other = post(&site, "/hooks/generic/event", &structured, event("1.0", "com.example.other")).await;
    assert_eq!(other.status, 200);
    assert!(other.json()["ignored"].as_str().unwrap().contains("com.example.other"), "{other:?}");
    let binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/ci"), ("ce-type", "x")];
    let undone = post(&site, "/hooks/generic/rollback", &binary, undo()).await;
    assert_eq!(undone.status, 200, "{undone:?}");
    let plain = post(&site, "/hooks/generic/event", &[], undo()).await;
    assert!(plain.problem(400).contains("the header ce-specversion is missing"));
}

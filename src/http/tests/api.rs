//! The API: its shapes, who may, and what it refuses.

use axum::body::Body;
use http::Request;
use http::header::AUTHORIZATION;

use super::{DEPLOYMENT, RUN, Site};
use crate::http::{Access, ApiToken, Scope, Settings};

#[tokio::test]
async fn deployments_are_listed() {
    let site = Site::new().await;
    let page = site.get("/api/v1/deployments?application=test/podinfo&state=Progressing&limit=1").await.json();
    assert_eq!(page["next"], serde_json::Value::Null);
    let line = &page["deployments"][0];
    assert_eq!(line["id"], DEPLOYMENT);
    assert_eq!((&line["application"], &line["source"]), (&"test/podinfo".into(), &"flagger".into()));
    assert_eq!((&line["revision"], &line["openedAt"]), (&"7d7b".into(), &"2026-01-02T03:04:05Z".into()));
    let none = site.get("/api/v1/deployments?state=Succeeded").await.json();
    assert_eq!(none, serde_json::json!({"deployments": [], "next": null}));
}

#[tokio::test]
async fn a_query_that_can_mean_nothing_is_refused() {
    let site = Site::new().await;
    for (query, said) in [
        ("state=Dead", "\"Dead\" is none of Progressing, Succeeded"),
        ("limit=0", "\"0\" is no number from 1 to 500"),
        ("limit=501", "from 1 to 500"),
        ("limit=-1", "from 1 to 500"),
        ("cursor=7", "the deployment id is not valid"),
        ("application=podinfo", "it is written namespace/name"),
        ("state=Succeeded&state=RolledBack", "more than once"),
    ] {
        let detail = site.get(&format!("/api/v1/deployments?{query}")).await.problem(400);
        assert!(detail.contains(said), "{query}: {detail}");
    }
}

#[tokio::test]
async fn a_deployment_is_shown_whole() {
    let site = Site::new().await;
    let shown = site.get(&format!("/api/v1/deployments/{DEPLOYMENT}")).await.json();
    assert_eq!((&shown["state"], &shown["reason"], &shown["endedAt"]), (&"Progressing".into(), &().into(), &().into()));
    assert_eq!(
        (&shown["openedBy"], &shown["hook"], &shown["undone"]),
        (&"flagger".into(), &"pre-rollout".into(), &false.into())
    );
    assert_eq!(shown["pipeline"]["name"], "podinfo");
    assert_eq!(shown["pipeline"]["hash"].as_str().unwrap().len(), 64);
    assert_eq!(shown["requested"], serde_json::Value::Null);
    let stages = serde_json::json!([
        {"id": "migrate", "name": "SCRIPT_RUN", "hook": "pre-rollout", "state": "Failed", "reason": "exit code 3", "run": RUN},
        {"id": "settle", "name": "WAIT", "hook": "rollout", "state": null, "reason": null, "run": null},
        {"id": "canary", "name": "K8S_CANARY_ROLLOUT", "hook": null, "state": null, "reason": null, "run": null},
    ]);
    assert_eq!(shown["stages"], stages);
    assert_eq!(shown["runs"][0], site.get(&format!("/api/v1/runs/{RUN}")).await.json());
    let run = serde_json::json!({
        "id": RUN, "deployment": DEPLOYMENT, "stage": "migrate", "name": "SCRIPT_RUN", "purpose": "forward",
        "hook": "pre-rollout", "pass": 1, "replay": null, "state": "Failed", "startedAt": "2026-01-02T03:04:05Z",
        "until": null, "finishedAt": "2026-01-02T03:04:05Z", "durationMs": 0, "exitCode": 3, "signal": null,
        "message": "exit code 3", "lastLine": "no such table", "attempts": [], "output": null, "outputs": {}, "stop": null,
    });
    assert_eq!(shown["runs"][0], run);
}

#[tokio::test]
async fn records_come_in_pages_that_meet() {
    let site = Site::new().await;
    let path = format!("/api/v1/deployments/{DEPLOYMENT}/records");
    let whole = site.get(&path).await.json();
    let all = whole["records"].as_array().unwrap();
    assert!(all.len() > 2 && whole["next"].is_null(), "{whole}");
    let (mut seen, mut next) = (Vec::new(), serde_json::json!(0));
    while !next.is_null() {
        let page = site.get(&format!("{path}?limit=2&cursor={next}")).await.json();
        assert!(page["records"].as_array().unwrap().len() <= 2, "{page}");
        seen.extend(page["records"].as_array().unwrap().clone());
        next = page["next"].clone();
    }
    assert_eq!(&seen, all);
    let after = site.get(&format!("{path}?cursor=99")).await.json();
    assert_eq!(after, serde_json::json!({"records": [], "next": null}));
    let none = "/api/v1/deployments/dep_00000000000000000000000009/records?cursor=99";
    assert!(site.get(none).await.problem(404).contains("there is no deployment"));
    for (query, said) in [
        ("limit=1001", "is no number from 1 to 1000"),
        ("limit=0", "is no number from 1 to 1000"),
        ("cursor=x", "\"x\" is no record's number"),
        ("cursor=-1", "is no record's number"),
    ] {
        let detail = site.get(&format!("{path}?{query}")).await.problem(400);
        assert!(detail.contains(said), "{query}: {detail}");
    }
}

#[tokio::test]
async fn records_show_their_chain() {
    let site = Site::new().await;
    let records = site.get(&format!("/api/v1/deployments/{DEPLOYMENT}/records")).await.json();
    let records = records["records"].as_array().unwrap();
    assert_eq!(records.len(), 4);
    assert_eq!((&records[0]["seq"], &records[0]["event"]["type"]), (&1.into(), &"opened".into()));
    assert_eq!(records[1]["prev"], records[0]["hash"]);
}

#[tokio::test]
async fn output_is_text_or_events() {
    let site = Site::new().await;
    let text = site.get(&format!("/api/v1/runs/{RUN}/logs")).await;
    assert_eq!(
        (text.header("content-type"), text.body.as_str()),
        ("text/plain; charset=utf-8", "creating\r\nno such table\n")
    );
    let events = site.get(&format!("/api/v1/runs/{RUN}/logs?follow=true")).await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let (output, end) = events.body.split_once("\n\n").unwrap();
    assert_eq!(output, "event: output\ndata: creating\ndata: no such table\ndata: ");
    let run = end.strip_prefix("event: end\ndata: ").unwrap().trim_end();
    assert_eq!(serde_json::from_str::<serde_json::Value>(run).unwrap()["state"], "Failed");
    site.get(&format!("/api/v1/runs/{RUN}/logs?follow=perhaps")).await.problem(400);
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let site = Site::new().await;
    let other = "01BX5ZZKBKACTAV9WEVGEMMVRZ";
    for path in [
        "deployments/7",
        "deployments/%00",
        &format!("deployments/dep_{other}"),
        &format!("deployments/dep_{other}/records"),
        "runs/7",
        &format!("runs/run_{other}"),
        &format!("runs/run_{other}/logs"),
        "nothing",
    ] {
        site.get(&format!("/api/v1/{path}")).await.problem(404);
    }
    for path in [
        format!("deployments/dep_{other}/cancel"),
        format!("deployments/{DEPLOYMENT}/explode"),
        format!("runs/run_{other}/cancel"),
    ] {
        site.post(&format!("/api/v1/{path}"), "").await.problem(404);
    }
}

#[tokio::test]
async fn requests_are_taken_on_or_refused_with_a_reason() {
    let site = Site::new().await;
    let path = format!("/api/v1/deployments/{DEPLOYMENT}");
    let conflict = site.post(&format!("{path}/rollback"), "").await.problem(409);
    assert!(conflict.contains("rollback"), "{conflict}");
    site.post(&format!("{path}/rollback?now=maybe"), "").await.problem(400);
    let taken = site.post(&format!("{path}/rollback?now=true"), "").await;
    assert_eq!((taken.status, taken.header("location")), (202, path.as_str()));
    assert!(taken.json()["message"].is_string());
    let shown = site.get(&path).await.json();
    assert_eq!(
        (&shown["state"], &shown["reason"], &shown["undone"]),
        (&"RolledBack".into(), &"Requested".into(), &true.into())
    );
    site.post(&format!("/api/v1/runs/{RUN}/cancel"), "").await.problem(409);
}

#[tokio::test]
async fn tokens_and_their_scopes() {
    let token = |name: &str, scope| ApiToken { name: name.into(), secret: format!("{name}-secret").into(), scope };
    let tokens = vec![token("eye", Scope::Read), token("hand", Scope::Operate)];
    let site = Site::with(
        Settings { access: Access { api_tokens: tokens, ..Access::default() }.for_ever(), ..Settings::default() },
        true,
    )
    .await;
    let send = async |method: &str, path: &str, token: &str| {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {token}"));
        site.send(request.body(Body::empty()).unwrap()).await
    };
    let list = "/api/v1/deployments";
    let close = format!("/api/v1/deployments/{DEPLOYMENT}/close");
    assert!(site.get(list).await.problem(401).contains("a bearer token is needed"));
    assert!(send("GET", list, "wrong").await.problem(401).contains("not known"));
    assert_eq!(send("GET", list, "eye-secret").await.status, 200);
    assert!(send("POST", &close, "eye-secret").await.problem(403).contains("scope operate"));
    assert_eq!(send("POST", &close, "hand-secret").await.status, 202);
    let records = send("GET", &format!("/api/v1/deployments/{DEPLOYMENT}/records"), "hand-secret").await.json();
    assert_eq!(records["records"][4]["by"], "api token:hand");
    let page = site.get("/").await;
    assert!(page.status == 200 && !page.body.contains(DEPLOYMENT), "the page shows nothing without a token");
}

#[tokio::test]
async fn without_tokens_it_is_open_on_loopback_only() {
    let site = Site::with(Settings::default(), false).await;
    assert!(site.get("/api/v1/deployments").await.problem(401).contains("set `api.tokens`"));
    assert!(!site.get("/").await.body.contains(DEPLOYMENT));
    let site = Site::new().await;
    assert!(site.get("/").await.body.contains(DEPLOYMENT));
    assert_eq!(site.get("/healthz").await.body, "ok\n");
    assert_eq!(site.get("/readyz").await.status, 200);
}

//! The paths of Flagger's load tester: statuses and bodies to the last byte. No command runs here.

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Method, Request};

use super::{Answered, Logged, Site};
use crate::domain::allow::{Allow, CommandPattern, Rule};
use crate::domain::glob::Glob;
use crate::domain::loadtester::TaskKind;
use crate::domain::names::{Source, StreamId};
use crate::http::{Access, Settings, SourceSettings};
use crate::source::auth::{Credentials, Grant, Key};
use crate::source::loadtester::Commands;

const BODY: &str = r#"{"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "7d7b"}"#;
const SETTERS: [&str; 4] = ["/gate/open", "/gate/close", "/rollback/open", "/rollback/close"];

fn enabled() -> Settings {
    let rule = Rule {
        namespaces: vec![Glob::new("test").unwrap()],
        types: vec![TaskKind::Cmd],
        commands: vec![CommandPattern::new("hey http://*.test/", false).unwrap()],
    };
    let mut settings = Settings::default();
    settings.sources.insert(Source::Loadtester, SourceSettings { respond_within: None, ..SourceSettings::default() });
    settings.commands = Commands { allow: Allow(vec![rule]), ..Commands::default() };
    settings.access = with(Credentials::None);
    settings
}

fn with(credentials: Credentials) -> tokio::sync::watch::Receiver<std::sync::Arc<Access>> {
    let mut access = Access::default();
    access.sources.insert(Source::Loadtester, credentials);
    access.for_ever()
}

async fn ask(site: &Site, method: &Method, path: &str, body: &str) -> Answered {
    site.send(Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap()).await
}

/// A bare answer: this status and body, and a type only where there is a body.
#[track_caller]
fn bare(answered: &Answered, status: u16, body: &str) {
    assert_eq!((answered.status, answered.body.as_str()), (status, body), "{answered:?}");
    let kind = if body.is_empty() { "" } else { "text/plain; charset=utf-8" };
    assert_eq!(answered.header("content-type"), kind, "{answered:?}");
}

/// How many records the load tester's stream of test/podinfo has.
async fn records(site: &Site) -> u64 {
    let stream = StreamId { source: Source::Loadtester, application: "test/podinfo".parse().unwrap() };
    site.state.engine.ledger().load(&stream, 0).await.unwrap().head
}

#[tokio::test]
async fn gates_answer_as_the_original_does_whatever_the_method() {
    let site = Site::with(enabled(), true).await;
    for method in [Method::GET, Method::POST, Method::PUT] {
        let at = |path| ask(&site, &method, path, BODY);
        bare(&ask(&site, &method, "/gate/approve", "").await, 200, "OK");
        bare(&ask(&site, &method, "/gate/halt", "nope").await, 403, "Forbidden");
        for gate in ["/gate", "/rollback"] {
            let at = |what: &str| {
                let path = format!("{gate}/{what}");
                let (site, method) = (&site, &method);
                async move { ask(site, method, &path, BODY).await }
            };
            bare(&at("check").await, 403, "Forbidden");
            bare(&at("open").await, 202, "");
            bare(&at("open").await, 202, "");
            bare(&at("check").await, 200, "Approved");
            bare(&at("close").await, 202, "");
            bare(&at("check").await, 403, "Forbidden");
        }
        bare(&at("/gate/check").await, 403, "Forbidden");
    }
    assert_eq!(records(&site).await, 3 * 2 * 2, "what is set already is not recorded");
}

#[tokio::test]
async fn a_gate_is_its_canarys_own() {
    let site = Site::with(enabled(), true).await;
    bare(&site.post("/gate/open", BODY).await, 202, "");
    for (path, body) in [
        ("/gate/check", BODY.replace("podinfo", "other")),
        ("/gate/check", BODY.replace("\"test\"", "\"prod\"")),
        ("/gate/check?cluster=eu", BODY.to_owned()),
        ("/rollback/check", BODY.to_owned()),
    ] {
        bare(&site.post(path, body.clone()).await, 403, "Forbidden");
    }
    bare(&site.post("/gate/check", BODY).await, 200, "Approved");
}

#[tokio::test]
async fn what_is_not_enabled_is_not_there() {
    let site = Site::new().await;
    for path in ["/", "/gate/check", "/gate/approve", "/rollback/open"] {
        let answered = ask(&site, &Method::POST, path, BODY).await;
        assert_eq!(answered.status, 404, "{path}");
        assert!(answered.body.contains("`sources.loadtester.enabled`"), "{path}: {}", answered.body);
    }
    let page = site.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let site = Site::with(enabled(), true).await;
    assert_eq!(site.get("/").await.header("content-type"), "text/html; charset=utf-8", "GET / stays the dashboard");
    assert_eq!(site.post("/hooks/loadtester/rollout", BODY).await.status, 404);
    assert_eq!(site.post("/anything", BODY).await.status, 404);
}

#[tokio::test]
async fn a_call_that_is_not_understood_starts_nothing_and_leaves_one_log_line() {
    let site = Site::with(enabled(), true).await;
    let told = |metadata: &str| format!(r#"{{"name": "podinfo", "namespace": "test", "metadata": {metadata}}}"#);
    let command = |command: &str| told(&serde_json::json!({"type": "cmd", "cmd": command}).to_string());
    let not_allowed = "`sources.loadtester.allow`";
    for (path, body, status, said) in [
        ("/", BODY.to_owned(), 400, "metadata not found in payload"),
        ("/", told("{}"), 400, "metadata not found in payload"),
        ("/", told(r#"{"type": "ngrinder"}"#), 400, "unknown task type ngrinder"),
        ("/", told(r#"{"type": "bash"}"#), 400, "cmd not found in metadata"),
        ("/", "nope".to_owned(), 400, "the body is not JSON"),
        ("/", r#"{"metadata": {"cmd": "hey http://a.test/"}}"#.to_owned(), 400, "`namespace` is missing"),
        ("/", command("id"), 403, not_allowed),
        ("/", command("hey http://a.test/; id"), 403, not_allowed),
        ("/", command("hey http://$(id).test/"), 403, not_allowed),
        ("/", command("hey http://a.test/\nid"), 403, not_allowed),
        ("/", command("hey http://a.test/").replace("\"cmd\"}", "\"bash\"}"), 403, not_allowed),
        ("/", command("hey http://a.test/").replace("\"test\"", "\"prod\""), 403, not_allowed),
        ("/gate/open", "nope".to_owned(), 400, "the body is not JSON"),
        ("/gate/check", "{}".to_owned(), 400, "`namespace` is missing"),
    ] {
        let (logged, _guard) = Logged::here();
        let answered = site.post(path, body.clone()).await;
        assert_eq!(answered.status, status, "{body}: {answered:?}");
        assert!(answered.body.contains(said), "{body}: {answered:?}");
        assert_eq!(answered.header("content-type"), "text/plain; charset=utf-8");
        let lines = logged.lines();
        assert_eq!(lines.len(), 1, "{body}: {lines:?}");
        assert_eq!((&lines[0]["message"], &lines[0]["source"]), (&"request refused".into(), &"loadtester".into()));
    }
    // The original's own words come bare.
    bare(&site.post("/", BODY).await, 400, "metadata not found in payload");
    assert_eq!(records(&site).await, 0);
}

#[tokio::test]
async fn its_callers_prove_who_they_are() {
    let grant = Grant::new("sources.loadtester.auth.tokens[1]", None, &[], &[Glob::new("prod").unwrap()]);
    let tokens = vec![Key::new("right", None, Grant::default()), Key::new("limited", None, grant)];
    let site = Site::with(Settings { access: with(Credentials::Bearer { tokens }), ..enabled() }, true).await;
    for path in SETTERS.into_iter().chain(["/", "/gate/approve", "/gate/halt", "/gate/check", "/rollback/check"]) {
        assert_eq!(site.post(path, BODY).await.status, 401, "{path}");
    }
    assert_eq!(records(&site).await, 0);
    let send = async |token: &str, path: &str| {
        let request = Request::post(path).header(AUTHORIZATION, format!("Bearer {token}"));
        site.send(request.body(Body::from(BODY)).unwrap()).await
    };
    for path in SETTERS.into_iter().chain(["/", "/gate/check"]) {
        let answered = send("limited", path).await;
        assert_eq!(answered.status, 403, "{path}");
        assert!(answered.body.contains("`sources.loadtester.auth.tokens[1].namespaces`"), "{}", answered.body);
    }
    assert_eq!(records(&site).await, 0);
    bare(&send("right", "/gate/open").await, 202, "");
}

#[tokio::test]
async fn a_cluster_calls_by_its_own_name_for_the_service() {
    let site = Site::with(enabled(), true).await;
    let ask = async |method: Method, path: &str, origin: Option<&str>| {
        let request = Request::builder().method(method).uri(path).header("host", "stagehook.test.svc");
        let request = origin.into_iter().fold(request, |request, origin| request.header("origin", origin));
        site.send(request.body(Body::from(BODY)).unwrap()).await.status
    };
    for path in ["/", "/gate/check"] {
        assert_eq!(ask(Method::POST, path, None).await, if path == "/" { 400 } else { 403 });
    }
    assert_eq!(ask(Method::POST, "/gate/open", Some("http://stagehook.test.svc")).await, 403, "a page under any name");
    assert_eq!(ask(Method::GET, "/", None).await, 403, "the dashboard is for this machine");
    assert_eq!(records(&site).await, 0);
}

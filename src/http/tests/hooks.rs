//! Calls: what is refused and how that is said, and how verdicts arrive.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION};
use tokio::sync::watch;

use super::{Answered, DEPLOYMENT, Logged, RUN, Site};
use crate::domain::glob::Glob;
use crate::domain::names::Source;
use crate::http::{Access, ApiToken, Scope, Settings, SourceSettings};
use crate::source::auth::{Credentials, Grant, Key};

const BODY: &str = r#"{"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "7d7b"}"#;

/// The settings as ever, but for one source.
fn only(source: Source, settings: SourceSettings) -> Settings {
    let mut all = Settings::default();
    all.sources.insert(source, settings);
    all
}

fn json(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(ACCEPT, "application/json").body(body.into()).unwrap()
}

/// Settings under which the callers of one source must show something.
fn showing(source: Source, credentials: Credentials) -> Settings {
    let mut access = Access::default();
    access.sources.insert(source, credentials);
    Settings { access: access.for_ever(), ..Settings::default() }
}

fn hmac() -> Credentials {
    let secret = Key::new("It's a Secret to Everybody", None, Grant::default());
    Credentials::HmacSha256 { secrets: vec![secret] }
}

#[tokio::test]
async fn bad_input_is_a_clear_problem_and_one_log_line_and_starts_nothing() {
    let site = Site::new().await;
    let head = site.head().await;
    let named = |namespace: &str, name: &str| format!(r#"{{"namespace": "{namespace}", "name": "{name}"}}"#);
    let with = |field: &str| format!(r#"{{"namespace": "test", "name": "podinfo", {field}}}"#);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("flagger/rollout", b"nope".to_vec(), 400, "the body is not JSON: expected ident at line 1 column 2"),
        ("flagger/rollout", b"".to_vec(), 400, "the body is empty"),
        ("flagger/rollout", b"\xff\xfe".to_vec(), 400, "the body is not UTF-8"),
        ("flagger/rollout", b"[1]".to_vec(), 400, "the body is an array, not an object"),
        ("flagger/rollout", b"{\"name\": \"podinfo\"}".to_vec(), 400, "the field `namespace` is missing"),
        ("flagger/rollout", with("\"phase\": 7").into(), 400, "the field `phase` must be a string, and it is a number"),
        ("flagger/rollout", with("\"checksum\": {}").into(), 400, "the field `checksum` must be a string"),
        ("flagger/rollout", with("\"checksum\": \"a\\nb\"").into(), 400, "the revision is not valid"),
        ("flagger/rollout", with("\"metadata\": \"x\"").into(), 400, "the field `metadata` must be an object"),
        (
            "flagger/rollout",
            with("\"metadata\": {\"k\": \"\\u0000\"}").into(),
            400,
            "`metadata.k` has the character NUL",
        ),
        ("flagger/rollout", named("", "podinfo").into(), 400, "the namespace is not valid: it is empty"),
        ("flagger/rollout", named("test", &"x".repeat(1000)).into(), 400, "1000 bytes long"),
        ("flagger/rollout", named("te\\u0007st", "podinfo").into(), 400, "U+0007"),
        ("flagger/rollout", named("test", "pod\\u0000info").into(), 400, "the field `name` has the character NUL"),
        ("flagger/rollout", named("test", "unknown").into(), 404, "no pipeline selects test/unknown"),
        ("flagger/rollout?wait=soon", BODY.into(), 400, "the query `wait`"),
        ("flagger/rollout?wait=1s&wait=2s", BODY.into(), 400, "`wait` more than once"),
        ("flagger/rollout?cluster=a%00b", BODY.into(), 400, "the cluster is not valid"),
        ("flagger/nope", BODY.into(), 404, "\"nope\" is no hook of flagger; there are confirm-rollout, pre-rollout"),
        ("flagger/roll%00out", BODY.into(), 404, "is no hook of flagger"),
        ("flagger/%FF", BODY.into(), 404, "is no hook of flagger"),
        ("%FF/rollout", BODY.into(), 404, "\"%FF\" is no source"),
        ("nobody/rollout", BODY.into(), 404, "\"nobody\" is no source; there are flagger, generic"),
        ("flagger", BODY.into(), 404, "a hook of flagger is named in the path: /hooks/flagger/HOOK; there are"),
        ("flagger/rollout/more", BODY.into(), 404, "there is nothing at this path"),
        ("flux", BODY.into(), 404, "the source flux is disabled; set `sources.flux.enabled` to true"),
        ("generic/event", BODY.into(), 400, "the header ce-specversion is missing"),
        ("generic/nope", BODY.into(), 404, "\"nope\" is no hook of generic"),
        ("generic/rollback", with("\"deployment\": \"7\"").into(), 400, "the deployment id is not valid"),
        ("generic/rollout", vec![b' '; 1024 * 1024 + 1], 413, "larger than 1048576 bytes"),
    ];
    for (path, body, status, said) in cases {
        let (logged, _guard) = Logged::here();
        let answered = site.send(json(&format!("/hooks/{path}"), body)).await;
        let detail = answered.problem(status);
        assert!(detail.contains(said), "{path}: {detail:?} should have {said:?}");
        let lines = logged.lines();
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        assert_eq!(lines[0]["message"], "request refused");
        assert_eq!(lines[0]["status"], status);
    }
    assert_eq!(site.head().await, head, "nothing is recorded");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_even_when_its_length_is_not_announced() {
    let settings = only(Source::Generic, SourceSettings { max_body: 10, ..SourceSettings::default() });
    let site = Site::with(settings, true).await;
    let chunks = futures_util::stream::iter((0..4).map(|_| Ok::<_, std::io::Error>("12345")));
    assert!(
        site.post("/hooks/generic/rollout", Body::from_stream(chunks))
            .await
            .problem(413)
            .contains("`sources.generic.maxBody`")
    );
}

#[tokio::test]
async fn the_wrong_method_says_which_is_right() {
    let site = Site::new().await;
    for (path, allow) in
        [("/hooks/flagger/rollout", "POST"), ("/healthz", "GET,HEAD"), ("/api/v1/deployments", "GET,HEAD")]
    {
        let answered = site.send(Request::put(path).body(Body::empty()).unwrap()).await;
        answered.problem(405);
        assert_eq!(answered.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn flagger_reads_its_refusals_as_text() {
    let site = Site::new().await;
    let answered = site.post("/hooks/flagger/rollout", "nope").await;
    assert_eq!(answered.status, 400);
    assert_eq!(answered.header("content-type"), "text/plain; charset=utf-8");
    assert!(answered.body.starts_with("the body is not JSON"), "{}", answered.body);
    assert!(site.post("/hooks/flagger/nope", BODY).await.body.contains("is no hook of flagger"));
}

#[tokio::test]
async fn a_caller_is_known_before_its_body_is_read() {
    let credentials = Credentials::Bearer { tokens: vec![Key::new("s3cret", None, Grant::default())] };
    let site = Site::with(showing(Source::Flagger, credentials), true).await;
    let (logged, _guard) = Logged::here();
    let refused = site.send(json("/hooks/flagger/rollout", "not even JSON")).await;
    assert_eq!(
        refused.problem(401),
        "a bearer token is needed; the setting `sources.flagger.auth` says what callers must send"
    );
    assert_eq!(refused.header("www-authenticate"), "Bearer realm=\"stagehook\"");
    let expected = serde_json::json!({"message": "request refused", "source": "flagger", "peer": "-", "status": 401,
        "reason": "a bearer token is needed"});
    assert_eq!(logged.lines(), [expected], "and nothing else of it");

    let request = Request::post("/hooks/flagger/confirm-promotion").header(AUTHORIZATION, "Bearer s3cret");
    assert_eq!(site.send(request.body(BODY.into()).unwrap()).await.status, 200);
}

#[tokio::test]
async fn a_signature_is_checked_over_the_bytes_as_they_came() {
    let site = Site::with(showing(Source::Generic, hmac()), true).await;
    let signed = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let send = async |body: &'static str| {
        let request = Request::post("/hooks/generic/rollout").header("x-signature", signed);
        site.send(request.body(Body::from(body)).unwrap()).await
    };
    assert!(send("Hello, World!").await.problem(400).contains("the body is not JSON"), "signed, then read");
    assert!(send("Hello, World?").await.problem(401).contains("does not belong to this body"));
}

#[tokio::test]
async fn who_is_not_let_in_learns_nothing_else() {
    let bearer = Credentials::Bearer { tokens: vec![Key::new("s3cret", None, Grant::default())] };
    for (credentials, header, reason) in [
        (bearer, ("authorization", "Bearer wr0ng"), "the bearer token is not known"),
        (hmac(), ("x-signature", WRONG), "X-Signature does not belong to this body"),
        (hmac(), ("x-other", "1"), "the header X-Signature is missing"),
    ] {
        let site = Site::with(showing(Source::Generic, credentials), true).await;
        for (path, body) in [
            ("rollout", BODY.as_bytes()),
            ("rollout", b"not JSON"),
            ("rollout", b"\xff\xfe"),
            ("rollout", b""),
            ("nope", BODY.as_bytes()),
            ("%FF", BODY.as_bytes()),
            ("rollout?wait=soon&cluster=%00&cluster=x", BODY.as_bytes()),
        ] {
            let (logged, _guard) = Logged::here();
            let request = Request::post(format!("/hooks/generic/{path}")).header(header.0, header.1);
            let request = request.header("content-type", "text/evil").body(Body::from(body)).unwrap();
            let told = site.send(request).await.problem(401);
            assert!(told.starts_with(reason), "{path}: {told}");
            let expected = serde_json::json!({"message": "request refused", "source": "generic", "peer": "-",
                "status": 401, "reason": reason});
            assert_eq!(logged.lines(), [expected], "{path}");
        }
    }
}

const WRONG: &str = "sha256=0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test]
async fn github_without_a_secret_is_closed_on_loopback_too() {
    let site = Site::with(only(Source::Github, SourceSettings::default()), true).await;
    for body in ["{}", "not JSON"] {
        let request = Request::post("/hooks/github").header("x-hub-signature-256", WRONG).body(body.into()).unwrap();
        let told = site.send(request).await.problem(401);
        assert!(told.contains("set `sources.github.auth` to {type: hmac-sha256, secrets:"), "{told}");
    }
}

#[tokio::test]
async fn a_missing_signature_is_refused_before_the_body_is_read_and_an_oversized_body_can_not_be_verified() {
    let site = Site::with(showing(Source::Generic, hmac()), true).await;
    let never = || Body::from_stream(futures_util::stream::pending::<Result<&[u8], std::io::Error>>());
    let request = Request::post("/hooks/generic/rollout").body(never()).unwrap();
    site.send(request).await.problem(401);
    let request = Request::post("/hooks/generic/rollout").header("x-signature", "sha256=beef").body(never()).unwrap();
    site.send(request).await.problem(401);
    let request = Request::post("/hooks/generic/rollout").header("x-signature", WRONG);
    site.send(request.body(vec![b' '; 1024 * 1024 + 1].into()).unwrap()).await.problem(413);
}

#[tokio::test]
async fn a_credential_is_for_its_cluster_and_its_namespaces() {
    let namespaces = [Glob::new("te*").unwrap()];
    let eu = Grant::new("sources.generic.auth.tokens[0]", Some("eu".parse().unwrap()), &[], &namespaces);
    let tokens = vec![Key::new("eu", Some("ci".into()), eu), Key::new("any", None, Grant::default())];
    let site = Site::with(showing(Source::Generic, Credentials::Bearer { tokens }), true).await;
    let head = site.head().await;
    let send = async |hook: &str, token: &str, body: String| {
        let request = Request::post(format!("/hooks/generic/{hook}")).header(AUTHORIZATION, format!("Bearer {token}"));
        site.send(request.body(body.into()).unwrap()).await
    };
    let named = |namespace: &str, more: &str| format!(r#"{{"namespace": "{namespace}", "name": "podinfo"{more}}}"#);
    let deployment = format!(r#", "deployment": "{DEPLOYMENT}""#);
    for hook in ["rollout", "post-rollout", "rollback"] {
        let told = send(hook, "eu", named("prod", "")).await.problem(403);
        assert!(told.contains("the namespace prod") && told.contains("`sources.generic.auth.tokens[0].namespaces`"));
        let told = send(&format!("{hook}?cluster=us"), "eu", named("test", "")).await.problem(403);
        assert!(told.contains("the cluster us") && told.contains("`sources.generic.auth.tokens[0].cluster`"), "{told}");
    }
    let told = send("rollout", "eu", named("test", "")).await.problem(404);
    assert!(told.contains("no pipeline selects eu:test/podinfo"), "{told}");
    // Flagger's deployment is of no cluster: named, it is still not this credential's.
    send("rollback", "eu", named("prod", &deployment)).await.problem(403);
    let told = send("rollback", "eu", named("test", &deployment)).await.problem(404);
    assert!(told.contains("eu:test/podinfo has no deployment"), "{told}");
    assert_eq!(site.head().await, head, "nothing is recorded");
    assert_eq!(send("rollback", "any", named("test", &deployment)).await.status, 200);
    let records = site.get(&format!("/api/v1/deployments/{DEPLOYMENT}/records")).await.json();
    assert_eq!(records["records"].as_array().unwrap().last().unwrap()["by"], "generic bearer:2");
}

#[tokio::test]
async fn secrets_are_exchanged_while_it_serves() {
    let access = |token: &str, api: &str| {
        let mut access = Access::default();
        let tokens = vec![Key::new(token, None, Grant::default())];
        access.sources.insert(Source::Generic, Credentials::Bearer { tokens });
        let secret = api.into();
        access.api_tokens.push(ApiToken { name: "ops".into(), secret, scope: Scope::Read });
        Arc::new(access)
    };
    let (exchange, in_force) = watch::channel(access("old", "old-api"));
    let site = Site::with(Settings { access: in_force, ..Settings::default() }, true).await;
    let send = async |method: &str, path: &str, token: &str| {
        let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {token}"));
        site.send(request.body(BODY.into()).unwrap()).await.status
    };
    let both = async |token: &str, api: &str| {
        (send("POST", "/hooks/generic/rollout", token).await, send("GET", "/api/v1/deployments", api).await)
    };
    assert_eq!((both("old", "old-api").await, both("new", "new-api").await), ((404, 200), (401, 401)));
    exchange.send_replace(access("new", "new-api"));
    assert_eq!((both("old", "old-api").await, both("new", "new-api").await), ((401, 401), (404, 200)));
}

#[tokio::test]
async fn a_disabled_source_names_its_switch() {
    let generic = SourceSettings { enabled: false, ..SourceSettings::default() };
    let site = Site::with(only(Source::Generic, generic), true).await;
    assert!(site.post("/hooks/generic/rollout", BODY).await.problem(404).contains("`sources.generic.enabled`"));
}

#[tokio::test]
async fn no_web_page_of_another_origin_calls() {
    let site = Site::new().await;
    let request = Request::post("/hooks/generic/rollback").header("host", "127.0.0.1:8080");
    let answered = site.send(request.header("origin", "https://evil.example").body(BODY.into()).unwrap()).await;
    answered.problem(403);
}

#[tokio::test]
async fn a_foreign_name_that_resolves_to_us_calls_no_source_though_the_api_has_tokens() {
    let mut access = Access::default();
    access.api_tokens.push(ApiToken { name: "ops".into(), secret: "right".into(), scope: Scope::Operate });
    let site = Site::with(Settings { access: access.for_ever(), ..Settings::default() }, true).await;
    for (path, status) in [
        ("/hooks/flagger/event", 403),
        ("/gate/open", 403),
        ("/", 403),
        ("/api/v1/deployments/dep_01ARZ3NDEKTSV4RRFFQ69G5FAV/close", 401),
    ] {
        let request =
            Request::post(path).header("host", "evil.example:8080").header("origin", "http://evil.example:8080");
        assert_eq!(site.send(request.body(BODY.into()).unwrap()).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_foreign_name_that_resolves_to_us_reads_nothing_that_is_open() {
    let site = Site::new().await;
    let ask = async |path: &str, host: &str| {
        let request = Request::get(path).header("host", host).body(Body::empty()).unwrap();
        site.send(request).await
    };
    for path in ["/", "/api/v1/deployments"] {
        assert!(ask(path, "evil.example:8080").await.problem(403).contains("api.tokens"));
        assert_eq!(ask(path, "localhost:8080").await.status, 200);
    }
    assert_eq!(ask("/healthz", "stagehook.test.svc").await.status, 200, "probes and scrapes come by any name");
}

#[tokio::test]
async fn verdicts_arrive_in_flaggers_dialect() {
    let site = Site::new().await;
    let (logged, guard) = Logged::here();
    let rejected = site.post("/hooks/flagger/pre-rollout", BODY).await;
    drop(guard);
    assert_eq!(rejected.status, 501, "{rejected:?}");
    assert_eq!(rejected.body, "stage migrate failed (exit code 3): no such table\n");
    assert_eq!(rejected.header("location"), format!("/api/v1/deployments/{DEPLOYMENT}"));
    let lines = logged.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(
        (&lines[0]["deployment"], &lines[0]["hook"], &lines[0]["verdict"]),
        (&DEPLOYMENT.into(), &"pre-rollout".into(), &"rejected".into())
    );

    let approved = site.send(json("/hooks/flagger/confirm-promotion", BODY)).await;
    assert_eq!(approved.status, 200);
    assert_eq!(approved.json()["verdict"], "approved");
    assert_eq!(approved.json()["hook"], "confirm-promotion");

    let question = site.post("/hooks/flagger/rollback", BODY).await;
    assert_eq!(question.status, 404);
    assert!(
        question.body.contains("no rollback of test/podinfo is requested, so Flagger goes on"),
        "{}",
        question.body
    );

    let event =
        r#"{"name": "podinfo", "namespace": "test", "metadata": {"eventMessage": "Halt", "eventType": "Warning"}}"#;
    assert_eq!(site.post("/hooks/flagger/event", event).await.status, 200);
    let metrics = site.get("/metrics").await.body;
    assert!(
        metrics.contains(r#"stagehook_calls_total{source="flagger",hook="pre-rollout",verdict="rejected"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_rejection_in_json_names_the_run() {
    let site = Site::new().await;
    let rejected: Answered = site.send(json("/hooks/flagger/pre-rollout", BODY)).await;
    assert_eq!(rejected.status, 501);
    let expected = serde_json::json!([{"id": "migrate", "name": "SCRIPT_RUN", "state": "Failed", "run": RUN,
        "exitCode": 3, "durationMs": 0}]);
    assert_eq!(rejected.json()["stages"], expected);
}

#[tokio::test]
async fn generic_undoes_nothing_of_another_source_unless_it_is_named() {
    let site = Site::new().await;
    let body = r#"{"namespace": "test", "name": "podinfo"}"#;
    let unknown = site.post("/hooks/generic/rollback", body).await.problem(404);
    assert!(unknown.contains(DEPLOYMENT), "{unknown}");
    let body = format!(r#"{{"namespace": "test", "name": "podinfo", "deployment": "{DEPLOYMENT}"}}"#);
    let undone = site.post("/hooks/generic/rollback", body).await;
    assert_eq!(undone.status, 200, "{undone:?}");
    assert!(undone.json()["message"].as_str().unwrap().contains("nothing to undo"), "{undone:?}");
}

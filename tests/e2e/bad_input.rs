//! Whatever is sent, the answer says what is wrong, and nothing is started or recorded.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::http::{Client, flagger};
use crate::support::pipelines::{pipeline_for, stage};

/// A server whose one pipeline takes every application.
async fn world() -> World {
    World::new().pipeline("all.yaml", &pipeline_for("*", "*", &[stage("migrate", "pre-rollout")])).started().await
}

/// The refused call left one log line, and neither a record nor a script.
async fn nothing_happened(world: &World, refusals: usize) {
    world.server().logged_times("request refused", refusals).await;
    assert_eq!(world.server().log_with("request refused").len(), refusals, "{:#?}", world.server().log());
    assert!(world.client().deployments().await.is_empty());
    assert!(world.starts().is_empty());
    world.verify();
}

fn named(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name, "phase": "Progressing", "checksum": "a1", "revision": "a1"})
}

#[tokio::test]
async fn bodies_that_are_no_payload() {
    let world = world().await;
    let client = world.client();
    let bodies: &[&[u8]] = &[
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"\"podinfo\"",
        b"name=podinfo",
        b"{\"name\": \"podinfo\"}",
        b"{\"namespace\": \"test\"}",
        b"{\"name\": 7, \"namespace\": \"test\"}",
        b"{\"name\": null, \"namespace\": \"test\"}",
        b"{\"name\": [\"podinfo\"], \"namespace\": \"test\"}",
        b"{\"name\": \"podinfo\", \"namespace\": {}}",
        b"{\"name\": \"podinfo\", \"namespace\": \"test\", \"metadata\": 7}",
        b"{\"name\": \"podinfo\", \"namespace\": \"test\", \"metadata\": [1]}",
        b"{\"name\": \"podinfo\", \"namespace\": \"test\"} trailing",
        b"{\"name\": \"podinfo\", \"namespace\": \"te\xffst\"}",
        b"\xff\xfe{}",
        b"{\"name\": \"podinfo\", \"namespace\": \"\\ud800\"}",
    ];
    let mut refusals = 0;
    for body in bodies {
        for source in ["flagger", "generic"] {
            let reply = client.send("POST", &format!("/hooks/{source}/pre-rollout"), body).await;
            assert_eq!(reply.status, 400, "{source} {:?}: {reply:?}", String::from_utf8_lossy(body));
            assert!(reply.text.len() > 20, "{reply:?}");
            refusals += 1;
        }
    }
    for (field, source) in [("checksum", "flagger"), ("revision", "generic")] {
        for value in [json!(7), json!(["a"]), json!({"a": 1})] {
            let mut body = json!({"namespace": "test", "name": "podinfo", "phase": "Progressing"});
            body[field] = value;
            let reply = client.post(&format!("/hooks/{source}/pre-rollout"), &body).await.expect(400);
            assert!(reply.text.contains(field), "{reply:?}");
            refusals += 1;
        }
    }
    // A body nested as deep as it is long.
    let deep = [b"{\"name\":".as_slice(), &b"[".repeat(100_000)].concat();
    client.send("POST", "/hooks/generic/pre-rollout", &deep).await.expect(400);
    nothing_happened(&world, refusals + 1).await;
}

#[tokio::test]
async fn names_that_are_none() {
    let world = world().await;
    let client = world.client();
    let long = "x".repeat(1_000);
    let bad = ["", long.as_str(), "a\0b", "a\nb", "a\tb", "a\u{7f}b", "a\u{85}b", "a\u{1b}[31mb"];
    let mut refusals = 0;
    for bad in bad {
        for body in [named(bad, "podinfo"), named("test", bad)] {
            for source in ["flagger", "generic"] {
                let reply = client.post(&format!("/hooks/{source}/pre-rollout"), &body).await;
                assert_eq!(reply.status, 400, "{source} {bad:?}: {reply:?}");
                refusals += 1;
            }
        }
        if !bad.is_empty() {
            for (source, field) in [("flagger", "checksum"), ("generic", "revision")] {
                let mut body = named("test", "podinfo");
                body[field] = json!(bad);
                let reply = client.post(&format!("/hooks/{source}/pre-rollout"), &body).await;
                assert_eq!(reply.status, 400, "{source} {field} {bad:?}: {reply:?}");
                refusals += 1;
            }
        }
    }
    nothing_happened(&world, refusals).await;
    // One line each in the log, whatever the name held.
    assert!(world.server().log().iter().all(|line| !line.contains('\u{1b}')));
}

#[tokio::test]
async fn nul_anywhere_is_refused() {
    let world = world().await;
    let client = world.client();
    let bodies = [
        json!({"namespace": "test", "name": "podinfo", "metadata": {"note": "a\u{0}b"}}),
        json!({"namespace": "test", "name": "podinfo", "metadata": {"a\u{0}b": "note"}}),
        json!({"namespace": "test", "name": "podinfo", "other": {"deep": ["a\u{0}b"]}}),
    ];
    for body in &bodies {
        for source in ["flagger", "generic"] {
            let reply = client.post(&format!("/hooks/{source}/pre-rollout"), body).await;
            assert_eq!(reply.status, 400, "{body}: {reply:?}");
        }
    }
    nothing_happened(&world, bodies.len() * 2).await;
}

#[tokio::test]
async fn newlines_in_metadata_are_fine() {
    let world = world().await;
    let mut body = flagger("Progressing", "a1");
    body["metadata"] = json!({"note": "one\ntwo\t$(touch $E2E_DIR/pwned) `id`", "odd key=": "x"});
    world.client().post("/hooks/flagger/pre-rollout", &body).await.expect(200);
    assert!(!world.path().join("pwned").exists());
}

#[tokio::test]
async fn paths_and_methods_that_are_none() {
    let world = world().await;
    let client = world.client();
    let body = named("test", "podinfo");
    for path in [
        "/hooks/flagger/explode",
        "/hooks/generic/explode",
        "/hooks/nobody/rollout",
        "/hooks/flagger",
        "/hooks/flagger/rollout/more",
        "/hooks/flagger/%ff",
        "/hooks/flagger/Rollout",
        "/hook",
        "/api/v2/deployments",
    ] {
        let reply = client.post(path, &body).await;
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
        assert!(reply.text.len() > 20, "{path}: {reply:?}");
    }
    for (method, path) in [
        ("GET", "/hooks/flagger/rollout"),
        ("PUT", "/hooks/flagger/rollout"),
        ("DELETE", "/hooks/generic/rollback"),
        ("POST", "/healthz"),
        ("DELETE", "/api/v1/deployments"),
    ] {
        let reply = client.send(method, path, b"").await;
        assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
        assert!(reply.header("allow").is_some(), "{method} {path}: {reply:?}");
    }
    nothing_happened(&world, 14).await;
}

#[tokio::test]
async fn an_application_that_no_pipeline_selects() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    for source in ["flagger", "generic"] {
        for hook in ["confirm-rollout", "pre-rollout", "post-rollout", "rollback"] {
            let reply = client.post(&format!("/hooks/{source}/{hook}"), &named("test", "stranger")).await;
            assert_eq!(reply.status, 404, "{source} {hook}: {reply:?}");
            assert!(reply.text.contains("test/stranger"), "{reply:?}");
        }
    }
    nothing_happened(&world, 8).await;
}

#[tokio::test]
async fn problems_are_json_where_json_is_asked_for() {
    let world = world().await;
    let client = world.client();
    let problem =
        client.with("Accept", "application/json").post("/hooks/flagger/explode", &json!({})).await.expect(404);
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    let problem = problem.json();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(404), &json!("Not Found")));
    assert!(problem["detail"].as_str().unwrap().contains("confirm-rollout"), "{problem}");
    let text = client.post("/hooks/flagger/explode", &json!({})).await.expect(404);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[tokio::test]
async fn a_body_over_the_limit() {
    let world = World::new()
        .set("/sources/flagger/maxBody", json!("1KiB"))
        .pipeline("all.yaml", &pipeline_for("*", "*", &[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    let client = world.client();
    let mut body = flagger("Progressing", "a1");
    body["metadata"] = json!({"note": "x".repeat(2_000)});
    let reply = client.post("/hooks/flagger/pre-rollout", &body).await.expect(413);
    assert!(reply.text.contains("maxBody"), "{reply:?}");
    // Announced by nobody: in chunks.
    let text = body.to_string();
    let head = "POST /hooks/flagger/pre-rollout HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = format!("{head}{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    client.raw(chunked.as_bytes()).await.unwrap().expect(413);
    // Announced, and never sent.
    let head = "POST /hooks/flagger/pre-rollout HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9999999999\r\n\r\n";
    client.raw(head.as_bytes()).await.unwrap().expect(413);
    nothing_happened(&world, 3).await;
    client.post("/hooks/generic/pre-rollout", &body).await.expect(200);
}

#[tokio::test]
async fn bytes_that_are_no_http() {
    let world = world().await;
    let client = world.client();
    for bytes in [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", b"POST /hooks/flagger/rollout HTTP/9.9\r\n\r\n"] {
        if let Ok(reply) = client.raw(bytes).await {
            assert!((400..=505).contains(&reply.status), "{reply:?}");
        }
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Huge: {}\r\n\r\n", "x".repeat(2_000_000));
    if let Ok(reply) = client.raw(huge.as_bytes()).await {
        assert_eq!(reply.status, 431, "{reply:?}");
    }
    client.get("/healthz").await.expect(200);
    assert!(client.deployments().await.is_empty());
}

#[tokio::test]
async fn web_pages_of_others_cannot_call() {
    let world = world().await;
    let client: Client = world.client().with("Origin", "https://evil.example");
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(403);
    nothing_happened(&world, 1).await;
}

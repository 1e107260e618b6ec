//! The API, the shapes of answers, and who may ask.

use base64::Engine as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::World;
use crate::support::http::flagger;
use crate::support::pipelines::{pipeline, stage, stage_with};
use crate::support::poll::within;

#[tokio::test]
async fn an_answer_in_json_has_its_promised_shape() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("seed", "pre-rollout")]).await;
    world.fail("migrate");
    let client = world.client().with("Accept", "application/json");
    let reply = client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let id = reply.deployment();
    let told = reply.json();
    let run = told["stages"][0]["run"].as_str().unwrap().to_owned();
    let took = told["stages"][0]["durationMs"].clone();
    assert!(took.is_number(), "{told:#}");
    assert!(told["message"].as_str().unwrap().contains("migrate says no"), "{told:#}");
    assert_eq!(
        told,
        json!({
            "verdict": "rejected",
            "application": "test/podinfo",
            "deployment": id,
            "hook": "pre-rollout",
            "message": told["message"],
            "stages": [
                {"id": "migrate", "name": "SCRIPT_RUN", "state": "Failed", "run": run, "exitCode": 3, "durationMs": took},
                {"id": "seed", "name": "SCRIPT_RUN", "state": null, "run": null, "exitCode": null, "durationMs": null},
            ],
        })
    );
    let text = world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    let generic = world.client().generic("rollout", "v1").await.expect(200);
    assert_eq!(generic.json()["verdict"], "approved");
}

#[tokio::test]
async fn deployments_are_listed_newest_first_in_pages() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let mut expected = Vec::new();
    for number in 0..7 {
        let revision = format!("a{number}");
        expected.push(client.flagger("pre-rollout", "Progressing", &revision).await.expect(200).deployment());
        client
            .flagger("post-rollout", if number % 2 == 0 { "Succeeded" } else { "Failed" }, &revision)
            .await
            .expect(200);
    }
    let all: Vec<_> = client.deployments().await.iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(all, expected);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.api(&format!("deployments?limit=3{cursor}")).await;
        seen.extend(page["deployments"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    seen.reverse();
    assert_eq!(seen, expected);
    let failed = client.api("deployments?state=RolledBack&application=test/podinfo").await;
    assert_eq!(failed["deployments"].as_array().unwrap().len(), 3);
    assert!(client.api("deployments?application=test/other").await["deployments"].as_array().unwrap().is_empty());
    for bad in ["limit=0", "limit=x", "state=Happy", "application=", "cursor=%00", "limit=1&limit=2"] {
        let reply = client.get(&format!("/api/v1/deployments?{bad}")).await;
        assert!(reply.status == 400 || bad == "application=", "{bad}: {reply:?}");
    }
    for missing in
        ["deployments/dep_1", "deployments/dep_01ARZ3NDEKTSV4RRFFQ69G5FAV", "runs/run_01ARZ3NDEKTSV4RRFFQ69G5FAV"]
    {
        client.get(&format!("/api/v1/{missing}")).await.expect(404);
        client.get(&format!("/api/v1/{missing}/records")).await.expect(404);
    }
}

#[tokio::test]
async fn records_are_numbered_without_gaps_and_name_who() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    let records = client.records(&id).await;
    let first = records[0]["seq"].as_u64().unwrap();
    for (record, seq) in records.iter().zip(first..) {
        assert_eq!(record["seq"], seq);
        assert!(record["by"].is_string() && record["at"].is_string(), "{record}");
    }
    let kinds: Vec<_> = records.iter().map(|record| record["event"]["type"].as_str().unwrap()).collect();
    let expected = [
        "opened",
        "called",
        "stageStarted",
        "stageFinished",
        "rollbackStarted",
        "stageStarted",
        "stageFinished",
        "ended",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn logs_can_be_followed_until_the_end() {
    let with = json!({"run": "echo before; . \"$E2E_DIR/library.sh\"; echo after; echo oops >&2; exit 4"});
    let world = World::with_stages(&[stage_with("migrate", "pre-rollout", &with)]).await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let run = world.journal()[0].run.clone();
    let mut stream = tokio::net::TcpStream::connect(&world.server().address).await.unwrap();
    let request =
        format!("GET /api/v1/runs/{run}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("data: before") {
        let length = within("the first line is streamed", stream.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(seen.contains("text/event-stream") && !seen.contains("after"), "{seen}");
    gate.open().await;
    held.answer().await.expect(501);
    while !seen.contains("event: end") || !seen.ends_with("\r\n\r\n") {
        match within("the rest is streamed", stream.read(&mut buffer)).await.unwrap() {
            0 => break,
            length => seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    assert!(seen.contains("after") && seen.contains("oops") && seen.contains(r#""state":"Failed""#), "{seen}");
    let text = client.get(&format!("/api/v1/runs/{run}/logs")).await.expect(200).text;
    assert_eq!(text, "before\nafter\noops\n");
    let run = client.api(&format!("runs/{run}")).await;
    assert_eq!((&run["exitCode"], &run["lastLine"]), (&json!(4), &json!("oops")));
    assert_eq!(run["output"]["bytes"], 18);
    let whole = client.get(&format!("/api/v1/runs/{}/logs?follow=true", run["id"].as_str().unwrap())).await.expect(200);
    assert!(whole.text.contains("data: before") && whole.text.contains("event: end"), "{whole:?}");
}

#[tokio::test]
async fn attempts_and_time_are_bounded() {
    let retried = json!({"run": "echo x >> $E2E_DIR/tries; exit 5", "retries": 2});
    let slow = json!({"run": ". \"$E2E_DIR/library.sh\"", "timeout": "200ms"});
    let world =
        World::with_stages(&[stage_with("flaky", "pre-rollout", &retried), stage_with("slow", "rollout", &slow)]).await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(501).deployment();
    assert_eq!(world.read("tries").lines().count(), 3);
    assert_eq!(client.deployment(&id).await["runs"][0]["attempts"].as_array().unwrap().len(), 3);
    world.make_stubborn("slow");
    let mut gate = world.gate("slow");
    let held = client.hold_flagger("rollout", "Progressing", "a1");
    let script = gate.entered().await;
    held.answer().await.expect(501);
    assert!(!crate::support::processes::is_alive(script));
    assert_eq!(client.deployment(&id).await["runs"][1]["state"], "TimedOut");
}

#[tokio::test]
async fn basic_and_bearer_callers_are_let_in_and_nobody_else() {
    let world = World::new()
        .variable("E2E_BEARER", "second")
        .set(
            "/sources/flagger/auth",
            json!({"type": "basic", "username": "flagger", "password": {"fromFile": "password"}}),
        )
        .set(
            "/sources/generic/auth",
            json!({"type": "bearer", "tokens": [{"fromFile": "token"}, {"fromEnv": "E2E_BEARER"}]}),
        )
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]));
    world.write("password", "se:cret\n");
    world.write("token", "first");
    let world = world.started().await;
    let client = world.client();
    let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let flagger_auth = [
        None,
        Some("Basic".to_owned()),
        Some("Basic !!!".to_owned()),
        Some("Bearer first".to_owned()),
        Some(basic("flagger:mistaken")),
        Some(basic("other:se:cret")),
        Some(basic("flagger")),
    ];
    for authorization in flagger_auth {
        let caller = authorization.as_ref().map_or_else(|| client.clone(), |value| client.with("Authorization", value));
        let refused = caller.flagger("pre-rollout", "Progressing", "a1").await.expect(401);
        assert!(refused.header("www-authenticate").is_some_and(|value| value.starts_with("Basic")), "{refused:?}");
    }
    for authorization in ["Bearer", "Bearer ", "Bearer mistaken", "Basic first", "Bearer first second"] {
        client.with("Authorization", authorization).generic("pre-rollout", "v1").await.expect(401);
    }
    assert!(client.deployments().await.is_empty());
    client
        .with("Authorization", &basic("flagger:se:cret"))
        .flagger("pre-rollout", "Progressing", "a1")
        .await
        .expect(200);
    client.with("Authorization", "Bearer first").generic("pre-rollout", "v1").await.expect(200);
    client.with("authorization", "bearer second").generic("pre-rollout", "v1").await.expect(200);
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    let by = client.records(&id).await[0]["by"].as_str().unwrap().to_owned();
    assert!(by.contains("flagger") && !by.contains("cret"), "{by}");
    let log = world.server().log().join("\n");
    for secret in ["se:cret", "first", "second", "mistaken"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn the_api_has_scopes() {
    let world = World::new()
        .set(
            "/api/tokens",
            json!([
                {"name": "looker", "scope": "read", "secret": {"fromFile": "looker"}},
                {"name": "ops", "scope": "operate", "secret": {"fromFile": "ops"}},
            ]),
        )
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]));
    world.write("looker", "only-looks");
    world.write("ops", "may-operate\n");
    let world = world.started().await;
    let client = world.client();
    let (looker, ops) =
        (client.with("Authorization", "Bearer only-looks"), client.with("Authorization", "Bearer may-operate"));
    let id = client.post("/hooks/flagger/pre-rollout", &flagger("Progressing", "a1")).await.expect(200).deployment();
    for path in ["deployments", &format!("deployments/{id}"), &format!("deployments/{id}/records")] {
        client.get(&format!("/api/v1/{path}")).await.expect(401);
        client.with("Authorization", "Bearer nobody").get(&format!("/api/v1/{path}")).await.expect(401);
        looker.get(&format!("/api/v1/{path}")).await.expect(200);
        ops.get(&format!("/api/v1/{path}")).await.expect(200);
    }
    let cancel = format!("/api/v1/deployments/{id}/cancel");
    client.post(&cancel, &json!({})).await.expect(401);
    looker.post(&cancel, &json!({})).await.expect(403);
    ops.post(&cancel, &json!({})).await.expect(202);
    let records = ops.records(&id).await;
    let started = records.iter().find(|record| record["event"]["type"] == "rollbackStarted").unwrap();
    assert_eq!(started["by"], "api token:ops");
}

#[tokio::test]
async fn a_script_sees_the_event_and_never_a_shell_line_of_it() {
    let with = json!({"run": "env | sort > $E2E_DIR/seen; cat \"$STAGEHOOK_EVENT_FILE\" > $E2E_DIR/event; pwd > $E2E_DIR/where"});
    let mut labelled = pipeline(&[stage_with("migrate", "pre-rollout", &with)]);
    labelled["spec"]["labels"] = json!({"env": "example", "a-b": "c"});
    let world = World::new().variable("NOT_FOR_SCRIPTS", "x").pipeline("podinfo.yaml", &labelled).started().await;
    let mut body = flagger("Progressing", "a1");
    body["metadata"] = json!({"commit": "abc", "note": "$(touch pwned); `id`"});
    let id = world.client().post("/hooks/flagger/pre-rollout", &body).await.expect(200).deployment();
    let seen = world.read("seen");
    for line in [
        format!("SR_DEPLOYMENT_ID={id}"),
        "SR_IS_ROLLBACK=false".to_owned(),
        "SR_LABELS_ENV=example".to_owned(),
        "SR_LABELS_A_B=c".to_owned(),
        "STAGEHOOK_HOOK=pre-rollout".to_owned(),
        "STAGEHOOK_SOURCE=flagger".to_owned(),
        "STAGEHOOK_REVISION=a1".to_owned(),
        "STAGEHOOK_METADATA_NOTE=$(touch pwned); `id`".to_owned(),
        "STAGEHOOK_ATTEMPT=1".to_owned(),
    ] {
        assert!(seen.lines().any(|found| found == line), "{line} is not in\n{seen}");
    }
    assert!(!seen.contains("NOT_FOR_SCRIPTS"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&world.read("event")).unwrap(), body);
    assert!(world.read("where").trim_end().ends_with("/pipelines"));
}

//! The cases. Each knows a caller by its description only.

use serde_json::{Value, json};

use super::callers::{Caller, Manner};
use super::request::Request;
use crate::support::World;
use crate::support::http::Reply;
use crate::support::pipelines::{pipeline_for, stage};
use crate::support::poll::poll_until;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NEWER: &str = "fedcba9876543210fedcba9876543210";

/// A service for this caller, with a stage `gate` and, where it has one, a stage `next`.
async fn serving(caller: &Caller) -> World {
    let mut stages = vec![stage(caller.key, caller.gate_hook)];
    stages.extend(caller.next.map(|(_, hook)| stage("next", hook)));
    let (namespace, name) = caller.application;
    let world = World::new()
        .set("/sources/flagger/enabled", json!(false))
        .set("/sources/generic/enabled", json!(false))
        .set(&format!("/sources/{}/enabled", caller.source), json!(true))
        .set(&format!("/sources/{}/auth", caller.source), caller.proof.settings(&["secret", "newer"]))
        .set(&format!("/sources/{}/maxBody", caller.source), json!("64KiB"))
        .pipeline("app.yaml", &pipeline_for(namespace, name, &stages));
    let world = caller.settings.iter().fold(world, |world, (pointer, value)| world.set(pointer, value.clone()));
    world.write("secret", &caller.proof.file(SECRET));
    world.write("newer", &caller.proof.file(NEWER));
    world.started().await
}

async fn send(world: &World, caller: &Caller, request: Request) -> Reply {
    caller.proof.sign(request, SECRET).send(&world.client()).await
}

/// Whether the gate was approved, as the caller hears it, or as everybody else can see it.
async fn approves(world: &World, caller: &Caller, reply: &Reply, stage: &str) -> bool {
    match caller.manner {
        Manner::Held { rejected, body } => {
            let verdict = reply.json()["verdict"].as_str().unwrap_or_default().to_owned();
            let approved = verdict == "approved";
            assert!(approved || verdict == "rejected", "{reply:?}");
            assert_eq!(reply.status, if approved { 200 } else { rejected }, "{reply:?}");
            if let Some((yes, no)) = body {
                assert_eq!(reply.json()["status"], if approved { yes } else { no }, "{reply:?}");
            }
            approved
        }
        Manner::Command => match reply.status {
            200 => true,
            500 => {
                assert!(reply.text.starts_with("command ") && reply.text.ends_with(": exit status 3"), "{reply:?}");
                false
            }
            _ => panic!("{reply:?}"),
        },
        Manner::Accepted => {
            assert!(matches!(reply.status, 200 | 202), "{reply:?}");
            let client = world.client();
            let run = poll_until("the stage is over", || async {
                let found = client.deployment(&reply.deployment()).await;
                let runs = found["runs"].as_array().unwrap().clone();
                runs.into_iter().rev().find(|run| run["stage"] == stage && run["state"] != "Running")
            })
            .await;
            run["state"] == "Succeeded"
        }
    }
}

pub async fn approved(caller: &Caller) {
    let world = serving(caller).await;
    let reply = send(&world, caller, caller.first()).await;
    assert!(approves(&world, caller, &reply, caller.key).await);
    assert_eq!(world.starts(), [caller.key]);
    world.verify();
}

pub async fn rejected(caller: &Caller) {
    let world = serving(caller).await;
    world.fail(caller.key);
    let reply = send(&world, caller, caller.first()).await;
    assert!(!approves(&world, caller, &reply, caller.key).await);
    if let Manner::Held { .. } = caller.manner {
        let said = &reply.json()["message"];
        assert_eq!(said, "stage gate failed (exit code 3): gate says no");
    }
    let found = world.client().deployment(&reply.deployment()).await;
    assert_eq!(found["runs"][0]["state"], "Failed", "{found}");
}

pub async fn pending(caller: &Caller) {
    let world = serving(caller).await;
    let mut gate = world.gate(caller.key);
    let mut request = caller.first();
    if caller.is_held() {
        request.path.push_str("?wait=20ms");
    }
    let reply = send(&world, caller, request).await;
    gate.entered().await;
    assert!(reply.deployment().starts_with("dep_"));
    if caller.is_held() {
        assert_eq!((reply.status, reply.json()["verdict"].as_str()), (503, Some("pending")), "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        let said = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(said.starts_with("pending: ") && said.contains("stage gate"), "{said}");
    } else {
        assert_eq!(reply.status, 202, "{reply:?}");
    }
    gate.open().await;
    let reply = if caller.is_held() { send(&world, caller, caller.first()).await } else { reply };
    assert!(approves(&world, caller, &reply, caller.key).await);
    assert_eq!(world.starts(), [caller.key], "the second call joined, or got what nobody had heard");
}

pub async fn repeated(caller: &Caller) {
    let world = serving(caller).await;
    let client = world.client();
    let mut gate = world.gate(caller.key);
    let request = caller.proof.sign(caller.first(), SECRET);
    if caller.is_held() {
        let calls = [request.hold(&client), request.hold(&client)];
        gate.entered().await;
        client.held_calls(2).await;
        gate.open().await;
        for call in calls {
            assert!(approves(&world, caller, &call.answer().await, caller.key).await);
        }
    } else {
        let first = request.send(&client).await;
        gate.entered().await;
        let again = request.send(&client).await;
        gate.open().await;
        assert!(approves(&world, caller, &first, caller.key).await);
        assert_eq!(again.deployment(), first.deployment());
        let later = request.send(&client).await;
        assert_eq!(later.deployment(), first.deployment());
    }
    assert_eq!(world.starts(), [caller.key]);
    assert_eq!(client.deployments().await.len(), 1);
}

/// Refused, with nothing of the request left anywhere but who it was, from where, and why.
async fn refused(world: &World, caller: &Caller, request: &Request) {
    let before = world.server().log_with("request refused").len();
    let reply = request.send(&world.client()).await.expect(401);
    assert!(reply.header("www-authenticate").is_some(), "{reply:?}");
    let refused = world.server().logged_times("request refused", before + 1).await;
    let line: Value = serde_json::from_str(&refused).unwrap();
    let fields = line.get("fields").unwrap_or(&line);
    assert_eq!((&fields["source"], &fields["status"]), (&json!(caller.source), &json!(401)), "{refused}");
    assert!(!refused.contains("podinfo") && !refused.contains("octo"), "{refused}");
    assert_eq!(world.client().deployments().await, Vec::<Value>::new());
    assert!(world.starts().is_empty());
}

pub async fn wrongly_signed(caller: &Caller) {
    let world = serving(caller).await;
    let sign = |request: Request| caller.proof.sign(request, "another secret altogether, as long as it");
    refused(&world, caller, &sign(caller.first())).await;
    // Whatever else is wrong with it.
    refused(&world, caller, &sign(Request { body: "{".to_owned(), ..caller.first() })).await;
    refused(&world, caller, &sign(Request { body: r#"{"name": 5}"#.to_owned(), ..caller.first() })).await;
    let query = format!("{}?wait=never&wait=ever", caller.first().path);
    refused(&world, caller, &sign(Request { path: query, ..caller.first() })).await;
    refused(&world, caller, &sign(Request { path: format!("/hooks/{}/nope", caller.source), ..caller.first() })).await;
    refused(&world, caller, &sign((caller.gate)(1, "unknown"))).await;
}

pub async fn unsigned(caller: &Caller) {
    let world = serving(caller).await;
    refused(&world, caller, &caller.first()).await;
    // It is refused by its headers: the body, which is longer than any may be, is not read.
    let long = Request { body: format!("{{\"a\": \"{}\"}}", "a".repeat(100 << 10)), ..caller.first() };
    refused(&world, caller, &long).await;
}

pub async fn oversized(caller: &Caller) {
    let world = serving(caller).await;
    let body = format!("{{\"a\": \"{}\"}}", "a".repeat(100 << 10));
    let reply = send(&world, caller, Request { body, ..caller.first() }).await.expect(413);
    assert!(reply.text.contains(&format!("sources.{}.maxBody", caller.source)), "{reply:?}");
    assert_eq!(world.client().deployments().await, Vec::<Value>::new());
}

pub async fn malformed(caller: &Caller) {
    let world = serving(caller).await;
    for body in ["", "{", "[]", "null", "{\"name\": 5}", "\u{1}", "{\"namespace\": \"test\"}"] {
        let reply = send(&world, caller, Request { body: body.to_owned(), ..caller.first() }).await;
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        let said = match caller.manner {
            // The one who made the call shows the text to people.
            Manner::Command => reply.text.clone(),
            Manner::Held { .. } | Manner::Accepted => {
                assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{body}: {reply:?}");
                reply.json()["detail"].as_str().unwrap_or_default().to_owned()
            }
        };
        assert!(said.len() > 10, "{body}: {reply:?}");
    }
    assert_eq!(world.client().deployments().await, Vec::<Value>::new());
}

pub async fn unknown_application(caller: &Caller) {
    let world = serving(caller).await;
    let reply = send(&world, caller, (caller.gate)(1, "octo/unknown")).await.expect(404);
    assert!(reply.json()["detail"].as_str().unwrap().contains("no pipeline selects"), "{reply:?}");
    assert_eq!(world.client().deployments().await, Vec::<Value>::new());
}

pub async fn a_rollout_that_is_undone(caller: &Caller) {
    let world = serving(caller).await;
    let client = world.client();
    let reply = send(&world, caller, caller.first()).await;
    assert!(approves(&world, caller, &reply, caller.key).await);
    let id = reply.deployment();
    let mut undone = vec!["undo.gate"];
    if let Some((next, _)) = caller.next {
        world.fail("next");
        let reply = send(&world, caller, next(1)).await;
        assert!(!approves(&world, caller, &reply, "next").await);
        assert_eq!(reply.deployment(), id);
        undone.push("undo.next");
    }
    let ran = world.starts().len();
    let reply = send(&world, caller, (caller.failed)(1)).await;
    assert!(matches!(reply.status, 200 | 202), "{reply:?}");
    assert_eq!(reply.deployment(), id);
    world.reaches(&id, "RolledBack").await;
    assert_eq!(world.starts()[ran..], undone);
    let again = send(&world, caller, (caller.failed)(1)).await;
    assert!(matches!(again.status, 200 | 202 | 409), "{again:?}");
    assert_eq!(world.starts()[ran..], undone, "told twice, undone once");
    // The next rollout is another deployment.
    world.write("fail.next", "");
    let reply = send(&world, caller, (caller.gate)(2, caller.application.1)).await;
    assert!(approves(&world, caller, &reply, caller.key).await);
    assert_ne!(reply.deployment(), id);
    assert_eq!(client.deployments().await.len(), 2);
    world.verify();
}

pub async fn cut_by_a_crash(caller: &Caller) {
    let mut world = serving(caller).await;
    let client = world.client();
    let mut gate = world.gate(caller.key);
    let request = caller.proof.sign(caller.first(), SECRET);
    let held = request.hold(&client);
    gate.entered().await;
    world.crash().await;
    drop(held);
    let id = world.client().deployments().await[0]["id"].as_str().unwrap().to_owned();
    if caller.is_held() {
        let again = request.hold(&world.client());
        gate.entered().await;
        gate.open().await;
        assert!(approves(&world, caller, &again.answer().await, caller.key).await);
    } else {
        // Nobody calls again: the service takes it up by itself.
        gate.entered().await;
        gate.open().await;
        let client = world.client();
        poll_until("it is over", || async {
            let runs = client.deployment(&id).await["runs"].as_array().unwrap().clone();
            runs.iter().any(|run| run["state"] == "Succeeded").then_some(())
        })
        .await;
    }
    assert_eq!(world.starts(), [caller.key, caller.key]);
    let found = world.client().deployment(&id).await;
    let states: Vec<_> = found["runs"].as_array().unwrap().iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Interrupted", "Succeeded"]);
    world.verify();
}

pub async fn secrets_are_rotated(caller: &Caller) {
    let world = serving(caller).await;
    let reply = send(&world, caller, caller.first()).await;
    assert!(approves(&world, caller, &reply, caller.key).await);
    let newer = caller.proof.sign((caller.gate)(2, caller.application.1), NEWER);
    let reply = newer.send(&world.client()).await;
    assert!(approves(&world, caller, &reply, caller.key).await, "{reply:?}");
    // The older one is taken out, with the service running.
    let loaded = world.server().log_with("credentials are loaded").len();
    world.write("secret.new", &caller.proof.file("a third secret, which nobody knows"));
    std::fs::rename(world.path().join("secret.new"), world.path().join("secret")).unwrap();
    world.server().logged_times("credentials are loaded", loaded + 1).await;
    send(&world, caller, (caller.gate)(3, caller.application.1)).await.expect(401);
    let newer = caller.proof.sign((caller.gate)(3, caller.application.1), NEWER);
    assert!(approves(&world, caller, &newer.send(&world.client()).await, caller.key).await);
}

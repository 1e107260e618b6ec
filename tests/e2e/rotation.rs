//! Secrets that are exchanged while the service runs.

use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::http::generic;
use crate::support::pipelines::{pipeline, stage};
use crate::support::{Client, World};

/// A world whose generic callers show a token of a file `a` or `b`, and whose API one of the file `api`.
async fn world() -> World {
    let world = World::new();
    for name in ["a", "b", "api"] {
        world.write(name, &format!("{name}-old\n"));
    }
    let tokens = json!([{"fromFile": "a"}, {"fromFile": "b", "name": "next"}]);
    let api = json!([{"name": "ops", "scope": "operate", "secret": {"fromFile": "api"}}]);
    world
        .set("/sources/generic/auth", json!({"type": "bearer", "tokens": tokens}))
        .set("/api/tokens", api)
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await
}

fn holding(world: &World, token: &str) -> Client {
    world.client().with("Authorization", &format!("Bearer {token}"))
}

/// Whether a token is known: nothing is wired to this hook, so whoever is let in is approved.
async fn generic_status(world: &World, token: &str) -> u16 {
    holding(world, token).generic("confirm-promotion", "v1").await.status
}

async fn api_status(world: &World, token: &str) -> u16 {
    holding(world, token).get("/api/v1/deployments").await.status
}

#[tokio::test]
async fn a_changed_file_exchanges_the_token_and_leaves_calls_in_flight_alone() {
    let world = world().await;
    let mut gate = world.gate("migrate");
    let held = holding(&world, "a-old").hold("/hooks/generic/pre-rollout", &generic("v1"));
    gate.entered().await;
    for token in ["a-old", "b-old"] {
        assert_eq!(generic_status(&world, token).await, 200, "{token}");
    }
    assert_eq!(api_status(&world, "api-old").await, 200);

    // Written aside and renamed, as careful people do.
    world.write("a.new", "a-new\n");
    std::fs::rename(world.path().join("a.new"), world.path().join("a")).unwrap();
    world.server().logged("credentials are loaded").await;
    assert_eq!(generic_status(&world, "a-old").await, 401);
    for token in ["a-new", "b-old"] {
        assert_eq!(generic_status(&world, token).await, 200, "{token}");
    }
    // Written in place, as others do.
    world.write("api", "api-new");
    world.server().logged_times("credentials are loaded", 2).await;
    assert_eq!((api_status(&world, "api-old").await, api_status(&world, "api-new").await), (401, 200));

    assert!(held.is_held());
    gate.open().await;
    held.answer().await.expect(200);
}

#[tokio::test]
async fn a_secret_that_can_not_be_read_leaves_the_old_ones_in_force() {
    let world = world().await;
    world.write("b", "b-new");
    std::fs::remove_file(world.path().join("a")).unwrap();
    let why = world.server().logged("the secret sources.generic.auth.tokens[0] can't be read from the file").await;
    assert!(why.contains("No such file"), "{why}");
    world.server().logged("the credentials stay as they were").await;
    for token in ["a-old", "b-old"] {
        assert_eq!(generic_status(&world, token).await, 200, "{token}");
    }
    world.write("a", "a-new");
    world.server().logged("credentials are loaded").await;
    for (token, status) in [("a-old", 401), ("b-old", 401), ("a-new", 200), ("b-new", 200)] {
        assert_eq!(generic_status(&world, token).await, status, "{token}");
    }
    let log = world.server().log().join("\n");
    assert!(!log.contains("-old") && !log.contains("-new"), "no secret is logged: {log}");
}

#[tokio::test]
async fn a_signal_takes_up_a_shorter_list_but_no_faulty_settings() {
    let world = world().await;
    let settings: Value = serde_json::from_str(&world.read("stagehook.yaml")).unwrap();
    let put = |tokens: Value| {
        let mut settings = settings.clone();
        settings["sources"]["generic"]["auth"]["tokens"] = tokens;
        world.write("stagehook.yaml", &settings.to_string());
        world.server().signal(Signal::HUP);
    };
    put(json!([]));
    world.server().logged("tokens is empty").await;
    // Both are read at the same signal.
    world.server().logged("pipelines are loaded").await;
    assert_eq!(generic_status(&world, "a-old").await, 200);

    put(json!([{"fromFile": "b", "name": "next", "namespaces": ["other"]}]));
    world.server().logged_times("pipelines are loaded", 2).await;
    assert_eq!(generic_status(&world, "a-old").await, 401);
    let outside = holding(&world, "b-old").generic("confirm-promotion", "v1").await.expect(403);
    assert!(outside.text.contains("`sources.generic.auth.tokens[0].namespaces`"), "{outside:?}");

    let mut elsewhere = settings.clone();
    elsewhere["server"]["listen"] = json!("127.0.0.2:0");
    elsewhere["sources"]["generic"].as_object_mut().unwrap().remove("auth");
    world.write("stagehook.yaml", &elsewhere.to_string());
    world.server().signal(Signal::HUP);
    world.server().logged("server.listen has changed").await;
    world.server().logged_times("pipelines are loaded", 3).await;
    assert_eq!(generic_status(&world, "nobody").await, 401);
}

#[tokio::test]
async fn a_mounted_secret_is_exchanged_as_kubernetes_does_it() {
    let world = World::new();
    for (version, token) in [("..1", "old"), ("..2", "new")] {
        std::fs::create_dir_all(world.path().join("secret").join(version)).unwrap();
        world.write(&format!("secret/{version}/token"), token);
    }
    let mount = world.path().join("secret");
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/token", mount.join("token")).unwrap();
    let auth = json!({"type": "bearer", "tokens": [{"fromFile": "secret/token"}]});
    let world = world
        .set("/sources/generic/auth", auth)
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]))
        .started()
        .await;
    assert_eq!(generic_status(&world, "old").await, 200);
    symlink("..2", mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    world.server().logged("credentials are loaded").await;
    assert_eq!((generic_status(&world, "old").await, generic_status(&world, "new").await), (401, 200));
}

//! Whole rollouts by a simulated Flagger.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::flagger_sim::{Flagger, Phase, Strategy, fnv};
use crate::history;
use crate::support::World;
use crate::support::pipelines::{pipeline, stage};

const ALL: [&str; 8] = [
    "confirm-rollout",
    "rollback",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "post-rollout",
    "event",
];

const UNCONFIRMED: [&str; 7] =
    ["rollback", "pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion", "post-rollout", "event"];

async fn world() -> World {
    World::with_stages(&[
        stage("confirm", "confirm-rollout"),
        stage("migrate", "pre-rollout"),
        stage("smoke", "rollout"),
        stage("step", "confirm-traffic-increase"),
        stage("promote", "confirm-promotion"),
        stage("notify", "post-rollout"),
    ])
    .await
}

async fn states(world: &World) -> Vec<(String, String)> {
    let all = world.client().deployments().await;
    all.iter()
        .map(|d| (d["revision"].as_str().unwrap_or("-").to_owned(), d["state"].as_str().unwrap().to_owned()))
        .collect()
}

fn is(content: &str, state: &str) -> (String, String) {
    (fnv(content), state.to_owned())
}

#[tokio::test]
async fn a_canary_succeeds_step_by_step() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &ALL);
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(states(&world).await, [is("second", "Succeeded")]);
    let starts = world.starts();
    let count = |key: &str| starts.iter().filter(|start| *start == key).count();
    // Steps + 1 increases; the analysis runs at each tick but the first.
    assert_eq!((count("confirm"), count("migrate"), count("step"), count("smoke"), count("promote")), (1, 1, 3, 2, 1));
    assert_eq!(starts.last().map(String::as_str), Some("notify"));
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn blue_green_repeats_its_hooks() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &ALL);
    flagger.strategy = Strategy::BlueGreen(3);
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    let calls = |hook: &str| flagger.said.iter().filter(|(said, ..)| said == hook).count();
    assert_eq!((calls("rollout"), calls("confirm-promotion")), (4, 2));
    let promoted = world.starts().iter().filter(|key| *key == "promote").count();
    assert_eq!(promoted, 1, "confirm-promotion is asked twice and runs once");
    assert_eq!(states(&world).await, [is("second", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn a_failed_check_rolls_back_at_the_next_tick() {
    for failing in ["migrate", "smoke"] {
        let world = world().await;
        let mut flagger = Flagger::new(world.address(), &ALL);
        world.fail(failing);
        flagger.content = "second".to_owned();
        assert_eq!(flagger.run().await, Phase::Failed);
        assert_eq!(states(&world).await, [is("second", "RolledBack")]);
        world.mend(failing);
        flagger.content = "third".to_owned();
        assert_eq!(flagger.run().await, Phase::Succeeded);
        assert_eq!(states(&world).await, [is("second", "RolledBack"), is("third", "Succeeded")]);
        history::check(&world, &flagger).await;
    }
}

#[tokio::test]
async fn a_denied_confirmation_waits_for_ever_and_fails_nothing() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &ALL);
    world.fail("confirm");
    flagger.content = "second".to_owned();
    for _ in 0..4 {
        flagger.tick().await;
        assert_eq!(flagger.phase, Phase::Waiting);
    }
    assert_eq!(states(&world).await.len(), 1);
    world.mend("confirm");
    world.fail("promote");
    for _ in 0..12 {
        flagger.tick().await;
    }
    assert_eq!(flagger.phase, Phase::WaitingPromotion);
    world.mend("promote");
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(states(&world).await, [is("second", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn a_new_revision_in_mid_analysis_undoes_the_old_one_first() {
    for hooks in [&ALL[..], &UNCONFIRMED[..]] {
        let world = world().await;
        let mut flagger = Flagger::new(world.address(), hooks);
        flagger.content = "second".to_owned();
        for _ in 0..3 {
            flagger.tick().await;
        }
        flagger.content = "third".to_owned();
        assert_eq!(flagger.run().await, Phase::Succeeded);
        assert_eq!(states(&world).await, [is("second", "RolledBack"), is("third", "Succeeded")]);
        history::check(&world, &flagger).await;
    }
}

#[tokio::test]
async fn a_lost_success_is_never_undone() {
    // However the canary is wired, and whether or not the analysis is skipped.
    for (hooks, skip) in [(&ALL[..], false), (&UNCONFIRMED[..], false), (&UNCONFIRMED[..6], false), (&ALL[..], true)] {
        let world = world().await;
        let mut flagger = Flagger::new(world.address(), hooks);
        flagger.dies_at_the_end = true;
        if skip {
            flagger.strategy = Strategy::Skip;
        }
        flagger.content = "second".to_owned();
        assert_eq!(flagger.run().await, Phase::Succeeded);
        flagger.content = "third".to_owned();
        assert_eq!(flagger.run().await, Phase::Succeeded);
        flagger.dies_at_the_end = false;
        let first = states(&world).await[0].clone();
        assert!(first.1 == "Abandoned" || first.1 == "Succeeded", "{first:?} with {hooks:?}");
        assert!(world.starts().iter().all(|key| !key.starts_with("undo.")), "{:?}", world.starts());
        history::check(&world, &flagger).await;
    }
}

#[tokio::test]
async fn a_restart_of_a_later_rollout_is_no_proof_about_an_earlier_one() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &UNCONFIRMED);
    flagger.content = "second".to_owned();
    flagger.dies_at_the_end = true;
    assert_eq!(flagger.run().await, Phase::Succeeded);
    // The third revision is scaled up and replaced before any gate of it was called.
    flagger.content = "third".to_owned();
    flagger.tick().await;
    flagger.content = "fourth".to_owned();
    flagger.dies_at_the_end = false;
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(states(&world).await, [is("second", "Abandoned"), is("fourth", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn a_revision_that_came_back_before_the_next_was_called_about_is_not_superseded() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &UNCONFIRMED);
    flagger.content = "second".to_owned();
    for _ in 0..2 {
        flagger.tick().await;
    }
    // The analysis restarts for another revision and, before any gate of that is called, for this one again.
    for content in ["third", "second"] {
        flagger.content = content.to_owned();
        flagger.tick().await;
    }
    flagger.dies_at_the_end = true;
    assert_eq!(flagger.run().await, Phase::Succeeded);
    flagger.dies_at_the_end = false;
    flagger.content = "fourth".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(states(&world).await, [is("second", "Abandoned"), is("fourth", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn a_lost_failure_is_made_up_for_at_the_next_opening() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &ALL);
    world.fail("smoke");
    flagger.dies_at_the_end = true;
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Failed);
    world.mend("smoke");
    flagger.dies_at_the_end = false;
    flagger.content = "third".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(states(&world).await, [is("second", "RolledBack"), is("third", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn the_same_content_after_a_failure_is_a_new_deployment() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &ALL);
    world.fail("smoke");
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Failed);
    world.mend("smoke");
    flagger.content = "first".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(states(&world).await, [is("second", "RolledBack"), is("first", "Succeeded"), is("second", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn flagger_dies_in_mid_call() {
    let world = world().await;
    let mut flagger = Flagger::new(world.address(), &ALL);
    let mut gate = world.gate("migrate");
    flagger.content = "second".to_owned();
    flagger.tick().await;
    tokio::select! {
        () = flagger.tick() => panic!("answered while the script waits"),
        _ = gate.entered() => {}
    }
    // The new Flagger asks the same again.
    world.server().logged("hung up").await;
    gate.open().await;
    assert_eq!(flagger.run().await, Phase::Succeeded);
    assert_eq!(world.starts().iter().filter(|key| *key == "migrate").count(), 1);
    assert_eq!(states(&world).await, [is("second", "Succeeded")]);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn stagehook_dies_in_mid_call() {
    for signal in [Signal::KILL, Signal::TERM] {
        let mut world = world().await.set("/server/shutdownGrace", json!("20ms"));
        world.restart().await;
        let mut flagger = Flagger::new(world.address(), &ALL);
        for webhook in &mut flagger.webhooks {
            webhook.retries = 20;
        }
        let mut gate = world.gate("migrate");
        flagger.content = "second".to_owned();
        flagger.tick().await;
        tokio::join!(flagger.tick(), async {
            gate.entered().await;
            world.server().signal(signal);
            world.server().exited().await;
            world.start().await;
            gate.entered().await;
            gate.open().await;
        });
        assert_eq!(flagger.failed_checks, 0);
        assert_eq!(flagger.run().await, Phase::Succeeded);
        assert_eq!(world.starts().iter().filter(|key| *key == "migrate").count(), 2, "{signal:?}");
        assert_eq!(states(&world).await, [is("second", "Succeeded")]);
        history::check(&world, &flagger).await;
    }
}

#[tokio::test]
async fn impatient_webhooks_with_retries_start_nothing_twice() {
    let world = world().await;
    for key in ["confirm", "migrate", "promote", "notify"] {
        world.write(&format!("slow.{key}"), "");
    }
    let mut flagger = Flagger::new(world.address(), &ALL);
    for webhook in &mut flagger.webhooks {
        (webhook.timeout, webhook.retries) = (Duration::from_millis(15), 20);
    }
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    for key in ["confirm", "migrate", "promote", "notify"] {
        assert_eq!(world.starts().iter().filter(|start| *start == key).count(), 1, "{key}");
    }
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn a_requested_rollback_makes_flagger_roll_back() {
    let world = world().await;
    let client = world.client();
    let mut flagger = Flagger::new(world.address(), &ALL);
    flagger.content = "second".to_owned();
    for _ in 0..3 {
        flagger.tick().await;
    }
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    client.post(&format!("/api/v1/deployments/{id}/rollback"), &json!({})).await.expect(202);
    assert_eq!(flagger.run().await, Phase::Failed);
    assert_eq!(states(&world).await, [is("second", "RolledBack")]);
    flagger.content = "third".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn a_failed_post_rollout_webhook_leaves_the_deployment_succeeded() {
    let world = world().await;
    world.fail("notify");
    let mut flagger = Flagger::new(world.address(), &ALL);
    flagger.content = "second".to_owned();
    assert_eq!(flagger.run().await, Phase::Succeeded);
    let told = world.client().deployments().await[0].clone();
    assert_eq!((&told["state"], &told["reason"]), (&json!("Succeeded"), &json!("PostRolloutFailed")));
    history::check(&world, &flagger).await;
}

#[tokio::test]
async fn many_canaries_go_their_ways_at_once() {
    let world = World::new()
        .pipeline("all.yaml", &{
            let mut all = pipeline(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]);
            all["spec"]["selector"] = json!({"namespace": "*", "name": "*"});
            all
        })
        .started()
        .await;
    let client = world.client();
    let rollouts = (0..12).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let body = |phase: &str| json!({"namespace": "many", "name": format!("app-{number}"), "phase": phase, "checksum": "a1"});
            for hook in ["pre-rollout", "rollout"] {
                client.post(&format!("/hooks/flagger/{hook}"), &body("Progressing")).await.expect(200);
            }
            let end = if number % 2 == 0 { "Failed" } else { "Succeeded" };
            client.post("/hooks/flagger/post-rollout", &body(end)).await.expect(200);
        })
    });
    for rollout in rollouts.collect::<Vec<_>>() {
        rollout.await.unwrap();
    }
    let all = client.deployments().await;
    assert_eq!(all.iter().filter(|d| d["state"] == "RolledBack").count(), 6);
    assert_eq!(all.iter().filter(|d| d["state"] == "Succeeded").count(), 6);
    assert_eq!(world.starts().len(), 36);
    world.verify();
}

//! A Flagger, a person, a flaky cluster and a mortal Stagehook, all by dice. `E2E_SEEDS` says how many walks,
//! `E2E_SEED` which one alone.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::flagger_sim::{Flagger, Phase, Strategy};
use crate::history;
use crate::support::World;
use crate::support::dice::Dice;
use crate::support::pipelines::{pipeline, stage};

const HOOKS: [&str; 6] =
    ["confirm-rollout", "pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion", "post-rollout"];

struct Walk {
    dice: Dice,
    world: World,
    flagger: Flagger,
    stages: Vec<String>,
    contents: u64,
}

impl Walk {
    async fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut stages = Vec::new();
        for hook in HOOKS {
            for number in 0..dice.of(&[0, 1, 1, 2]) {
                stages.push((format!("{hook}-{number}"), hook));
            }
        }
        let defined: Vec<_> = stages.iter().map(|(id, hook)| stage(id, hook)).collect();
        let mut definition = pipeline(&defined);
        if dice.one_in(4) {
            definition["spec"]["onFailure"] = json!("rollback");
        }
        if dice.one_in(4) {
            definition["spec"]["rollback"] = json!({"order": "reverse"});
        }
        let world = World::new()
            .set("/server/shutdownGrace", json!("30ms"))
            .set("/rollback/signalTimeout", json!("200ms"))
            .pipeline("podinfo.yaml", &definition)
            .started()
            .await;
        let wired: Vec<_> = [&HOOKS[..], &["rollback", "event"]].concat();
        let wired: Vec<_> = wired.into_iter().filter(|_| !dice.one_in(5)).collect();
        let mut flagger = Flagger::new(world.address(), &wired);
        for webhook in &mut flagger.webhooks {
            if dice.one_in(3) {
                webhook.timeout = Duration::from_millis(10 + dice.below(40));
            }
            webhook.retries = dice.of(&[0, 0, 2, 6]).try_into().unwrap_or(0);
        }
        flagger.strategy = dice.of(&[Strategy::Steps(2), Strategy::Steps(1), Strategy::BlueGreen(2), Strategy::Skip]);
        flagger.threshold = u32::try_from(1 + dice.below(2)).unwrap();
        let stages = stages.into_iter().map(|(id, _)| id).collect();
        Self { dice, world, flagger, stages, contents: 0 }
    }

    /// Something of the world changes between two ticks.
    async fn fate(&mut self) {
        if self.dice.one_in(6) || self.contents == 0 {
            // New content, or again what was there before.
            self.contents += 1;
            let number = if self.dice.one_in(3) { self.dice.below(self.contents) } else { self.contents };
            self.flagger.content = format!("content {number}");
        }
        if self.dice.one_in(5) && !self.stages.is_empty() {
            let at = usize::try_from(self.dice.below(self.stages.len() as u64)).unwrap();
            let key = self.stages[at].clone();
            let key = if self.dice.one_in(4) { format!("undo.{key}") } else { key };
            let what = if self.dice.one_in(3) { "slow" } else { "fail" };
            let file = self.world.path().join(format!("{what}.{key}"));
            if file.exists() {
                std::fs::remove_file(file).unwrap();
            } else {
                std::fs::write(file, "").unwrap();
            }
        }
        self.flagger.metrics_fail = self.dice.one_in(12);
        self.flagger.dies_at_the_end = self.dice.one_in(4);
        if self.dice.one_in(12) {
            self.operate().await;
        }
    }

    async fn operate(&mut self) {
        let client = self.world.client();
        let all = client.deployments().await;
        let Some(newest) = all.last().and_then(|found| found["id"].as_str()) else { return };
        let what = self.dice.of(&["rollback", "rollback?now", "cancel", "close", "release"]);
        let reply = client.post(&format!("/api/v1/deployments/{newest}/{what}"), &json!({})).await;
        assert!([202, 409].contains(&reply.status), "{reply:?}");
    }

    /// One tick, in which somebody may die.
    async fn tick(&mut self) {
        let moment = Duration::from_millis(self.dice.below(40));
        match self.dice.below(14) {
            // Flagger.
            0 | 1 => {
                let _ = tokio::time::timeout(moment, self.flagger.tick()).await;
            }
            // Stagehook.
            fate @ (2 | 3) => {
                let signal = if fate == 2 { Signal::KILL } else { Signal::TERM };
                let (world, flagger) = (&mut self.world, &mut self.flagger);
                tokio::join!(flagger.tick(), async {
                    let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;
                    world.server().signal(signal);
                    world.server().exited().await;
                    world.start().await;
                });
            }
            _ => self.flagger.tick().await,
        }
    }

    /// The weather is fine again: the canary comes to an end, and everybody to rest.
    async fn settle(&mut self) {
        for entry in std::fs::read_dir(self.world.path()).unwrap().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with("fail.") || name.starts_with("slow.")) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        for webhook in &mut self.flagger.webhooks {
            (webhook.timeout, webhook.retries) = (Duration::from_secs(60), 0);
        }
        self.flagger.dies_at_the_end = false;
        self.flagger.metrics_fail = false;
        for _ in 0..40 {
            if matches!(self.flagger.phase, Phase::Succeeded | Phase::Failed) {
                break;
            }
            self.flagger.tick().await;
        }
    }
}

async fn walk(seed: u64) {
    let mut walk = Walk::new(seed).await;
    for _ in 0..30 {
        walk.fate().await;
        walk.tick().await;
    }
    walk.settle().await;
    history::check(&walk.world, &walk.flagger).await;
}

/// One test for each quarter, so that they go on beside each other.
async fn quarter(number: u64) {
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = variable("E2E_SEED") {
        if number == 0 {
            walk(seed).await;
        }
        return;
    }
    let seeds = variable("E2E_SEEDS").unwrap_or(32);
    for seed in (0..seeds).filter(|seed| seed % 4 == number) {
        println!("seed {seed} (E2E_SEED={seed} walks it alone)");
        walk(seed).await;
    }
}

#[tokio::test]
async fn first_quarter() {
    quarter(0).await;
}

#[tokio::test]
async fn second_quarter() {
    quarter(1).await;
}

#[tokio::test]
async fn third_quarter() {
    quarter(2).await;
}

#[tokio::test]
async fn fourth_quarter() {
    quarter(3).await;
}

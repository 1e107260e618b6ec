//! A drain and a kill in the middle of the load: all canaries come to the same ends.

use std::time::Duration;

use serde_json::json;

use crate::canary;
use crate::invariants::Load;
use crate::ledger;
use crate::metrics::Metrics;
use crate::support::World;
use crate::thousand::{applications, begin};

/// Waits until so many scripts have begun. As patient as the load itself, which a slow machine makes long.
async fn scripts(world: &World, count: usize) {
    let begun = async {
        while world.starts().len() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), begun).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_and_a_kill_change_no_end() {
    let mut world = canary::world().set("/server/shutdownGrace", json!("20ms")).started().await;
    let count = applications() / 3;
    let running = begin(&world, count, 0);
    scripts(&world, count).await;
    world.restart().await;
    scripts(&world, count * 2).await;
    world.crash().await;
    let canaries = running.join_all().await;
    let deployments = ledger::read(&world.client()).await;
    let journal = world.journal();
    let load = Load { canaries: &canaries, deployments: &deployments, journal: &journal, cut: true };
    let interrupted = deployments.values().flat_map(|d| &d.runs).filter(|run| run.outcome == "Interrupted").count();
    println!("{interrupted} scripts were cut");
    assert!(interrupted > 0, "nothing was cut, so nothing was seen");
    load.check(&world);
    Metrics::of(&world.client()).await.at_rest();
}

//! `ledger.retain` as an operator sets it: the program prunes by itself, and what it may not prune stays.

use serde_json::json;

use crate::support::World;
use crate::support::past::Past;
use crate::support::pipelines::{pipeline, stage};
use crate::support::poll::poll_until;

/// A world that was there before the program was.
async fn world() -> (World, Past) {
    let world = World::new().pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout")]));
    let past = Past::write(&world.path().join("data/stagehook.db")).await;
    (world, past)
}

#[tokio::test]
async fn what_ended_long_ago_goes_and_the_newest_and_the_live_stay() {
    let (world, past) = world().await;
    world.write("head.json", &serde_json::to_string(&past.head).unwrap());
    let mut world = world.set("/ledger/retain", json!("90d")).started().await;
    let client = world.client();
    // Calls go on meanwhile.
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let told = format!("stagehook_deployments_pruned_total {}", past.go.len());
    poll_until(&told, || async {
        let metrics = client.get("/metrics").await.expect(200);
        metrics.text.lines().any(|line| line == told).then_some(())
    })
    .await;
    past.assert_pruned(&client).await;
    assert_eq!(world.starts(), ["migrate"]);
    let verify = |world: &World| {
        for arguments in [&["ledger", "verify"][..], &["ledger", "verify", "--against", "head.json"]] {
            let proven = world.command(arguments);
            assert!(proven.status.success(), "{proven:?}");
        }
    };
    verify(&world);
    world.stop().await;
    verify(&world);
}

#[tokio::test]
async fn nothing_goes_where_nothing_is_to_go() {
    let (world, past) = world().await;
    // A call that takes as long as pruning all of it would.
    world.write("long.migrate", "");
    let mut world = world.set("/ledger/retain", json!(null)).started().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let metrics = client.get("/metrics").await.expect(200).text;
    assert!(metrics.lines().any(|line| line == "stagehook_deployments_pruned_total 0"), "{metrics}");
    let listed = past.listed(&client).await;
    assert_eq!(listed.len(), past.stay.len() + past.go.len());
    world.stop().await;
    past.assert_untouched();
    world.verify();
}

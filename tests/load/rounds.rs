//! The same load again and again in one life of the service: what it takes of the machine does not grow.

use crate::canary;
use crate::metrics::{Metrics, open_files, resident};
use crate::thousand::{applications, begin};

/// `STAGEHOOK_LOAD_ROUNDS` says how many.
fn rounds() -> usize {
    std::env::var("STAGEHOOK_LOAD_ROUNDS").map_or(12, |number| number.parse().unwrap()).max(6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat() {
    let world = canary::world().started().await;
    let pid = world.server().pid();
    let mut samples = Vec::new();
    let rounds = rounds();
    for round in 0..rounds {
        begin(&world, applications() / 6, round).join_all().await;
        Metrics::of(&world.client()).await.at_rest();
        samples.push((resident(pid), open_files(pid)));
    }
    println!("after each round: memory in KiB, and open files: {samples:?}");
    // The first half fills the database's caches and finds how many threads are busy at once, each with an arena of the
    // allocator's. From there on each ends where the one before did.
    let (first, last) = (samples[rounds / 2 - 1], samples[rounds - 1]);
    assert!(last.0 * 100 <= first.0 * 110 + 100 * 1024, "{samples:?}");
    // The ledger's readers come and go; a file left open by each canary would be many more.
    assert!(last.1 <= first.1 + 16, "{samples:?}");
}

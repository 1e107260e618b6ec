//! All applications at once.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::canary::{self, Canary, QUEUE, SLOTS};
use crate::flagger_sim::Attempt;
use crate::invariants::{Load, is_turned_away};
use crate::ledger;
use crate::metrics::{Metrics, open_files, resident};
use crate::support::{World, processes};

/// How many applications there are.
pub fn applications() -> usize {
    std::env::var("STAGEHOOK_LOAD_APPLICATIONS").map_or(150, |value| value.parse().unwrap())
}

/// The canaries of a round, which begin beside each other.
pub fn begin(world: &World, count: usize, round: usize) -> JoinSet<Canary> {
    (0..count).map(|number| Canary::new(world, number, round).run()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_canary_comes_to_its_end() {
    let world = canary::world().started().await;
    let pid = world.server().pid();
    let files = open_files(pid);
    let count = applications();
    let began = std::time::Instant::now();
    let mut load = std::pin::pin!(begin(&world, count, 0).join_all());
    let (mut queued, mut memory) = (0, 0);
    let canaries = loop {
        tokio::select! {
            canaries = &mut load => break canaries,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        let now = Metrics::of(&world.client()).await;
        assert!(now.get("running_scripts") as usize <= SLOTS);
        assert!(now.get("held_calls") as usize <= count);
        (queued, memory) = (queued.max(now.get("queued_scripts")), memory.max(resident(pid)));
    };
    let took = began.elapsed();
    let deployments = ledger::read(&world.client()).await;
    let journal = world.journal();
    let load = Load { canaries: &canaries, deployments: &deployments, journal: &journal, cut: false };
    tell(&load, took, queued, memory);
    load.check(&world);
    load.rollbacks_come_first();

    let metrics = Metrics::of(&world.client()).await;
    metrics.at_rest();
    counts_agree(&load, &metrics);
    // Of reading connections there may be a few more by now.
    let more = open_files(pid).saturating_sub(files);
    assert!(more <= 16, "{more} more files are open than before the load");
    let left = processes::of(world.path()).into_iter().filter(|process| process.pid != pid);
    assert_eq!(left.count(), 0);
    let refused = load.answers().any(|(_, reply)| is_turned_away(reply));
    assert!(refused || count < QUEUE + SLOTS, "the line was never full, so nothing was seen");
}

/// What was counted at the callers, in the scripts and in the ledger is what the service has counted.
fn counts_agree(load: &Load<'_>, metrics: &Metrics) {
    let mut calls: BTreeMap<String, u64> = BTreeMap::new();
    let mut refused = 0;
    for (Attempt { hook, .. }, reply) in load.answers() {
        let verdict = match reply.status {
            200 => "approved",
            501 | 404 => "rejected",
            503 if is_turned_away(reply) => {
                refused += 1;
                continue;
            }
            _ => "pending",
        };
        *calls.entry(format!("source=\"flagger\",hook=\"{hook}\",verdict=\"{verdict}\"")).or_default() += 1;
    }
    assert_eq!(metrics.family("calls_total"), calls);
    assert_eq!(metrics.get("requests_refused_total{source=\"flagger\",status=\"503\"}"), refused);
    let (mut runs, mut states): (BTreeMap<String, u64>, BTreeMap<String, u64>) = Default::default();
    for deployment in load.deployments.values() {
        *states.entry(format!("state=\"{}\"", deployment.state)).or_default() += 1;
        for run in &deployment.runs {
            let purpose = if run.rollback { "rollback" } else { "forward" };
            *runs.entry(format!("purpose=\"{purpose}\",outcome=\"{}\"", run.outcome)).or_default() += 1;
        }
    }
    assert_eq!(metrics.family("runs_total"), runs);
    assert_eq!(metrics.family("deployments"), states);
}

fn tell(load: &Load<'_>, took: Duration, queued: u64, memory: u64) {
    let (answers, refused) = load
        .answers()
        .fold((0, 0), |(all, refused), (_, reply)| (all + 1, refused + usize::from(is_turned_away(reply))));
    let scripts = load.journal.len() / 2;
    println!(
        "{} applications, {} deployments, {scripts} scripts in {took:.1?} ({:.0} a second); {answers} answers, {refused} of \
         them back-pressure; at most {queued} in line, {memory} KiB",
        load.canaries.len(),
        load.deployments.len(),
        scripts as f64 / took.as_secs_f64(),
    );
    // How often one call was turned away before it got in.
    let mut rows: Vec<usize> = Vec::new();
    for canary in load.canaries {
        let mut row: BTreeMap<&str, usize> = BTreeMap::new();
        for attempt in &canary.flagger.attempts {
            let Ok(reply) = &attempt.result else { continue };
            if is_turned_away(reply) {
                *row.entry(attempt.hook).or_default() += 1;
            } else {
                rows.extend(row.remove(attempt.hook));
            }
        }
    }
    rows.sort_unstable();
    let at = |part: f64| rows.get((rows.len() as f64 * part) as usize).or(rows.last()).copied().unwrap_or_default();
    println!(
        "{} calls were turned away: half of them {} times, 99 of 100 at most {}, the worst {}",
        rows.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

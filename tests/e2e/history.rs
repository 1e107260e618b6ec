//! What must be true of any history, whoever called and whatever died: checked from the records of the API, from what
//! the scripts wrote down themselves, and from what Flagger knows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::flagger_sim::Flagger;
use crate::support::World;
use crate::support::poll::poll_until;

/// One run, as the records tell it.
#[derive(Debug)]
struct Run {
    deployment: String,
    stage: String,
    rollback: bool,
    started: u64,
    finished: Option<u64>,
    outcome: String,
}

/// Everything that is known of one deployment.
struct Deployment {
    told: Value,
    records: Vec<Value>,
    released: Vec<u64>,
}

/// Waits until nothing moves, then checks everything.
pub async fn check(world: &World, flagger: &Flagger) {
    let client = world.client();
    poll_until("nothing runs and nothing is being undone", || async {
        let all = client.deployments().await;
        let idle = client.get("/metrics").await.text.lines().any(|line| line == "stagehook_running_scripts 0");
        (idle && all.iter().all(|d| d["state"] != "RollingBack")).then_some(())
    })
    .await;
    let mut deployments = BTreeMap::new();
    for listed in client.deployments().await {
        let id = listed["id"].as_str().unwrap().to_owned();
        let records = client.records(&id).await;
        let released = of_type(&records, "released").map(seq).collect();
        deployments.insert(id.clone(), Deployment { told: client.deployment(&id).await, records, released });
    }
    tell(&deployments, flagger);
    let runs = runs(&deployments);
    every_script_is_in_the_ledger(world, &runs);
    nothing_runs_again_unless_it_may(&deployments, &runs);
    rollbacks_begin_when_all_is_dead(&runs);
    nothing_goes_forward_beside_a_rollback(&deployments, &runs);
    what_was_executed_is_undone_once(&deployments, &runs);
    ends_are_what_flagger_knows(&deployments, flagger);
    who_is_to_come_again_is_told_when(flagger);
    world.verify();
}

/// The whole story, for whoever has to find out what went wrong in it.
fn tell(deployments: &BTreeMap<String, Deployment>, flagger: &Flagger) {
    let mut records: Vec<_> = deployments.values().flat_map(|deployment| &deployment.records).collect();
    records.sort_by_key(|record| seq(record));
    for record in records {
        println!("{} {} {}", record["seq"], record["deployment"], record["event"]);
    }
    for rollout in &flagger.rollouts {
        println!("{rollout:?}");
    }
    for said in &flagger.said {
        println!("{said:?}");
    }
}

fn of_type<'a>(records: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["event"]["type"] == kind)
}

fn seq(record: &Value) -> u64 {
    record["seq"].as_u64().unwrap()
}

fn runs(deployments: &BTreeMap<String, Deployment>) -> BTreeMap<String, Run> {
    let mut runs = BTreeMap::new();
    for (id, deployment) in deployments {
        for record in of_type(&deployment.records, "stageStarted") {
            let event = &record["event"];
            let run = Run {
                deployment: id.clone(),
                stage: event["stage"].as_str().unwrap().to_owned(),
                rollback: event["purpose"]["kind"] == "rollback",
                started: seq(record),
                finished: None,
                outcome: "Running".to_owned(),
            };
            let twice = runs.insert(event["run"].as_str().unwrap().to_owned(), run);
            assert!(twice.is_none(), "a run began twice: {record}");
        }
        for record in of_type(&deployment.records, "stageFinished") {
            let event = &record["event"];
            let run = runs.get_mut(event["run"].as_str().unwrap()).unwrap();
            assert!(run.finished.is_none() && run.started < seq(record), "{record}");
            run.finished = Some(seq(record));
            run.outcome = event["ending"]["outcome"].as_str().unwrap().to_owned();
        }
    }
    runs
}

fn every_script_is_in_the_ledger(world: &World, runs: &BTreeMap<String, Run>) {
    let mut seen = BTreeSet::new();
    for line in world.journal() {
        let run = runs.get(&line.run).unwrap_or_else(|| panic!("not in the ledger: {line:?}"));
        let key = if run.rollback { format!("undo.{}", run.stage) } else { run.stage.clone() };
        assert_eq!((&line.deployment, &line.key), (&run.deployment, &key));
        assert!(seen.insert((line.what.clone(), line.run.clone())), "one run, two processes: {line:?}");
        if line.what == "end" {
            assert_ne!(run.outcome, "Failed", "{line:?} {run:?}");
        }
    }
    // A run that ended by itself had a process that began.
    for (id, run) in runs.iter().filter(|(_, run)| ["Succeeded", "Failed"].contains(&run.outcome.as_str())) {
        assert!(seen.contains(&("start".to_owned(), id.clone())), "{id} never ran: {run:?}");
    }
}

/// By the rules of `repeat`: what the pipeline's stages here are is `always` on the step hooks, else `retry-failed`.
fn nothing_runs_again_unless_it_may(deployments: &BTreeMap<String, Deployment>, runs: &BTreeMap<String, Run>) {
    for (id, deployment) in deployments {
        for stage in deployment.told["stages"].as_array().unwrap() {
            let always = ["rollout", "confirm-traffic-increase"].contains(&stage["hook"].as_str().unwrap_or_default());
            let mut own: Vec<_> = runs
                .values()
                .filter(|run| run.deployment == *id && !run.rollback && stage["id"] == run.stage)
                .collect();
            own.sort_by_key(|run| run.started);
            for pair in own.windows(2) {
                let [before, after] = pair else { continue };
                let over = before.finished.is_some_and(|finished| finished < after.started);
                assert!(over, "{after:?} began while {before:?} was alive");
                let released = deployment
                    .released
                    .iter()
                    .any(|seq| before.finished.is_some_and(|finished| finished < *seq) && *seq < after.started);
                let may = match before.outcome.as_str() {
                    "Failed" | "TimedOut" | "Interrupted" => true,
                    "Succeeded" => always,
                    "Cancelled" => released,
                    _ => false,
                };
                assert!(may, "{after:?} ran again after {before:?}");
            }
        }
    }
}

fn rollbacks_begin_when_all_is_dead(runs: &BTreeMap<String, Run>) {
    for undo in runs.values().filter(|run| run.rollback) {
        for forward in runs.values().filter(|run| !run.rollback && run.deployment == undo.deployment) {
            let apart = forward.started > undo.started || forward.finished.is_some_and(|end| end < undo.started);
            assert!(apart, "{undo:?} beside {forward:?}");
        }
    }
}

fn nothing_goes_forward_beside_a_rollback(deployments: &BTreeMap<String, Deployment>, runs: &BTreeMap<String, Run>) {
    for deployment in deployments.values() {
        for began in of_type(&deployment.records, "rollbackStarted").map(seq) {
            let ended = of_type(&deployment.records, "ended").map(seq).find(|seq| *seq > began).unwrap_or(u64::MAX);
            for run in runs.values().filter(|run| !run.rollback) {
                let beside = began < run.started && run.started < ended;
                assert!(!beside, "{run:?} began during the rollback {began}-{ended} of {}", deployment.told["id"]);
            }
        }
    }
}

fn what_was_executed_is_undone_once(deployments: &BTreeMap<String, Deployment>, runs: &BTreeMap<String, Run>) {
    for (id, deployment) in deployments {
        let state = deployment.told["state"].as_str().unwrap();
        let stages = |rollback: bool, outcome: &str| {
            let mut found: Vec<_> = runs
                .values()
                .filter(|run| run.deployment == *id && run.rollback == rollback)
                .filter(|run| outcome.is_empty() || run.outcome == outcome)
                .map(|run| run.stage.clone())
                .collect();
            found.sort();
            found
        };
        let mut executed = stages(false, "");
        executed.dedup();
        let undone = stages(true, "Succeeded");
        match state {
            "RolledBack" => assert_eq!(undone, executed, "{id}"),
            "RollbackFailed" => {
                let mut once = undone.clone();
                once.dedup();
                assert_eq!(once, undone, "{id}: undone twice");
                assert!(undone.len() < executed.len(), "{id}: nothing failed");
            }
            "Succeeded" | "Progressing" => assert!(stages(true, "").is_empty(), "{id} is {state} and was undone"),
            _ => {
                let closed = deployment.told["reason"] == "Closed";
                assert!(closed || stages(true, "").is_empty(), "{id} is {state} and was undone");
            }
        }
    }
}

/// A rollout that Flagger has promoted is never undone, unless a person or the pipeline wanted it; one whose failure was
/// reported is.
fn ends_are_what_flagger_knows(deployments: &BTreeMap<String, Deployment>, flagger: &Flagger) {
    for rollout in &flagger.rollouts {
        let Some(end) = rollout.end else { continue };
        let own = rollout.deployments.iter().filter_map(|id| deployments.get(id));
        let own: Vec<_> = own.filter(|d| d.told["revision"] == rollout.checksum.as_str()).collect();
        for deployment in &own {
            let (state, reason) = (&deployment.told["state"], &deployment.told["reason"]);
            let asked = reason == "Requested" || reason == "Cancelled" || reason == "StageFailed";
            let undone = state == "RolledBack" || state == "RollbackFailed";
            assert!(!end.succeeded || !undone || asked, "{rollout:?} has succeeded: {:#}", deployment.told);
        }
        let Some(last) = own.last() else { continue };
        if end.reported {
            let state = last.told["state"].as_str().unwrap();
            let expected = if end.succeeded { "Succeeded" } else { "RolledBack" };
            let closed = last.told["reason"] == "Closed" || of_type(&last.records, "ended").count() > 1;
            let failed = !end.succeeded && state == "RollbackFailed";
            let asked = ["Requested", "Cancelled", "StageFailed"].iter().any(|reason| last.told["reason"] == *reason);
            assert!(state == expected || closed || failed || asked, "{rollout:?} is {state}: {:#}", last.told);
        }
    }
}

fn who_is_to_come_again_is_told_when(flagger: &Flagger) {
    for attempt in &flagger.attempts {
        let Ok(reply) = &attempt.result else { continue };
        let told = reply.header("retry-after").is_some();
        assert_eq!(told, reply.status == 503, "{} at {}: {reply:?}", attempt.hook, attempt.at);
    }
}

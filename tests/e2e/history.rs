//! What must be true of any history, whoever called and whatever died: checked from the records of the API, from what
//! the scripts wrote down themselves, and from what Flagger knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::flagger_sim::Flagger;
use crate::support::World;
use crate::support::poll::{DEADLINE, poll_until};

/// One run, as the records tell it.
#[derive(Debug)]
struct Run {
    deployment: String,
    stage: String,
    rollback: bool,
    started: u64,
    finished: Option<u64>,
    outcome: String,
    /// It failed because its supervisor was killed: what the script itself came to is not known.
    lost: bool,
}

/// Everything that is known of one deployment.
struct Deployment {
    told: Value,
    records: Vec<Value>,
    released: Vec<u64>,
}

/// Whoever was told that something is taken on finds it in the file at that very moment, whatever dies next.
#[track_caller]
pub fn assert_recorded(folder: &Path, deployment: &str, events: &[&str]) {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let ledger = Connection::open_with_flags(folder.join("data/stagehook.db"), flags).unwrap();
    ledger.busy_timeout(DEADLINE).unwrap();
    let mut statement = ledger.prepare("SELECT body ->> '$.event.type' FROM records WHERE deployment = ?1").unwrap();
    let found: Vec<String> = statement.query_map([deployment], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(found.iter().any(|event| events.contains(&event.as_str())), "acknowledged and not recorded: {found:?}");
}

/// Waits until nothing moves, then checks everything.
pub async fn check(world: &World, flagger: &Flagger) {
    check_all(world, &[flagger]).await;
}

/// The same of several canaries, of which each looks after an application of its own.
pub async fn check_all(world: &World, flaggers: &[&Flagger]) {
    let client = world.client();
    poll_until("nothing runs and nothing is being undone", || async {
        let all = client.deployments().await;
        let idle = client.get("/metrics").await.text.lines().any(|line| line == "stagehook_running_scripts 0");
        (idle && all.iter().all(|d| d["state"] != "RollingBack")).then_some(())
    })
    .await;
    let mut deployments = BTreeMap::new();
    for listed in client.deployments().await {
        // What was there before the test has no script that it could have seen.
        if listed["application"].as_str().unwrap().starts_with("old/") {
            continue;
        }
        let id = listed["id"].as_str().unwrap().to_owned();
        let records = client.records(&id).await;
        let released = of_type(&records, "released").map(seq).collect();
        deployments.insert(id.clone(), Deployment { told: client.deployment(&id).await, records, released });
    }
    every_script_is_in_the_ledger(world, &runs(&deployments));
    assert_eq!(world.read("violations"), "", "scripts that were alive beside each other");
    for flagger in flaggers {
        let application = format!("test/{}", flagger.name);
        let mut own = BTreeMap::new();
        while let Some((id, _)) = deployments.iter().find(|(_, d)| d.told["application"] == application) {
            let id = id.clone();
            own.extend(deployments.remove_entry(&id));
        }
        tell(&own, flagger);
        let runs = runs(&own);
        nothing_runs_again_unless_it_may(&own, &runs);
        rollbacks_begin_when_all_is_dead(&runs);
        nothing_goes_forward_beside_a_rollback(&own, &runs);
        what_was_executed_is_undone_once(&own, &runs);
        let reverse = world.read(&format!("pipelines/{}.yaml", flagger.name)).contains("reverse");
        undone_in_order(&own, &runs, reverse);
        ends_are_what_flagger_knows(&own, flagger);
        what_was_acknowledged_still_holds(flagger, &own, &runs);
        who_is_to_come_again_is_told_when(flagger);
    }
    // Those of other callers.
    let runs = runs(&deployments);
    rollbacks_begin_when_all_is_dead(&runs);
    what_was_executed_is_undone_once(&deployments, &runs);
    undone_in_order(&deployments, &runs, false);
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
        // A wait is no script: it has no process, and nothing undoes it.
        let scripts = |record: &&Value| record["event"]["until"].is_null();
        for record in of_type(&deployment.records, "stageStarted").filter(scripts) {
            let event = &record["event"];
            let run = Run {
                deployment: id.clone(),
                stage: event["stage"].as_str().unwrap().to_owned(),
                rollback: event["purpose"]["kind"] == "rollback",
                started: seq(record),
                finished: None,
                outcome: "Running".to_owned(),
                lost: false,
            };
            let twice = runs.insert(event["run"].as_str().unwrap().to_owned(), run);
            assert!(twice.is_none(), "a run began twice: {record}");
        }
        for record in of_type(&deployment.records, "stageFinished") {
            let event = &record["event"];
            let Some(run) = runs.get_mut(event["run"].as_str().unwrap()) else { continue };
            assert!(run.finished.is_none() && run.started < seq(record), "{record}");
            run.finished = Some(seq(record));
            run.outcome = event["ending"]["outcome"].as_str().unwrap().to_owned();
            run.lost = event["ending"]["message"].as_str().is_some_and(|text| text.contains("supervisor was killed"));
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
        if line.what == "end" && !run.lost {
            assert_ne!(run.outcome, "Failed", "{line:?} {run:?}");
        }
    }
    // A run that ended by itself had a process that began.
    for (id, run) in runs.iter().filter(|(_, run)| ["Succeeded", "Failed"].contains(&run.outcome.as_str())) {
        assert!(run.lost || seen.contains(&("start".to_owned(), id.clone())), "{id} never ran: {run:?}");
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

/// The runs that undid a deployment, as they succeeded, walk over the pipeline in its order.
fn undone_in_order(deployments: &BTreeMap<String, Deployment>, runs: &BTreeMap<String, Run>, reverse: bool) {
    for (id, deployment) in deployments.iter().filter(|(_, deployment)| deployment.told["state"] == "RolledBack") {
        let mut undone: Vec<_> = runs
            .values()
            .filter(|run| run.deployment == *id && run.rollback && run.outcome == "Succeeded")
            .map(|run| (run.started, run.stage.as_str()))
            .collect();
        undone.sort_unstable();
        let stages: Vec<_> =
            deployment.told["stages"].as_array().unwrap().iter().map(|stage| stage["id"].as_str().unwrap()).collect();
        let place = |stage: &str| stages.iter().position(|known| *known == stage);
        let mut places: Vec<_> = undone.iter().map(|(_, stage)| place(stage).unwrap()).collect();
        if reverse {
            places.reverse();
        }
        // A failure that is told again undoes what was started since, or failed: that comes later, whatever its place.
        let replays = of_type(&deployment.records, "rollbackStarted").count();
        assert!(places.is_sorted() || replays > 1, "{id} was undone in the order {undone:?} of {stages:?}");
    }
}

/// What a caller was told is in the ledger: each run that an answer names, with the end that it gave.
fn what_was_acknowledged_still_holds(
    flagger: &Flagger,
    deployments: &BTreeMap<String, Deployment>,
    runs: &BTreeMap<String, Run>,
) {
    for answer in flagger.answers.iter().filter(|answer| answer["deployment"].is_string()) {
        let deployment = answer["deployment"].as_str().unwrap();
        assert!(deployments.contains_key(deployment), "{answer} is about a deployment that is not there");
        let is_script = |stage: &&Value| stage["run"].is_string() && stage["name"] != "WAIT";
        for stage in answer["stages"].as_array().unwrap().iter().filter(is_script) {
            let run = runs.get(stage["run"].as_str().unwrap());
            let run = run.unwrap_or_else(|| panic!("{answer} tells of a run that is not there"));
            let (told, state) = (stage["state"].as_str().unwrap(), run.outcome.as_str());
            assert!(told == state || told == "Running" || told == "Skipped", "{answer}, and the ledger: {run:?}");
            assert_eq!(run.deployment, deployment, "{answer}");
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

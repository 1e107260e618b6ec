//! Retention as the engine does it: what must stay although it is old, and a decision that pruning comes between.

use super::*;
use crate::engine::retention::Pruner;
use crate::ledger::{Cut, ListQuery, Step, StreamKey, filler, verify};

/// Deployments that ended long ago, as the clock of these tests goes: everything before tomorrow is long ago.
async fn filled(count: u64) -> (Lab, Vec<DeploymentId>) {
    let lab = Lab::new().await;
    let mut ids = Vec::new();
    for number in 0..count {
        let id = clock::mint(clock::now()).deployment();
        lab.write(id, [opened(number), Event::RolloutSucceeded, ended(EndState::Succeeded)]).await;
        ids.push(id);
    }
    (lab, ids)
}

fn pruner(lab: &Lab) -> Pruner {
    Pruner::new(Arc::downgrade(&lab.engine.0), Some(tomorrow()))
}

fn tomorrow() -> jiff::Timestamp {
    clock::now() + jiff::SignedDuration::from_hours(24)
}

async fn listed(lab: &Lab) -> usize {
    let query = ListQuery { limit: 100, ..ListQuery::default() };
    lab.engine.ledger().list(&query).await.unwrap().deployments.len()
}

#[tokio::test]
async fn what_was_undone_here_holds_its_rollout_however_old_it_is() {
    let (lab, ids) = filled(2).await;
    let begun = Event::RollbackStarted { replay: 1, reason: Reason::Requested, own: true, payload: None };
    lab.write(ids[1], [begun, ended(EndState::RolledBack)]).await;
    for number in 2..12 {
        lab.write(clock::mint(clock::now()).deployment(), [opened(number), ended(EndState::Abandoned)]).await;
    }
    pruner(&lab).round().await.unwrap();
    assert_eq!((listed(&lab).await, lab.engine.gauges().pruned_deployments), (11, 1));
    lab.write(ids[1], [Event::CallerEndSeen]).await;
    for number in 12..20 {
        lab.write(clock::mint(clock::now()).deployment(), [opened(number), ended(EndState::Abandoned)]).await;
    }
    pruner(&lab).round().await.unwrap();
    assert_eq!((listed(&lab).await, lab.engine.gauges().pruned_deployments), (8, 12));
    assert!(verify(&lab.folder.path().join("ledger.db"), None).unwrap().is_sound());
}

#[tokio::test]
async fn a_decision_about_what_is_pruned_meanwhile_is_made_again_and_finds_none() {
    let (lab, ids) = filled(12).await;
    let (oldest, run) = (ids[0], clock::mint(clock::now()).run());
    let entry = lab.engine.0.applications.entry(&stream().application);
    let mut streams = entry.streams.lock().await;
    // As it is between the reading of a decision and its commit.
    streams.by_source.insert(Source::Generic, lab.stream().await);
    assert!(streams.by_source[&Source::Generic].get(oldest).is_some());
    let ledger = lab.engine.ledger();
    let front = ledger.front(StreamKey::from(1), 8, tomorrow(), 100).await.unwrap();
    let cut = Some(Cut { until: front.groups[3].until, head: front.head });
    // The first of several steps: most of it is still in the file.
    let step = Step { stream: StreamKey::from(1), cut, rows: 1, at: clock::now() };
    assert!(!ledger.prune(step).await.unwrap().done);
    let (by, nobody) = (Actor("api".into()), BTreeSet::new());
    for (deployment, known) in [(oldest, false), (ids[3], false), (ids[4], true)] {
        let command = Command::Operate { deployment, operation: Operation::Rollback { now: true } };
        let carried =
            lab.engine.carry_out(&stream(), &entry, &mut streams, command, &by, &mut None, &[], &nobody).await;
        let (reply, _) = carried.unwrap();
        assert_eq!(matches!(reply, Reply::Accepted { .. }), known, "{reply:?}");
        assert_eq!(matches!(reply, Reply::Unknown { .. }), !known, "{reply:?}");
    }
    drop(streams);
    let told = lab.engine.operate(oldest, Operation::Close, Actor("api".into())).await;
    assert!(matches!(told, Told::Unknown { .. }), "{told:?}");
    let told = lab.engine.cancel_run(run, Actor("api".into())).await;
    assert!(matches!(told, Told::Unknown { .. }), "{told:?}");
    pruner(&lab).round().await.unwrap();
    assert!(verify(&lab.folder.path().join("ledger.db"), None).unwrap().is_sound());
}

#[tokio::test]
async fn a_checkpoint_that_condemns_everything_is_told_and_no_call_is_held_for_ever() {
    let (lab, _) = filled(20).await;
    pruner(&lab).round().await.unwrap();
    lab.write(clock::mint(clock::now()).deployment(), [opened(99)]).await;
    assert_eq!(listed(&lab).await, 9);
    let shell = Connection::open(lab.folder.path().join("ledger.db")).unwrap();
    shell.execute("UPDATE checkpoints SET until = 1 << 40", []).unwrap();
    let call = || lab.call(Hook::PreRollout, Says::Forward { revision: revision(99) });
    // Forged with a seal that fits: each append conflicts, and reading once more changes nothing.
    filler::seal(&shell);
    let told = call().await;
    assert!(matches!(&told, Told::Unavailable { message } if message.contains("16 times in a row")), "{told:?}");
    shell.execute("UPDATE checkpoints SET seal = 'x'", []).unwrap();
    pruner(&lab).round().await.unwrap();
    assert_eq!(listed(&lab).await, 9, "nothing went by it");
    let told = call().await;
    assert!(matches!(&told, Told::Unavailable { message } if message.contains("not what was written")), "{told:?}");
}

/// Whoever is first, the other one sees it: what is called about is there with all its records, or gone.
#[tokio::test(flavor = "multi_thread")]
async fn calls_and_pruning_at_the_same_time_leave_whole_deployments() {
    let (lab, ids) = filled(28).await;
    let pruning = {
        let pruner = pruner(&lab);
        tokio::spawn(async move { pruner.round().await })
    };
    let mut accepted = Vec::new();
    for id in ids.iter().rev() {
        match lab.engine.operate(*id, Operation::Rollback { now: true }, Actor("api".into())).await {
            Told::Accepted { .. } => accepted.push(*id),
            Told::Unknown { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    pruning.await.unwrap().unwrap();
    assert!(verify(&lab.folder.path().join("ledger.db"), None).unwrap().is_sound());
    assert!(accepted.len() >= 8, "the newest can't go");
    // What was accepted is ended again since, and may have gone as a whole after that.
    for id in accepted {
        if let Some((_, deployment)) = lab.engine.deployment(id).await.unwrap() {
            assert!(deployment.replay.is_some(), "{id}");
        }
    }
}

#[tokio::test]
async fn the_service_prunes_by_itself_once_it_is_started() {
    let (lab, _) = filled(20).await;
    let Lab { engine, folder } = lab;
    drop(engine);
    // As if a day had gone by: the clock can't be moved, so what is old is moved instead.
    let settings = Settings { retain: Some(Duration::from_nanos(1)), ..settings() };
    let engine = start(folder.path(), settings).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while engine.gauges().pruned_deployments < 12 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", engine.gauges());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    engine.ledger().check_writable().await.unwrap();
    drop(engine);
    assert!(verify(&folder.path().join("ledger.db"), None).unwrap().is_sound());
}

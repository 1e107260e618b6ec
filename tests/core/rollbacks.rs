//! Rollbacks: which stages, in which order, when, once.

use stagehook::domain::call::{Operation, Reply, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::pipeline::{Pipeline, RollbackOnFailure, RollbackOrder};
use stagehook::domain::record::{EndState, Outcome};
use stagehook::domain::summary::State;

use crate::pipelines::{external, pipeline, script, wait, without_undo};
use crate::world::World;

/// PipeCD's example: canary, wait, script, primary, script, clean, script. The stages of the delivery
/// tool are not run here, and its scripts stand on the hooks that are derived from their places.
fn seven() -> Pipeline {
    pipeline(vec![
        external("canary", "K8S_CANARY_ROLLOUT"),
        wait("wait", Hook::PreRollout),
        script("script3", Hook::Rollout),
        external("primary", "K8S_PRIMARY_ROLLOUT"),
        script("script5", Hook::ConfirmPromotion),
        external("clean", "K8S_CANARY_CLEAN"),
        script("script7", Hook::PostRollout),
    ])
}

/// The rollout as far as stage 2.
fn rollout_of_seven() -> World {
    let mut world = World::flagger(seven());
    let gate = world.forward(Hook::PreRollout, "a");
    let wait = *world.waits.keys().next().unwrap();
    world.end_run(wait, Outcome::Succeeded);
    assert_eq!(world.verdict(&gate), Verdict::Approved);
    world
}

#[test]
fn a_failure_at_three_undoes_three() {
    let mut world = rollout_of_seven();
    let gate = world.forward(Hook::Rollout, "a");
    world.fails("script3");
    let answer = world.answer(&gate);
    assert_eq!(answer.verdict, Verdict::Rejected);
    assert_eq!(answer.message, "stage script3 failed (as told: Failed): no such table");
    let report = world.failed("a");
    assert_eq!(world.all_succeed(), ["script3"]);
    assert_eq!((world.verdict(&report), world.state()), (Verdict::Approved, State::RolledBack));
}

#[test]
fn a_failure_at_four_undoes_three() {
    let mut world = rollout_of_seven();
    world.pass(Hook::Rollout, "a");
    let report = world.failed("a");
    assert_eq!(world.all_succeed(), ["script3"]);
    assert_eq!(world.verdict(&report), Verdict::Approved);
}

#[test]
fn a_failure_at_six_undoes_three_then_five_and_never_seven() {
    let mut world = rollout_of_seven();
    world.pass(Hook::Rollout, "a");
    world.pass(Hook::ConfirmPromotion, "a");
    let report = world.failed("a");
    assert_eq!(world.all_succeed(), ["script3", "script5"]);
    assert_eq!(world.verdict(&report), Verdict::Approved);
    let skipped = &world.current().end().unwrap().skipped;
    let skipped: Vec<_> = skipped.iter().map(|s| (s.stage.as_str(), s.reason.as_str())).collect();
    assert_eq!(skipped, [("script7", "the deployment ended before post-rollout was called")]);
}

#[test]
fn cancelled_at_three_its_script_dies_before_it_is_undone() {
    let mut world = rollout_of_seven();
    let gate = world.forward(Hook::Rollout, "a");
    world.grant_all();
    world.operate(world.id(), Operation::Cancel);
    assert_eq!((world.running(), world.queue.len()), (vec!["script3".to_owned()], 0), "it is not dead yet");
    world.ends("script3", Outcome::Cancelled);
    assert_eq!(world.verdict(&gate), Verdict::Rejected);
    assert_eq!(world.all_succeed(), ["script3"]);
    assert_eq!(world.state(), State::RolledBack);
}

#[test]
fn cancelling_a_wait_ends_it_at_once() {
    let mut world = World::flagger(seven());
    let gate = world.forward(Hook::PreRollout, "a");
    let wait = *world.waits.keys().next().unwrap();
    world.operate(world.id(), Operation::Cancel);
    assert_eq!((world.verdict(&gate), world.state()), (Verdict::Rejected, State::RolledBack));
    world.end_run(wait, Outcome::Succeeded);
    assert_eq!(world.facts, [], "its timer comes too late and changes nothing");
}

#[test]
fn cancelling_the_run_of_a_wait_rejects_its_hook() {
    let mut world = World::flagger(seven());
    let gate = world.forward(Hook::PreRollout, "a");
    let wait = *world.waits.keys().next().unwrap();
    world.operate(world.id(), Operation::CancelRun(wait));
    world.end_run(wait, Outcome::Cancelled);
    assert_eq!((world.verdict(&gate), world.state()), (Verdict::Rejected, State::Progressing));
}

fn four() -> Pipeline {
    pipeline(vec![
        script("tidy", Hook::Rollback),
        script("one", Hook::PreRollout),
        without_undo(script("two", Hook::PreRollout)),
        script("three", Hook::PreRollout),
        script("never", Hook::Rollout),
    ])
}

#[test]
fn in_pipeline_order_and_rollback_stages_last() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    world.failed("a");
    assert_eq!(world.all_succeed(), ["one", "three", "tidy"]);
}

#[test]
fn in_reverse_order_and_rollback_stages_still_last() {
    let mut pipeline = four();
    pipeline.rollback.order = RollbackOrder::Reverse;
    let mut world = World::flagger(pipeline);
    world.pass(Hook::PreRollout, "a");
    world.failed("a");
    assert_eq!(world.all_succeed(), ["three", "one", "tidy"]);
}

#[test]
fn one_that_fails_does_not_stop_the_rest() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    let report = world.failed("a");
    world.fails("one");
    assert_eq!(world.all_succeed(), ["three", "tidy"]);
    let answer = world.answer(&report);
    assert_eq!((answer.verdict, world.state()), (Verdict::Rejected, State::RollbackFailed));
    assert!(answer.message.contains("onRollback of stage one failed"), "{}", answer.message);
}

#[test]
fn one_that_fails_stops_the_rest_where_the_pipeline_says_so() {
    let mut pipeline = four();
    pipeline.rollback.on_failure = RollbackOnFailure::Stop;
    let mut world = World::flagger(pipeline);
    world.pass(Hook::PreRollout, "a");
    let report = world.failed("a");
    world.fails("one");
    assert_eq!(world.running(), [] as [&str; 0]);
    assert_eq!((world.verdict(&report), world.state()), (Verdict::Rejected, State::RollbackFailed));
    world.operate(world.id(), Operation::Rollback { now: false });
    assert_eq!(world.all_succeed(), ["one", "three", "tidy"], "the next replay does what was left out");
}

#[test]
fn with_nothing_to_run_it_is_rolled_back_at_once() {
    let mut world = World::flagger(seven());
    let report = world.failed("a");
    let answer = world.answer(&report);
    assert_eq!((answer.verdict, world.state()), (Verdict::Approved, State::RolledBack));
    assert!(answer.message.contains("nothing to undo"), "{}", answer.message);
}

#[test]
fn a_second_event_joins_the_replay_then_runs_only_what_failed() {
    let mut world = World::generic(four());
    world.pass(Hook::PreRollout, "a");
    let first = world.undo("a");
    let second = world.undo("a");
    world.fails("one");
    assert_eq!(world.all_succeed(), ["three", "tidy"]);
    assert_eq!((world.verdict(&first), world.verdict(&second)), (Verdict::Rejected, Verdict::Rejected));
    let third = world.undo("a");
    assert_eq!(world.all_succeed(), ["one"]);
    assert_eq!((world.verdict(&third), world.state()), (Verdict::Approved, State::RolledBack));
    let fourth = world.undo("a");
    assert_eq!((world.verdict(&fourth), world.running().len()), (Verdict::Approved, 0));
}

#[test]
fn a_failed_replay_that_nobody_heard_of_is_told_before_it_runs_again() {
    let mut world = World::generic(four());
    world.pass(Hook::PreRollout, "a");
    world.undo("a");
    world.waiting.clear();
    world.fails("one");
    world.all_succeed();
    let told = world.undo("a");
    assert_eq!((world.verdict(&told), world.queue.len()), (Verdict::Rejected, 0));
    world.undo("a");
    assert_eq!(world.all_succeed(), ["one"]);
}

#[test]
fn a_failed_replay_told_to_a_failure_report_counts_as_told() {
    let mut world = World::generic(four());
    world.pass(Hook::PreRollout, "a");
    world.undo("a");
    world.waiting.clear();
    world.fails("one");
    world.all_succeed();
    let told = world.failed("a");
    assert_eq!(world.verdict(&told), Verdict::Rejected);
    world.undo("a");
    assert_eq!(world.all_succeed(), ["one"]);
}

#[test]
fn repeated_failure_reports_are_answered_from_the_ledger() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    world.failed("a");
    let joined = world.failed("a");
    world.fails("one");
    world.all_succeed();
    assert_eq!(world.verdict(&joined), Verdict::Rejected);
    for _ in 0..2 {
        let again = world.failed("a");
        assert_eq!(
            (world.verdict(&again), world.queue.len(), world.state()),
            (Verdict::Rejected, 0, State::RollbackFailed)
        );
    }
    assert_eq!(world.stream.deployments.len(), 1);
}

#[test]
fn a_crash_in_the_middle_of_a_replay_keeps_what_had_succeeded() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    world.failed("a");
    world.succeeds("one");
    assert_eq!(world.running(), ["three"]);
    world.crash();
    assert_eq!(world.all_succeed(), ["three", "tidy"]);
    assert_eq!(world.undone_stages(world.id()), ["one", "three", "three", "tidy"]);
    assert_eq!(world.state(), State::RolledBack);
}

#[test]
fn a_crash_before_the_forward_script_is_dead_still_ends_in_a_replay() {
    let mut world = World::flagger(four());
    world.forward(Hook::PreRollout, "a");
    world.grant_all();
    world.failed("a");
    assert_eq!(world.running(), ["one"]);
    world.crash();
    assert_eq!(world.all_succeed(), ["one", "tidy"], "an interrupted stage counts as executed");
    assert_eq!(world.state(), State::RolledBack);
}

#[test]
fn failure_reports_are_taken_while_full_and_while_draining() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    (world.queue_full, world.draining) = (true, true);
    let report = world.failed("a");
    assert!(world.waits(&report));
    assert_eq!((world.state(), world.queue.len()), (State::RollingBack, 0), "committed, and nothing is started");
    world.crash();
    assert_eq!(world.all_succeed(), ["one", "three", "tidy"]);
}

#[test]
fn a_slot_that_comes_after_the_end_starts_nothing() {
    let mut world = World::flagger(four());
    world.forward(Hook::PreRollout, "a");
    let queued = *world.queue.first().unwrap();
    world.failed("a");
    world.all_succeed();
    world.grant(queued);
    assert_eq!(world.facts, []);
    assert_eq!(world.undone_stages(world.id()), ["tidy"], "no forward stage was ever started");
}

#[test]
fn while_one_is_rolled_back_no_forward_stage_starts() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    world.failed("a");
    let gate = world.forward(Hook::PreRollout, "b");
    assert!(world.waits(&gate));
    assert_eq!(world.all_succeed(), ["one", "three", "tidy", "one", "two", "three"]);
    assert_eq!(world.verdict(&gate), Verdict::Approved);
}

#[test]
fn a_rollback_told_by_another_source_blocks_as_well() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "x");
    world.elsewhere = Some(world.id());
    let gate = world.forward(Hook::Rollout, "x");
    assert!(world.waits(&gate) && world.queue.is_empty());
    world.elsewhere = None;
    world.step(stagehook::domain::call::Command::Resume { at_start: false }, false);
    assert_eq!(world.all_succeed(), ["never"]);
}

#[test]
fn closing_it_stops_the_replay_and_leaves_the_rest_untouched() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    let report = world.failed("a");
    world.grant_all();
    world.operate(world.id(), Operation::Close);
    assert_eq!(world.state(), State::Abandoned);
    let next = world.forward(Hook::PreRollout, "b");
    assert!(world.waits(&next) && world.queue.is_empty(), "its rollback script is not dead yet");
    world.ends("one", Outcome::Cancelled);
    assert_eq!(world.verdict(&report), Verdict::Rejected);
    assert_eq!(world.all_succeed(), ["one", "two", "three"]);
}

#[test]
fn what_a_person_closed_is_not_replayed_by_a_late_report() {
    let mut world = World::flagger(four());
    world.pass(Hook::PreRollout, "a");
    world.operate(world.id(), Operation::Close);
    let report = world.failed("a");
    assert_eq!((world.verdict(&report), world.state(), world.queue.len()), (Verdict::Rejected, State::Abandoned, 0));
    assert!(world.answer(&report).message.contains("closed"), "{}", world.answer(&report).message);
    assert!(matches!(world.operate(world.id(), Operation::Rollback { now: false }), Reply::Accepted { .. }));
    assert_eq!(world.all_succeed(), ["one", "three", "tidy"]);
    assert_eq!(world.current().end().unwrap().state, EndState::RolledBack);
}

#[test]
fn a_failure_report_is_answered_when_the_step_that_a_person_cut_short_is_dead() {
    let mut world = World::flagger(four());
    for hook in [Hook::PreRollout, Hook::Rollout] {
        world.pass(hook, "a");
    }
    let report = world.failed("a");
    world.grant_all();
    let first = world.running()[0].clone();
    world.succeeds(&first);
    world.operate(world.id(), Operation::Close);
    assert!(world.waits(&report) && world.running().len() == 1);
    let run = world.alive().next().unwrap().id;
    world.end_run(run, Outcome::Cancelled);
    let answer = world.answer(&report);
    assert_eq!(answer.verdict, Verdict::Rejected);
    assert!(answer.message.contains(&format!("undone: {first};")), "{}", answer.message);
}

#[test]
fn the_newest_is_undone_first_and_nothing_beside_another() {
    let mut world = World::generic(pipeline(vec![script("one", Hook::PreRollout), script("two", Hook::PreRollout)]));
    world.pass(Hook::PreRollout, "a");
    world.succeeded("a");
    let old = world.id();
    world.pass(Hook::PreRollout, "b");
    world.succeeded("b");
    let new = world.id();
    world.undo("a");
    world.grant_all();
    assert_eq!(world.running(), ["one"]);
    world.undo("b");
    world.grant_all();
    assert_eq!(world.running(), ["one"], "a step of the other is alive");
    assert_eq!(world.all_succeed(), ["one", "one", "two", "two"]);
    let ended = |id| world.stream.get(id).unwrap().end().unwrap().at;
    assert!(ended(new) < ended(old), "the last done is the first undone");
}

#[test]
fn a_replay_waits_until_what_is_killed_in_an_older_deployment_is_dead() {
    let clean = script("clean", Hook::Rollback);
    let mut world = World::flagger(pipeline(vec![script("migrate", Hook::PreRollout), clean]));
    world.forward(Hook::PreRollout, "a");
    world.grant_all();
    let report = world.failed("b");
    world.grant_all();
    assert_eq!(world.running(), ["migrate"]);
    let run = world.alive().next().unwrap().id;
    world.end_run(run, Outcome::Cancelled);
    world.unblock();
    assert_eq!(world.all_succeed(), ["clean"]);
    assert_eq!(world.verdict(&report), Verdict::Approved);
}

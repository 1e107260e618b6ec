//! Which deployment a call is about, what becomes of an older one, and who may end it.

use stagehook::domain::call::{Before, Command, Operation, Reply, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::pipeline::{OnSupersede, Pipeline};
use stagehook::domain::record::{Outcome, Reason};
use stagehook::domain::summary::State;

use crate::pipelines::{pipeline, script};
use crate::world::{World, rev, verdict};

fn stages() -> Pipeline {
    pipeline(vec![
        script("ask", Hook::ConfirmRollout),
        script("migrate", Hook::PreRollout),
        script("step", Hook::Rollout),
        script("tell", Hook::PostRollout),
    ])
}

fn confirm(world: &mut World, under: &str, before: Before) -> Reply {
    world.call(Hook::ConfirmRollout, Says::Opening { under: rev(under), before })
}

/// A rollout of `revision` that confirm-rollout has opened under `under`, as far as pre-rollout.
fn confirmed(under: &str, revision: &str) -> World {
    let mut world = World::flagger(stages());
    confirm(&mut world, under, Before::Succeeded);
    world.all_succeed();
    world.pass(Hook::PreRollout, revision);
    world
}

/// The same without confirm-rollout.
fn unconfirmed(revision: &str) -> World {
    let mut world = World::flagger(stages());
    world.pass(Hook::PreRollout, revision);
    world
}

fn reason(world: &World) -> Option<Reason> {
    world.current().end().and_then(|end| end.reason)
}

#[test]
fn confirm_rollout_opens_and_the_first_gate_gives_the_revision() {
    let mut world = World::flagger(stages());
    let first = confirm(&mut world, "a", Before::Succeeded);
    let repeated = confirm(&mut world, "a", Before::ByChecksum);
    assert_eq!(world.all_succeed(), ["ask"]);
    assert_eq!((world.verdict(&first), world.verdict(&repeated)), (Verdict::Approved, Verdict::Approved));
    assert_eq!((world.current().revision.clone(), world.current().under.clone()), (None, rev("a")));
    world.pass(Hook::PreRollout, "b");
    assert_eq!((world.current().revision.clone(), world.stream.deployments.len()), (rev("b"), 1));
}

#[test]
fn two_confirm_rollouts_after_a_failed_rollout_are_one_deployment() {
    let mut world = unconfirmed("a");
    world.failed("a");
    world.all_succeed();
    confirm(&mut world, "b", Before::Failed);
    confirm(&mut world, "b", Before::Failed);
    assert_eq!((world.all_succeed(), world.stream.deployments.len()), (vec!["ask".to_owned()], 2));
}

#[test]
fn a_lost_failure_shows_in_the_next_confirm_rollout() {
    let mut world = unconfirmed("a");
    let old = world.id();
    let first = confirm(&mut world, "b", Before::Failed);
    confirm(&mut world, "b", Before::Failed);
    assert_eq!((world.state_of(old), world.stream.deployments.len()), (State::RollingBack, 2));
    assert_eq!(world.all_succeed(), ["migrate", "ask"], "the next begins when the old one is undone");
    assert_eq!((world.verdict(&first), world.state_of(old)), (Verdict::Approved, State::RolledBack));
    assert_eq!(world.stream.get(old).unwrap().end().unwrap().reason, Some(Reason::FailureMissed));
}

#[test]
fn a_lost_success_shows_in_the_next_confirm_rollout() {
    for (under, before) in [("a", Before::Succeeded), ("a", Before::ByChecksum)] {
        let mut world = unconfirmed("a");
        let old = world.id();
        confirm(&mut world, under, before);
        assert_eq!((world.state_of(old), world.all_succeed()), (State::Succeeded, vec!["ask".to_owned()]));
        assert_eq!(world.stream.get(old).unwrap().end().unwrap().reason, Some(Reason::SuccessMissed));
    }
}

#[test]
fn waiting_under_another_checksum_shows_that_it_failed() {
    let mut world = unconfirmed("a");
    let old = world.id();
    confirm(&mut world, "z", Before::ByChecksum);
    world.all_succeed();
    assert_eq!((world.state_of(old), world.undone_stages(old)), (State::RolledBack, vec!["migrate".to_owned()]));
}

#[test]
fn a_new_revision_supersedes_what_confirm_rollout_had_opened() {
    let mut world = confirmed("z", "a");
    let old = world.id();
    let gate = world.forward(Hook::PreRollout, "b");
    assert_eq!(world.all_succeed(), ["ask", "migrate", "migrate"]);
    assert_eq!((world.verdict(&gate), world.state_of(old)), (Verdict::Approved, State::RolledBack));
    assert_eq!(world.stream.get(old).unwrap().end().unwrap().reason, Some(Reason::Superseded));
}

#[test]
fn the_question_with_a_new_revision_supersedes_first() {
    let mut world = confirmed("z", "a");
    assert!(!world.question("b"));
    assert_eq!((world.state(), world.stream.deployments.len()), (State::RollingBack, 1));
}

#[test]
fn a_restart_that_was_noted_proves_it_too() {
    let mut world = unconfirmed("a");
    let old = world.id();
    world.restart_event();
    world.forward(Hook::PreRollout, "b");
    assert_eq!(world.state_of(old), State::RollingBack);
}

#[test]
fn a_restart_after_another_rollout_began_proves_nothing() {
    let mut world = unconfirmed("a");
    let old = world.id();
    world.start_event();
    world.restart_event();
    world.forward(Hook::PreRollout, "c");
    assert_eq!(world.state_of(old), State::Abandoned);
}

#[test]
fn a_restart_that_came_back_to_its_revision_proves_nothing() {
    let mut world = unconfirmed("a");
    let old = world.id();
    world.restart_event();
    world.restart_event();
    assert!(!world.question("a"));
    world.forward(Hook::PreRollout, "b");
    assert_eq!(world.state_of(old), State::Abandoned);
}

#[test]
fn without_proof_it_is_abandoned_untouched() {
    let mut world = unconfirmed("a");
    let old = world.id();
    world.forward(Hook::PreRollout, "b");
    assert_eq!((world.all_succeed(), world.state_of(old)), (vec!["migrate".to_owned()], State::Abandoned));
    assert_eq!(world.undone_stages(old), [] as [&str; 0]);
}

#[test]
fn keep_leaves_it_as_it_is() {
    let mut pipeline = stages();
    pipeline.on_supersede = OnSupersede::Keep;
    let mut world = World::flagger(pipeline);
    confirm(&mut world, "z", Before::Succeeded);
    world.pass(Hook::PreRollout, "a");
    let old = world.id();
    world.forward(Hook::PreRollout, "b");
    assert_eq!(world.state_of(old), State::Abandoned);
}

#[test]
fn an_abandoned_one_waits_for_its_script_to_die() {
    let mut world = unconfirmed("a");
    world.forward(Hook::Rollout, "a");
    world.grant_all();
    world.forward(Hook::PreRollout, "b");
    assert_eq!((world.running(), world.queue.len()), (vec!["step".to_owned()], 0));
    world.ends("step", Outcome::Cancelled);
    assert_eq!(world.all_succeed(), ["migrate"]);
}

#[test]
fn a_failure_report_tells_how_an_abandoned_one_ended() {
    let mut world = unconfirmed("a");
    let old = world.id();
    world.pass(Hook::PreRollout, "b");
    let report = world.failed("a");
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!((world.verdict(&report), world.state_of(old)), (Verdict::Approved, State::RolledBack));
    assert_eq!(world.state(), State::Progressing);
}

#[test]
fn the_same_revision_after_the_end_is_a_new_deployment() {
    let mut world = unconfirmed("a");
    world.failed("a");
    world.all_succeed();
    world.forward(Hook::PreRollout, "a");
    assert_eq!((world.all_succeed(), world.stream.deployments.len()), (vec!["migrate".to_owned()], 2));
    world.failed("a");
    assert_eq!(world.all_succeed(), ["migrate"]);
}

#[test]
fn a_failure_after_the_success_is_noted_and_undoes_nothing() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    let early = world.failed("a");
    world.all_succeed();
    let late = world.failed("a");
    assert_eq!((world.verdict(&early), world.verdict(&late)), (Verdict::Approved, Verdict::Approved));
    assert_eq!((world.state(), world.queue.len()), (State::Succeeded, 0));
}

#[test]
fn a_late_repetition_of_post_rollout_is_about_the_old_one() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.succeeds("tell");
    confirm(&mut world, "a", Before::Succeeded);
    let again = world.succeeded("a");
    assert_eq!((world.verdict(&again), world.current().revision.clone()), (Verdict::Approved, None));
    assert!(world.current().is_open());
}

#[test]
fn a_late_repetition_does_not_supersede_the_next_rollout() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.succeeds("tell");
    world.pass(Hook::PreRollout, "b");
    let again = world.succeeded("a");
    assert_eq!((world.verdict(&again), world.stream.deployments.len()), (Verdict::Approved, 2));
    assert!(world.current().is_open());
}

#[test]
fn a_late_repetition_about_one_that_was_undone_since_changes_nothing() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.succeeds("tell");
    world.undo("a");
    world.all_succeed();
    confirm(&mut world, "a", Before::Succeeded);
    let again = world.succeeded("a");
    assert_eq!((world.verdict(&again), world.current().revision.clone()), (Verdict::Rejected, None));
    assert!(world.current().is_open());
}

#[test]
fn going_back_to_what_ran_before_a_failed_rollout_is_a_rollout_of_its_own() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.succeeds("tell");
    world.pass(Hook::PreRollout, "b");
    world.failed("b");
    world.all_succeed();
    // After a failure confirm-rollout carries the checksum of the new rollout already.
    confirm(&mut world, "a", Before::Failed);
    world.all_succeed();
    world.succeeded("a");
    world.all_succeed();
    assert_eq!((world.state(), world.current().revision.clone()), (State::Succeeded, rev("a")));
    assert_eq!(world.stream.deployments.len(), 3);
}

#[test]
fn the_next_rollout_waits_for_the_post_rollout_of_the_last() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.grant_all();
    let next = confirm(&mut world, "a", Before::Succeeded);
    assert!(world.waits(&next));
    assert_eq!(world.all_succeed(), ["tell", "ask"]);
    assert_eq!(world.verdict(&next), Verdict::Approved);
}

#[test]
fn the_next_rollout_waits_also_while_that_post_rollout_is_only_in_line() {
    let mut world = unconfirmed("a");
    world.forward(Hook::Rollout, "a");
    world.grant_all();
    world.succeeded("a");
    let next = confirm(&mut world, "a", Before::Succeeded);
    let step = world.alive().next().unwrap().id;
    world.end_run(step, Outcome::Succeeded);
    assert_eq!(world.all_succeed(), ["tell", "ask"]);
    assert_eq!(world.verdict(&next), Verdict::Approved);
}

#[test]
fn a_success_whose_stages_are_through_already_ends_at_once() {
    let mut world = unconfirmed("a");
    world.pass(Hook::PostRollout, "a");
    let reply = world.succeeded("a");
    assert_eq!((world.verdict(&reply), world.state()), (Verdict::Approved, State::Succeeded));
}

#[test]
fn a_requested_rollback_is_refused_where_flagger_never_asks() {
    let mut world = unconfirmed("a");
    let reply = world.operate(world.id(), Operation::Rollback { now: false });
    let Reply::Conflict { message } = reply else { panic!("{reply:?}") };
    assert!(message.contains("/hooks/flagger/rollback") && message.contains("now"), "{message}");
    assert_eq!(world.state(), State::Progressing);
    world.operate(world.id(), Operation::Rollback { now: true });
    assert_eq!(world.all_succeed(), ["migrate"]);
}

/// A rollout of `a` that a person wants undone, and whose caller asks.
fn requested() -> World {
    let mut world = unconfirmed("a");
    assert!(!world.question("a"));
    assert!(matches!(world.operate(world.id(), Operation::Rollback { now: false }), Reply::Accepted { .. }));
    assert_eq!((world.state(), world.signals.len()), (State::Progressing, 0));
    world
}

#[test]
fn the_yes_stays_until_the_failure_is_seen() {
    let mut world = requested();
    assert!(world.question("a") && world.question("a"));
    world.crash();
    assert!(world.question("a"), "after a crash as well");
    let report = world.failed("a");
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!((world.verdict(&report), reason(&world)), (Verdict::Approved, Some(Reason::Requested)));
    assert!(!world.question("a"), "the end was seen");
}

#[test]
fn a_request_never_reaches_the_next_deployment() {
    let mut world = requested();
    assert!(!world.question("b"));
    world.forward(Hook::PreRollout, "b");
    assert!(!world.question("b"));
    let mut world = requested();
    world.failed("a");
    world.all_succeed();
    world.pass(Hook::PreRollout, "a");
    assert!(!world.question("a"), "not even of the same revision");
}

#[test]
fn a_request_lapses_with_the_success() {
    let mut world = requested();
    world.succeeded("a");
    world.all_succeed();
    assert_eq!((world.state(), world.question("a")), (State::Succeeded, false));
}

#[test]
fn the_replay_starts_by_itself_when_the_report_does_not_come() {
    let mut world = requested();
    let deployment = world.id();
    world.step(Command::SignalTimedOut { deployment }, false);
    assert_eq!(world.facts, [], "the time counts from the first yes");
    world.question("a");
    let at = world.signals[&deployment];
    world.question("a");
    assert_eq!(world.signals[&deployment], at, "from the first");
    world.crash();
    assert_eq!(world.signals[&deployment], at, "and a crash does not move it");
    world.now = at;
    world.step(Command::SignalTimedOut { deployment }, false);
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert!(world.question("a"), "Flagger is still told to go back");
    world.failed("a");
    assert!(!world.question("a"));
}

#[test]
fn what_was_cancelled_rejects_its_gates_until_the_callers_own_end() {
    let mut world = unconfirmed("a");
    world.operate(world.id(), Operation::Cancel);
    assert_eq!(verdict(&world.forward(Hook::Rollout, "a")), Verdict::Rejected, "while it is undone");
    world.all_succeed();
    assert_eq!(verdict(&world.forward(Hook::Rollout, "a")), Verdict::Rejected);
    assert_eq!(verdict(&world.forward(Hook::Rollout, "")), Verdict::Rejected);
    let report = world.failed("a");
    assert_eq!((world.verdict(&report), reason(&world)), (Verdict::Approved, Some(Reason::Cancelled)));
    world.pass(Hook::PreRollout, "a");
    assert_eq!(world.stream.deployments.len(), 2);
}

#[test]
fn a_person_releases_it() {
    let mut world = unconfirmed("a");
    world.operate(world.id(), Operation::Cancel);
    world.all_succeed();
    let id = world.id();
    assert!(matches!(world.operate(id, Operation::Release), Reply::Accepted { .. }));
    world.pass(Hook::PreRollout, "a");
    assert_eq!(world.stream.deployments.len(), 2, "the rollout goes on as a new deployment");
    assert!(matches!(world.operate(id, Operation::Release), Reply::Conflict { .. }));
}

#[test]
fn another_revision_is_not_held() {
    let mut world = unconfirmed("a");
    world.operate(world.id(), Operation::Cancel);
    world.all_succeed();
    world.pass(Hook::PreRollout, "b");
    assert!(!world.stream.deployments[0].undone);
}

#[test]
fn undoing_again_what_failed_does_not_let_the_rollout_go_on() {
    let mut world = unconfirmed("a");
    world.operate(world.id(), Operation::Cancel);
    world.fails("migrate");
    assert_eq!(world.state(), State::RollbackFailed);
    world.operate(world.id(), Operation::Rollback { now: false });
    world.fails("migrate");
    let undo =
        |world: &mut World| world.call(Hook::Rollback, Says::Undo { deployment: Some(world.id()), revision: None });
    undo(&mut world);
    undo(&mut world);
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!(verdict(&world.forward(Hook::Rollout, "a")), Verdict::Rejected);
}

#[test]
fn undoing_a_success_holds_nothing_against_its_revision() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.grant_all();
    world.call(Hook::Rollback, Says::Undo { deployment: Some(world.id()), revision: None });
    world.ends("tell", Outcome::Cancelled);
    assert_eq!(world.all_succeed(), ["migrate", "tell"]);
    world.pass(Hook::PreRollout, "a");
}

#[test]
fn the_callers_end_of_one_that_was_undone_before_it_had_a_revision() {
    let mut world = World::flagger(stages());
    confirm(&mut world, "z", Before::Succeeded);
    world.all_succeed();
    world.operate(world.id(), Operation::Cancel);
    world.all_succeed();
    assert_eq!(verdict(&confirm(&mut world, "z", Before::ByChecksum)), Verdict::Rejected);
    assert!(world.question("a"), "Flagger is told to go back");
    let report = world.failed("a");
    assert_eq!((world.verdict(&report), world.stream.deployments.len()), (Verdict::Approved, 1));
    assert_eq!((world.current().revision.clone(), world.question("a")), (rev("a"), false));
}

#[test]
fn a_person_undoes_a_success() {
    let mut world = unconfirmed("a");
    world.succeeded("a");
    world.all_succeed();
    world.operate(world.id(), Operation::Rollback { now: false });
    assert_eq!(world.all_succeed(), ["migrate", "tell"]);
    assert_eq!((world.state(), reason(&world)), (State::RolledBack, Some(Reason::Requested)));
}

#[test]
fn closing_ends_it_without_a_replay() {
    let mut world = unconfirmed("a");
    world.operate(world.id(), Operation::Close);
    assert_eq!((world.state(), reason(&world), world.queue.len()), (State::Abandoned, Some(Reason::Closed), 0));
    assert!(matches!(world.operate(world.id(), Operation::Close), Reply::Conflict { .. }));
    assert!(matches!(world.operate(world.id(), Operation::Cancel), Reply::Conflict { .. }));
}

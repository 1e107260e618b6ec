//! Calls that name their rollout or themselves, that nobody waits for, and whose outcome is told elsewhere.

use stagehook::domain::call::{Call, CallKey, Command, Operation, Reply, ReportTo, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::DeploymentId;
use stagehook::domain::names::{RolloutId, Source};
use stagehook::domain::pipeline::{Pipeline, Repeat};
use stagehook::domain::record::{About, Event, Outcome, Payload, Reason};
use stagehook::domain::summary::State;

use crate::pipelines::{held, pipeline, repeating, script};
use crate::world::{World, rev};

pub fn stages() -> Pipeline {
    pipeline(vec![
        script("migrate", Hook::PreRollout),
        repeating(Repeat::Always, script("check", Hook::Rollout)),
        script("smoke", Hook::PostRollout),
    ])
}

/// A call that names its rollout `id`, of revision `revision`.
pub fn about(world: &World, id: &str, hook: Hook, says: Says) -> Call {
    let mut call = Call::new(world.stream.id.source, hook, says, Payload::default(), About::default());
    call.rollout = (!id.is_empty()).then(|| RolloutId::new(id).unwrap());
    call
}

pub fn forward(world: &mut World, id: &str, hook: Hook, revision: &str) -> Reply {
    let call = about(world, id, hook, Says::Forward { revision: rev(revision) });
    world.tell(call)
}

pub fn succeeded(world: &mut World, id: &str, revision: &str) -> Reply {
    let call = about(world, id, Hook::PostRollout, Says::Succeeded { revision: rev(revision) });
    world.tell(call)
}

pub fn failed(world: &mut World, id: &str, revision: &str) -> Reply {
    let call = about(world, id, Hook::Rollback, Says::Failed { revision: rev(revision) });
    world.tell(call)
}

/// One rollout with its first gate passed.
fn begun(source: Source) -> (World, DeploymentId) {
    let mut world = World::new(source, stages());
    forward(&mut world, "1", Hook::PreRollout, "a");
    assert_eq!(world.all_succeed(), ["migrate"]);
    let id = world.id();
    (world, id)
}

#[test]
fn another_rollout_of_the_same_revision_is_another_deployment() {
    let (mut world, first) = begun(Source::Github);
    let reply = forward(&mut world, "2", Hook::PreRollout, "a");
    assert!(world.waits(&reply));
    assert_ne!(world.id(), first);
    assert_eq!(world.state_of(first), State::Abandoned, "its end was not told, and nothing proves that it failed");
    assert_eq!(world.all_succeed(), ["migrate"]);
}

#[test]
fn a_late_word_finds_its_rollout_behind_a_newer_one() {
    let (mut world, first) = begun(Source::Github);
    forward(&mut world, "2", Hook::PreRollout, "a");
    world.all_succeed();
    let second = world.id();
    let reply = failed(&mut world, "1", "a");
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    assert_eq!((world.state_of(first), world.state_of(second)), (State::RolledBack, State::Progressing));
    let reply = forward(&mut world, "1", Hook::Rollout, "a");
    assert_eq!(world.verdict(&reply), Verdict::Rejected, "it is over");
    assert_eq!(world.id(), second);
}

#[test]
fn a_late_success_of_a_rollout_whose_place_was_taken_is_its_end() {
    let (mut world, first) = begun(Source::Github);
    forward(&mut world, "2", Hook::PreRollout, "b");
    world.all_succeed();
    let second = world.id();
    assert_eq!(world.state_of(first), State::Abandoned);
    let reply = succeeded(&mut world, "1", "a");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    assert_eq!((world.state_of(first), world.state_of(second)), (State::Succeeded, State::Progressing));
    forward(&mut world, "2", Hook::Rollout, "b");
    assert_eq!(world.all_succeed(), ["check"], "the other goes on");
    failed(&mut world, "1", "a");
    assert_eq!(world.state_of(first), State::Succeeded);
}

#[test]
fn a_late_success_does_not_begin_beside_what_is_being_killed_and_what_was_closed_stays_closed() {
    let mut world = World::new(Source::Github, stages());
    forward(&mut world, "1", Hook::PreRollout, "a");
    world.grant_all();
    let first = world.id();
    forward(&mut world, "2", Hook::PreRollout, "b");
    let reply = succeeded(&mut world, "1", "a");
    assert_eq!(world.verdict(&reply), Verdict::Rejected, "its script is still dying");
    world.ends("migrate", Outcome::Cancelled);
    world.all_succeed();
    let second = world.id();
    world.operate(second, Operation::Close);
    let reply = succeeded(&mut world, "2", "b");
    assert_eq!((world.verdict(&reply), world.state_of(second)), (Verdict::Rejected, State::Abandoned));
    succeeded(&mut world, "1", "a");
    world.all_succeed();
    assert_eq!(world.state_of(first), State::Succeeded);
}

#[test]
fn the_failure_of_a_rollout_that_was_never_begun_here_leaves_the_one_in_progress_alone() {
    let (mut world, first) = begun(Source::Github);
    let reply = failed(&mut world, "9", "z");
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    assert_eq!((world.id(), world.state()), (first, State::Progressing));
    assert_eq!(world.facts, []);
}

#[test]
fn a_rollout_that_was_never_heard_of_and_failed_is_recorded_where_nothing_is_in_progress() {
    let mut world = World::new(Source::Github, stages());
    failed(&mut world, "9", "z");
    assert_eq!(world.state(), State::RolledBack);
    assert_eq!(world.current().rollout.as_ref().unwrap().as_str(), "9");
}

#[test]
fn github_never_begins_a_rollout_anew_and_argo_cd_does() {
    for (source, anew) in [(Source::Github, false), (Source::Argocd, true)] {
        let (mut world, first) = begun(source);
        failed(&mut world, "1", "a");
        world.all_succeed();
        assert_eq!(world.state(), State::RolledBack);
        let reply = forward(&mut world, "1", Hook::PreRollout, "a");
        assert_eq!((world.id() != first, world.waits(&reply)), (anew, anew), "{source}");
        if !anew {
            assert_eq!(world.verdict(&reply), Verdict::Rejected);
        }
    }
}

#[test]
fn an_operation_that_tries_again_with_another_revision_is_approved_of_nothing_that_ran_for_the_first() {
    let (mut world, first) = begun(Source::Argocd);
    succeeded(&mut world, "1", "a");
    world.all_succeed();
    let same = forward(&mut world, "1", Hook::PreRollout, "a");
    assert_eq!((world.verdict(&same), world.id()), (Verdict::Approved, first));
    let other = forward(&mut world, "1", Hook::PreRollout, "b");
    assert!(world.waits(&other));
    assert_ne!(world.id(), first);
    assert_eq!(world.all_succeed(), ["migrate"]);
}

#[test]
fn a_rollout_that_was_opened_without_its_id_learns_it() {
    let mut world = World::new(Source::Argocd, stages());
    forward(&mut world, "", Hook::PreRollout, "a");
    world.all_succeed();
    let first = world.id();
    forward(&mut world, "1", Hook::Rollout, "a");
    world.all_succeed();
    assert_eq!((world.id(), world.current().rollout.as_ref().unwrap().as_str()), (first, "1"));
    forward(&mut world, "2", Hook::Rollout, "a");
    assert_ne!(world.id(), first);
    let other = forward(&mut world, "", Hook::Rollout, "a");
    assert!(world.waits(&other), "a call that names no rollout means the one in progress");
}

#[test]
fn what_was_undone_here_is_held_against_its_rollout_only() {
    let (mut world, first) = begun(Source::Github);
    world.operate(first, Operation::Cancel);
    assert_eq!(world.all_succeed(), ["migrate"]);
    let reply = forward(&mut world, "1", Hook::Rollout, "a");
    assert_eq!(world.verdict(&reply), Verdict::Rejected);
    let reply = succeeded(&mut world, "1", "a");
    assert_eq!((world.verdict(&reply), world.id()), (Verdict::Rejected, first));
    let reply = forward(&mut world, "2", Hook::PreRollout, "a");
    assert!(world.waits(&reply), "another rollout of the same commit");
}

#[test]
fn a_success_that_is_told_twice_runs_its_stages_once() {
    let (mut world, first) = begun(Source::Github);
    succeeded(&mut world, "1", "a");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let reply = succeeded(&mut world, "1", "a");
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    assert_eq!(world.all_succeed(), Vec::<String>::new());
    let reply = failed(&mut world, "1", "a");
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    assert_eq!(world.state_of(first), State::Succeeded, "a failure told after the success undoes nothing");
}

pub fn keyed(world: &World, key: &str, stamp: Option<i64>, hook: Hook, says: Says) -> Call {
    let mut call = about(world, "", hook, says);
    call.key = Some(CallKey { id: key.to_owned(), stamp });
    call
}

pub fn gate(world: &mut World, key: &str, stamp: Option<i64>) -> Reply {
    let call = keyed(world, key, stamp, Hook::Rollout, Says::Forward { revision: rev("a") });
    world.tell(call)
}

#[test]
fn a_call_that_is_repeated_under_its_name_runs_nothing_again() {
    let mut world = World::generic(stages());
    let first = gate(&mut world, "k1", None);
    let joined = gate(&mut world, "k1", None);
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!((world.verdict(&first), world.verdict(&joined)), (Verdict::Approved, Verdict::Approved));
    let again = gate(&mut world, "k1", None);
    assert_eq!(world.verdict(&again), Verdict::Approved);
    assert_eq!(world.all_succeed(), Vec::<String>::new(), "although the stage runs on each call");
    gate(&mut world, "k2", None);
    assert_eq!(world.all_succeed(), ["check"], "another call of the same kind");
}

#[test]
fn a_repetition_after_the_end_opens_nothing() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", None);
    world.all_succeed();
    let id = world.id();
    world.succeeded("a");
    world.all_succeed();
    assert_eq!(world.state(), State::Succeeded);
    let again = gate(&mut world, "k1", None);
    assert_eq!((world.verdict(&again), world.id()), (Verdict::Approved, id));
}

#[test]
fn a_rejection_is_kept_for_its_name() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", None);
    world.fails("check");
    let again = gate(&mut world, "k1", None);
    assert_eq!(world.verdict(&again), Verdict::Rejected);
    assert!(world.running().is_empty());
}

#[test]
fn a_name_means_another_call_on_another_hook() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", None);
    world.all_succeed();
    let call = keyed(&world, "k1", None, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    assert_eq!(world.all_succeed(), ["migrate"]);
}

#[test]
fn what_a_crash_cut_runs_again_under_its_name() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", None);
    world.grant_all();
    world.crash();
    let again = gate(&mut world, "k1", None);
    assert!(world.waits(&again));
    assert_eq!(world.all_succeed(), ["check"]);
}

#[test]
fn the_very_same_signature_is_a_replay_once_it_was_answered() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", Some(7));
    let joined = gate(&mut world, "k1", Some(7));
    assert!(world.waits(&joined), "a proxy's second attempt");
    world.all_succeed();
    assert!(matches!(gate(&mut world, "k1", Some(7)), Reply::Conflict { .. }));
    let signed_anew = gate(&mut world, "k1", Some(9));
    assert_eq!(world.verdict(&signed_anew), Verdict::Approved);
    assert!(world.running().is_empty());
}

#[test]
fn a_replayed_rollback_does_not_reach_the_next_deployment() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", Some(1));
    world.all_succeed();
    let first = world.id();
    let undo = |world: &World, stamp| {
        keyed(world, "k2", Some(stamp), Hook::Rollback, Says::Undo { deployment: None, revision: None })
    };
    let reply = world.tell(undo(&world, 2));
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    gate(&mut world, "k3", Some(3));
    world.all_succeed();
    assert_ne!(world.id(), first);
    // The end of the replay was heard by whoever waited for it.
    assert!(matches!(world.tell(undo(&world, 2)), Reply::Conflict { .. }));
    let anew = world.tell(undo(&world, 4));
    assert_eq!(world.verdict(&anew), Verdict::Approved);
    assert_eq!(world.state(), State::Progressing, "the second deployment goes on");
}

#[test]
fn a_call_that_was_told_to_come_again_runs_when_it_does() {
    let mut world = World::generic(stages());
    world.draining = true;
    let reply = gate(&mut world, "k1", None);
    assert_eq!(world.verdict(&reply), Verdict::Pending);
    world.crash();
    let again = gate(&mut world, "k1", None);
    assert!(world.waits(&again));
    assert_eq!(world.all_succeed(), ["check"]);
}

#[test]
fn a_call_that_was_rejected_before_a_release_runs_after_it() {
    let mut world = World::generic(stages());
    world.forward(Hook::PreRollout, "a");
    world.all_succeed();
    let id = world.id();
    world.operate(id, Operation::Close);
    world.operate(id, Operation::Rollback { now: true });
    world.all_succeed();
    let rejected = gate(&mut world, "k1", None);
    assert_eq!(world.verdict(&rejected), Verdict::Rejected);
    let again = gate(&mut world, "k1", None);
    assert_eq!(world.verdict(&again), Verdict::Rejected);
    world.operate(id, Operation::Release);
    let over = gate(&mut world, "k1", None);
    assert_eq!(world.verdict(&over), Verdict::Rejected, "the deployment that it was answered for is over");
}

pub fn unattended(world: &World, id: &str, hook: Hook, says: Says) -> Call {
    Call { unattended: true, ..about(world, id, hook, says) }
}

#[test]
fn a_call_that_comes_once_is_neither_refused_for_load_nor_lost_by_a_drain() {
    let mut world = World::new(Source::Github, stages());
    (world.queue_full, world.draining) = (true, true);
    let call = unattended(&world, "1", Hook::PreRollout, Says::Forward { revision: rev("a") });
    let reply = world.tell(call);
    assert!(world.waits(&reply));
    assert!(world.facts.iter().any(|fact| matches!(fact, Event::Called { unattended: true, .. })));
    world.crash();
    assert_eq!(world.all_succeed(), ["migrate"], "the next start takes it up");
}

#[test]
fn what_a_crash_cut_of_a_call_that_comes_once_runs_again_by_itself() {
    let mut world = World::new(Source::Github, stages());
    let call = unattended(&world, "1", Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    world.grant_all();
    world.crash();
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!(world.current().passes.len(), 1);
    let attended = forward(&mut world, "1", Hook::Rollout, "a");
    assert!(world.waits(&attended));
    world.grant_all();
    world.crash();
    assert_eq!(world.all_succeed(), Vec::<String>::new(), "this caller asks again");
}

#[test]
fn a_call_that_comes_once_and_joins_is_not_lost_with_those_that_ask_again() {
    let mut world = World::generic(stages());
    world.forward(Hook::PreRollout, "a");
    world.grant_all();
    let call = unattended(&world, "", Hook::PreRollout, Says::Forward { revision: rev("a") });
    for _ in 0..2 {
        world.tell(call.clone());
    }
    world.crash();
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!(world.current().runs.len(), 2);
}

#[test]
fn a_held_stage_of_a_call_that_comes_once_goes_on_when_it_is_released() {
    let mut world = World::new(Source::Github, pipeline(vec![held(script("migrate", Hook::PreRollout))]));
    let call = unattended(&world, "1", Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    world.grant_all();
    world.crash();
    assert_eq!(world.all_succeed(), Vec::<String>::new());
    let id = world.id();
    world.operate(id, Operation::Release);
    assert_eq!(world.all_succeed(), ["migrate"]);
}

#[test]
fn nobody_is_owed_the_result_of_a_call_that_comes_once() {
    let mut world = World::new(Source::Flux, stages());
    for _ in 0..2 {
        let call = unattended(&world, "", Hook::Rollout, Says::Forward { revision: rev("a") });
        world.tell(call);
        assert_eq!(world.all_succeed(), ["check"], "each is an event of its own");
    }
}

pub fn reporting(world: &World, hook: Hook, says: Says) -> Call {
    let mut call = unattended(world, "1", hook, says);
    call.key = Some(CallKey { id: "delivery".to_owned(), stamp: None });
    call.report = Some(ReportTo(serde_json::json!({"url": "here"})));
    call
}

#[test]
fn an_outcome_is_told_when_it_is_known_and_until_it_was_told() {
    let mut world = World::new(Source::Github, stages());
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call.clone());
    assert_eq!(world.stream.due_reports(), []);
    world.fails("migrate");
    let due = world.stream.due_reports();
    let [report] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!((report.answer.verdict, report.to.0["url"].as_str()), (Verdict::Rejected, Some("here")));
    assert!(report.answer.message.contains("no such table"));
    world.refold();
    assert_eq!(world.stream.due_reports(), due, "also for the next start");
    let id = world.id();
    world.step(Command::Reported { deployment: id, report: 1, problem: None }, false);
    assert_eq!(world.stream.due_reports(), []);
    world.tell(call);
    assert_eq!(world.stream.due_reports(), [], "a redelivery asks for nothing more");
    world.step(Command::Reported { deployment: id, report: 1, problem: None }, false);
    assert_eq!(world.facts, []);
}

#[test]
fn an_outcome_that_is_known_at_once_is_told_as_well() {
    let mut world = World::new(Source::Github, pipeline(vec![script("smoke", Hook::PostRollout)]));
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    let due = world.stream.due_reports();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].answer.verdict, Verdict::Approved);
}

#[test]
fn what_a_crash_cut_is_no_outcome_to_tell() {
    let mut world = World::new(Source::Github, stages());
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    world.grant_all();
    world.crash();
    assert_eq!(world.stream.due_reports(), []);
    world.all_succeed();
    assert_eq!(world.stream.due_reports()[0].answer.verdict, Verdict::Approved);
}

#[test]
fn a_gate_whose_rollout_ends_before_its_turn_is_told_no() {
    let mut world = World::new(Source::Github, stages());
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    world.grant_all();
    failed(&mut world, "1", "a");
    world.ends("migrate", Outcome::Cancelled);
    assert_eq!(world.stream.due_reports()[0].answer.verdict, Verdict::Rejected);
}

#[test]
fn the_end_of_a_replay_is_told() {
    let (mut world, _) = begun(Source::Github);
    let call = reporting(&world, Hook::Rollback, Says::Failed { revision: rev("a") });
    world.tell(call);
    assert_eq!(world.stream.due_reports(), []);
    world.fails("migrate");
    let due = world.stream.due_reports();
    assert_eq!(due[0].answer.verdict, Verdict::Rejected);
    assert!(due[0].answer.message.contains("RollbackFailed"), "{due:?}");
}

#[test]
fn a_report_that_is_not_told_yet_blocks_no_other_rollout() {
    let (mut world, first) = begun(Source::Github);
    let call = reporting(&world, Hook::Rollback, Says::Failed { revision: rev("a") });
    world.tell(call);
    world.all_succeed();
    assert!(world.stream.get(first).unwrap().is_live());
    forward(&mut world, "2", Hook::PreRollout, "b");
    assert_eq!(world.all_succeed(), ["migrate"]);
}

fn flux(world: &mut World, hook: Hook, says: Says) -> Reply {
    let call = unattended(world, "", hook, says);
    world.tell(call)
}

fn reconciled(world: &mut World, revision: &str) -> Reply {
    flux(world, Hook::PostRollout, Says::Reconciled { revision: rev(revision) })
}

#[test]
fn the_success_that_comes_at_every_interval_counts_once() {
    let mut world = World::new(Source::Flux, stages());
    flux(&mut world, Hook::Rollout, Says::Forward { revision: rev("a") });
    world.all_succeed();
    reconciled(&mut world, "a");
    world.fails("smoke");
    let id = world.id();
    for _ in 0..3 {
        let reply = reconciled(&mut world, "a");
        assert_eq!(world.verdict(&reply), Verdict::Approved);
        assert!(world.running().is_empty() && world.id() == id);
    }
    reconciled(&mut world, "b");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_ne!(world.id(), id);
    reconciled(&mut world, "a");
    assert_eq!(world.all_succeed(), ["smoke"], "gone back to by a commit of its own");
}

#[test]
fn a_reconciliation_after_an_undo_is_the_callers_own_end() {
    let mut world = World::new(Source::Flux, stages());
    flux(&mut world, Hook::Rollout, Says::Forward { revision: rev("a") });
    world.all_succeed();
    let id = world.id();
    world.operate(id, Operation::Rollback { now: true });
    world.all_succeed();
    let reply = reconciled(&mut world, "a");
    assert_eq!((world.verdict(&reply), world.current().undone), (Verdict::Rejected, false));
    assert_eq!(world.id(), id);
}

#[test]
fn another_upgrade_to_the_same_chart_version_is_another_rollout() {
    let mut world = World::new(Source::Flux, stages());
    for _ in 0..2 {
        flux(&mut world, Hook::PostRollout, Says::Succeeded { revision: rev("1.0.0") });
        assert_eq!(world.all_succeed(), ["smoke"]);
    }
}

fn reverted(world: &mut World, to: &str) -> Reply {
    flux(world, Hook::Rollback, Says::Reverted { to: rev(to) })
}

#[test]
fn going_back_undoes_what_is_newest_and_never_what_was_gone_back_to() {
    let mut world = World::new(Source::Flux, stages());
    let reply = reverted(&mut world, "a");
    assert_eq!(world.verdict(&reply), Verdict::Approved, "nothing was ever opened");
    flux(&mut world, Hook::PostRollout, Says::Succeeded { revision: rev("a") });
    world.all_succeed();
    let first = world.id();
    reverted(&mut world, "a");
    assert_eq!((world.all_succeed(), world.state()), (vec![], State::Succeeded), "the failure was lost; `a` serves");
    flux(&mut world, Hook::PostRollout, Says::Succeeded { revision: rev("b") });
    world.all_succeed();
    let reply = reverted(&mut world, "a");
    assert_eq!((world.all_succeed(), world.state()), (vec!["smoke".to_owned()], State::RolledBack));
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    let reply = reverted(&mut world, "a");
    assert_eq!((world.all_succeed(), world.verdict(&reply)), (vec![], Verdict::Approved), "told again");
    assert_eq!(world.state_of(first), State::Succeeded);
}

#[test]
fn going_back_in_the_middle_undoes_the_rollout_in_progress_of_whatever_revision() {
    let mut world = World::new(Source::Flux, stages());
    flux(&mut world, Hook::Rollout, Says::Forward { revision: rev("a") });
    world.grant_all();
    reverted(&mut world, "a");
    world.ends("check", Outcome::Cancelled);
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!(world.state(), State::RolledBack);
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::Failed));
}

#[test]
fn a_failure_that_concerned_nothing_does_not_come_back_under_its_name() {
    let (mut world, first) = begun(Source::Github);
    let mut call = unattended(&world, "9", Hook::Rollback, Says::Failed { revision: rev("z") });
    call.key = Some(CallKey { id: "delivery".to_owned(), stamp: None });
    world.tell(call.clone());
    succeeded(&mut world, "1", "a");
    world.all_succeed();
    world.tell(call);
    assert!(world.running().is_empty());
    assert_eq!((world.id(), world.state()), (first, State::Succeeded), "sent again, it opens nothing");
}

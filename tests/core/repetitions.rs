//! Calls that come again under their name at the wrong moment: after the end, after a crash, for another rollout or on
//! another hook; and what is told elsewhere of them.

use serde_json::json;
use stagehook::domain::call::{Command, Operation, Reply, ReportTo, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::record::Outcome;
use stagehook::domain::summary::State;

use crate::pipelines::{held, pipeline, script};
use crate::rollouts::{about, failed, forward, gate, keyed, reporting, stages, succeeded, unattended};
use crate::world::{World, rev};

#[test]
fn what_was_approved_lets_no_rollout_go_on_that_was_undone() {
    for (operation, state) in [(Operation::Cancel, State::RolledBack), (Operation::Close, State::Abandoned)] {
        let mut world = World::generic(stages());
        gate(&mut world, "k1", None);
        world.all_succeed();
        let id = world.id();
        world.operate(id, operation);
        let meanwhile = gate(&mut world, "k1", None);
        assert_eq!(world.verdict(&meanwhile), Verdict::Rejected, "{operation:?}");
        world.all_succeed();
        assert_eq!(world.state(), state);
        let after = gate(&mut world, "k1", None);
        assert_eq!((world.verdict(&after), world.id()), (Verdict::Rejected, id), "{operation:?}");
    }
}

#[test]
fn a_pass_that_a_crash_left_in_line_goes_on_when_its_call_comes_again() {
    let mut world = World::generic(stages());
    gate(&mut world, "k1", None);
    assert!(world.running().is_empty(), "it waits for a slot");
    world.crash();
    let again = gate(&mut world, "k1", None);
    assert!(world.waits(&again));
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!(world.verdict(&again), Verdict::Approved);
}

#[test]
fn a_name_that_was_used_for_another_revision_approves_nothing() {
    let mut world = World::generic(stages());
    gate(&mut world, "deploy", None);
    world.all_succeed();
    let id = world.id();
    let call = keyed(&world, "deploy", None, Hook::Rollout, Says::Forward { revision: rev("b") });
    let reply = world.tell(call);
    let Reply::Conflict { message } = reply else { panic!("{reply:?}") };
    assert!(message.contains("of revision a, and it is of b"), "{message}");
    assert_eq!(world.id(), id);
    world.runs_nothing();
}

#[test]
fn a_signed_message_belongs_to_one_hook() {
    let mut world = World::generic(stages());
    gate(&mut world, "msg", Some(7));
    world.all_succeed();
    let undo = Says::Undo { deployment: None, revision: rev("a") };
    let caught = keyed(&world, "msg", Some(7), Hook::Rollback, undo.clone());
    let reply = world.tell(caught);
    assert!(matches!(reply, Reply::Conflict { .. }), "the signature covers no path: {reply:?}");
    assert_eq!(world.state(), State::Progressing);
    let own = keyed(&world, "msg", Some(9), Hook::Rollback, undo);
    let reply = world.tell(own);
    assert!(world.waits(&reply), "signed anew by one who may");
}

#[test]
fn a_success_told_late_of_what_a_person_has_undone_begins_nothing() {
    let mut world = World::new(Source::Argocd, stages());
    forward(&mut world, "1", Hook::PreRollout, "a");
    world.all_succeed();
    succeeded(&mut world, "1", "a");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let id = world.id();
    world.operate(id, Operation::Rollback { now: false });
    world.all_succeed();
    assert_eq!(world.state(), State::RolledBack);
    let late = unattended(&world, "1", Hook::PostRollout, Says::Succeeded { revision: rev("a") });
    let late = world.tell(late);
    assert_eq!((world.verdict(&late), world.id()), (Verdict::Rejected, id));
    world.runs_nothing();
}

#[test]
fn an_operation_that_tries_again_after_its_success_is_told_what_it_was_told() {
    let mut world = World::new(Source::Argocd, stages());
    forward(&mut world, "1", Hook::PreRollout, "a");
    world.all_succeed();
    succeeded(&mut world, "1", "a");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let id = world.id();
    // Another PostSync hook has failed, and `syncPolicy.retry` begins with PreSync once more.
    for (hook, verdict) in [
        (Hook::PreRollout, Verdict::Approved),
        (Hook::ConfirmPromotion, Verdict::Approved),
        (Hook::Rollout, Verdict::Rejected),
    ] {
        let reply = forward(&mut world, "1", hook, "a");
        assert_eq!((world.verdict(&reply), world.id()), (verdict, id), "{hook}");
    }
    let reply = succeeded(&mut world, "1", "a");
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    world.runs_nothing();
    forward(&mut world, "2", Hook::PreRollout, "b");
    world.all_succeed();
    let late = forward(&mut world, "1", Hook::PreRollout, "a");
    assert_eq!(world.verdict(&late), Verdict::Rejected, "of another operation since");
}

#[test]
fn a_call_that_comes_once_and_joins_one_that_does_not_is_taken_up_after_a_crash() {
    let mut world = World::generic(stages());
    let attended = about(&world, "", Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(attended.clone());
    world.grant_all();
    let once = unattended(&world, "", Hook::PreRollout, Says::Forward { revision: rev("a") });
    let joined = world.tell(once);
    assert!(world.waits(&joined));
    assert_eq!(world.running(), ["migrate"], "and begins no pass of its own");
    world.tell(attended);
    world.crash();
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!(world.alive().count(), 0);
}

#[test]
fn a_rollout_that_goes_back_is_not_undone_by_the_word_that_it_did() {
    let mut world = World::generic(stages());
    for revision in ["a", "b"] {
        world.pass(Hook::PreRollout, revision);
        world.succeeded(revision);
        world.all_succeed();
    }
    world.pass(Hook::PreRollout, "a");
    let back = about(&world, "", Hook::Rollback, Says::Reverted { to: rev("a") });
    let reply = world.tell(back.clone());
    assert_eq!((world.verdict(&reply), world.state()), (Verdict::Approved, State::Progressing));
    world.succeeded("a");
    world.all_succeed();
    let reply = world.tell(back);
    assert_eq!((world.verdict(&reply), world.state()), (Verdict::Approved, State::Succeeded));
    world.runs_nothing();
}

#[test]
fn a_stage_that_was_cut_and_held_is_told_of_once_its_rollout_is_over() {
    let mut world = World::new(Source::Github, pipeline(vec![held(script("migrate", Hook::PreRollout))]));
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    world.grant_all();
    world.crash();
    assert_eq!(world.stream.due_reports(), [], "a person has to say whether it goes on");
    failed(&mut world, "1", "a");
    world.all_succeed();
    let due = world.stream.due_reports();
    assert_eq!(due.len(), 1, "or the caller would wait for ever");
    assert_eq!(due[0].answer.verdict, Verdict::Rejected);
    assert!(due[0].answer.message.contains("RolledBack"), "{due:?}");
}

#[test]
fn one_place_is_told_one_thing_after_the_other() {
    let mut world = World::new(Source::Github, stages());
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call);
    let mut elsewhere = about(&world, "1", Hook::PreRollout, Says::Forward { revision: rev("a") });
    elsewhere.report = Some(ReportTo(json!({"url": "elsewhere"})));
    world.tell(elsewhere);
    world.grant_all();
    world.ends("migrate", Outcome::Succeeded);
    let call = reporting(&world, Hook::Rollback, Says::Failed { revision: rev("a") });
    world.tell(call);
    world.all_succeed();
    let due = |world: &World| world.stream.due_reports().iter().map(|due| due.number).collect::<Vec<_>>();
    assert_eq!(due(&world), [1, 2], "the end is not overtaken by what is tried again");
    let id = world.id();
    world.step(Command::Reported { deployment: id, report: 1, problem: None }, false);
    assert_eq!(due(&world), [2, 3]);
}

#[test]
fn what_could_not_be_told_is_tried_anew_when_it_is_delivered_again() {
    let mut world = World::new(Source::Github, stages());
    let call = reporting(&world, Hook::PreRollout, Says::Forward { revision: rev("a") });
    world.tell(call.clone());
    world.all_succeed();
    let id = world.id();
    let problem = Some("the token is not good".to_owned());
    world.step(Command::Reported { deployment: id, report: 1, problem }, false);
    assert_eq!(world.stream.due_reports(), []);
    world.tell(call.clone());
    let due = world.stream.due_reports();
    assert_eq!((due.len(), due[0].number, due[0].answer.verdict), (1, 2, Verdict::Approved));
    world.tell(call.clone());
    assert_eq!(world.stream.due_reports().len(), 1, "it is under way");
    world.step(Command::Reported { deployment: id, report: 2, problem: None }, false);
    world.tell(call);
    assert_eq!(world.stream.due_reports(), []);
    world.runs_nothing();
}

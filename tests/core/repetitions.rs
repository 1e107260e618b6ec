//! Calls that come again under their name at the wrong moment: after the end, after a crash, for another rollout or on
//! another hook; and what is told elsewhere of them.

use stagehook::domain::call::{Operation, Reply, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::summary::State;

use crate::rollouts::{about, forward, gate, keyed, stages, succeeded, unattended};
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

//! Words that come late, twice, or after others were lost: what they may prove, and what they may not undo.

use stagehook::domain::call::{Before, Operation, Reply, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::pipeline::{OnFailure, Pipeline};
use stagehook::domain::record::{Event, Outcome, Reason};
use stagehook::domain::summary::State;

use crate::pipelines::{held, pipeline, script};
use crate::world::{World, rev, verdict};

fn stages() -> Pipeline {
    pipeline(vec![
        script("ask", Hook::ConfirmRollout),
        script("migrate", Hook::PreRollout),
        script("tell", Hook::PostRollout),
    ])
}

fn confirm(world: &mut World, under: &str, before: Before) -> Reply {
    let reply = world.call(Hook::ConfirmRollout, Says::Opening { under: rev(under), before });
    world.all_succeed();
    reply
}

/// A rollout of `revision` as far as pre-rollout, without confirm-rollout.
fn begun(revision: &str) -> World {
    let mut world = World::flagger(stages());
    world.pass(Hook::PreRollout, revision);
    world
}

/// `post-rollout Succeeded`, its stages run to their end.
fn succeed(world: &mut World, revision: &str) {
    world.succeeded(revision);
    world.all_succeed();
}

#[test]
fn a_repeated_failure_is_not_the_next_rollouts() {
    let mut world = World::flagger(stages());
    confirm(&mut world, "z", Before::Succeeded);
    world.pass(Hook::PreRollout, "a");
    let old = world.id();
    world.failed("a");
    world.all_succeed();
    confirm(&mut world, "b", Before::Failed);
    let repeated = world.failed("a");
    assert_eq!(world.answer(&repeated).deployment, Some(old));
    assert_eq!((world.state(), world.current().revision.clone()), (State::Progressing, None));
    // The first word of the next rollout may be its failure.
    world.failed("b");
    world.all_succeed();
    assert_eq!((world.state(), world.current().revision.clone()), (State::RolledBack, rev("b")));
}

#[test]
fn nor_is_it_generics_next_one_before_that_has_named_itself() {
    for succeeded in [false, true] {
        let mut world = World::generic(stages());
        world.pass(Hook::PreRollout, "a");
        let old = world.id();
        if succeeded {
            world.succeeded("a")
        } else {
            world.failed("a")
        };
        world.all_succeed();
        world.pass(Hook::PreRollout, "");
        let repeated = world.failed("a");
        assert_eq!((world.answer(&repeated).deployment, world.state()), (Some(old), State::Progressing));
    }
}

#[test]
fn a_failure_after_the_analysis_began_again_is_the_open_rollouts() {
    let mut world = World::flagger(stages());
    confirm(&mut world, "z", Before::Succeeded);
    world.failed("a");
    world.all_succeed();
    confirm(&mut world, "b", Before::Failed);
    world.restart_event();
    world.failed("a");
    assert_eq!(world.all_succeed(), ["ask"]);
    assert_eq!((world.state(), world.current().revision.clone()), (State::RolledBack, rev("a")));
}

#[test]
fn a_failure_of_the_same_content_does_not_undo_a_success_that_was_lost() {
    let mut world = begun("a");
    let old = world.id();
    world.pass(Hook::PreRollout, "b");
    succeed(&mut world, "b");
    assert_eq!(world.state_of(old), State::Abandoned);
    world.failed("a");
    assert_eq!(world.all_succeed(), Vec::<String>::new());
    assert_eq!((world.state_of(old), world.state()), (State::Abandoned, State::RolledBack));
    assert_ne!(world.id(), old);
}

#[test]
fn generic_revisions_name_a_rollout_so_a_late_failure_is_about_it() {
    let mut world = World::generic(stages());
    world.pass(Hook::PreRollout, "a");
    let old = world.id();
    world.pass(Hook::PreRollout, "b");
    succeed(&mut world, "b");
    world.failed("a");
    assert_eq!(world.all_succeed(), ["migrate"]);
    assert_eq!(world.state_of(old), State::RolledBack);
}

#[test]
fn once_another_rollout_was_seen_to_begin_the_same_content_is_another_rollout() {
    let mut world = World::flagger(stages());
    world.question("a");
    world.pass(Hook::PreRollout, "a");
    let old = world.id();
    world.operate(old, Operation::Rollback { now: false });
    // It succeeded unheard; others came and went; now it is rolled out again.
    world.start_event();
    assert!(!world.question("a"), "a request never reaches the next rollout");
    world.forward(Hook::PreRollout, "a");
    assert_eq!(world.all_succeed(), ["migrate"], "nothing of the old rollout counts for this one");
    assert_eq!((world.state_of(old), world.stream.deployments.len()), (State::Abandoned, 2));
}

#[test]
fn a_rollout_that_began_unconfirmed_shows_that_confirm_rollout_proves_nothing() {
    let mut world = World::flagger(stages());
    confirm(&mut world, "z", Before::Succeeded);
    world.pass(Hook::PreRollout, "a");
    let old = world.id();
    world.start_event();
    world.forward(Hook::PreRollout, "b");
    assert_eq!(world.state_of(old), State::Abandoned);
}

#[test]
fn a_confirm_rollout_by_hand_proves_nothing() {
    let mut world = World::flagger(stages());
    world.call(Hook::ConfirmRollout, Says::Forward { revision: None });
    world.all_succeed();
    world.pass(Hook::PreRollout, "a");
    let old = world.id();
    world.forward(Hook::PreRollout, "b");
    assert_eq!(world.state_of(old), State::Abandoned);
}

#[test]
fn a_repeated_success_of_what_was_undone_opens_nothing() {
    let mut world = begun("a");
    world.operate(world.id(), Operation::Cancel);
    world.all_succeed();
    for _ in 0..3 {
        let told = world.succeeded("a");
        assert_eq!(verdict(&told), Verdict::Rejected);
        let message = world.answer(&told).message;
        assert!(message.contains("undone here") && !message.contains("release"), "{message}");
    }
    assert_eq!((world.state(), world.stream.deployments.len()), (State::RolledBack, 1));
    world.pass(Hook::PreRollout, "a");
    assert_eq!(world.stream.deployments.len(), 2, "its next rollout is another one");
}

#[test]
fn a_failed_confirmation_that_rolls_back_by_itself_does_not_hold_the_canary() {
    let mut stages = stages();
    stages.on_failure = OnFailure::Rollback;
    for asked in [false, true] {
        let mut world = World::flagger(stages.clone());
        if asked {
            world.question("z");
        }
        let first = world.call(Hook::ConfirmRollout, Says::Opening { under: rev("z"), before: Before::Succeeded });
        world.fails("ask");
        world.all_succeed();
        assert_eq!((world.verdict(&first), world.state()), (Verdict::Rejected, State::RolledBack));
        let again = confirm(&mut world, "z", Before::ByChecksum);
        assert_eq!(world.verdict(&again), Verdict::Approved);
        assert!(!world.question("a"));
        world.pass(Hook::PreRollout, "a");
    }
}

#[test]
fn a_confirm_rollout_after_a_failure_is_no_repetition_of_one_after_a_success() {
    let mut world = World::flagger(stages());
    confirm(&mut world, "z", Before::Succeeded);
    let old = world.id();
    // What it opened failed before a call had named it, and what ran before is rolled out again.
    confirm(&mut world, "z", Before::Failed);
    assert_eq!((world.state_of(old), world.stream.deployments.len()), (State::RolledBack, 2));
    assert_eq!(world.stream.get(old).unwrap().end().unwrap().reason, Some(Reason::FailureMissed));
}

#[test]
fn undoing_what_was_closed_holds_the_rollout_that_goes_on_at_its_caller() {
    for now in [false, true] {
        let mut world = begun("a");
        let id = world.id();
        world.operate(id, Operation::Close);
        world.operate(id, Operation::Rollback { now });
        world.all_succeed();
        let gate = world.forward(Hook::PreRollout, "a");
        assert_eq!((verdict(&gate), world.stream.deployments.len()), (Verdict::Rejected, 1));
    }
}

#[test]
fn an_undo_tells_a_rollout_its_revision_and_is_refused_where_it_contradicts() {
    let mut world = World::generic(stages());
    world.pass(Hook::PreRollout, "");
    let undo = world.undo("a");
    assert!(world.waits(&undo));
    world.all_succeed();
    assert_eq!((world.state(), world.current().revision.clone()), (State::RolledBack, rev("a")));
    let says = Says::Undo { deployment: Some(world.id()), revision: rev("b") };
    assert!(matches!(world.call(Hook::Rollback, says), Reply::Conflict { .. }));
}

#[test]
fn a_cancel_that_was_accepted_holds_over_a_crash() {
    let mut world = World::flagger(stages());
    world.forward(Hook::PreRollout, "a");
    world.grant_all();
    let run = world.alive().next().unwrap().id;
    world.operate(world.id(), Operation::CancelRun(run));
    world.crash();
    assert_eq!(world.find_run(run).unwrap().outcome(), Some(Outcome::Cancelled));
    let next = world.forward(Hook::PreRollout, "a");
    assert_eq!(verdict(&next), Verdict::Rejected);
    let again = world.forward(Hook::PreRollout, "a");
    assert_eq!((verdict(&again), world.running()), (Verdict::Rejected, vec![]));
}

#[test]
fn a_post_rollout_that_was_called_again_survives_a_shutdown() {
    let mut world = begun("a");
    world.succeeded("a");
    world.fails("tell");
    world.succeeded("a");
    world.succeeded("a");
    assert!(world.current().is_live(), "a call for it is in line");
    world.crash();
    assert_eq!(world.all_succeed(), ["tell"]);
    assert_eq!(world.current().end().unwrap().reason, None);
    assert!(!world.current().is_live());
}

#[test]
fn a_released_post_rollout_needs_no_further_call() {
    let mut world = World::flagger(pipeline(vec![held(script("tell", Hook::PostRollout))]));
    world.succeeded("a");
    world.grant_all();
    world.crash();
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::PostRolloutFailed));
    world.operate(world.id(), Operation::Release);
    assert_eq!(world.all_succeed(), ["tell"]);
    assert_eq!(world.current().end().unwrap().reason, None);
}

#[test]
fn scripts_see_what_a_later_call_says_of_who_and_why() {
    use stagehook::domain::call::{Call, Command};
    use stagehook::domain::record::{About, Payload};
    let mut world = World::flagger(stages());
    confirm(&mut world, "z", Before::Succeeded);
    let about = |summary: &str, commander: &str| About {
        summary: summary.to_owned(),
        commander: commander.to_owned(),
        ..About::default()
    };
    for told in [about("a new shop", ""), about("something else", "ada")] {
        let says = Says::Forward { revision: rev("a") };
        let call = Call::new(Source::Flagger, Hook::PreRollout, says, Payload::default(), told);
        world.step(Command::Call(call), false);
        world.fails("migrate");
    }
    assert_eq!(world.current().about, about("a new shop", "ada"));
    assert!(world.facts.iter().all(|fact| !matches!(fact, Event::Opened { .. })));
}

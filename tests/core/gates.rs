//! Gates: joins, repeats, what an end without a listener becomes, load, skipped stages.

use stagehook::domain::call::{Action, Command, Operation, Reply, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::pipeline::{OnFailure, Pipeline, Repeat};
use stagehook::domain::record::{Event, Outcome, Reason};
use stagehook::domain::summary::State;

use crate::pipelines::{held, pipeline, repeating, script, wait};
use crate::world::World;

fn two(repeat: Repeat) -> Pipeline {
    pipeline(vec![
        repeating(repeat, script("first", Hook::PreRollout)),
        repeating(repeat, script("second", Hook::PreRollout)),
        script("later", Hook::Rollout),
    ])
}

fn gate(world: &mut World) -> Reply {
    world.forward(Hook::PreRollout, "a")
}

#[test]
fn a_hook_without_stages_is_approved_and_starts_nothing() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    let reply = world.forward(Hook::ConfirmPromotion, "a");
    assert_eq!((world.verdict(&reply), world.queue.len()), (Verdict::Approved, 0));
}

#[test]
fn without_a_pipeline_and_a_deployment_it_is_unknown() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    world.pipeline = None;
    assert!(matches!(gate(&mut world), Reply::Unknown { .. }));
    assert_eq!(world.facts, []);
    let mut world = World::new(Source::Github, two(Repeat::RetryFailed));
    world.pipeline = None;
    let Reply::Unknown { message } = gate(&mut world) else { panic!("it is known") };
    // What `plan` shows without it is Flagger's.
    assert!(message.contains("--source github` shows what is selected"), "{message}");
}

#[test]
fn the_pinned_pipeline_is_used_when_the_file_is_gone() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.succeeds("first");
    world.pipeline = None;
    world.succeeds("second");
    world.pass(Hook::Rollout, "a");
    world.failed("a");
    assert_eq!(world.all_succeed(), ["first", "second", "later"]);
}

#[test]
fn a_repeated_call_joins_and_both_get_the_verdict() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    let first = gate(&mut world);
    let second = gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
    assert_eq!((world.verdict(&first), world.verdict(&second)), (Verdict::Approved, Verdict::Approved));
}

#[test]
fn the_first_that_fails_stops_the_rest() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    let reply = gate(&mut world);
    world.fails("first");
    assert_eq!((world.verdict(&reply), world.running().len(), world.queue.len()), (Verdict::Rejected, 0, 0));
}

#[test]
fn an_undelivered_failure_goes_to_the_next_call_before_anything_runs_again() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.waiting.clear();
    world.fails("first");
    let told = gate(&mut world);
    assert_eq!((world.verdict(&told), world.queue.len()), (Verdict::Rejected, 0));
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"], "the one after runs it again");
}

#[test]
fn a_failure_whose_callers_hung_up_as_it_was_committed_goes_to_the_next_call() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    let Reply::Wait(key) = gate(&mut world) else { panic!("it waits") };
    world.fails("first");
    world.step(Command::Unheard { key }, false);
    world.refold();
    let told = gate(&mut world);
    assert_eq!((world.verdict(&told), world.queue.len()), (Verdict::Rejected, 0));
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"], "the one after runs it again");
}

#[test]
fn retry_failed_runs_a_failure_again_and_a_success_never() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.succeeds("first");
    world.ends("second", Outcome::TimedOut);
    let again = gate(&mut world);
    assert_eq!(world.all_succeed(), ["second"]);
    assert_eq!(world.verdict(&again), Verdict::Approved);
    let once_more = gate(&mut world);
    assert_eq!((world.verdict(&once_more), world.facts.len()), (Verdict::Approved, 0));
}

#[test]
fn once_keeps_any_result() {
    let mut world = World::flagger(two(Repeat::Once));
    gate(&mut world);
    world.fails("first");
    let again = gate(&mut world);
    assert_eq!((world.verdict(&again), world.queue.len()), (Verdict::Rejected, 0));
}

#[test]
fn always_runs_on_each_call_but_an_unheard_result_first() {
    let mut world = World::flagger(two(Repeat::Always));
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
    gate(&mut world);
    world.waiting.clear();
    assert_eq!(world.all_succeed(), ["first", "second"]);
    let told = gate(&mut world);
    assert_eq!((world.verdict(&told), world.queue.len()), (Verdict::Approved, 0));
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
}

#[test]
fn a_cancelled_script_stays_rejected_until_a_person_releases_it() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    let first = gate(&mut world);
    world.grant_all();
    let run = world.alive().next().unwrap().id;
    world.operate(world.id(), Operation::CancelRun(run));
    world.ends("first", Outcome::Cancelled);
    assert_eq!((world.verdict(&first), world.state()), (Verdict::Rejected, State::Progressing));
    let second = gate(&mut world);
    assert_eq!((world.verdict(&second), world.queue.len()), (Verdict::Rejected, 0));
    assert!(matches!(world.operate(world.id(), Operation::Release), Reply::Accepted { .. }));
    let third = gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
    assert_eq!(world.verdict(&third), Verdict::Approved);
}

#[test]
fn a_release_withdraws_the_rejection_that_nobody_has_heard() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.waiting.clear();
    world.ends("first", Outcome::Cancelled);
    world.operate(world.id(), Operation::Release);
    let reply = gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
}

#[test]
fn an_interrupted_script_runs_again_with_the_next_call() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.succeeds("first");
    world.crash();
    assert_eq!((world.running().len(), world.queue.len()), (0, 0), "nobody asks for it yet");
    let reply = gate(&mut world);
    assert_eq!(world.all_succeed(), ["second"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
}

#[test]
fn a_held_one_is_rejected_until_a_person_releases_it() {
    let mut world = World::flagger(pipeline(vec![held(script("first", Hook::PreRollout))]));
    gate(&mut world);
    world.grant_all();
    world.crash();
    let reply = gate(&mut world);
    assert_eq!((world.verdict(&reply), world.queue.len()), (Verdict::Rejected, 0));
    assert!(world.answer(&reply).message.contains("held until"), "{}", world.answer(&reply).message);
    world.operate(world.id(), Operation::Release);
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["first"]);
}

#[test]
fn a_call_that_was_in_line_when_the_service_died_is_taken_up_by_the_next() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.crash();
    assert!(world.queue.is_empty());
    let reply = gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
}

#[test]
fn a_wait_goes_on_after_a_crash_until_its_time() {
    let mut world = World::flagger(pipeline(vec![wait("settle", Hook::PreRollout)]));
    gate(&mut world);
    let armed = world.waits.clone();
    world.crash();
    assert_eq!(world.waits, armed, "armed again for the same time");
    let reply = gate(&mut world);
    world.end_run(*armed.keys().next().unwrap(), Outcome::Succeeded);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
}

#[test]
fn with_a_full_queue_a_call_is_refused_and_nothing_is_recorded_as_started() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    world.queue_full = true;
    assert!(matches!(gate(&mut world), Reply::Busy { .. }));
    assert!(!world.facts.iter().any(|fact| matches!(fact, Event::Called { .. } | Event::StageStarted { .. })));
    world.queue_full = false;
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["first", "second"]);
}

#[test]
fn while_draining_a_gate_is_pending_and_the_next_stage_does_not_start() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.grant_all();
    world.draining = true;
    world.succeeds("first");
    assert_eq!((world.running().len(), world.queue.len()), (0, 0));
    world.crash();
    world.draining = true;
    let reply = world.forward(Hook::Rollout, "a");
    assert_eq!(world.verdict(&reply), Verdict::Pending);
    world.draining = false;
    gate(&mut world);
    assert_eq!(world.all_succeed(), ["second"]);
}

#[test]
fn on_failure_rollback_undoes_by_itself() {
    let mut pipeline = two(Repeat::RetryFailed);
    pipeline.on_failure = OnFailure::Rollback;
    let mut world = World::generic(pipeline);
    let reply = gate(&mut world);
    world.fails("first");
    assert_eq!(world.verdict(&reply), Verdict::Rejected);
    assert_eq!(world.all_succeed(), ["first"]);
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::StageFailed));
    let further = world.forward(Hook::Rollout, "a");
    assert_eq!(world.verdict(&further), Verdict::Rejected, "a rollout that was undone does not go on");
}

#[test]
fn on_failure_rollback_tells_flagger_first_where_it_asks() {
    let mut pipeline = two(Repeat::RetryFailed);
    pipeline.on_failure = OnFailure::Rollback;
    let mut world = World::flagger(pipeline);
    assert!(!world.question("a"));
    gate(&mut world);
    world.fails("first");
    assert_eq!(world.state(), State::Progressing);
    assert!(world.question("a"));
    world.failed("a");
    assert_eq!(world.all_succeed(), ["first"]);
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::StageFailed));
}

#[test]
fn stages_whose_hook_never_came_are_skipped_with_the_reason() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    world.pass(Hook::PreRollout, "a");
    world.succeeded("a");
    let skipped = &world.current().end().unwrap().skipped;
    assert_eq!(skipped.len(), 1);
    assert_eq!((skipped[0].stage.as_str(), skipped[0].reason.as_str()), ("later", "rollout was never called"));
}

#[test]
fn stages_behind_a_failed_one_are_skipped_with_another_reason() {
    let mut world = World::flagger(two(Repeat::RetryFailed));
    gate(&mut world);
    world.fails("first");
    world.succeeded("a");
    let skipped = &world.current().end().unwrap().skipped;
    assert_eq!(skipped[0].reason, "an earlier stage of pre-rollout did not succeed");
}

fn with_post() -> Pipeline {
    pipeline(vec![
        script("first", Hook::PreRollout),
        script("tell", Hook::PostRollout),
        script("clean", Hook::PostRollout),
    ])
}

#[test]
fn post_rollout_stages_run_only_on_success() {
    let mut world = World::flagger(with_post());
    world.pass(Hook::PreRollout, "a");
    let reply = world.succeeded("a");
    assert_eq!(world.all_succeed(), ["tell", "clean"]);
    assert_eq!((world.verdict(&reply), world.state()), (Verdict::Approved, State::Succeeded));
    assert_eq!(world.current().end().unwrap().reason, None);
}

#[test]
fn a_post_rollout_that_fails_undoes_nothing_and_can_be_tried_again() {
    let mut world = World::flagger(with_post());
    world.pass(Hook::PreRollout, "a");
    let reply = world.succeeded("a");
    world.succeeds("tell");
    world.fails("clean");
    assert_eq!((world.verdict(&reply), world.state()), (Verdict::Rejected, State::Succeeded));
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::PostRolloutFailed));
    let again = world.succeeded("a");
    assert_eq!(world.all_succeed(), ["clean"]);
    assert_eq!((world.verdict(&again), world.current().end().unwrap().reason), (Verdict::Approved, None));
    assert_eq!(world.stream.deployments.len(), 1);
}

#[test]
fn a_post_rollout_is_never_refused_for_load() {
    let mut world = World::flagger(with_post());
    world.pass(Hook::PreRollout, "a");
    (world.queue_full, world.draining) = (true, true);
    world.succeeded("a");
    world.crash();
    assert_eq!(world.all_succeed(), ["tell", "clean"], "it is never called again, so the start takes it up");
}

#[test]
fn an_interrupted_post_rollout_goes_on_by_itself_after_the_start() {
    let mut world = World::flagger(with_post());
    world.pass(Hook::PreRollout, "a");
    world.succeeded("a");
    world.succeeds("tell");
    world.crash();
    assert_eq!(world.all_succeed(), ["clean"]);
    assert_eq!((world.state(), world.current().end().unwrap().reason), (State::Succeeded, None));
}

#[test]
fn a_post_rollout_that_a_shutdown_cuts_goes_on_in_the_next_life() {
    let mut world = World::flagger(with_post());
    world.pass(Hook::PreRollout, "a");
    world.succeeded("a");
    world.grant_all();
    world.draining = true;
    let call = world.succeeded("a");
    let run = world.alive().next().unwrap().id;
    world.end_run(run, Outcome::Interrupted);
    let told = world.answer(&call).message;
    assert!(told.contains("runs again when Stagehook starts"), "{told}");
    let current = world.current();
    assert!(current.is_live(), "a start looks at live deployments alone, and this call never comes again");
    assert_eq!(current.end(), None, "it is not known to have failed");
    world.crash();
    assert_eq!(world.all_succeed(), ["tell", "clean"]);
    assert_eq!((world.state(), world.current().end().unwrap().reason), (State::Succeeded, None));
}

#[test]
fn a_cancelled_wait_is_over_with_the_answer_that_accepts_it() {
    let mut world = World::flagger(pipeline(vec![wait("pause", Hook::PreRollout)]));
    gate(&mut world);
    let run = world.alive().next().unwrap().id;
    assert!(matches!(world.operate(world.id(), Operation::CancelRun(run)), Reply::Accepted { .. }));
    world.refold();
    assert_eq!(world.find_run(run).unwrap().outcome(), Some(Outcome::Cancelled));
    assert!(matches!(&world.actions[..], [Action::Stop { .. }]), "its timer is left running");
}

#[test]
fn a_kill_that_was_left_out_is_asked_for_again() {
    let mut world = World::flagger(pipeline(vec![script("one", Hook::PreRollout)]));
    gate(&mut world);
    world.grant_all();
    world.operate(world.id(), Operation::Cancel);
    let run = world.alive().next().unwrap().id;
    world.step(Command::Resume { at_start: true }, false);
    assert!(world.actions.iter().any(|action| matches!(action, Action::Stop { run: of, .. } if *of == run)));
}

#[test]
fn a_held_post_rollout_waits_for_a_person_and_a_call() {
    let mut world = World::flagger(pipeline(vec![held(script("tell", Hook::PostRollout))]));
    world.succeeded("a");
    world.grant_all();
    world.crash();
    assert_eq!((world.queue.len(), world.state()), (0, State::Succeeded));
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::PostRolloutFailed));
    assert!(matches!(world.operate(world.id(), Operation::Release), Reply::Accepted { .. }));
    world.succeeded("a");
    assert_eq!(world.all_succeed(), ["tell"]);
    assert_eq!(world.current().end().unwrap().reason, None);
}

#[test]
fn without_revisions_throughout_the_open_deployment_is_meant() {
    let mut world = World::generic(with_post());
    world.pass(Hook::PreRollout, "");
    let reply = world.succeeded("");
    world.all_succeed();
    assert_eq!((world.verdict(&reply), world.stream.deployments.len()), (Verdict::Approved, 1));
    world.pass(Hook::PreRollout, "");
    assert_eq!(world.stream.deployments.len(), 2, "after the end a call opens the next");
    let undone = world.call(Hook::Rollback, Says::Undo { deployment: None, revision: None });
    assert_eq!(world.all_succeed(), ["first"]);
    assert_eq!((world.verdict(&undone), world.stream.deployments.len()), (Verdict::Approved, 2));
}

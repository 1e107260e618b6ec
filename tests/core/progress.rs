//! What callers that did not wait are told when they ask later.

use stagehook::domain::call::{Answer, Operation, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::DeploymentId;
use stagehook::domain::pipeline::OnFailure;
use stagehook::domain::progress::{self, Phase};
use stagehook::domain::record::Outcome;

use crate::pipelines::{held, pipeline, script};
use crate::world::World;

fn world() -> World {
    World::generic(pipeline(vec![
        script("first", Hook::PreRollout),
        script("second", Hook::PreRollout),
        script("smoke", Hook::Rollout),
        script("notify", Hook::PostRollout),
    ]))
}

fn of(world: &World, id: DeploymentId, hook: Hook) -> Option<(Phase, Answer)> {
    progress::of(world.stream.get(id).unwrap(), world.stream.id.source, hook)
}

fn phase(world: &World, hook: Hook) -> Option<Phase> {
    of(world, world.id(), hook).map(|(phase, _)| phase)
}

#[test]
fn a_hook_runs_until_its_last_stage_and_counts_nothing_as_delivered() {
    let mut world = world();
    let call = world.forward(Hook::PreRollout, "a");
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Running), "it waits for a slot");
    assert_eq!(phase(&world, Hook::Rollout), None, "never called for");
    assert_eq!(phase(&world, Hook::ConfirmPromotion), Some(Phase::Succeeded), "no stage is to run there");
    assert_eq!(phase(&world, Hook::Rollback), None);
    world.succeeds("first");
    let (running, answer) = of(&world, world.id(), Hook::PreRollout).unwrap();
    assert_eq!((running, answer.verdict), (Phase::Running, Verdict::Pending));
    assert!(answer.message.contains("stage second is running"), "{}", answer.message);
    world.waiting.clear();
    world.succeeds("second");
    let before = world.stream.head;
    let (done, answer) = of(&world, world.id(), Hook::PreRollout).unwrap();
    assert_eq!((done, answer), (Phase::Succeeded, world.answer(&call)));
    assert_eq!(world.stream.head, before);
}

#[test]
fn a_failure_a_cancel_and_a_kept_interruption_are_ends() {
    let mut world = world();
    world.forward(Hook::PreRollout, "a");
    world.fails("first");
    let (failed, answer) = of(&world, world.id(), Hook::PreRollout).unwrap();
    assert_eq!(failed, Phase::Failed);
    assert!(answer.message.contains("stage first failed") && answer.message.contains("no such table"), "{answer:?}");

    let mut world = self::world();
    world.forward(Hook::PreRollout, "a");
    world.ends("first", Outcome::Cancelled);
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Canceled));

    let mut world = World::generic(pipeline(vec![held(script("first", Hook::PreRollout))]));
    world.forward(Hook::PreRollout, "a");
    world.ends("first", Outcome::Interrupted);
    let (held, answer) = of(&world, world.id(), Hook::PreRollout).unwrap();
    assert_eq!(held, Phase::Failed);
    assert!(answer.message.contains("stagehook release"), "{answer:?}");
}

#[test]
fn an_interrupted_stage_that_runs_again_is_no_end() {
    let mut world = world();
    world.forward(Hook::PreRollout, "a");
    world.ends("first", Outcome::Interrupted);
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Running));
    world.forward(Hook::PreRollout, "a");
    world.all_succeed();
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Succeeded));
}

#[test]
fn a_rollback_runs_until_its_last_step() {
    let mut world = world();
    world.pass(Hook::PreRollout, "a");
    world.forward(Hook::Rollout, "a");
    world.undo("a");
    assert_eq!(phase(&world, Hook::Rollback), Some(Phase::Running));
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Succeeded), "it had passed");
    assert_eq!(phase(&world, Hook::Rollout), Some(Phase::Failed), "it never got its turn");
    world.succeeds("first");
    world.fails("second");
    let (failed, answer) = of(&world, world.id(), Hook::Rollback).unwrap();
    assert_eq!(failed, Phase::Failed);
    assert!(answer.message.contains("RollbackFailed"), "{answer:?}");
    world.undo("a");
    world.undo("a");
    world.all_succeed();
    assert_eq!(phase(&world, Hook::Rollback), Some(Phase::Succeeded));
}

#[test]
fn a_rollout_that_was_undone_here_is_canceled_only_once_its_script_is_dead() {
    let mut world = world();
    world.pass(Hook::PreRollout, "a");
    world.forward(Hook::Rollout, "a");
    world.grant_all();
    world.operate(world.id(), Operation::Cancel);
    assert_eq!(phase(&world, Hook::Rollout), Some(Phase::Running));
    world.ends("smoke", Outcome::Cancelled);
    assert_eq!(phase(&world, Hook::Rollout), Some(Phase::Canceled));
    let (turned_away, answer) = of(&world, world.id(), Hook::PreRollout).unwrap();
    assert_eq!(turned_away, Phase::Canceled);
    let told = world.forward(Hook::PreRollout, "a");
    assert_eq!(answer, world.answer(&told), "what a call is told");
}

#[test]
fn a_success_and_a_failure_of_its_stages_are_told_by_post_rollout() {
    let mut world = world();
    world.pass(Hook::PreRollout, "a");
    world.succeeded("a");
    assert_eq!(phase(&world, Hook::PostRollout), Some(Phase::Running));
    world.fails("notify");
    assert_eq!(phase(&world, Hook::PostRollout), Some(Phase::Failed));
    assert_eq!(phase(&world, Hook::Rollback), Some(Phase::Succeeded), "there is nothing to undo");
}

#[test]
fn with_on_failure_rollback_the_hook_has_failed_and_the_rollback_goes_on() {
    let mut stages = pipeline(vec![script("first", Hook::PreRollout)]);
    stages.on_failure = OnFailure::Rollback;
    let mut world = World::generic(stages);
    world.forward(Hook::PreRollout, "a");
    world.fails("first");
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Failed));
    assert_eq!(phase(&world, Hook::Rollback), Some(Phase::Running));
    world.all_succeed();
    assert_eq!(phase(&world, Hook::Rollback), Some(Phase::Succeeded));
}

#[test]
fn what_a_person_closed_is_canceled() {
    let mut world = world();
    world.forward(Hook::PreRollout, "a");
    world.operate(world.id(), Operation::Close);
    if !world.running().is_empty() {
        world.ends("first", Outcome::Cancelled);
    }
    assert_eq!(phase(&world, Hook::PreRollout), Some(Phase::Canceled));
    assert_eq!(phase(&world, Hook::Rollback), Some(Phase::Canceled));
}

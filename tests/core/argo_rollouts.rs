//! Rollouts of Argo Rollouts: web metrics, which ask until they are answered, and notifications, which tell the end.

use serde_json::{Value, json};
use stagehook::domain::call::{Reply, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::pipeline::Repeat;
use stagehook::domain::summary::State;

use crate::callers::body;
use crate::pipelines::{pipeline, repeating, script};
use crate::world::World;

fn world() -> World {
    let stages = vec![
        repeating(Repeat::Always, script("check", Hook::Rollout)),
        script("promote", Hook::ConfirmPromotion),
        script("smoke", Hook::PostRollout),
    ];
    World::new(Source::ArgoRollouts, pipeline(stages))
}

fn named(revision: &str) -> Value {
    body(&json!({"uid": "0b9d3c1e-9d0c-4a53-8b67-0f9f1b2f3c4d", "revision": revision, "podHash": "7bf84f9696"}))
}

/// One measurement of a metric.
fn polls(world: &mut World, hook: &str, revision: &str) -> Reply {
    world.sent(Some(hook), &named(revision))
}

fn told(world: &mut World, event: &str, revision: &str) -> Reply {
    let mut body = named(revision);
    body["event"] = event.into();
    let hook = if event == "on-rollout-aborted" { "rollback" } else { "post-rollout" };
    world.sent(Some(hook), &body)
}

#[test]
fn polls_are_one_question() {
    let mut world = world();
    let first = polls(&mut world, "rollout", "4");
    let joined = polls(&mut world, "rollout", "4");
    assert!(world.waits(&first) && world.waits(&joined));
    assert_eq!(world.all_succeed(), ["check"]);
    for _ in 0..3 {
        let reply = polls(&mut world, "rollout", "4");
        assert_eq!(world.verdict(&reply), Verdict::Approved);
        world.runs_nothing();
    }
    assert_eq!(world.current().revision.as_ref().unwrap().as_str(), "4-7bf84f9696@0b9d3c1e");
}

#[test]
fn a_rejection_stays_one() {
    for (hook, stage) in [("rollout", "check"), ("confirm-promotion", "promote")] {
        let mut world = world();
        polls(&mut world, hook, "4");
        world.fails(stage);
        for _ in 0..3 {
            let reply = polls(&mut world, hook, "4");
            assert_eq!(world.verdict(&reply), Verdict::Rejected, "whatever `repeat` says");
            assert!(world.running().is_empty());
        }
    }
}

#[test]
fn what_a_crash_cut_runs_again() {
    let mut world = world();
    polls(&mut world, "rollout", "4");
    world.grant_all();
    world.crash();
    world.runs_nothing();
    polls(&mut world, "rollout", "4");
    assert_eq!(world.all_succeed(), ["check"]);
}

#[test]
fn after_an_abort_the_same_rollout_is_tried_again() {
    let mut world = world();
    polls(&mut world, "rollout", "4");
    world.fails("check");
    let first = world.id();
    for _ in 0..2 {
        told(&mut world, "on-rollout-aborted", "4");
        let undone = world.all_succeed();
        assert!(undone == ["check"] || undone.is_empty() && world.state() == State::RolledBack);
    }
    assert_eq!((world.id(), world.state()), (first, State::RolledBack));
    let retried = polls(&mut world, "rollout", "4");
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!(world.verdict(&retried), Verdict::Approved);
    let second = world.id();
    assert_ne!(second, first);
    told(&mut world, "on-rollout-aborted", "4");
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!(world.state_of(second), State::RolledBack);
}

#[test]
fn a_retry_waits_until_the_abort_is_undone() {
    let mut world = world();
    polls(&mut world, "rollout", "4");
    world.all_succeed();
    told(&mut world, "on-rollout-aborted", "4");
    let retried = polls(&mut world, "rollout", "4");
    world.grant_all();
    assert_eq!(world.running(), ["check"]);
    assert!(world.alive().all(|run| run.is_rollback()));
    assert!(world.waits(&retried));
    assert_eq!(world.all_succeed(), ["check", "check"]);
    assert_eq!(world.verdict(&retried), Verdict::Approved);
}

#[test]
fn a_rejected_post_promotion_analysis_is_undone_with_the_rest() {
    let mut world = world();
    polls(&mut world, "confirm-promotion", "4");
    world.all_succeed();
    let reply = polls(&mut world, "post-rollout", "4");
    world.fails("smoke");
    assert_eq!((world.verdict(&reply), world.state()), (Verdict::Rejected, State::Progressing));
    told(&mut world, "on-rollout-aborted", "4");
    assert_eq!(world.all_succeed(), ["promote", "smoke"]);
    assert_eq!(world.state(), State::RolledBack);
}

#[test]
fn what_post_promotion_analysis_has_run_is_not_run_again_at_the_end() {
    let mut world = world();
    polls(&mut world, "post-rollout", "4");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_eq!(world.state(), State::Progressing);
    for _ in 0..2 {
        told(&mut world, "on-rollout-completed", "4");
        world.runs_nothing();
        assert_eq!(world.state(), State::Succeeded);
    }
    assert_eq!(world.stream.deployments.len(), 1);
}

#[test]
fn a_promotion_that_waits_for_no_analysis_lets_its_scripts_end() {
    let mut world = world();
    polls(&mut world, "post-rollout", "4");
    told(&mut world, "on-rollout-completed", "4");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_eq!(world.state(), State::Succeeded);
}

#[test]
fn without_an_analysis_the_end_runs_its_stages() {
    let mut world = world();
    told(&mut world, "on-rollout-completed", "4");
    assert_eq!(world.all_succeed(), ["smoke"]);
    told(&mut world, "on-rollout-aborted", "4");
    world.runs_nothing();
    assert_eq!(world.state(), State::Succeeded, "what serves is not undone");
}

#[test]
fn a_poll_that_comes_after_the_end_begins_nothing() {
    let mut world = world();
    polls(&mut world, "rollout", "4");
    world.all_succeed();
    told(&mut world, "on-rollout-completed", "4");
    world.all_succeed();
    let id = world.id();
    let late = polls(&mut world, "rollout", "4");
    assert_eq!(world.verdict(&late), Verdict::Approved, "as it was answered before");
    let never_asked = polls(&mut world, "confirm-promotion", "4");
    assert_eq!(world.verdict(&never_asked), Verdict::Rejected);
    world.runs_nothing();
    assert_eq!(world.id(), id);
}

#[test]
fn the_next_revision_ends_one_whose_end_was_lost() {
    let mut world = world();
    polls(&mut world, "rollout", "4");
    world.all_succeed();
    let first = world.id();
    polls(&mut world, "rollout", "5");
    assert_eq!(world.all_succeed(), ["check"]);
    assert_eq!(world.state_of(first), State::Abandoned);
}

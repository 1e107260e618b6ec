//! Operations of Argo CD: their hook Jobs, which ask, and their notifications, which only tell.

use serde_json::json;
use stagehook::domain::call::{Reply, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::record::Reason;
use stagehook::domain::summary::State;

use crate::callers::body;
use crate::pipelines::{pipeline, script};
use crate::world::World;

const FIRST: &str = "2026-01-01T10:00:00Z";
const SECOND: &str = "2026-01-01T11:00:00Z";

fn world() -> World {
    let stages = vec![
        script("migrate", Hook::PreRollout),
        script("warm", Hook::Rollout),
        script("smoke", Hook::PostRollout),
        script("tell", Hook::Rollback),
    ];
    World::new(Source::Argocd, pipeline(stages))
}

/// A hook Job's call.
fn job(world: &mut World, operation: &str, hook: &str) -> Reply {
    world.sent(Some(hook), &body(&json!({"operation": operation})))
}

/// A notification's.
fn told(world: &mut World, operation: &str, event: &str) -> Reply {
    let hook = match event {
        "on-sync-running" => "rollout",
        "on-sync-succeeded" | "on-deployed" => "post-rollout",
        _ => "rollback",
    };
    let phase = if event == "on-sync-running" { "Running" } else { "Succeeded" };
    // The application's uid stands before the start, as the examples have it.
    let operation = format!("0b9d3c1e/{operation}");
    world.sent(Some(hook), &body(&json!({"operation": operation, "event": event, "phase": phase, "revision": "8f2c"})))
}

/// An operation up to the end of Sync.
fn synced(world: &mut World, operation: &str) {
    for (hook, stage) in [("pre-rollout", "migrate"), ("rollout", "warm")] {
        let reply = job(world, operation, hook);
        assert_eq!(world.all_succeed(), [stage]);
        assert_eq!(world.verdict(&reply), Verdict::Approved);
    }
}

#[test]
fn the_notifications_of_an_operation_that_succeeded_run_nothing_again() {
    let mut world = world();
    synced(&mut world, FIRST);
    job(&mut world, FIRST, "post-rollout");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let id = world.id();
    for event in ["on-sync-succeeded", "on-deployed", "on-deployed", "on-sync-running"] {
        told(&mut world, FIRST, event);
        world.runs_nothing();
        assert_eq!((world.id(), world.state()), (id, State::Succeeded), "{event}");
    }
}

#[test]
fn the_job_of_sync_fail_asks_until_everything_is_undone() {
    let mut world = world();
    synced(&mut world, FIRST);
    let id = world.id();
    let asked = job(&mut world, FIRST, "rollback");
    let again = job(&mut world, FIRST, "rollback");
    assert!(world.waits(&asked) && world.waits(&again));
    assert_eq!(world.all_succeed(), ["migrate", "warm", "tell"]);
    let later = job(&mut world, FIRST, "rollback");
    for reply in [asked, again, later] {
        assert_eq!(world.verdict(&reply), Verdict::Approved);
    }
    told(&mut world, FIRST, "on-sync-failed");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (id, State::RolledBack));
}

#[test]
fn a_failure_that_only_a_notification_tells_is_undone_once() {
    let mut world = world();
    synced(&mut world, FIRST);
    told(&mut world, FIRST, "on-sync-failed");
    assert_eq!(world.all_succeed(), ["migrate", "warm", "tell"]);
    told(&mut world, FIRST, "on-sync-failed");
    world.runs_nothing();
    assert_eq!(world.state(), State::RolledBack);
}

#[test]
fn a_sync_that_is_tried_again_within_its_operation_begins_anew() {
    let mut world = world();
    synced(&mut world, FIRST);
    let first = world.id();
    job(&mut world, FIRST, "rollback");
    world.all_succeed();
    // Late, and about the first try: only a gate begins anew.
    told(&mut world, FIRST, "on-sync-running");
    world.runs_nothing();
    assert_eq!(world.id(), first);
    synced(&mut world, FIRST);
    let second = world.id();
    assert_ne!(second, first);
    job(&mut world, FIRST, "rollback");
    assert_eq!(world.all_succeed(), ["migrate", "warm", "tell"], "the second try is undone like the first");
    assert_eq!((world.state_of(first), world.state_of(second)), (State::RolledBack, State::RolledBack));
    // Told once, when the last try is over.
    told(&mut world, FIRST, "on-sync-failed");
    world.runs_nothing();
    assert_eq!(world.id(), second);
}

#[test]
fn a_sync_whose_end_was_rejected_is_tried_again_from_there() {
    let mut world = world();
    synced(&mut world, FIRST);
    job(&mut world, FIRST, "post-rollout");
    world.fails("smoke");
    let id = world.id();
    // SyncFail undoes nothing then, and Argo CD begins again with PreSync.
    for hook in ["rollback", "pre-rollout", "rollout"] {
        let reply = job(&mut world, FIRST, hook);
        assert_eq!(world.verdict(&reply), Verdict::Approved, "{hook}");
        world.runs_nothing();
    }
    let reply = job(&mut world, FIRST, "post-rollout");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    told(&mut world, FIRST, "on-deployed");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (id, State::Succeeded));
}

/// A call of a Job that does not know the operation.
fn nameless(world: &mut World, hook: &str) -> Reply {
    world.sent(Some(hook), &body(&json!({})))
}

#[test]
fn an_end_that_jobs_told_without_the_operation_is_told_by_no_notification_again() {
    let mut world = world();
    nameless(&mut world, "pre-rollout");
    world.all_succeed();
    nameless(&mut world, "post-rollout");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let first = world.id();
    told(&mut world, FIRST, "on-deployed");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (first, State::Succeeded));
    // Of an operation without hooks it is the only word, and a rollout of its own.
    told(&mut world, SECOND, "on-deployed");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_ne!(world.id(), first);

    nameless(&mut world, "pre-rollout");
    world.all_succeed();
    nameless(&mut world, "rollback");
    assert_eq!(world.all_succeed(), ["migrate", "tell"]);
    let third = world.id();
    told(&mut world, "2026-01-01T12:00:00Z", "on-sync-failed");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (third, State::RolledBack));
    // The next one fails before any hook.
    told(&mut world, "2026-01-01T13:00:00Z", "on-sync-failed");
    assert_eq!(world.all_succeed(), ["tell"]);
    assert_ne!(world.id(), third);
}

#[test]
fn a_gate_that_failed_may_be_asked_again() {
    let mut world = world();
    let reply = job(&mut world, FIRST, "pre-rollout");
    world.fails("migrate");
    assert_eq!(world.verdict(&reply), Verdict::Rejected);
    let reply = job(&mut world, FIRST, "pre-rollout");
    assert_eq!(world.all_succeed(), ["migrate"], "a pod that was replaced, or somebody's next try");
    assert_eq!(world.verdict(&reply), Verdict::Approved);
}

#[test]
fn what_fails_after_everything_is_applied_and_healthy_undoes_nothing() {
    let mut world = world();
    synced(&mut world, FIRST);
    let reply = job(&mut world, FIRST, "post-rollout");
    world.fails("smoke");
    assert_eq!(world.verdict(&reply), Verdict::Rejected);
    let reason = world.current().end().unwrap().reason;
    assert_eq!((world.state(), reason), (State::Succeeded, Some(Reason::PostRolloutFailed)));
    let reply = job(&mut world, FIRST, "rollback");
    assert_eq!(world.verdict(&reply), Verdict::Approved);
    told(&mut world, FIRST, "on-sync-failed");
    world.runs_nothing();
    assert_eq!(world.state(), State::Succeeded);
}

#[test]
fn two_triggers_that_tell_the_same_success_run_its_stages_once() {
    let mut world = world();
    told(&mut world, FIRST, "on-sync-running");
    assert_eq!(world.all_succeed(), ["warm"]);
    told(&mut world, FIRST, "on-sync-succeeded");
    world.fails("smoke");
    let id = world.id();
    told(&mut world, FIRST, "on-deployed");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (id, State::Succeeded));
}

#[test]
fn a_degraded_health_undoes_what_was_never_healthy_and_nothing_else() {
    let mut world = world();
    told(&mut world, FIRST, "on-health-degraded");
    world.runs_nothing();
    assert!(world.stream.current().is_none(), "an application that nobody rolls out");
    told(&mut world, FIRST, "on-sync-running");
    assert_eq!(world.all_succeed(), ["warm"]);
    told(&mut world, "2025-12-31T10:00:00Z", "on-health-degraded");
    world.runs_nothing();
    assert_eq!(world.state(), State::Progressing, "of an operation before");
    told(&mut world, FIRST, "on-health-degraded");
    assert_eq!(world.all_succeed(), ["warm", "tell"]);
    assert_eq!(world.state(), State::RolledBack);
    told(&mut world, FIRST, "on-sync-failed");
    world.runs_nothing();

    told(&mut world, SECOND, "on-deployed");
    assert_eq!(world.all_succeed(), ["smoke"]);
    told(&mut world, SECOND, "on-health-degraded");
    world.runs_nothing();
    assert_eq!(world.state(), State::Succeeded, "it serves");
}

#[test]
fn while_the_sync_goes_on_a_degraded_health_is_only_noted() {
    let mut world = world();
    job(&mut world, FIRST, "pre-rollout");
    let more = json!({"operation": FIRST, "event": "on-health-degraded", "phase": "Running"});
    world.sent(Some("rollback"), &body(&more));
    assert_eq!(world.all_succeed(), ["migrate"], "it is what ran before that is degraded");
    assert_eq!(world.state(), State::Progressing);
}

#[test]
fn an_end_that_was_lost_leaves_the_next_operation_alone() {
    let mut world = world();
    synced(&mut world, FIRST);
    let first = world.id();
    synced(&mut world, SECOND);
    assert_eq!(world.state_of(first), State::Abandoned, "it may be what served until now");
    let second = world.id();
    // The lost word comes after all.
    told(&mut world, FIRST, "on-sync-failed");
    assert_eq!(world.all_succeed(), ["migrate", "warm", "tell"]);
    assert_eq!((world.state_of(first), world.state_of(second)), (State::RolledBack, State::Progressing));
}

#[test]
fn a_rollback_in_argo_cd_runs_no_hooks_and_its_notifications_are_an_operation() {
    let mut world = world();
    told(&mut world, FIRST, "on-deployed");
    world.all_succeed();
    let first = world.id();
    told(&mut world, SECOND, "on-sync-running");
    told(&mut world, SECOND, "on-deployed");
    world.all_succeed();
    assert_ne!(world.id(), first);
    assert_eq!((world.state_of(first), world.state()), (State::Succeeded, State::Succeeded));
}

//! Events of Flux: what a HelmRelease and a Kustomization tell, in the order in which their controllers tell it.

use serde_json::{Value, json};
use stagehook::domain::call::{Reply, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::record::{Event, Reason};
use stagehook::domain::summary::State;

use crate::pipelines::{pipeline, script};
use crate::world::World;

fn world() -> World {
    let stages =
        vec![script("warm", Hook::Rollout), script("smoke", Hook::PostRollout), script("tell", Hook::Rollback)];
    World::new(Source::Flux, pipeline(stages))
}

fn event(world: &World, kind: &str, reason: &str, revision: &str) -> Value {
    let error = reason.ends_with("Failed");
    json!({
        "involvedObject": {"kind": kind, "namespace": "test", "name": "podinfo", "uid": "0b9d3c1e"},
        "severity": if error { "error" } else { "info" },
        "timestamp": world.now.to_string(), "reason": reason, "message": reason,
        "metadata": {"revision": revision},
    })
}

fn helm(world: &mut World, reason: &str, revision: &str) -> Reply {
    let event = event(world, "HelmRelease", reason, revision);
    world.sent(None, &event)
}

fn kustomization(world: &mut World, reason: &str, revision: &str) -> Reply {
    let event = event(world, "Kustomization", reason, revision);
    world.sent(None, &event)
}

#[test]
fn an_upgrade_whose_tests_fail_is_undone_although_it_was_told_to_have_succeeded() {
    let mut world = world();
    helm(&mut world, "InstallSucceeded", "1.0.0");
    world.all_succeed();
    let first = world.id();
    helm(&mut world, "UpgradeSucceeded", "1.1.0");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let second = world.id();
    let reply = helm(&mut world, "TestFailed", "1.1.0");
    assert_eq!(world.all_succeed(), ["smoke", "tell"]);
    assert_eq!((world.verdict(&reply), world.id()), (Verdict::Approved, second));
    assert_eq!(world.current().end().unwrap().reason, Some(Reason::Failed));
    assert!(!world.current().undone, "its caller knows");
    helm(&mut world, "RollbackSucceeded", "1.0.0");
    world.runs_nothing();
    assert_eq!((world.state_of(first), world.state_of(second)), (State::Succeeded, State::RolledBack));
}

#[test]
fn tests_that_succeed_are_the_same_success() {
    let mut world = world();
    helm(&mut world, "UpgradeSucceeded", "1.1.0");
    helm(&mut world, "TestSucceeded", "1.1.0");
    assert_eq!(world.all_succeed(), ["smoke"]);
    helm(&mut world, "TestSucceeded", "1.1.0");
    world.runs_nothing();
    assert_eq!((world.stream.deployments.len(), world.state()), (1, State::Succeeded));
}

#[test]
fn a_rollback_undoes_a_release_whose_failure_was_lost() {
    let mut world = world();
    for version in ["1.0.0", "1.1.0"] {
        helm(&mut world, "UpgradeSucceeded", version);
        world.all_succeed();
    }
    helm(&mut world, "RollbackSucceeded", "1.0.0");
    assert_eq!(world.all_succeed(), ["smoke", "tell"]);
    assert_eq!(world.state(), State::RolledBack);
}

#[test]
fn an_upgrade_that_fails_and_is_tried_again_succeeds_in_a_deployment_of_its_own() {
    let mut world = world();
    helm(&mut world, "UpgradeSucceeded", "1.0.0");
    world.all_succeed();
    helm(&mut world, "UpgradeFailed", "1.1.0");
    assert_eq!(world.all_succeed(), ["tell"], "nothing of it was run");
    assert_eq!(world.state(), State::RolledBack);
    helm(&mut world, "UpgradeFailed", "1.1.0");
    helm(&mut world, "RollbackSucceeded", "1.0.0");
    world.runs_nothing();
    assert_eq!(world.stream.deployments.len(), 2);
    helm(&mut world, "UpgradeSucceeded", "1.1.0");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_eq!((world.stream.deployments.len(), world.state()), (3, State::Succeeded));
}

#[test]
fn an_event_that_is_sent_twice_counts_once() {
    let mut world = world();
    let upgraded = event(&world, "HelmRelease", "UpgradeSucceeded", "1.1.0");
    world.sent(None, &upgraded);
    world.all_succeed();
    world.sent(None, &upgraded);
    world.runs_nothing();
    assert_eq!(world.stream.deployments.len(), 1);
    helm(&mut world, "UpgradeSucceeded", "1.1.0");
    assert_eq!(world.all_succeed(), ["smoke"], "another upgrade with the same chart: other values");
    assert_eq!(world.stream.deployments.len(), 2);
}

#[test]
fn a_kustomization_goes_from_its_first_change_to_its_end() {
    let mut world = world();
    kustomization(&mut world, "Progressing", "main@sha1:a");
    assert_eq!(world.all_succeed(), ["warm"]);
    kustomization(&mut world, "Progressing", "main@sha1:a");
    world.runs_nothing();
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
    assert_eq!(world.all_succeed(), ["smoke"]);
    assert_eq!((world.state(), world.stream.deployments.len()), (State::Succeeded, 1));
}

#[test]
fn every_further_interval_leaves_no_trace() {
    let mut world = world();
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
    world.all_succeed();
    let records = world.records.len();
    for _ in 0..5 {
        let reply = kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
        assert_eq!(world.verdict(&reply), Verdict::Approved);
    }
    assert_eq!(world.records.len(), records);
}

#[test]
fn a_drift_that_is_corrected_is_no_rollout() {
    let mut world = world();
    kustomization(&mut world, "Progressing", "main@sha1:a");
    world.all_succeed();
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
    // Its post-rollout stages have not even begun.
    kustomization(&mut world, "Progressing", "main@sha1:a");
    assert_eq!(world.all_succeed(), ["smoke"]);
    let id = world.id();
    kustomization(&mut world, "Progressing", "main@sha1:a");
    kustomization(&mut world, "HealthCheckFailed", "main@sha1:a");
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (id, State::Succeeded), "what serves is not undone");
}

#[test]
fn a_revision_that_fails_is_undone_and_may_be_tried_again() {
    let mut world = world();
    kustomization(&mut world, "Progressing", "main@sha1:a");
    world.all_succeed();
    for _ in 0..3 {
        kustomization(&mut world, "HealthCheckFailed", "main@sha1:a");
    }
    assert_eq!(world.all_succeed(), ["warm", "tell"]);
    let first = world.id();
    kustomization(&mut world, "HealthCheckFailed", "main@sha1:a");
    world.runs_nothing();
    // Its health came after all, and nothing was applied for it: the deployment is over.
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
    world.runs_nothing();
    assert_eq!((world.id(), world.state()), (first, State::RolledBack));
    kustomization(&mut world, "Progressing", "main@sha1:a");
    assert_eq!(world.all_succeed(), ["warm"], "applied once more");
    assert_ne!(world.id(), first);
}

#[test]
fn a_revision_whose_build_fails_undoes_nothing_of_another() {
    let mut world = world();
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:a");
    world.all_succeed();
    let first = world.id();
    kustomization(&mut world, "BuildFailed", "main@sha1:b");
    assert_eq!(world.all_succeed(), ["tell"]);
    assert_eq!((world.state_of(first), world.state()), (State::Succeeded, State::RolledBack));
    kustomization(&mut world, "ReconciliationSucceeded", "main@sha1:c");
    assert_eq!(world.all_succeed(), ["smoke"]);
}

#[test]
fn a_new_revision_in_the_middle_leaves_the_one_before_without_an_end() {
    let mut world = world();
    kustomization(&mut world, "Progressing", "main@sha1:a");
    world.all_succeed();
    let first = world.id();
    kustomization(&mut world, "Progressing", "main@sha1:b");
    assert_eq!(world.all_succeed(), ["warm"]);
    assert_eq!(world.state_of(first), State::Abandoned);
}

#[test]
fn what_a_crash_cut_goes_on_by_itself() {
    let mut world = world();
    kustomization(&mut world, "Progressing", "main@sha1:a");
    world.grant_all();
    world.crash();
    assert_eq!(world.all_succeed(), ["warm"]);
    kustomization(&mut world, "ReconciliationFailed", "main@sha1:a");
    world.grant_all();
    world.crash();
    assert_eq!(world.all_succeed(), ["warm", "tell"]);
    let ends = |world: &World| {
        let is_end = |json: &&String| serde_json::from_str::<Value>(json).unwrap()["event"]["type"] == "ended";
        world.records.iter().filter(is_end).count()
    };
    assert_eq!((world.state(), ends(&world)), (State::RolledBack, 1));
    assert!(!world.facts.iter().any(|fact| matches!(fact, Event::Opened { .. })));
}

//! The core: its rules as scenarios, and its random histories against a second account of them.
//!
//! Nothing here runs a process, opens a socket or reads a clock.

#![expect(clippy::unwrap_used, reason = "a helper that finds nothing is a failed test")]

#[path = "core/argo_rollouts.rs"]
mod argo_rollouts;
#[path = "core/argocd.rs"]
mod argocd;
#[path = "core/callers.rs"]
mod callers;
#[path = "core/deployments.rs"]
mod deployments;
#[path = "core/flux.rs"]
mod flux;
#[path = "core/gates.rs"]
mod gates;
#[path = "core/histories.rs"]
mod histories;
#[path = "core/late.rs"]
mod late;
#[path = "core/loadtester.rs"]
mod loadtester;
#[path = "core/model.rs"]
mod model;
#[path = "core/pipelines.rs"]
mod pipelines;
#[path = "core/progress.rs"]
mod progress;
#[path = "core/random.rs"]
mod random;
#[path = "core/repetitions.rs"]
mod repetitions;
#[path = "core/rollbacks.rs"]
mod rollbacks;
#[path = "core/rollouts.rs"]
mod rollouts;
#[path = "core/world.rs"]
mod world;

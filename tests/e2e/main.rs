//! The program as its callers and operators meet it: the real binary, over HTTP, killed and restarted.

#![expect(clippy::unwrap_used, reason = "a test's helper fails like the test itself")]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod argo_rollouts;
mod argocd;
mod backup;
mod bad_input;
mod canary;
mod conformance;
mod crash;
mod engine_races;
mod faults;
mod flagger_sim;
mod flips;
mod flux;
mod full_disk;
mod github;
mod history;
mod hostile;
mod identity;
mod ledger;
mod loadtester;
mod misbehaving;
mod named_calls;
mod outlive;
mod privileges;
mod random_killer;
mod random_walk;
mod repeated_calls;
mod requested;
mod retention;
mod rollback;
mod rotation;
mod secrets;
mod service;
mod seven_stages;
mod spinnaker;
mod tls;

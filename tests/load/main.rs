//! A thousand canaries at once, on eight slots: the real binary, a simulated Flagger for each application, and scripts
//! that write down themselves when they run.
//!
//! Beside the other tests of the program it says nothing of single rules; it says that they hold when most calls are
//! turned away at first. `STAGEHOOK_LOAD_APPLICATIONS` says how many applications there are.

#![expect(clippy::unwrap_used, reason = "a test's helper fails like the test itself")]

#[path = "../e2e/flagger_sim.rs"]
#[expect(dead_code, reason = "the end-to-end tests need more of it")]
mod flagger_sim;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the end-to-end tests need more of it")]
mod support;

mod canary;
mod cut;
mod invariants;
mod ledger;
mod metrics;
mod rounds;
mod thousand;

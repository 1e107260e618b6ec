//! Crash at every point: each story is told once to see which failpoints it comes to, and then once for each of them,
//! with a server that is gone at that very moment. It starts again on the same ledger, whoever called goes on to the
//! end, and everything that must be true of any history is. A quarter of them dies again while it recovers. `STAGEHOOK_CRASHES`
//! says how many are told (`all`: each), `STAGEHOOK_CRASH` tells those alone whose label has it.

#![expect(clippy::unwrap_used, reason = "a test's helper fails like the test itself")]

#[expect(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the program as its callers meet it, which use all of it"
)]
#[path = "../support/mod.rs"]
mod support;

#[expect(dead_code, reason = "shared with the same")]
#[path = "../e2e/flagger_sim.rs"]
mod flagger_sim;
#[expect(dead_code, reason = "shared with the same")]
#[path = "../e2e/history.rs"]
mod history;

mod life;
mod stories;
mod walk;

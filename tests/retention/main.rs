//! Pruning, and a ledger that has grown large: what goes, what stays, what it costs, and that the ledger can't lie
//! about it.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail it")]

#[path = "../../src/ledger/filler.rs"]
#[expect(dead_code, reason = "others use more of it")]
mod filler;
mod listing;
mod pruning;
mod world;

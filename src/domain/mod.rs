//! The pure core: what a deployment is and every rule about it.
//!
//! No I/O, no clock, no randomness: time and ids are handed in, records and actions come out.

pub mod allow;
pub mod answer;
pub mod call;
pub mod decide;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod github;
pub mod glob;
pub mod hook;
pub mod ids;
pub mod loadtester;
pub mod names;
pub mod pass;
pub mod pipeline;
pub mod printable;
pub mod progress;
pub mod record;
pub mod replay;
pub mod report;
#[cfg(test)]
pub(crate) mod sample;
pub mod span;
pub mod state;
pub mod summary;

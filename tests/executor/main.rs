//! Scripts are run to their proven end: whatever they do, nothing of them is left.
//!
//! Every process that a test asks about writes its number to a file in the script's folder, and
//! the test waits for its death by pidfd, never by time.

#![expect(clippy::unwrap_used, reason = "a test's helper fails like the test itself")]

mod endings;
mod misbehaving;
mod server;
mod start_and_output;
mod tree;
mod world;

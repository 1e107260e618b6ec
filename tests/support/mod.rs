//! The real binary in a folder of its own, and the means to see what it did: calls, records, and what its scripts
//! left behind. Nothing here sleeps for luck: a test waits for an event, or asks again until a deadline.

pub mod certificates;
pub mod dice;
pub mod gate;
pub mod github;
pub mod http;
pub mod journal;
pub mod past;
pub mod pipelines;
pub mod poll;
pub mod processes;
pub mod programs;
pub mod server;
pub mod world;

pub use gate::Gate;
pub use http::{Client, Reply};
pub use world::World;

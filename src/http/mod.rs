//! The service on the wire: hyper and axum, routes, limits, the API, problems, metrics, health.
//!
//! No rule of a deployment is here: a request becomes a call or an operation of the engine, and its answer is written
//! down. Nor is any setting read here: [`Settings`] comes complete.
//!
//! - [`serve`] (`server`): the connections, from the first to the last
//! - `router`: which path is whose, and what holds for every request
//! - `hooks`: the calls of the sources
//! - `prefer`, `status`: callers that do not wait, and what they read later
//! - `loadtester`: the paths of Flagger's load tester
//! - `api`: what people and the command line ask
//! - `health`, `page`, [`metrics`]: probes, the page at `/`, numbers
//! - `problem`: refusals
//! - `line`, `seats`, `bodies`, `refusal`: one connection and its times, how many there are, what they may send, and what
//!   they are told where there is no request to answer

mod api;
mod bodies;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod hooks;
mod line;
mod loadtester;
pub mod metrics;
mod page;
mod prefer;
mod problem;
mod query;
mod refusal;
mod router;
mod seats;
mod server;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::bodies::Bodies;
pub use self::metrics::Metrics;
use self::seats::Seats;
pub use self::server::serve;
pub use self::settings::{Access, ApiToken, Scope, Settings, SourceSettings};
use crate::engine::Engine;

/// The most connections' part that may wait for something, of eight: with the others every call can still be told, and
/// every probe answered.
const HELD: usize = 7;

/// How many readers of the API ask the ledger at a time. It has twice as many connections: a call never waits for them.
const API_READERS: usize = 2;

/// The most descriptors that are open for so many connections.
pub const fn descriptors(connections: usize) -> usize {
    seats::descriptors(connections)
}

/// What the handlers share.
#[derive(Clone)]
pub struct State {
    /// Decides and runs.
    pub engine: Engine,
    /// What was configured.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether only this machine can connect: then the API without tokens is open.
    loopback: bool,
    /// The connections.
    seats: Seats,
    /// What of the connections may be held: by calls that wait for their verdict, and by who follows a run.
    held: Arc<Semaphore>,
    /// The bodies that are in memory.
    bodies: Bodies,
    /// Whose turn it is to read the ledger.
    readers: Arc<Semaphore>,
    /// Cancelled when the connections are to be given up.
    stopping: CancellationToken,
}

impl State {
    /// The state of a service that listens on loopback only, or not.
    pub fn new(engine: Engine, settings: Settings, metrics: Arc<Metrics>, loopback: bool) -> Self {
        Self {
            engine,
            seats: Seats::new(settings.max_connections),
            held: Arc::new(Semaphore::new((settings.max_connections * HELD / 8).max(1))),
            bodies: Bodies::new(&settings),
            readers: Arc::new(Semaphore::new(API_READERS)),
            settings: Arc::new(settings),
            metrics,
            loopback,
            stopping: CancellationToken::new(),
        }
    }

    /// Who is let in right now. What was let in once stays in, whatever is rotated meanwhile.
    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.settings.access.borrow())
    }
}

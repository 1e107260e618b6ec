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

mod api;
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
mod router;
mod server;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use self::metrics::Metrics;
pub use self::server::serve;
pub use self::settings::{Access, ApiToken, Scope, Settings, SourceSettings};
use crate::engine::Engine;

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
    /// Cancelled when the connections are to be given up.
    stopping: CancellationToken,
}

impl State {
    /// The state of a service that listens on loopback only, or not.
    pub fn new(engine: Engine, settings: Settings, metrics: Arc<Metrics>, loopback: bool) -> Self {
        Self { engine, settings: Arc::new(settings), metrics, loopback, stopping: CancellationToken::new() }
    }

    /// Who is let in right now. What was let in once stays in, whatever is rotated meanwhile.
    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.settings.access.borrow())
    }
}

//! One adapter for each kind of caller: authenticate it, read its payload into a [`Call`], and render the verdict in
//! its dialect.
//!
//! It decides nothing: which deployment is meant, what runs and what the verdict is are the core's business. It knows
//! no socket and no router either; it is handed bytes and headers, and gives back a response as a value.
//!
//! - [`auth`]: who calls
//! - [`flagger`], [`generic`]: what a payload means
//! - [`render`]: how a verdict is written
//! - `body`: what the payloads have in common

pub mod auth;
mod body;
pub mod flagger;
pub mod generic;
pub mod render;

use crate::domain::call::Call;
use crate::domain::names::{Application, Source};

pub use body::BadCall;

/// A payload that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What is deployed.
    pub application: Application,
    /// What is said about it.
    pub call: Call,
}

/// The hooks of a source, as they are written in its paths.
pub const fn hooks(source: Source) -> &'static [&'static str] {
    match source {
        Source::Flagger => flagger::HOOKS,
        Source::Generic => generic::HOOKS,
    }
}

/// Reads the body of a call. `hook` is the last part of the path, one of [`hooks`]; `cluster` is the query's.
pub fn parse(source: Source, hook: &str, body: &[u8], cluster: Option<&str>) -> Result<Parsed, BadCall> {
    match source {
        Source::Flagger => flagger::parse(hook, body, cluster),
        Source::Generic => generic::parse(hook, body, cluster),
    }
}

//! One adapter for each kind of caller: authenticate it, read its payload into a [`Call`], and render the verdict in
//! its dialect.
//!
//! It decides nothing: which deployment is meant, what runs and what the verdict is are the core's business. It knows
//! no socket and no router either; it is handed bytes and headers, and gives back a response as a value.
//!
//! - [`auth`]: who calls
//! - [`flagger`], [`loadtester`], [`generic`], [`github`], [`argocd`], [`argo_rollouts`], [`flux`]: what a payload means
//! - [`render`]: how a verdict is written
//! - `body`, [`cloudevents`], [`idempotency`]: what payloads and headers have in common
//! - `cdevents`: what the events of that vocabulary mean

pub mod argo_rollouts;
pub mod argocd;
pub mod auth;
mod body;
mod cdevents;
pub mod cloudevents;
pub mod flagger;
pub mod flux;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod generic;
pub mod github;
pub mod idempotency;
mod json;
pub mod loadtester;
pub mod render;

use http::HeaderMap;

use crate::domain::call::Call;
use crate::domain::names::{Application, Source};

pub use body::BadCall;

/// A request whose caller is known.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The last part of the path, one of [`hooks`]; none where the source has one path for everything.
    pub hook: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The query `cluster`.
    pub cluster: Option<&'a str>,
    /// The body as it came.
    pub body: &'a [u8],
}

/// What a request was found to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Read {
    /// Calls, mostly one: an event may concern several applications.
    Calls(Vec<Parsed>),
    /// Nothing that runs or ends anything here; why, in one line.
    Ignored(String),
    /// A form of body that is not read here; which are.
    Unsupported(String),
}

/// A payload that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What is deployed.
    pub application: Application,
    /// What is said about it.
    pub call: Call,
}

/// The hooks of a source, as they are written in its paths. None where the payload says which is meant: then the path
/// is `/hooks/SOURCE`.
pub const fn hooks(source: Source) -> &'static [&'static str] {
    match source {
        Source::Flagger => flagger::HOOKS,
        Source::Generic => generic::PATHS,
        Source::Argocd => argocd::HOOKS,
        Source::ArgoRollouts => argo_rollouts::HOOKS,
        Source::Github | Source::Flux | Source::Loadtester => &[],
    }
}

/// Reads a request. `known` is what GitHub's events are read with.
pub fn read(source: Source, incoming: &Incoming<'_>, known: github::Known<'_>) -> Result<Read, BadCall> {
    let (hook, body, cluster) = (incoming.hook.unwrap_or_default(), incoming.body, incoming.cluster);
    let one = |parsed: Parsed| Read::Calls(vec![parsed]);
    match source {
        Source::Flagger => flagger::parse(hook, body, cluster).map(one),
        Source::Generic => generic::read(incoming),
        Source::Argocd => argocd::parse(incoming).map(one),
        Source::ArgoRollouts => argo_rollouts::parse(incoming).map(one),
        Source::Flux => flux::read(incoming),
        Source::Github => github::read(incoming.headers, body, cluster, known),
        // It has paths of its own, at the root.
        Source::Loadtester => {
            Err(BadCall(format!("{source} has no hooks; its paths are /gate/…, /rollback/… and POST /")))
        }
    }
}

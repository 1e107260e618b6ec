//! What `http` is told at its start: plain values, secrets resolved. Reading them from files is `config`'s business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::names::Source;
use crate::source::auth::{Credentials, Secret};
use crate::source::loadtester::Commands;
use crate::source::render::Statuses;

/// How requests are taken.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sources that are known; one that is not is disabled.
    pub sources: BTreeMap<Source, SourceSettings>,
    /// Who is let in; another one when secrets are rotated.
    pub access: watch::Receiver<Arc<Access>>,
    /// What the listener shows; another one when its files change. Without it, it speaks plain HTTP.
    pub tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    /// How callers reach the service, without a slash at the end; none: by the name that each asks for.
    pub public_url: Option<String>,
    /// Whether outcomes can be told to GitHub's API.
    pub github_reports: bool,
    /// What callers of the load tester may have run, and how.
    pub commands: Commands,
    /// How long a caller may take to send its headers, the TLS handshake included.
    pub header_timeout: Duration,
    /// How long a caller may take to send its body.
    pub body_timeout: Duration,
    /// How long a connection is kept without a request.
    pub idle_timeout: Duration,
    /// How long a caller may take nothing of its answer.
    pub write_timeout: Duration,
    /// The longest headers of a request, in bytes.
    pub max_header: usize,
    /// The most connections.
    pub max_connections: usize,
    /// How long the last answers may take to be written once the service stops.
    pub close_grace: Duration,
}

impl Settings {
    /// The settings of a source that is served.
    pub fn of(&self, source: Source) -> Option<&SourceSettings> {
        self.sources.get(&source).filter(|settings| settings.enabled)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sources: BTreeMap::from([
                (Source::Flagger, SourceSettings { respond_within: None, ..SourceSettings::default() }),
                (Source::Generic, SourceSettings::default()),
            ]),
            access: Access::default().for_ever(),
            tls: None,
            public_url: None,
            github_reports: false,
            commands: Commands::default(),
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(2 * 60),
            write_timeout: Duration::from_secs(30),
            max_header: 64 * 1024,
            max_connections: 4096,
            close_grace: Duration::from_secs(5),
        }
    }
}

/// How one source's calls are taken.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// Whether it has a path at all.
    pub enabled: bool,
    /// How long a call is held; none: until the verdict.
    pub respond_within: Option<Duration>,
    /// The longest body, in bytes.
    pub max_body: usize,
    /// How verdicts are told.
    pub statuses: Statuses,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            respond_within: Some(Duration::from_secs(5 * 60)),
            max_body: 1024 * 1024,
            statuses: Statuses::default(),
        }
    }
}

/// Who is let in, as it is at one moment.
#[derive(Clone, Debug)]
pub struct Access {
    /// What the callers of each source must show. A source that is not here lets nobody in.
    pub sources: BTreeMap<Source, Credentials>,
    /// Who may use the API; without any it is open on loopback, and closed elsewhere.
    pub api_tokens: Vec<ApiToken>,
}

impl Access {
    /// The same until the end: nothing is rotated.
    pub fn for_ever(self) -> watch::Receiver<Arc<Self>> {
        watch::channel(Arc::new(self)).1
    }
}

impl Default for Access {
    /// As open as each source may be.
    fn default() -> Self {
        Self { sources: Source::ALL.map(|source| (source, Credentials::None)).into(), api_tokens: Vec::new() }
    }
}

/// One credential of the API.
#[derive(Clone, Debug)]
pub struct ApiToken {
    /// What the ledger calls whoever uses it.
    pub name: String,
    /// The token.
    pub secret: Secret,
    /// What it allows.
    pub scope: Scope,
}

/// What a token of the API allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To look.
    Read,
    /// To look, and to roll back, cancel, close and release.
    Operate,
}

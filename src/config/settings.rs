//! The settings of the service: what they are, and how they are found.
//!
//! `config/default.yaml` holds every one with its default and is compiled in. Secrets are references here;
//! [`Settings::resolve`] reads their values, at the start and again when they are rotated.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::domain::names::Source;
use crate::domain::span::Span;

pub use super::confinement::{RunAs, ScriptLimits};
pub use super::credentials::{Auth, Credential, Credentials, Limits};
use super::diagnostic::{Diagnostic, Severity};
use super::github::{GithubApi, GithubCredentials, GithubIdentity};
use super::layers::Layers;
use super::loadtester::LoadTester;
use super::pipeline::Defaults;
use super::secret::{Environment, Secret, SecretError, SecretRef, SecretValue};
use super::tls::Tls;
use super::{read, yaml};

/// The defaults, as they are shipped.
pub const DEFAULT: &str = include_str!("../../config/default.yaml");

/// Every setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `server`.
    pub server: Server,
    /// `ledger`.
    pub ledger: Ledger,
    /// `pipelines`: the directory of the pipeline files.
    pub pipelines: PathBuf,
    /// `staleAfter`.
    pub stale_after: Span,
    /// `rollback`.
    pub rollback: Rollback,
    /// `execution`.
    pub execution: Execution,
    /// `sources`: every source there is.
    pub sources: BTreeMap<Source, SourceSettings>,
    /// `sources.github.api`.
    pub github_api: GithubApi,
    /// `sources.loadtester`, beyond what every source has.
    pub load_tester: LoadTester,
    /// `api.tokens`.
    pub api_tokens: Vec<ApiToken>,
    /// `log`.
    pub log: Log,
}

/// `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The address.
    pub listen: SocketAddr,
    /// How long a drain may take.
    pub shutdown_grace: Span,
    /// How callers reach it, without a slash at its end. None: by the name that each asks for.
    pub public_url: Option<String>,
    /// How long, how large and how many.
    pub limits: ServerLimits,
    /// `tls`, where it has a certificate: then the listener speaks HTTPS alone.
    pub tls: Option<Tls>,
}

/// The limits of `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Until the headers of a request are whole.
    pub header_timeout: Span,
    /// Until its body is.
    pub body_timeout: Span,
    /// Without a request.
    pub idle_timeout: Span,
    /// Of a caller that takes nothing of its answer.
    pub write_timeout: Span,
    /// The longest headers, in bytes.
    pub max_header: u64,
    /// The most connections.
    pub max_connections: usize,
}

/// `ledger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// `url` as it was written.
    pub url: String,
    /// The database file that it names.
    pub path: PathBuf,
    /// How long ago a deployment must have ended to be removed; none: nothing is.
    pub retain: Option<Span>,
}

/// `rollback`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// How long after the first yes a signalled rollback is replayed anyway.
    pub signal_timeout: Span,
}

/// `execution`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// How many scripts run at the same time; at least one.
    pub max_concurrent: usize,
    /// How many wait.
    pub queue: usize,
    /// For stages without a timeout.
    pub default_timeout: Span,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Span,
    /// How many bytes of a run's output are kept.
    pub output_limit: u64,
    /// Which variables of the service scripts see.
    pub inherit_env: Vec<String>,
    /// Where the files of running scripts are.
    pub work_dir: PathBuf,
    /// Whom scripts run as. None: as the service.
    pub run_as: Option<RunAs>,
    /// `limits` of the processes of scripts.
    pub limits: ScriptLimits,
}

/// `sources.NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// Whether it is served.
    pub enabled: bool,
    /// How its callers prove who they are. Absent only on loopback: open.
    pub auth: Option<Auth>,
    /// How long a call is held; none: until the verdict.
    pub respond_within: Option<Span>,
    /// The largest body, in bytes.
    pub max_body: u64,
    /// The status of a rejection.
    pub rejected: u16,
    /// The status of a pending answer.
    pub pending: u16,
}

/// One of `api.tokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Who it is; it becomes part of the ledger.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The token.
    pub secret: Secret,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Look.
    Read,
    /// Look and act.
    Operate,
}

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber`'s filter; they have been parsed once.
    pub level: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The values of all secrets.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Of each enabled source.
    pub sources: BTreeMap<Source, Credentials>,
    /// For GitHub's API, where the source is enabled.
    pub github_api: Option<GithubCredentials>,
    /// Of the API.
    pub api_tokens: Vec<ApiCredential>,
}

/// A token of the API, with its value.
#[derive(Clone, Debug)]
pub struct ApiCredential {
    /// Who it is.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The token.
    pub token: SecretValue,
}

impl Settings {
    /// Lays the file and the variables over the defaults, and checks the whole.
    pub fn load(file: Option<&Path>, env: &Environment) -> Result<Self, Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let settings = Self::layered(file, env, &mut faults);
        // A secret may stand on any line of them by mistake, and their faults go to logs: none is quoted.
        faults.iter_mut().for_each(|fault| fault.snippet = None);
        faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        let refused = faults.iter().any(|fault| fault.severity == Severity::Error);
        settings.filter(|_| !refused).ok_or(faults)
    }

    /// Reads the values of all secrets; every one that can't be read is an error.
    pub fn resolve(&self, env: &Environment) -> Result<Secrets, Vec<SecretError>> {
        let mut errors = Vec::new();
        let mut sources = BTreeMap::new();
        for (source, settings) in self.sources.iter().filter(|(_, settings)| settings.enabled) {
            let auth = settings.auth.as_ref().unwrap_or(&Auth::None);
            sources.insert(*source, auth.resolve(env, &mut errors));
        }
        let mut api_tokens = Vec::new();
        for ApiToken { name, scope, secret } in &self.api_tokens {
            match secret.resolve(env) {
                Ok(token) => api_tokens.push(ApiCredential { name: name.clone(), scope: *scope, token }),
                Err(error) => errors.push(error),
            }
        }
        let used = self.sources.get(&Source::Github).is_some_and(|settings| settings.enabled);
        let github_api = self.github_api.credentials.as_ref().filter(|_| used);
        let github_api = github_api.map(|identity| identity.resolve(env)).transpose();
        let github_api = github_api.map_err(|error| errors.push(error)).ok().flatten();
        if errors.is_empty() { Ok(Secrets { sources, github_api, api_tokens }) } else { Err(errors) }
    }

    /// Every file that a secret of an enabled source or of the API is read from, and those of TLS.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let files = self.own_secrets().filter_map(|secret| match &secret.reference {
            SecretRef::File(file) => Some(file.clone()),
            SecretRef::Variable(_) => None,
        });
        let tls = self.server.tls.iter().flat_map(Tls::files);
        files.chain(tls).collect()
    }

    /// The secrets of enabled sources, of the API, and for GitHub's.
    fn own_secrets(&self) -> impl Iterator<Item = &Secret> {
        let sources = self.sources.values().filter(|source| source.enabled).filter_map(|source| source.auth.as_ref());
        let github = self.sources.get(&Source::Github).filter(|github| github.enabled);
        let github = github.and(self.github_api.credentials.as_ref()).map(GithubIdentity::secret);
        sources.flat_map(Auth::secrets).chain(self.api_tokens.iter().map(|token| &token.secret)).chain(github)
    }

    /// These settings with the credentials of newer ones. A source keeps its own if the newer ones disable it: what they
    /// say of its callers was never meant to be served.
    pub fn with_credentials_of(&self, newer: &Self) -> Self {
        let mut settings = self.clone();
        for (source, settings) in &mut settings.sources {
            if let Some(newer) = newer.sources.get(source).filter(|newer| newer.enabled) {
                settings.auth.clone_from(&newer.auth);
            }
        }
        settings.api_tokens.clone_from(&newer.api_tokens);
        // Whether outcomes are told at all changes at a start only.
        if let (Some(own), Some(newer)) = (&mut settings.github_api.credentials, &newer.github_api.credentials) {
            own.clone_from(newer);
        }
        // Between HTTP and HTTPS the listener changes at a start only.
        if let (Some(own), Some(newer)) = (&mut settings.server.tls, &newer.server.tls) {
            own.clone_from(newer);
        }
        settings
    }

    /// What pipeline files take from the settings.
    pub fn pipeline_defaults(&self) -> Defaults {
        let key = self
            .server
            .tls
            .as_ref()
            .map(|tls| Secret { setting: "server.tls.key".to_owned(), reference: SecretRef::File(tls.key.clone()) });
        Defaults { timeout: self.execution.default_timeout, reserved: self.own_secrets().cloned().chain(key).collect() }
    }

    fn layered(file: Option<&Path>, env: &Environment, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let documents = match file {
            Some(file) => yaml::read(file, faults)?,
            None => Vec::new(),
        };
        Self::of(documents, env, faults)
    }

    /// Lays the documents of a file, which has one or none, and the variables over the defaults.
    pub(super) fn of(mut documents: Vec<yaml::Node>, env: &Environment, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let defaults = yaml::parse("config/default.yaml".to_owned(), PathBuf::new(), DEFAULT.as_bytes(), faults);
        let mut layers = Layers::of(&read::SHAPE);
        defaults.into_iter().for_each(|defaults| layers.file(defaults));
        if let Some(second) = documents.get(1) {
            faults.push(Diagnostic::error(&second.at, "a settings file holds one document, and this is a second"));
        }
        documents.truncate(1);
        for document in documents {
            if !matches!(document.value, yaml::Value::Map(_) | yaml::Value::Null) {
                let message = format!("settings are a map, and this is {}", document.kind());
                faults.push(Diagnostic::error(&document.at, message));
                return None;
            }
            layers.file(document);
        }
        layers.variables(env, faults);
        let merged = layers.merged();
        let failed = |error| Diagnostic::of_file("settings", format!("the layers can't be merged: {error}"));
        let root = merged.map_err(|error| faults.push(failed(error))).ok()??;
        read::settings(&root, faults)
    }
}

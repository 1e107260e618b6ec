//! Tells outcomes where callers want them told: the answer to GitHub's protection rules, and statuses of its deployments.
//!
//! It tries once and says whether trying again may help. When to try again, and that nothing is forgotten, is the
//! engine's business; as what an outcome is told is `source::github::report`'s.
//!
//! - `api`: GitHub's API, and what its answers mean
//! - `app`: the tokens of a GitHub App

mod api;
mod app;
#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::sync::{Arc, PoisonError, RwLock};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;

pub use self::api::Clock;
use self::api::{Api, understood};
pub use self::app::App;
use crate::domain::call::Verdict;
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::engine::report::{Report, Reporter, Unsent};
use crate::source::github::report::{self, MARKER, To};

/// How GitHub's API is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sources.github.api.url`: it has been checked.
    pub url: Url,
    /// As whom. Without, statuses are not told, and no protection rule can be answered.
    pub credentials: Option<Credentials>,
    /// Where people find this service: a deployment's page becomes the log of its statuses.
    pub public_url: Option<String>,
}

/// As whom the API is used.
#[derive(Clone)]
pub enum Credentials {
    /// With a token.
    Token(String),
    /// As an app.
    App(App),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(***)"),
            Self::App(app) => app.fmt(f),
        }
    }
}

/// Tells outcomes to GitHub. A cheap handle.
#[derive(Clone)]
pub struct Github(Arc<Inner>);

struct Inner {
    url: Url,
    clock: Clock,
    /// Another one when credentials are exchanged.
    api: RwLock<Option<Arc<Api>>>,
    public_url: Option<String>,
}

impl Github {
    /// A reporter; the error says why there can be none.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, String> {
        let Settings { url, credentials, public_url } = settings;
        let github = Self(Arc::new(Inner { url, clock, api: RwLock::default(), public_url }));
        credentials.map_or(Ok(()), |credentials| github.exchange(credentials))?;
        Ok(github)
    }

    /// Takes other credentials from now on. What is being told is told with those that it began with.
    pub fn exchange(&self, credentials: Credentials) -> Result<(), String> {
        let Inner { url, clock, api, .. } = self.0.as_ref();
        let newer = Api::new(url.clone(), credentials, Arc::clone(clock))?;
        // Nothing panics while it holds this lock.
        *api.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(newer));
        Ok(())
    }
}

impl Reporter for Github {
    fn report(&self, report: Report) -> BoxFuture<'static, Result<(), Unsent>> {
        let inner = Arc::clone(&self.0);
        async move { inner.tell(&report).await }.boxed()
    }
}

/// A status as GitHub lists it.
#[derive(Deserialize)]
struct Status {
    state: String,
    description: Option<String>,
}

/// The status that is to be told, as the list of those that there are has it, the newest first.
fn still_to_tell(
    known: &[u8],
    hook: Hook,
    verdict: Verdict,
    message: &str,
) -> Result<Option<(&'static str, String)>, Unsent> {
    let known: Vec<Status> = understood(known, "list of statuses")?;
    let ours = |status: &&Status| status.description.as_deref().is_some_and(|text| text.starts_with(MARKER));
    let said = known.iter().find(|status| !ours(status)).map(|status| status.state.as_str());
    let told = report::status(hook, verdict, message, said);
    // Told before a crash, which lost the record of it.
    let repeats = |(state, description): &(&str, String)| {
        let newest = known.first().filter(|status| status.state == *state);
        newest.is_some_and(|status| status.description.as_ref() == Some(description))
    };
    Ok(told.filter(|told| !repeats(told)))
}

impl Inner {
    async fn tell(&self, report: &Report) -> Result<(), Unsent> {
        let Some(to) = To::of(&report.to) else {
            return Err(Unsent::Never("it does not say where at GitHub it is to be told".to_owned()));
        };
        let api = self.api.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(api) = api else {
            let why = "no sources.github.api: without a token or an app GitHub's API takes no answer, and the job waits \
                       until it times out; set sources.github.api.app (or .token)";
            return Err(Unsent::Never(why.to_owned()));
        };
        match to {
            To::ProtectionRule { url, environment, repository, installation } => {
                let url = api.callback(&url, &repository)?;
                let (state, comment) = report::review(report.verdict, &report.message);
                let body = json!({"environment_name": environment, "state": state, "comment": comment});
                api.send(Method::POST, url, &repository, installation, Some(&body)).await.map(drop)
            }
            To::DeploymentStatus { repository, deployment, installation } => {
                let url = api.statuses(&repository, deployment)?;
                let mut newest = url.clone();
                newest.set_query(Some("per_page=30"));
                let known = api.send(Method::GET, newest, &repository, installation, None).await?;
                let Some((state, description)) = still_to_tell(&known, report.hook, report.verdict, &report.message)?
                else {
                    return Ok(());
                };
                let mut body = json!({"state": state, "description": description, "auto_inactive": false});
                if let Some(url) = self.page(report.deployment) {
                    body["log_url"] = json!(url);
                }
                api.send(Method::POST, url, &repository, installation, Some(&body)).await.map(drop)
            }
        }
    }

    fn page(&self, deployment: DeploymentId) -> Option<String> {
        let base = self.public_url.as_deref()?.trim_end_matches('/');
        Some(format!("{base}/api/v1/deployments/{deployment}"))
    }
}

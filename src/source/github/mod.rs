//! GitHub's webhooks: `X-GitHub-Event` says what happened, `X-GitHub-Delivery` which delivery it is.
//!
//! Deployments are calls by themselves: the environment is the namespace, the repository the name, and repository and
//! deployment id the rollout. Pushes, releases and workflow runs are calls only where a pipeline's `spec.sources.github`
//! says so. Every other event is acknowledged, with the reason why nothing runs. GitHub waits ten seconds and never asks
//! again: each call is unattended.
//!
//! - `delivery`: headers and body, JSON or form
//! - `deployments`: the events of deployments
//! - `mapped`: the events that pipelines map
//! - [`report`]: where an outcome is told, and in which state

mod delivery;
mod deployments;
mod mapped;
pub mod report;

use std::fmt;

use http::HeaderMap;

use self::delivery::Delivery;
use super::body::BadCall;
use super::{Read, render};
use crate::domain::github::Rules;
use crate::domain::names::Application;

/// JSON by default: GitHub shows the body of the answer beside the delivery.
pub const DEFAULT_FORM: render::Form = render::Form::Json;

/// What is known here when a delivery is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Whether outcomes can be told to GitHub's API.
    pub reports: bool,
    /// What pipelines make of pushes, releases and workflow runs.
    pub mappings: &'a [Mapping<'a>],
}

/// What one pipeline makes of pushes, releases and workflow runs.
#[derive(Clone, Copy)]
pub struct Mapping<'a> {
    /// The pipeline's name, for answers.
    pub pipeline: &'a str,
    /// Its rules.
    pub rules: &'a Rules,
    /// Whether an application of GitHub's is that pipeline's own.
    pub selects: &'a (dyn Fn(&Application) -> bool + Sync),
}

impl fmt::Debug for Mapping<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("pipeline", &self.pipeline).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Reads a delivery. `cluster` is the query's.
pub fn read(headers: &HeaderMap, body: &[u8], cluster: Option<&str>, known: Known<'_>) -> Result<Read, BadCall> {
    let Known { reports, mappings } = known;
    if let Some(why) = delivery::unsupported(headers) {
        return Ok(Read::Unsupported(why));
    }
    let delivery = Delivery::read(headers, body, cluster)?;
    match delivery.event.as_str() {
        "ping" => Ok(Read::Ignored("ping: the webhook is set up, and nothing runs".to_owned())),
        "deployment" => deployments::created(&delivery, reports),
        "deployment_status" => deployments::status(&delivery, reports),
        "deployment_protection_rule" => deployments::protection_rule(&delivery),
        "push" => mapped::push(&delivery, mappings),
        "release" => mapped::release(&delivery, mappings),
        "workflow_run" => mapped::workflow_run(&delivery, mappings),
        other => Ok(Read::Ignored(format!(
            "the event {other:.100} runs nothing; deployment, deployment_status and deployment_protection_rule do, and \
             push, release and workflow_run where a pipeline maps them"
        ))),
    }
}

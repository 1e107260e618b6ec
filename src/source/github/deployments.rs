//! The events of GitHub's deployments, in the core's words.
//!
//! A deployment keeps its identity for life: repository and deployment id. Its environment is the one that it was created
//! for, since a status may name another one and is about the same deployment all the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::body::{BadCall, METADATA, line};
use super::super::json;
use super::super::{Parsed, Read};
use super::delivery::Delivery;
use super::report::{self, To};
use crate::domain::call::{Call, Says};
use crate::domain::github;
use crate::domain::hook::Hook;
use crate::domain::names::Shown;
use crate::domain::names::{Revision, RolloutId, Source};

/// `deployment`.
pub(super) fn created(delivery: &Delivery, reports: bool) -> Result<Read, BadCall> {
    if let Some(ignored) = other_action(delivery, "created")? {
        return Ok(ignored);
    }
    if let Some(ignored) = of_a_fork(delivery, Some("workflow_run")) {
        return Ok(ignored);
    }
    let summary = delivery.text("deployment.description")?;
    let about = About { hook: Hook::PreRollout, state: None, summary };
    call(delivery, &about, to_status(delivery, reports)?)
}

/// `deployment_status`.
pub(super) fn status(delivery: &Delivery, reports: bool) -> Result<Read, BadCall> {
    if let Some(ignored) = other_action(delivery, "created")? {
        return Ok(ignored);
    }
    if let Some(ignored) = of_a_fork(delivery, Some("workflow_run")) {
        return Ok(ignored);
    }
    let state = delivery.needed("deployment_status.state")?;
    let description = delivery.text("deployment_status.description")?;
    if description.is_some_and(|text| text.starts_with(report::MARKER)) {
        // Also another Stagehook's: two that took each other's word for the deployer's would never stop.
        return Ok(Read::Ignored(format!(
            "this deployment status was reported by Stagehook itself: its description begins with {:?}",
            report::MARKER
        )));
    }
    let hook = match state {
        "in_progress" => Hook::Rollout,
        "success" => Hook::PostRollout,
        "failure" | "error" => Hook::Rollback,
        other => {
            return Ok(Read::Ignored(format!(
                "the deployment status {} runs nothing; in_progress, success, failure and error do",
                Shown(other)
            )));
        }
    };
    let about = About { hook, state: Some(state), summary: delivery.text("deployment.description")?.or(description) };
    call(delivery, &about, to_status(delivery, reports)?)
}

/// `deployment_protection_rule`: the one event whose job waits for the answer.
pub(super) fn protection_rule(delivery: &Delivery) -> Result<Read, BadCall> {
    if let Some(ignored) = other_action(delivery, "requested")? {
        return Ok(ignored);
    }
    if let Some(ignored) = of_a_fork(delivery, None) {
        return Ok(ignored);
    }
    let to = To::ProtectionRule {
        url: delivery.needed("deployment_callback_url")?.to_owned(),
        environment: delivery.needed("environment")?.to_owned(),
        repository: delivery.repository()?.to_string(),
        installation: delivery.id("installation.id")?,
    };
    let summary = delivery.text("deployment.description")?;
    call(delivery, &About { hook: Hook::PreRollout, state: None, summary }, Some(to))
}

/// A longer value of a deployment's payload is no variable: the system starts no script with an environment that is too
/// large, and then nothing could be undone either.
const LONGEST_VALUE: usize = 32 << 10;

struct About<'a> {
    hook: Hook,
    state: Option<&'a str>,
    summary: Option<&'a str>,
}

fn call(delivery: &Delivery, about: &About<'_>, to: Option<To>) -> Result<Read, BadCall> {
    let environment = match delivery.text("deployment.original_environment")? {
        Some(environment) => environment,
        None => match delivery.text("deployment.environment")? {
            Some(environment) => environment,
            None => delivery.needed("environment")?,
        },
    };
    let application = delivery.application(github::namespace(environment)?)?;
    let commit = delivery.needed("deployment.sha")?;
    let revision = Some(Revision::new(commit)?);
    let rollout = format!("{}/{}", delivery.needed_id("repository.id")?, delivery.needed_id("deployment.id")?);
    let says = Says::of(about.hook, revision);
    let payload = delivery.payload(metadata(delivery, environment, about.state)?);
    let mut call = Call::new(Source::Github, about.hook, says, payload, delivery.about(Some(commit), about.summary)?);
    call.rollout = Some(RolloutId::new(rollout)?);
    call.key = Some(delivery.key.clone());
    call.report = to.map(To::into_report);
    call.unattended = true;
    Ok(Read::Calls(vec![Parsed { application, call }]))
}

fn to_status(delivery: &Delivery, reports: bool) -> Result<Option<To>, BadCall> {
    if !reports {
        return Ok(None);
    }
    Ok(Some(To::DeploymentStatus {
        repository: delivery.repository()?.to_string(),
        deployment: delivery.needed_id("deployment.id")?,
        installation: delivery.id("installation.id")?,
    }))
}

/// A pull request of a fork may name any environment in its workflow, and GitHub tells of a deployment then.
fn of_a_fork(delivery: &Delivery, run: Option<&str>) -> Option<Read> {
    let why = "the deployment is one of a fork's pull request, which runs nothing here";
    delivery.is_of_a_fork(run).then(|| Read::Ignored(why.to_owned()))
}

fn other_action(delivery: &Delivery, wanted: &str) -> Result<Option<Read>, BadCall> {
    // Without one where the event knew only one: GitHub Enterprise Server used to leave it out.
    let action = delivery.text("action")?.unwrap_or(wanted);
    let event = &delivery.event;
    let ignored =
        || Read::Ignored(format!("the action {} of the event {event} runs nothing; {wanted} does", Shown(action)));
    Ok((action != wanted).then(ignored))
}

/// What scripts see as `STAGEHOOK_METADATA_X`: what the deployment was created with, then what GitHub says of it.
fn metadata(delivery: &Delivery, environment: &str, state: Option<&str>) -> Result<BTreeMap<String, String>, BadCall> {
    let mut metadata = BTreeMap::new();
    // Whoever creates a deployment puts in here what they like; older API versions keep it as text.
    let own = match delivery.at("deployment.payload") {
        Some(Value::String(text)) => json::read(text.as_bytes()).ok(),
        other => other.cloned(),
    };
    if let Some(Value::Object(own)) = own {
        for (key, value) in own {
            let text = match value {
                Value::String(text) if !text.contains('\0') => text,
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => continue,
            };
            if !key.contains('\0') && key.len() + text.len() <= LONGEST_VALUE && metadata.len() < METADATA {
                metadata.insert(key, text);
            }
        }
    }
    let said = [
        ("environment", Some(environment)),
        ("ref", delivery.text("deployment.ref")?),
        ("task", delivery.text("deployment.task")?),
        ("state", state),
        ("description", delivery.text("deployment.description")?),
    ];
    for (key, text) in said {
        if let Some(text) = text {
            metadata.insert(key.to_owned(), line(text, 1000));
        }
    }
    Ok(metadata)
}

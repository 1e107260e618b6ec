//! Pushes, releases and workflow runs: calls where a pipeline maps them, each about the applications of that pipeline.

use std::collections::BTreeMap;

use super::super::body::{BadCall, line};
use super::super::{Parsed, Read};
use super::Mapping;
use super::delivery::Delivery;
use crate::domain::call::{Call, Says};
use crate::domain::github::{self, Rules, Target};
use crate::domain::names::{Revision, Source};

/// What an event is about.
struct Subject<'a> {
    revision: &'a str,
    commit: Option<&'a str>,
    summary: Option<&'a str>,
    metadata: Vec<(&'static str, Option<&'a str>)>,
}

/// `push`.
pub(super) fn push(delivery: &Delivery, mappings: &[Mapping<'_>]) -> Result<Read, BadCall> {
    let name = delivery.needed("ref")?;
    let after = delivery.needed("after")?;
    if delivery.is_true("deleted") || is_nothing(after) {
        return Ok(Read::Ignored(format!("{name:.300} was deleted: there is nothing to roll out")));
    }
    let (branch, tag) = (name.strip_prefix("refs/heads/"), name.strip_prefix("refs/tags/"));
    // The tag of an annotated tag is an object of its own; what is rolled out is the commit.
    let commit = delivery.text("head_commit.id")?.unwrap_or(after);
    let subject = Subject {
        revision: commit,
        commit: Some(commit),
        summary: delivery.text("head_commit.message")?,
        metadata: vec![("ref", Some(name)), ("branch", branch), ("tag", tag)],
    };
    let fits = |rules: &Rules| {
        let fitting = rules.push.iter().filter(|rule| match (branch, tag) {
            (Some(_), _) if rule.when.branch.is_empty() => rule.when.tag.is_empty(),
            (Some(branch), _) => rule.when.branch.matches(branch),
            (None, Some(tag)) => rule.when.tag.matches(tag),
            // Neither a branch nor a tag: notes, a service's own refs.
            (None, None) => false,
        });
        fitting.map(|rule| rule.target.clone()).collect()
    };
    calls(delivery, &format!("the push to {name:.300}"), &subject, mappings, fits)
}

/// `release`.
pub(super) fn release(delivery: &Delivery, mappings: &[Mapping<'_>]) -> Result<Read, BadCall> {
    let action = delivery.needed("action")?;
    // Its tag need not be there yet. One that was unpublished is a draft again.
    if delivery.is_true("release.draft") && action != "unpublished" {
        return Ok(Read::Ignored("the release is a draft, which is nothing to roll out yet".to_owned()));
    }
    let tag = delivery.needed("release.tag_name")?;
    let prerelease = delivery.is_true("release.prerelease");
    let subject = Subject {
        revision: tag,
        commit: None,
        summary: delivery.text("release.name")?,
        metadata: vec![
            ("action", Some(action)),
            ("tag", Some(tag)),
            ("target", delivery.text("release.target_commitish")?),
            ("prerelease", Some(if prerelease { "true" } else { "false" })),
        ],
    };
    let fits = |rules: &Rules| {
        let fitting = rules.release.iter().filter(|rule| {
            let rule = &rule.when;
            rule.actions.iter().any(|known| known == action)
                && rule.tag.allow(tag)
                && rule.prerelease.is_none_or(|wanted| wanted == prerelease)
        });
        fitting.map(|rule| rule.target.clone()).collect()
    };
    calls(delivery, &format!("the release {tag:.300} ({action:.100})"), &subject, mappings, fits)
}

/// `workflow_run`.
pub(super) fn workflow_run(delivery: &Delivery, mappings: &[Mapping<'_>]) -> Result<Read, BadCall> {
    let action = delivery.needed("action")?;
    // Its branch may be called `main` as well, and its conclusion is what the fork makes of it.
    if delivery.is_of_a_fork(Some("workflow_run")) {
        return Ok(Read::Ignored("the workflow run is of a fork's code, which runs nothing here".to_owned()));
    }
    let commit = delivery.needed("workflow_run.head_sha")?;
    let conclusion = delivery.text("workflow_run.conclusion")?;
    let branch = delivery.text("workflow_run.head_branch")?;
    let name = delivery.text("workflow.name")?.or(delivery.text("workflow_run.name")?);
    let path = delivery.text("workflow.path")?.or(delivery.text("workflow_run.path")?);
    let file = path.map(|path| path.rsplit('/').next().unwrap_or(path));
    let trigger = delivery.text("workflow_run.event")?;
    let subject = Subject {
        revision: commit,
        commit: Some(commit),
        summary: delivery.text("workflow_run.display_title")?.or(delivery.text("workflow_run.head_commit.message")?),
        metadata: vec![
            ("action", Some(action)),
            ("workflow", name),
            ("branch", branch),
            ("conclusion", conclusion),
            ("event", trigger),
        ],
    };
    let fits = |rules: &Rules| {
        let fitting = rules.workflow_run.iter().filter(|rule| {
            let rule = &rule.when;
            let one_of = |wanted: &[String], told: Option<&str>| {
                wanted.is_empty() || told.is_some_and(|told| wanted.iter().any(|known| known == told))
            };
            rule.actions.iter().any(|known| known == action)
                && (rule.workflow.is_empty()
                    || [name, path, file].into_iter().flatten().any(|text| rule.workflow.matches(text)))
                && rule.branch.allow(branch.unwrap_or_default())
                && rule.event.allow(trigger.unwrap_or_default())
                // A run that is not over has none.
                && (action != "completed" || one_of(&rule.conclusions, conclusion))
        });
        fitting.map(|rule| rule.target.clone()).collect()
    };
    let what = format!("the workflow run {:.300} ({action:.100})", name.unwrap_or("without a name"));
    calls(delivery, &what, &subject, mappings, fits)
}

/// Whether an object id is that of nothing: all zeros.
fn is_nothing(id: &str) -> bool {
    id.bytes().all(|byte| byte == b'0')
}

fn calls(
    delivery: &Delivery,
    what: &str,
    subject: &Subject<'_>,
    mappings: &[Mapping<'_>],
    fits: impl Fn(&Rules) -> Vec<Target>,
) -> Result<Read, BadCall> {
    let (mut found, mut foreign) = (Vec::new(), Vec::new());
    for mapping in mappings {
        for target in fits(mapping.rules) {
            let application = delivery.application(target.environment.clone())?;
            if !(mapping.selects)(&application) {
                foreign.push(format!(
                    "{application} is not selected by the pipeline {:?}, which maps it",
                    mapping.pipeline
                ));
            } else if found.iter().all(|(known, _)| *known != application) {
                // Of several rules that fit one application the first counts: one delivery is one call about it.
                found.push((application, target));
            }
        }
    }
    if found.is_empty() {
        let event = &delivery.event;
        return Ok(Read::Ignored(match foreign.first() {
            Some(why) => format!("{what} runs nothing: {why}"),
            None => format!("{what} runs nothing: no pipeline maps it with a rule in spec.sources.github.{event}"),
        }));
    }
    let revision = Revision::new(subject.revision)?;
    let about = delivery.about(subject.commit, subject.summary)?;
    let mut calls = Vec::new();
    for (application, target) in found {
        let says = Says::of(target.hook, Some(revision.clone()));
        let mut metadata = BTreeMap::from([("environment".to_owned(), github::environment(&target.environment))]);
        let told = subject.metadata.iter().filter_map(|(key, text)| Some(((*key).to_owned(), line((*text)?, 1000))));
        metadata.extend(told);
        let mut call = Call::new(Source::Github, target.hook, says, delivery.payload(metadata), about.clone());
        call.key = Some(delivery.key.clone());
        call.unattended = true;
        calls.push(Parsed { application, call });
    }
    Ok(Read::Calls(calls))
}

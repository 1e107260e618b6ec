//! `spec.sources.github` of a native pipeline: which pushes, releases and workflow runs are calls, and of which hook.
//!
//! An event has one rule or a list of them. What a rule leaves out doesn't matter, but for what would make a failed run
//! look like a success.

use crate::domain::github::{Globs, Pushes, Releases, Rule, Rules, Target, WorkflowRuns, namespace};
use crate::domain::glob::Glob;
use crate::domain::names::{Namespace, Source};

use super::super::diagnostic::{Diagnostic, nearest};
use super::super::fields::{Fields, items, text};
use super::super::selector::Selector;
use super::super::yaml::{Node, Value};
use super::stages;

/// What can happen to a release.
pub(in crate::config) const RELEASE_ACTIONS: &[&str] =
    &["created", "deleted", "edited", "prereleased", "published", "released", "unpublished"];
/// What can happen to a workflow run.
pub(in crate::config) const RUN_ACTIONS: &[&str] = &["completed", "in_progress", "requested"];
/// How a workflow run can end.
pub(in crate::config) const CONCLUSIONS: &[&str] = &[
    "action_required",
    "cancelled",
    "failure",
    "neutral",
    "skipped",
    "stale",
    "startup_failure",
    "success",
    "timed_out",
];

/// `spec.sources`. The selector is that of the pipeline: a rule about applications that it doesn't select is a fault.
pub(super) fn sources(spec: &mut Fields<'_>, selector: Option<&Selector>, faults: &mut Vec<Diagnostic>) -> Rules {
    let mut rules = Rules::default();
    let Some(mut sources) = spec.map("sources", faults) else { return rules };
    if let Some(mut github) = sources.map("github", faults) {
        rules.push = each(&mut github, "push", selector, faults, pushes);
        rules.release = each(&mut github, "release", selector, faults, releases);
        rules.workflow_run = each(&mut github, "workflow_run", selector, faults, workflow_runs);
        github.finish("sources.github", faults);
    }
    sources.finish("sources", faults);
    rules
}

/// One rule, or a list of them.
fn each<T>(
    fields: &mut Fields<'_>,
    event: &'static str,
    selector: Option<&Selector>,
    faults: &mut Vec<Diagnostic>,
    read: fn(&mut Fields<'_>, &mut Vec<Diagnostic>) -> T,
) -> Vec<Rule<T>> {
    let Some(node) = fields.get(event) else { return Vec::new() };
    let nodes = match &node.value {
        Value::Seq(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut rules = Vec::new();
    for node in nodes {
        let what = format!("a rule of {event}");
        let Some(mut fields) = Fields::of(node, &what, faults) else { continue };
        let target = target(&mut fields, selector, faults);
        let when = read(&mut fields, faults);
        fields.finish(&what, faults);
        rules.extend(target.map(|target| Rule { target, when }));
    }
    rules
}

fn target(fields: &mut Fields<'_>, selector: Option<&Selector>, faults: &mut Vec<Diagnostic>) -> Option<Target> {
    let hook = match fields.get("hook") {
        Some(node) => stages::hook(node, faults),
        None => {
            let fault = Diagnostic::error(&fields.place("hook"), "the rule has no hook");
            faults.push(fault.hint("it says what the event is: hook: pre-rollout, rollout, post-rollout, rollback, …"));
            None
        }
    };
    let environment = match fields.get("environment") {
        Some(node) => environment(node, selector, faults),
        None => {
            let fault = Diagnostic::error(&fields.place("environment"), "the rule has no environment");
            faults.push(fault.hint("it is the namespace of the application: environment: production"));
            None
        }
    };
    Some(Target { hook: hook?, environment: environment? })
}

fn environment(node: &Node, selector: Option<&Selector>, faults: &mut Vec<Diagnostic>) -> Option<Namespace> {
    let text = text(node, "environment", faults)?;
    let environment =
        namespace(text).map_err(|error| faults.push(Diagnostic::error(&node.at, error.to_string()))).ok()?;
    if selector.is_some_and(|selector| !selector.covers(Source::Github, &environment)) {
        let message = format!("this pipeline selects nothing that github tells of in the namespace {environment}");
        let fault = Diagnostic::error(&node.at, message);
        faults.push(fault.hint("the event is a call about environment/repository, so the selector must match that"));
    }
    Some(environment)
}

fn pushes(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Pushes {
    Pushes { branch: globs(fields, "branch", faults), tag: globs(fields, "tag", faults) }
}

fn releases(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Releases {
    let actions = known(fields, "action", RELEASE_ACTIONS, faults);
    Releases {
        actions: if actions.is_empty() { vec!["published".to_owned()] } else { actions },
        tag: globs(fields, "tag", faults),
        prerelease: fields.boolean("prerelease", faults),
    }
}

fn workflow_runs(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> WorkflowRuns {
    let mut actions = known(fields, "action", RUN_ACTIONS, faults);
    if actions.is_empty() {
        actions = vec!["completed".to_owned()];
    }
    let conclusions = known(fields, "conclusion", CONCLUSIONS, faults);
    if fields.is_absent("conclusion") && actions.iter().any(|action| action == "completed") {
        let fault = Diagnostic::error(&fields.at, "the rule doesn't say how the run ended");
        faults.push(fault.hint("without it a failed run would count as one that succeeded: conclusion: success"));
    }
    if !fields.is_absent("conclusion") && !actions.iter().any(|action| action == "completed") {
        let fault = Diagnostic::error(&fields.place("conclusion"), "only a completed run has a conclusion");
        faults.push(fault.hint("leave it out, or set action: completed"));
    }
    WorkflowRuns {
        actions,
        workflow: globs(fields, "workflow", faults),
        branch: globs(fields, "branch", faults),
        event: globs(fields, "event", faults),
        conclusions,
    }
}

/// Text, or a list of it.
fn texts<'n>(fields: &mut Fields<'n>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Vec<(&'n Node, &'n str)> {
    let Some(node) = fields.get(name) else { return Vec::new() };
    let nodes = match &node.value {
        Value::Seq(_) => items(node, name, faults).unwrap_or_default(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        let fault = Diagnostic::error(&node.at, format!("{name} is an empty list, which nothing would ever fit"));
        faults.push(fault.hint("leave it out where it doesn't matter"));
    }
    nodes.iter().filter_map(|node| Some((node, text(node, name, faults)?))).collect()
}

fn globs(fields: &mut Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Globs {
    let mut globs = Vec::new();
    for (node, text) in texts(fields, name, faults) {
        match Glob::new(text) {
            Ok(glob) => globs.push(glob),
            Err(error) => faults.push(Diagnostic::error(&node.at, format!("{name} is no glob: {error}"))),
        }
    }
    Globs::new(globs)
}

fn known(fields: &mut Fields<'_>, name: &'static str, words: &[&str], faults: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut found = Vec::new();
    for (node, text) in texts(fields, name, faults) {
        if words.contains(&text) {
            found.push(text.to_owned());
            continue;
        }
        let fault = Diagnostic::error(&node.at, format!("{name} is one of {}, and not {text:?}", words.join(", ")));
        faults.push(match nearest(text, words.iter().copied()) {
            Some(word) => fault.hint(format!("did you mean {word:?}?")),
            None => fault,
        });
    }
    found
}

//! Stagehook's own dialect: `stagehook.dev/v1`, kind `Pipeline`. Strict: every key must be known.

use crate::domain::hook::Hook;
use crate::domain::names::{Name, StageId};
use crate::domain::pipeline::{
    OnFailure, OnSupersede, Pipeline, Repeat, RollbackOnFailure, RollbackOrder, RollbackPolicy, Stage,
};

use super::super::diagnostic::{Diagnostic, nearest};
use super::super::fields::{Fields, items, labels, text};
use super::super::selector::Selector;
use super::super::yaml::Node;
use super::stages::{self, Dialect};
use super::{Context, Loaded};

const ORDER: &[(&str, RollbackOrder)] = &[("pipeline", RollbackOrder::Pipeline), ("reverse", RollbackOrder::Reverse)];
const ROLLBACK_ON_FAILURE: &[(&str, RollbackOnFailure)] =
    &[("continue", RollbackOnFailure::Continue), ("stop", RollbackOnFailure::Stop)];
const ON_SUPERSEDE: &[(&str, OnSupersede)] = &[("rollback", OnSupersede::Rollback), ("keep", OnSupersede::Keep)];
const ON_FAILURE: &[(&str, OnFailure)] = &[("wait", OnFailure::Wait), ("rollback", OnFailure::Rollback)];

pub(super) fn load(mut document: Fields<'_>, context: &Context<'_>, faults: &mut Vec<Diagnostic>) -> Option<Loaded> {
    let at = document.at.clone();
    match document.get("kind") {
        None => faults.push(Diagnostic::error(&at, "kind is missing").hint("it is Pipeline")),
        Some(node) => {
            if text(node, "kind", faults).is_some_and(|kind| kind != "Pipeline") {
                faults.push(Diagnostic::error(&node.at, "the kind is not known").hint("it is Pipeline"));
            }
        }
    }
    let name_at =
        document.get("metadata").and_then(|node| node.get("name")).map_or_else(|| at.clone(), |node| node.at.clone());
    let name = metadata(&mut document, faults);
    let spec = document.get("spec");
    if spec.is_none() {
        faults.push(Diagnostic::error(&document.place("spec"), "spec is missing"));
    }
    document.finish("a pipeline", faults);
    let mut spec = Fields::of(spec?, "spec", faults)?;

    let selector_at = spec.place("selector");
    let selector = selector(&mut spec, faults);
    let github = super::github::sources(&mut spec, selector.as_ref(), faults);
    let labels = spec.get("labels").map(|node| labels(node, "labels", faults)).unwrap_or_default();
    let mut rollback = RollbackPolicy::default();
    if let Some(mut fields) = spec.map("rollback", faults) {
        rollback.order = fields.word("order", ORDER, faults).unwrap_or_default();
        rollback.on_failure = fields.word("onFailure", ROLLBACK_ON_FAILURE, faults).unwrap_or_default();
        fields.finish("rollback", faults);
    }
    let on_supersede = spec.word("onSupersede", ON_SUPERSEDE, faults).unwrap_or_default();
    let on_failure = spec.word("onFailure", ON_FAILURE, faults).unwrap_or_default();
    let stages = match spec.get("stages") {
        Some(node) => read_stages(node, context, faults),
        None => {
            let hint = "a pipeline without any says so: stages: []";
            faults.push(Diagnostic::error(&spec.place("stages"), "stages are missing").hint(hint));
            Vec::new()
        }
    };
    spec.finish("spec", faults);

    let pipeline = Pipeline {
        name: name?,
        file: context.file.clone(),
        directory: context.directory.to_string_lossy().into_owned(),
        labels,
        rollback,
        on_supersede,
        on_failure,
        stages,
    };
    Some(Loaded { pipeline, selector: selector?, name_at, selector_at, native: true, github })
}

fn metadata(document: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<String> {
    let Some(node) = document.get("metadata") else {
        let fault = Diagnostic::error(&document.place("metadata"), "metadata is missing");
        faults.push(fault.hint("it gives the pipeline its name: metadata: {name: …}"));
        return None;
    };
    let mut fields = Fields::of(node, "metadata", faults)?;
    let missing = fields.get("name").is_none();
    let name = fields.parsed::<Name>("name", faults);
    if missing {
        faults.push(Diagnostic::error(&fields.place("name"), "metadata.name is missing"));
    }
    fields.finish("metadata", faults);
    name.map(|name| name.as_str().to_owned())
}

fn selector(spec: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Option<Selector> {
    let at = spec.place("selector");
    // Not `get` alone: `selector:` with nothing behind it is more likely a slip than a wish for everything.
    let Some(node) = spec.get("selector") else {
        let fault = Diagnostic::error(&at, "the selector is missing");
        faults.push(fault.hint("it names the applications: selector: {namespace: …, name: …}; {} selects all"));
        return None;
    };
    let mut fields = Fields::of(node, "selector", faults)?;
    let selector = Selector::read(&mut fields, faults);
    fields.finish("selector", faults);
    Some(selector)
}

fn read_stages(node: &Node, context: &Context<'_>, faults: &mut Vec<Diagnostic>) -> Vec<Stage> {
    let mut ids = stages::Ids::default();
    let mut read = Vec::new();
    for node in items(node, "stages", faults).unwrap_or_default() {
        if let Some(stage) = read_stage(node, context, &mut ids, faults) {
            read.push(stage);
        }
    }
    read
}

fn read_stage(
    node: &Node,
    context: &Context<'_>,
    ids: &mut stages::Ids,
    faults: &mut Vec<Diagnostic>,
) -> Option<Stage> {
    let mut fields = Fields::of(node, "a stage", faults)?;
    let id = match fields.get("id") {
        Some(node) => {
            let id = fields.parsed::<StageId>("id", faults);
            id.filter(|id| ids.claim(id, node, faults))
        }
        None => {
            let fault = Diagnostic::error(&fields.place("id"), "the stage has no id");
            faults.push(fault.hint("the ledger knows stages by their id, so it must not change: id: …"));
            None
        }
    };
    let hook = match fields.get("hook") {
        Some(node) => stages::hook(node, faults),
        None => {
            let names: Vec<_> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
            let fault = Diagnostic::error(&fields.place("hook"), "the stage has no hook");
            faults.push(fault.hint(format!("it is one of {}", names.join(", "))));
            None
        }
    };
    let name_at = fields.place("name");
    let name = fields.get("name");
    let desc = fields.get("desc");
    if let Some(desc) = desc {
        text(desc, "desc", faults);
    }
    let with = fields.get_with_key("with");
    if name.is_none() {
        faults.push(Diagnostic::error(&name_at, "the stage has no name").hint("it is its type: name: SCRIPT_RUN"));
    }
    let type_name = name.and_then(|name| Some((name, text(name, "name", faults)?)));
    let repeat = match hook {
        Some(Hook::Rollout | Hook::ConfirmTrafficIncrease) => Repeat::Always,
        _ => Repeat::RetryFailed,
    };
    let (at, dialect) = (fields.at.clone(), Dialect::Native);
    let stage = stages::Outline { id: id.clone(), with, at, hook, repeat, timeout: None, dialect };
    let work = match type_name {
        Some((_, "SCRIPT_RUN")) => stage.script(context, faults),
        Some((_, "WAIT")) => stage.wait(faults),
        Some((name, "WAIT_APPROVAL")) => {
            faults.push(stages::no_approval(name));
            None
        }
        Some((name, other)) => {
            let fault = Diagnostic::error(&name.at, format!("the stage type {other:?} is not known"));
            faults.push(fault.hint(match nearest(other, stages::KNOWN) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("known are {}", stages::KNOWN.join(", ")),
            }));
            stage.guess(Some(other), context, faults);
            None
        }
        None => {
            stage.guess(None, context, faults);
            None
        }
    };
    fields.finish("a stage", faults);
    Some(Stage { id: id?, work: work? })
}

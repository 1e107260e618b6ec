//! PipeCD's application files, `pipecd.dev/v1beta1`: they load unchanged.
//!
//! So what PipeCD alone needs (input, planner, trigger, …) is not looked at. Only what runs here is strict: a
//! SCRIPT_RUN or WAIT stage whose keys are not known is refused rather than half understood.

use std::time::Duration;

use crate::domain::github::Rules;
use crate::domain::hook::Hook;
use crate::domain::names::{Name, StageId};
use crate::domain::pipeline::{OnFailure, OnSupersede, Pipeline, Repeat, RollbackPolicy, Stage, Work};
use crate::domain::span::Span;

use super::super::diagnostic::{Diagnostic, nearest};
use super::super::fields::{Fields, items, labels, text};
use super::super::selector::Selector;
use super::super::yaml::{Node, Value, is_number};
use super::stages::{self, Dialect, Outline};
use super::{Context, Loaded};

pub(super) fn load(mut document: Fields<'_>, context: &Context<'_>, faults: &mut Vec<Diagnostic>) -> Option<Loaded> {
    let at = document.at.clone();
    if let Some(kind) = document.get("kind") {
        let kind_name = text(kind, "kind", faults)?;
        if !is_application(kind_name) {
            // Another object of PipeCD: what an application must have is not asked of it.
            let message = format!("the kind {kind_name:?} is no application");
            faults.push(Diagnostic::error(&kind.at, message).hint("applications are KubernetesApp, TerraformApp, …"));
            return None;
        }
    } else {
        faults.push(Diagnostic::error(&at, "kind is missing").hint("it is KubernetesApp or another application"));
    }
    let Some(spec_node) = document.get("spec") else {
        faults.push(Diagnostic::error(&at, "spec is missing"));
        return None;
    };
    let mut spec = Fields::of(spec_node, "spec", faults)?;
    let name_at = spec.place("name");
    let missing = spec.get("name").is_none();
    let before = faults.len();
    let name = spec.parsed::<Name>("name", faults);
    if let Some(fault) = faults.get_mut(before)
        && fault.hint.is_none()
    {
        fault.hint = Some("callers name the application by it, so here it must be as they write it".to_owned());
    }
    if missing {
        let fault = Diagnostic::error(&name_at, "spec.name is missing, and it selects the application");
        faults.push(fault.hint("PipeCD can take the name from elsewhere; here add spec: {name: …}"));
    }
    let labels = spec.get("labels").map(|node| labels(node, "labels", faults)).unwrap_or_default();
    let stages = spec.get("pipeline").and_then(|node| Fields::of(node, "pipeline", faults)).and_then(|mut pipeline| {
        let stages = pipeline.get("stages")?;
        Some(read_stages(items(stages, "stages", faults)?, context, faults))
    });
    let name = name?;
    let pipeline = Pipeline {
        name: name.as_str().to_owned(),
        file: context.file.clone(),
        directory: context.directory.to_string_lossy().into_owned(),
        labels,
        rollback: RollbackPolicy::default(),
        on_supersede: OnSupersede::default(),
        on_failure: OnFailure::default(),
        stages: stages.unwrap_or_default(),
    };
    Some(Loaded {
        pipeline,
        selector: Selector::named(&name),
        name_at: name_at.clone(),
        selector_at: name_at,
        native: false,
        github: Rules::default(),
    })
}

/// Whether a kind is one of PipeCD's applications: KubernetesApp, TerraformApp, …
pub(super) fn is_application(kind: &str) -> bool {
    kind.ends_with("App") || kind == "Application"
}

/// `skipOn` is read by PipeCD's planner from a commit that is not known here.
pub(super) fn skip_on(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) {
    if let Some((key, _)) = fields.get_with_key("skipOn") {
        let fault = Diagnostic::warning(&key.at, "skipOn is ignored: the stage always runs");
        faults.push(fault.hint("commits are not read here"));
    }
}

/// A length of time as Go writes it: `1h30m`, `1.5h`, `300ms`.
pub(super) fn go_span(node: &Node, what: &str, faults: &mut Vec<Diagnostic>) -> Option<Span> {
    let text = match &node.value {
        Value::Scalar { text, .. } => text,
        _ => return super::super::fields::span(node, what, faults),
    };
    match go_duration(text) {
        Some(duration) if duration > Duration::ZERO => Some(Span(duration)),
        // Nobody means the nanoseconds that PipeCD waits then.
        _ if is_number(text) => {
            let message = format!("{what} is a length of time, and {text:?} has no unit");
            let hint = "write it like 30s, 5m or 1h30m: a bare number is nanoseconds in PipeCD";
            faults.push(Diagnostic::error(&node.at, message).hint(hint));
            None
        }
        _ => super::super::fields::span(node, what, faults),
    }
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, tail) = after.split_at_checked(unit_end)?;
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        sum = sum.checked_add(Duration::from_nanos(whole.checked_mul(nanos)?))?;
        let mut place = nanos;
        for digit in fraction.chars() {
            place /= 10;
            sum = sum.checked_add(Duration::from_nanos(u64::from(digit.to_digit(10)?) * place))?;
        }
        rest = tail;
    }
    Some(sum)
}

/// Where a stage stands between the acts of the delivery tool.
fn hook_at(index: usize, acts: &Acts) -> Hook {
    match (acts.first, acts.promotion) {
        (None, _) => Hook::PreRollout,
        (Some(first), _) if index < first => Hook::PreRollout,
        (_, Some(promotion)) if index > promotion => Hook::PostRollout,
        _ => Hook::Rollout,
    }
}

/// The delivery tool's first act, and its promotion: of several (10%, 50%, 100%) the last, since until then
/// the rollout goes on.
struct Acts {
    first: Option<usize>,
    promotion: Option<usize>,
}

impl Acts {
    fn of(nodes: &[Node]) -> Self {
        let name = |node: &Node| match node.get("name").map(|node| &node.value) {
            Some(Value::Scalar { text, .. }) => text.clone(),
            _ => String::new(),
        };
        let own = |name: &str| name.is_empty() || stages::KNOWN.contains(&name) || name == "WAIT_APPROVAL";
        let promotes = |name: &str| {
            ["_PRIMARY_ROLLOUT", "_PROMOTE", "_SYNC"].iter().any(|end| name.ends_with(end)) || name == "TERRAFORM_APPLY"
        };
        Self {
            first: nodes.iter().position(|node| !own(&name(node))),
            promotion: nodes.iter().rposition(|node| promotes(&name(node))),
        }
    }
}

fn read_stages(nodes: &[Node], context: &Context<'_>, faults: &mut Vec<Diagnostic>) -> Vec<Stage> {
    let acts = Acts::of(nodes);
    let mut ids = stages::Ids::default();
    let mut read = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        if let Some(stage) = read_stage(node, index, &acts, context, &mut ids, faults) {
            read.push(stage);
        }
    }
    read
}

fn read_stage(
    node: &Node,
    index: usize,
    acts: &Acts,
    context: &Context<'_>,
    ids: &mut stages::Ids,
    faults: &mut Vec<Diagnostic>,
) -> Option<Stage> {
    let mut fields = Fields::of(node, "a stage", faults)?;
    let id = match fields.get("id") {
        Some(id_node) => {
            let id = fields.parsed::<StageId>("id", faults);
            id.filter(|id| ids.claim(id, id_node, faults))
        }
        None => {
            let id = StageId::new(format!("stage-{index}")).ok();
            id.filter(|id| ids.claim(id, node, faults))
        }
    };
    let name_at = fields.place("name");
    let name = fields.get("name");
    if name.is_none() {
        faults.push(Diagnostic::error(&name_at, "the stage has no name").hint("it is its type: name: SCRIPT_RUN"));
    }
    let type_name = name.and_then(|name| Some((name, text(name, "name", faults)?)));
    let hook = match fields.get("hook") {
        Some(node) => stages::hook(node, faults),
        None => Some(hook_at(index, acts)),
    };
    if let Some((name, other)) = type_name
        && !stages::KNOWN.contains(&other)
        && other != "WAIT_APPROVAL"
    {
        // A warning, as nobody knows all names: plugins of PipeCD bring their own.
        if let Some(meant) = nearest(other, ["SCRIPT_RUN", "WAIT", "WAIT_APPROVAL"]) {
            let message =
                format!("the stage type {other:?} is not known here, so the delivery tool is taken to act there");
            faults.push(Diagnostic::warning(&name.at, message).hint(format!("did you mean {meant:?}?")));
        }
        return Some(Stage { id: id?, work: Work::External { name: other.to_owned() } });
    }
    if let Some(desc) = fields.get("desc") {
        text(desc, "desc", faults);
    }
    skip_on(&mut fields, faults);
    let timeout = Dialect::PipeCd.span(&mut fields, "timeout", faults);
    let with = fields.get_with_key("with");
    let at = fields.at.clone();
    let (repeat, dialect) = (Repeat::RetryFailed, Dialect::PipeCd);
    let outline = Outline { id: id.clone(), with, at, hook, repeat, timeout, dialect };
    let work = match type_name {
        Some((_, "WAIT")) => outline.wait(faults),
        Some((name, "WAIT_APPROVAL")) => {
            faults.push(stages::no_approval(name));
            None
        }
        Some(_) => outline.script(context, faults),
        None => {
            outline.guess(None, context, faults);
            None
        }
    };
    fields.finish("a stage", faults);
    Some(Stage { id: id?, work: work? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("1h30m", 5_400_000), ("1.5h", 5_400_000), ("300ms", 300), (".5s", 500), ("+2m", 120_000)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "1..5s", "-1m", "5 m", "1d", ".s", "99999999999999h", "m", "5m3"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}

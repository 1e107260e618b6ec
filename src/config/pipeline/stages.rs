//! What the stages of both dialects have in common: ids, hooks, WAIT, and what never could run.

use std::collections::HashMap;

use crate::domain::hook::Hook;
use crate::domain::names::StageId;
use crate::domain::pipeline::{Repeat, Work};
use crate::domain::span::Span;

use super::super::diagnostic::{Diagnostic, Place, nearest};
use super::super::fields::{Fields, text};
use super::super::yaml::{Key, Node};
use super::{Context, script};

/// The stage types that run here.
pub(super) const KNOWN: [&str; 2] = ["SCRIPT_RUN", "WAIT"];

/// The words of `repeat`.
pub(super) const REPEAT: &[(&str, Repeat)] =
    &[("retry-failed", Repeat::RetryFailed), ("once", Repeat::Once), ("always", Repeat::Always)];

/// Whose file it is: the keys and the way durations are written differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Native,
    PipeCd,
}

impl Dialect {
    /// A length of time.
    pub fn span(self, fields: &mut Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<Span> {
        match self {
            Self::Native => fields.span(name, faults),
            Self::PipeCd => super::pipecd::go_span(fields.get(name)?, name, faults),
        }
    }
}

/// The ids of a pipeline, and the line of each.
#[derive(Default)]
pub(super) struct Ids(HashMap<StageId, usize>);

impl Ids {
    /// Whether an id is still free; from then on it is not.
    pub fn claim(&mut self, id: &StageId, node: &Node, faults: &mut Vec<Diagnostic>) -> bool {
        let Some(line) = self.0.insert(id.clone(), node.at.line) else { return true };
        let fault = Diagnostic::error(&node.at, format!("the stage id \"{id}\" stands twice in this pipeline"));
        faults.push(fault.hint(format!("it was first in line {line}")));
        false
    }
}

/// A hook by its name.
pub(super) fn hook(node: &Node, faults: &mut Vec<Diagnostic>) -> Option<Hook> {
    let name = text(node, "hook", faults)?;
    if let Ok(hook) = name.parse() {
        return Some(hook);
    }
    let names: Vec<_> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
    let fault = Diagnostic::error(&node.at, format!("the hook {name:?} is not known"));
    let all = format!("hooks are {}", names.join(", "));
    faults.push(fault.hint(match nearest(name, names) {
        Some(known) => format!("did you mean {known:?}? {all}"),
        None => all,
    }));
    None
}

/// Why WAIT_APPROVAL is refused.
pub(super) fn no_approval(name: &Node) -> Diagnostic {
    Diagnostic::error(&name.at, "WAIT_APPROVAL can't be run yet, and leaving it out would approve by itself")
        .hint("remove the stage, or gate the rollout at the delivery tool")
}

/// A stage, but for what its type makes of it.
pub(super) struct Outline<'n> {
    /// Its id; none where that was at fault.
    pub id: Option<StageId>,
    /// Its `with`.
    pub with: Option<(&'n Key, &'n Node)>,
    /// Its place.
    pub at: Place,
    /// Its hook; none where that was at fault.
    pub hook: Option<Hook>,
    /// Its `repeat`, unless it says so itself.
    pub repeat: Repeat,
    /// Its `timeout`, unless `with` says so.
    pub timeout: Option<Span>,
    /// Whose file it is.
    pub dialect: Dialect,
}

impl Outline<'_> {
    /// Tells what is wrong with the `with` of a stage whose type is at fault, as far as it is plain which was meant:
    /// its other faults need not wait until that one is mended.
    pub fn guess(&self, type_name: Option<&str>, context: &Context<'_>, faults: &mut Vec<Diagnostic>) {
        let Some((_, with)) = self.with else { return };
        let has = |names: &[&str]| names.iter().any(|name| with.get(name).is_some());
        match type_name.and_then(|name| nearest(name, KNOWN)) {
            Some("WAIT") => _ = self.wait(faults),
            Some(_) => _ = self.script(context, faults),
            None if has(&["run", "runs", "onRollback"]) => _ = self.script(context, faults),
            None if has(&["duration"]) => _ = self.wait(faults),
            None => {}
        }
    }

    /// A SCRIPT_RUN stage.
    pub fn script(&self, context: &Context<'_>, faults: &mut Vec<Diagnostic>) -> Option<Work> {
        let Some((_, with)) = self.with else {
            faults.push(Diagnostic::error(&self.at, "the stage has nothing to run").hint("with: {run: …}"));
            return None;
        };
        let script = script::read(with, self, context, faults);
        if self.hook == Some(Hook::Rollback)
            && let Some(node) = with.get("onRollback").filter(|node| !script::is_blank(node))
        {
            let fault = Diagnostic::error(&node.at, "onRollback of a stage on the hook rollback would never run");
            faults.push(fault.hint("what such a stage does belongs into its run"));
            return None;
        }
        Some(Work::Script { hook: self.hook?, script: script? })
    }

    /// A WAIT stage.
    pub fn wait(&self, faults: &mut Vec<Diagnostic>) -> Option<Work> {
        if self.hook == Some(Hook::Rollback) {
            let fault = Diagnostic::error(&self.at, "a WAIT on the hook rollback would never run");
            faults.push(fault.hint("wait on another hook, or sleep in a script"));
        }
        let Some((key, with)) = self.with else {
            faults.push(Diagnostic::error(&self.at, "the stage has no duration").hint("with: {duration: 5m}"));
            return None;
        };
        let mut fields = Fields::of(with, "with", faults)?;
        let missing = fields.get("duration").is_none();
        let duration = self.dialect.span(&mut fields, "duration", faults);
        if missing {
            faults.push(Diagnostic::error(&key.at, "the stage has no duration").hint("with: {duration: 5m}"));
        }
        let repeat = fields.word("repeat", REPEAT, faults).unwrap_or(self.repeat);
        if self.dialect == Dialect::PipeCd {
            super::pipecd::skip_on(&mut fields, faults);
        }
        fields.finish("with", faults);
        Some(Work::Wait { hook: self.hook.filter(|hook| *hook != Hook::Rollback)?, duration: duration?, repeat })
    }
}

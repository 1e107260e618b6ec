//! `sources.loadtester`, as far as it is its own: for how long a command may run, and which may run at all.

use std::collections::BTreeSet;

use crate::domain::allow::{Allow, CommandPattern, Rule};
use crate::domain::glob::Glob;
use crate::domain::loadtester::TaskKind;
use crate::domain::span::Span;

use super::diagnostic::{Diagnostic, nearest};
use super::fields::{Fields, items, text};
use super::yaml::{Node, Value};

const EXAMPLE: &str = "{namespaces: [test], types: [cmd], command: \"hey -z 1m http://podinfo.test/\"}";

/// `sources.loadtester.{timeout,allow}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadTester {
    /// How long a command may take.
    pub timeout: Span,
    /// Which may run.
    pub allow: Allow,
}

/// Reads what is not as in every source; the caller says what is missing.
pub(super) fn read(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> (Option<Span>, Allow) {
    let timeout = fields.span("timeout", faults);
    let nodes = fields.get("allow").and_then(|node| items(node, "allow", faults)).unwrap_or_default();
    let rules = nodes.iter().enumerate().filter_map(|(index, node)| rule(index, node, faults)).collect();
    (timeout, Allow(rules))
}

fn rule(index: usize, node: &Node, faults: &mut Vec<Diagnostic>) -> Option<Rule> {
    let setting = format!("sources.loadtester.allow[{index}]");
    if !matches!(node.value, Value::Map(_)) {
        faults.push(Diagnostic::error(&node.at, format!("{setting} must be a map")).hint(EXAMPLE));
        return None;
    }
    let mut fields = Fields::of(node, &setting, faults)?;
    let shell = fields.get("shell").is_some();
    let shell = if shell { fields.boolean("shell", faults) } else { Some(false) };
    let namespaces = several(&mut fields, "namespaces", &setting, faults, |node, faults| {
        let glob = text(node, "namespaces", faults)?;
        let fault = |why| {
            let fault = Diagnostic::error(&node.at, format!("{glob:?} in namespaces is no glob: {why}"));
            fault.hint("[test, \"staging-*\"]; \"*\" is every namespace")
        };
        Glob::new(glob).map_err(|why| faults.push(fault(why))).ok()
    });
    let types = several(&mut fields, "types", &setting, faults, |node, faults| {
        let name = text(node, "types", faults)?;
        let kind = name.parse::<TaskKind>().ok();
        if kind.is_none() {
            let known = TaskKind::ALL.map(TaskKind::as_str);
            let message = format!("types are {}, and not {name:?}", known.join(", "));
            let fault = Diagnostic::error(&node.at, message);
            faults.push(match nearest(name, known) {
                Some(word) => fault.hint(format!("did you mean {word:?}?")),
                None => fault,
            });
        }
        kind
    });
    let commands = several(&mut fields, "command", &setting, faults, |node, faults| {
        let pattern = text(node, "command", faults)?;
        let fault = |why| Diagnostic::error(&node.at, format!("this command can't be allowed: {why}"));
        CommandPattern::new(pattern, shell?).map_err(|why| faults.push(fault(why))).ok()
    });
    fields.finish(&setting, faults);
    let types: BTreeSet<TaskKind> = types?.into_iter().collect();
    Some(Rule { namespaces: namespaces?, types: types.into_iter().collect(), commands: commands? })
}

/// One value or a list of them; never none. A part that is left out would be a rule that is wider than it reads.
fn several<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    setting: &str,
    faults: &mut Vec<Diagnostic>,
    read: impl Fn(&Node, &mut Vec<Diagnostic>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(node) = fields.get(name) else {
        faults.push(Diagnostic::error(&fields.at, format!("{setting}.{name} is missing")).hint(EXAMPLE));
        return None;
    };
    let nodes = match &node.value {
        Value::Seq(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        let message = format!("{setting}.{name} is empty, so nothing would ever fit it");
        faults.push(Diagnostic::error(&node.at, message).hint(EXAMPLE));
        return None;
    }
    // Not collected into an Option at once: that would stop at the first fault.
    let values: Vec<_> = nodes.iter().map(|node| read(node, faults)).collect();
    values.into_iter().collect()
}

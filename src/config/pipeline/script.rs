//! A SCRIPT_RUN stage's `with`: what runs, what undoes it, and under which limits.

use std::collections::BTreeMap;

use crate::domain::pipeline::{EnvValue, OnInterrupt, Script};

use super::super::diagnostic::{Diagnostic, Place, unquoted};
use super::super::fields::{Fields, entries, items, loose_text, text};
use super::super::secret::SecretRef;
use super::super::yaml::{Node, Value};
use super::Context;
use super::stages::{Dialect, Outline, REPEAT};

/// The words of `onInterrupt`.
const ON_INTERRUPT: &[(&str, OnInterrupt)] = &[("rerun", OnInterrupt::Rerun), ("hold", OnInterrupt::Hold)];
/// More attempts than this are a slip.
const MAX_RETRIES: u64 = 1000;

/// Reads it; none when something in it is at fault.
pub(super) fn read(
    with: &Node,
    stage: &Outline<'_>,
    context: &Context<'_>,
    faults: &mut Vec<Diagnostic>,
) -> Option<Script> {
    let before = faults.len();
    let mut fields = Fields::of(with, "with", faults)?;
    let env = fields.get("env").map(|node| environment(node, stage, context, faults)).unwrap_or_default();
    let run = match (fields.get("run"), fields.get_with_key("runs")) {
        (Some(_), Some((key, _))) => {
            faults.push(Diagnostic::error(&key.at, "both run and runs are given").hint("keep one of them"));
            Vec::new()
        }
        (Some(node), None) => scripts(node, "run", faults),
        (None, Some((_, node))) => scripts(node, "runs", faults),
        (None, None) => {
            let at = if with.at.line == 0 { &stage.at } else { &with.at };
            faults.push(Diagnostic::error(at, "the stage has nothing to run").hint("with: {run: …}"));
            Vec::new()
        }
    };
    let on_rollback = fields.get("onRollback").filter(|node| !is_blank(node));
    let on_rollback = on_rollback.map(|node| scripts(node, "onRollback", faults)).unwrap_or_default();
    let shell = fields.get("shell").map_or_else(default_shell, |node| shell(node, faults));
    let timeout = stage.dialect.span(&mut fields, "timeout", faults);
    let retries = fields.number("retries", 0..=MAX_RETRIES, faults).unwrap_or(0);
    let repeat = fields.word("repeat", REPEAT, faults).unwrap_or(stage.repeat);
    let on_interrupt = fields.word("onInterrupt", ON_INTERRUPT, faults).unwrap_or_default();
    let mut warnings = 0;
    if stage.dialect == Dialect::PipeCd {
        let before = faults.len();
        super::pipecd::skip_on(&mut fields, faults);
        warnings = faults.len() - before;
    }
    fields.finish("with", faults);
    (faults.len() == before + warnings).then(|| Script {
        shell,
        run,
        on_rollback,
        env,
        timeout: timeout.or(stage.timeout).unwrap_or(context.defaults.timeout),
        retries: u32::try_from(retries).unwrap_or(u32::MAX),
        repeat,
        on_interrupt,
    })
}

fn default_shell() -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned()]
}

/// Whether a script is absent, or empty text, which PipeCD takes for no script.
pub(super) fn is_blank(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Scalar { text, .. } => text.trim().is_empty(),
        Value::Seq(_) | Value::Map(_) => false,
    }
}

/// One script or several.
fn scripts(node: &Node, what: &str, faults: &mut Vec<Diagnostic>) -> Vec<String> {
    let nodes = match &node.value {
        Value::Seq(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        faults.push(Diagnostic::error(&node.at, format!("{what} is empty")));
    }
    let mut scripts = Vec::new();
    for node in nodes {
        let Some(script) = text(node, what, faults) else { continue };
        if script.trim().is_empty() {
            faults.push(Diagnostic::error(&node.at, format!("{what} is empty")));
            continue;
        }
        if let Some(open) = script.find("{{")
            && script.get(open..).is_some_and(|rest| rest.contains("}}"))
        {
            let fault = Diagnostic::error(&template_place(node), format!("{what} has a {{{{ … }}}} template in it"));
            faults.push(fault.hint(
                "templates are not filled in here: hand the value over with env, a secret as \
                 env: {NAME: {fromFile: /path}}; a script that needs {{ for itself can stand in a file of its own",
            ));
            continue;
        }
        scripts.push(script.to_owned());
    }
    scripts
}

/// The line that has the braces, and not the one where the script begins.
fn template_place(node: &Node) -> Place {
    let source = node.at.origin.text.get(node.bytes.clone()).unwrap_or_default();
    match source.find("{{") {
        Some(at) => Place::of_byte(&node.at.origin, node.bytes.start + at),
        None => node.at.clone(),
    }
}

fn shell(node: &Node, faults: &mut Vec<Diagnostic>) -> Vec<String> {
    let words: Vec<String> = match &node.value {
        Value::Seq(_) => {
            let items = items(node, "shell", faults).unwrap_or_default();
            items.iter().filter_map(|item| text(item, "shell", faults)).map(str::to_owned).collect()
        }
        _ => match text(node, "shell", faults) {
            Some(text) => text.split_whitespace().map(str::to_owned).collect(),
            None => return default_shell(),
        },
    };
    if words.first().is_none_or(String::is_empty) {
        faults.push(Diagnostic::error(&node.at, "the shell is empty").hint("leave it out for /bin/sh -c"));
    }
    words
}

fn environment(
    node: &Node,
    stage: &Outline<'_>,
    context: &Context<'_>,
    faults: &mut Vec<Diagnostic>,
) -> BTreeMap<String, EnvValue> {
    let mut env = BTreeMap::new();
    for (key, value) in entries(node, "env", faults) {
        if key.text.is_empty() || key.text.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            let message = format!("{:?} can't be the name of a variable", key.text);
            faults.push(Diagnostic::error(&key.at, message).hint("letters, digits and _ can"));
            continue;
        }
        let value = match &value.value {
            // The secret itself may stand where its reference should.
            Value::Map(_) => unquoted(faults, |faults| reference(value, stage, context, faults)),
            Value::Seq(_) => {
                let message =
                    format!("{} must be text, {{fromFile: …}} or {{fromEnv: …}}, and this is a list", key.text);
                faults.push(Diagnostic::error(&value.at, message));
                None
            }
            Value::Null | Value::Scalar { .. } => loose_text(value, &key.text, faults).map(EnvValue::Plain),
        };
        if let Some(value) = value {
            env.insert(key.text.clone(), value);
        }
    }
    env
}

fn reference(
    node: &Node,
    stage: &Outline<'_>,
    context: &Context<'_>,
    faults: &mut Vec<Diagnostic>,
) -> Option<EnvValue> {
    let mut fields = Fields::of(node, "a secret", faults)?;
    let file = fields.text("fromFile", faults);
    let variable = fields.text("fromEnv", faults);
    fields.finish("a secret", faults);
    let reference = match (file, variable) {
        (Some(file), None) if !file.is_empty() => SecretRef::File(context.directory.join(file)),
        (None, Some(variable)) if !variable.is_empty() => SecretRef::Variable(variable.to_owned()),
        _ => {
            let fault = Diagnostic::error(&node.at, "a secret is taken from one place");
            faults.push(fault.hint("{fromFile: /path} or {fromEnv: NAME}"));
            return None;
        }
    };
    // The service reads it, whomever the script runs as: with it a script could call the service as anybody.
    if let Some(own) = context.defaults.reserved.iter().find(|own| own.reference.is_same(&reference)) {
        let who = stage.id.as_ref().map_or_else(|| "the stage".to_owned(), |id| format!("the stage {id}"));
        let message = format!("{who} takes the service's own secret {}", own.setting);
        let fault = Diagnostic::error(&node.at, message);
        faults.push(fault.hint("give scripts secrets of their own: whatever they are handed they can pass on"));
        return None;
    }
    Some(match reference {
        SecretRef::File(file) => EnvValue::FromFile(file.to_string_lossy().into_owned()),
        SecretRef::Variable(variable) => EnvValue::FromEnv(variable),
    })
}

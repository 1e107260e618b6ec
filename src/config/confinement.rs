//! `execution.runAs` and `execution.limits`: what scripts may, as it is written.
//!
//! Deliberately ignorant of the machine: whether there is such a user, and whether a limit can be set, is for whoever
//! runs scripts.

use std::fmt;

use crate::domain::span::Span;

use super::diagnostic::Diagnostic;
use super::fields::{Fields, loose_text};
use super::layers::Shape;
use super::read::bytes;
use super::yaml::{Node, Value};

use Shape::{Leaf, Map};

/// The keys of `limits`, for the variables.
pub(super) const LIMITS: Shape = Map(&[
    ("cpuTime", Leaf),
    ("memory", Leaf),
    ("fileSize", Leaf),
    ("openFiles", Leaf),
    ("processes", Leaf),
    ("coreSize", Leaf),
]);

/// Whom scripts run as, each by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub user: String,
    /// The group. None: the user's own.
    pub group: Option<String>,
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// The limits of every process of a script; none: the service's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScriptLimits {
    /// On the processor.
    pub cpu_time: Option<Span>,
    /// The address space, in bytes.
    pub memory: Option<u64>,
    /// The largest file that is written, in bytes.
    pub file_size: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// Processes of the user.
    pub processes: Option<u64>,
    /// The largest core dump, in bytes.
    pub core_size: Option<u64>,
}

impl ScriptLimits {
    /// Those that are set, by their keys; a time in whole seconds.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let seconds = self.cpu_time.map(|Span(time)| time.as_secs() + u64::from(time.subsec_nanos() > 0));
        let all = [
            ("cpuTime", seconds),
            ("memory", self.memory),
            ("fileSize", self.file_size),
            ("openFiles", self.open_files),
            ("processes", self.processes),
            ("coreSize", self.core_size),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Reads `runAs`.
pub(super) fn run_as(node: &Node, faults: &mut Vec<Diagnostic>) -> Option<RunAs> {
    let written = loose_text(node, "runAs", faults)?;
    let (user, group) = match written.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (written.as_str(), None),
    };
    let wrong =
        |name: &str| name.is_empty() || name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control());
    if wrong(user) || group.is_some_and(wrong) {
        let fault = Diagnostic::error(&node.at, format!("runAs is a user, and perhaps a group, and not {written:?}"));
        faults.push(fault.hint("deploy, deploy:deploy, 1000 or 1000:1000"));
        return None;
    }
    Some(RunAs { user: user.to_owned(), group: group.map(str::to_owned) })
}

/// Reads `limits`.
pub(super) fn limits(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> ScriptLimits {
    ScriptLimits {
        cpu_time: fields.span("cpuTime", faults),
        memory: size(fields, "memory", 1, faults),
        file_size: size(fields, "fileSize", 1, faults),
        open_files: count(fields, "openFiles", faults),
        processes: count(fields, "processes", faults),
        core_size: size(fields, "coreSize", 0, faults),
    }
}

fn count(fields: &mut Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<u64> {
    fields.number(name, 1..=u64::from(u32::MAX), faults)
}

/// Larger than any other size of the settings may be.
fn size(fields: &mut Fields<'_>, name: &'static str, least: u64, faults: &mut Vec<Diagnostic>) -> Option<u64> {
    let node = fields.get(name)?;
    let size = match &node.value {
        Value::Scalar { text, .. } => bytes(text),
        _ => None,
    };
    // Above that the kernel means «unlimited».
    let size = size.filter(|size| (least..=i64::MAX as u64).contains(size));
    if size.is_none() {
        faults.push(
            Diagnostic::error(&node.at, format!("{name} must be a size")).hint("it is written like 64MiB or 2GiB"),
        );
    }
    size
}

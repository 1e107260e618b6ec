//! Pipeline files: from YAML to the domain's checked [`Pipeline`], with every fault of a file in one pass.
//!
//! Two dialects are read, Stagehook's own and PipeCD's application files. What a stage does when it runs is none
//! of this folder's business.

pub(super) mod github;
mod native;
mod pipecd;
mod script;
mod stages;

use std::path::{Path, PathBuf};

use crate::domain::github::Rules;
use crate::domain::pipeline::Pipeline;
use crate::domain::span::Span;

use super::diagnostic::{Diagnostic, Place, Severity, nearest};
use super::fields::Fields;
use super::secret::Secret;
use super::selector::Selector;
use super::yaml::{self, Node, Value};

/// What the settings decide where a pipeline file is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `execution.defaultTimeout`.
    pub timeout: Span,
    /// The service's own secrets, which no script is handed.
    pub reserved: Vec<Secret>,
}

/// A pipeline, and which applications it is for.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Its applications.
    pub selector: Selector,
    /// Where its name stands, for faults that concern two files.
    pub name_at: Place,
    /// Where its selector stands.
    pub selector_at: Place,
    /// Whether it is a file in Stagehook's own dialect.
    pub native: bool,
    /// Which events of GitHub are calls.
    pub github: Rules,
}

/// What a document's reader needs to know of its surroundings.
struct Context<'a> {
    file: String,
    directory: PathBuf,
    defaults: &'a Defaults,
}

/// Reads one file. What is returned counts only when no fault is an error.
pub(super) fn load_file(path: &Path, defaults: &Defaults, faults: &mut Vec<Diagnostic>) -> Vec<Loaded> {
    let mut own = Vec::new();
    let documents = yaml::read(path, &mut own);
    let mut loaded = Vec::new();
    if let Some(documents) = documents {
        loaded = load_documents(path, &documents, defaults, &mut own);
    }
    own.sort_by_key(|fault| (fault.line, fault.column));
    faults.append(&mut own);
    loaded
}

/// What is in a file, once it is a tree.
pub(super) fn load_documents(
    path: &Path,
    documents: &[Node],
    defaults: &Defaults,
    faults: &mut Vec<Diagnostic>,
) -> Vec<Loaded> {
    let file = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new(""));
    // Not canonicalize: a ConfigMap swaps the symlinks below this folder, and scripts must follow.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let directory = match std::path::absolute(folder) {
        Ok(directory) => directory,
        Err(error) => {
            faults.push(Diagnostic::of_file(file, format!("its folder can't be named: {error}")));
            return Vec::new();
        }
    };
    if directory.to_str().is_none() {
        faults.push(Diagnostic::of_file(file, "its path is not UTF-8, so that no ledger can hold it"));
        return Vec::new();
    }
    if documents.iter().all(Node::is_null) {
        if !faults.iter().any(|fault| fault.severity == Severity::Error) {
            let empty = Diagnostic::of_file(file, "the file holds no pipeline");
            faults.push(empty.hint("it begins with apiVersion: stagehook.dev/v1 and kind: Pipeline"));
        }
        return Vec::new();
    }
    let context = Context { file, directory, defaults };
    documents.iter().filter(|node| !node.is_null()).filter_map(|node| load(node, &context, faults)).collect()
}

fn load(node: &Node, context: &Context<'_>, faults: &mut Vec<Diagnostic>) -> Option<Loaded> {
    let mut document = Fields::of(node, "a pipeline", faults)?;
    if let Some((kind, name)) = something_else(node) {
        let message = format!("this {name:?} is no pipeline, and is left out");
        faults.push(Diagnostic::warning(&kind.at, message).hint("keep other files, and what scripts write, elsewhere"));
        return None;
    }
    let hint = "it is stagehook.dev/v1 (kind Pipeline), or pipecd.dev/v1beta1 (an application of PipeCD)";
    let Some(version) = document.get("apiVersion") else {
        faults.push(Diagnostic::error(&document.place("apiVersion"), "apiVersion is missing").hint(hint));
        return None;
    };
    match super::fields::text(version, "apiVersion", faults)? {
        "stagehook.dev/v1" => native::load(document, context, faults),
        "pipecd.dev/v1beta1" => pipecd::load(document, context, faults),
        other => {
            let message = format!("the apiVersion {other:?} is not known");
            faults.push(Diagnostic::error(&version.at, message).hint(hint));
            None
        }
    }
}

/// The kind of a document that is plainly an object of something else: a script that writes such a file beside the
/// pipelines must not keep them from being loaded. In doubt it is meant as a pipeline: one that is left out would let
/// a rollout through.
fn something_else(document: &Node) -> Option<(&Node, &str)> {
    let node = document.get("kind")?;
    let Value::Scalar { text: kind, .. } = &node.value else { return None };
    let text_like = kind.starts_with(|c: char| c.is_ascii_alphabetic());
    let ours = kind == "Pipeline" || pipecd::is_application(kind);
    let foreign = match document.get("apiVersion").map(|version| &version.value) {
        // Without a version, a slip in the kind is as likely as another kind.
        None | Some(Value::Null) => nearest(kind, ["Pipeline", "Application", "KubernetesApp"]).is_none(),
        Some(Value::Scalar { text: version, .. }) => {
            let group = version.split('/').next().unwrap_or_default().to_lowercase();
            let ours = ["stagehook", "pipecd"].iter().any(|name| group.contains(name));
            !ours && nearest(&group, ["stagehook.dev", "pipecd.dev"]).is_none()
        }
        Some(_) => false,
    };
    (text_like && !ours && foreign).then_some((node, kind))
}

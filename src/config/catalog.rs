//! All pipelines of a directory, and which of them is meant for an application.
//!
//! A catalog is complete or it is not: one file at fault refuses them all, so that nothing ever runs with half of
//! what somebody wrote.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::github::Rules;
use crate::domain::names::{Application, Source};
use crate::domain::pipeline::{Pipeline, PipelineHash};

use super::diagnostic::{Diagnostic, Severity};
use super::pipeline::{self, Defaults, Loaded};
use super::selector::Selector;

/// A pipeline as it is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// The hash under which it is pinned.
    pub hash: PipelineHash,
}

/// The pipelines of a directory.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The more specific first: of those that match, the first is meant.
    entries: Vec<(Selector, Arc<Selected>)>,
    /// Of those pipelines that have some: which events of GitHub are calls.
    github: Vec<(Arc<Selected>, Rules)>,
}

impl Catalog {
    /// Loads every `*.yaml` and `*.yml` of a directory (not of those below it), in the order of their names.
    ///
    /// Gives the catalog with the warnings, or all faults of all files.
    pub fn load(directory: &Path, defaults: &Defaults) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let files = match files(directory) {
            Ok(files) => files,
            Err(error) => {
                let fault =
                    Diagnostic::of_file(directory.display().to_string(), format!("it can't be listed: {error}"));
                return Err(vec![fault.hint("the setting `pipelines` names the directory of the pipeline files")]);
            }
        };
        let mut loaded = Vec::new();
        for file in &files {
            loaded.append(&mut pipeline::load_file(file, defaults, &mut faults));
        }
        check_names(&loaded, &mut faults);
        check_ties(&loaded, &mut faults);
        if faults.iter().any(|fault| fault.severity == Severity::Error) {
            return Err(faults);
        }
        if loaded.is_empty() {
            let mut fault = Diagnostic::of_file(directory.display().to_string(), "it holds no pipeline");
            fault.severity = Severity::Warning;
            faults.push(fault.hint("pipelines are files that end in .yaml or .yml"));
        }
        Ok((Self::of(loaded), faults))
    }

    /// The pipeline for an application that a source tells of.
    pub fn select(&self, source: Source, application: &Application) -> Option<Arc<Selected>> {
        let matching = self.entries.iter().find(|(selector, _)| selector.matches(source, application));
        matching.map(|(_, selected)| Arc::clone(selected))
    }

    /// Which events of GitHub are calls, by the pipelines that say so.
    pub fn github(&self) -> impl Iterator<Item = (&Arc<Selected>, &Rules)> {
        self.github.iter().map(|(selected, rules)| (selected, rules))
    }

    /// Every pipeline, the more specific first.
    pub fn pipelines(&self) -> impl Iterator<Item = &Arc<Selected>> {
        self.entries.iter().map(|(_, selected)| selected)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn of(mut loaded: Vec<Loaded>) -> Self {
        // A stable sort: of two that never match the same application, either may come first.
        loaded.sort_by_key(|loaded| std::cmp::Reverse(loaded.selector.rank()));
        let mut catalog = Self::default();
        for Loaded { pipeline, selector, github, .. } in loaded {
            let (hash, _) = pipeline.pinned();
            let selected = Arc::new(Selected { pipeline: Arc::new(pipeline), hash });
            if !github.is_empty() {
                catalog.github.push((Arc::clone(&selected), github));
            }
            catalog.entries.push((selector, selected));
        }
        catalog
    }
}

/// The files that are read, in the order of their names.
pub(super) fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // Hidden are editors' copies, and `..data`, where a ConfigMap keeps what the links beside it point to.
        let hidden = name.to_string_lossy().starts_with('.');
        let path = directory.join(&name);
        let named = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        // A link that leads nowhere is no directory either: reading it says what is wrong.
        if named && !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// One name, one pipeline: lists and messages name pipelines by it.
pub(super) fn check_names(loaded: &[Loaded], faults: &mut Vec<Diagnostic>) {
    let mut names: HashMap<&str, &Loaded> = HashMap::new();
    for this in loaded.iter().filter(|loaded| loaded.native) {
        let name = this.pipeline.name.as_str();
        if let Some(first) = names.get(name) {
            let fault = Diagnostic::error(&this.name_at, format!("the pipeline name {name:?} is taken"));
            faults.push(fault.hint(format!("the other stands in {}:{}", first.pipeline.file, first.name_at.line)));
        } else {
            names.insert(name, this);
        }
    }
}

/// Two that could both be meant are refused.
pub(super) fn check_ties(loaded: &[Loaded], faults: &mut Vec<Diagnostic>) {
    for (index, this) in loaded.iter().enumerate() {
        let tied = loaded.iter().take(index).find(|other| other.selector.ties(&this.selector));
        if let Some(other) = tied {
            let message = format!(
                "this could select the same applications as {}:{}, and neither is more specific",
                other.pipeline.file, other.selector_at.line
            );
            faults.push(Diagnostic::error(&this.selector_at, message).hint(
                "make one of them more specific: name counts before namespace, cluster and source, \
                 and a literal beats a glob",
            ));
        }
    }
}

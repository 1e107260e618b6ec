//! One pipeline file by itself, looked at without a service: what `stagehook webhooks` computes from.
//!
//! It is read as [`super::catalog`] reads it, with the same faults. Which of all the files of a directory is meant
//! for an application is the catalog's to say, not known here.

use std::path::Path;

use crate::domain::github::Rules;
use crate::domain::names::{Application, Source};
use crate::domain::pipeline::Pipeline;

use super::catalog::{check_names, check_ties};
use super::diagnostic::{Diagnostic, Severity};
use super::pipeline::{self, Defaults, Loaded};
use super::selector::Selector;

/// A pipeline, and what its selector says without any application at hand.
#[derive(Clone, Debug)]
pub struct Described {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Which events of GitHub are calls.
    pub github: Rules,
    selector: Selector,
}

impl Described {
    /// The namespace, where the selector names exactly one.
    pub fn namespace(&self) -> Option<&str> {
        self.selector.namespace.literal()
    }

    /// The name, where the selector names exactly one.
    pub fn name(&self) -> Option<&str> {
        self.selector.name.literal()
    }

    /// The cluster, where the selector names exactly one.
    pub fn cluster(&self) -> Option<&str> {
        self.selector.cluster.literal()
    }

    /// Whether this source is one that the pipeline is for.
    pub fn is_told_by(&self, source: Source) -> bool {
        self.selector.is_told_by(source)
    }

    /// Whether an application is selected, whoever tells of it.
    pub fn is_for(&self, application: &Application) -> bool {
        self.selector.is_for(application)
    }
}

/// The pipelines of a file in their order, with the warnings; or all its faults.
pub fn load(path: &Path, defaults: &Defaults) -> Result<(Vec<Described>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let loaded = pipeline::load_file(path, defaults, &mut faults);
    check_names(&loaded, &mut faults);
    check_ties(&loaded, &mut faults);
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(faults);
    }
    let described = |Loaded { pipeline, github, selector, .. }: Loaded| Described { pipeline, github, selector };
    Ok((loaded.into_iter().map(described).collect(), faults))
}

/// Of those that select an application as this source tells of it, the most specific.
pub fn select<'a>(pipelines: &'a [Described], source: Source, application: &Application) -> Option<&'a Described> {
    let matching = pipelines.iter().filter(|described| described.is_told_by(source) && described.is_for(application));
    matching.max_by_key(|described| described.selector.rank())
}

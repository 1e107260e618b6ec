//! All that the command line reads of the settings and the pipelines on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::catalog::{Catalog, Selected};
use crate::config::diagnostic::{Diagnostic, Severity};
use crate::config::one_file::{self, Described};
use crate::config::settings::{Server, Settings};
use crate::config::tls::Tls;
use crate::domain::names::{Application, Source};
use crate::domain::span::Span;
use crate::executor::{Confinement, Places};

use super::Environment;
use super::failure::Failure;

/// What `check` found.
#[derive(Debug)]
pub(super) struct Checked {
    /// What is wrong.
    pub diagnostics: Vec<Diagnostic>,
    /// How many pipelines are in force; none while there is an error.
    pub pipelines: usize,
}

/// Where the configured server listens, and how.
pub(super) fn server(config: Option<&Path>, environment: &Environment) -> Result<Server, Failure> {
    Ok(settings(config, environment)?.server)
}

/// The file of the configured ledger.
pub(super) fn ledger(config: Option<&Path>, environment: &Environment) -> Result<PathBuf, Failure> {
    Ok(settings(config, environment)?.ledger.path)
}

/// Checks the settings, that every secret and certificate can be used, and every pipeline file.
pub(super) fn check(config: Option<&Path>, environment: &Environment) -> Checked {
    let mut checked = Checked { diagnostics: Vec::new(), pipelines: 0 };
    let settings = match Settings::load(config, &environment.variables) {
        Ok(settings) => settings,
        Err(faults) => {
            checked.diagnostics = faults;
            return checked;
        }
    };
    for error in settings.resolve(&environment.variables).err().unwrap_or_default() {
        // A secret is no place in a file, so there is none to name.
        checked.diagnostics.push(Diagnostic::of_file("", error.to_string()));
    }
    if let Some(Err(error)) = settings.server.tls.as_ref().map(Tls::load) {
        checked.diagnostics.push(Diagnostic::of_file("", error.to_string()));
    }
    checked.diagnostics.extend(confinement(&settings, config));
    match Catalog::load(&settings.pipelines, &settings.pipeline_defaults()) {
        Ok((catalog, warnings)) => {
            checked.pipelines = catalog.len();
            checked.diagnostics.extend(warnings);
        }
        Err(faults) => checked.diagnostics.extend(faults),
    }
    checked
}

/// What is wrong with whom scripts run as and with their limits. Who checks may be somebody else than who serves: what only
/// says that this one may not is a warning then.
fn confinement(settings: &Settings, config: Option<&Path>) -> Vec<Diagnostic> {
    let execution = &settings.execution;
    let run_as = execution.run_as.as_ref().map(|run_as| (run_as.user.as_str(), run_as.group.as_deref()));
    let confinement = match Confinement::find(run_as, execution.limits.entries()) {
        Ok(confinement) => confinement,
        Err(fault) => return vec![Diagnostic::of_file("", fault)],
    };
    let places = Places {
        work_dir: &execution.work_dir,
        pipelines: &settings.pipelines,
        ledger: &settings.ledger.path,
        settings: config,
        secrets: &settings.secret_files(),
    };
    if let Err(faults) = confinement.is_permitted() {
        let severity = if rustix::process::geteuid().is_root() { Severity::Error } else { Severity::Warning };
        let of = |fault| Diagnostic { severity, ..Diagnostic::of_file("", fault) };
        return faults.into_iter().map(of).collect();
    }
    let faults = confinement.has_its_places(places).err().unwrap_or_default();
    faults.into_iter().map(|fault| Diagnostic::of_file("", fault)).collect()
}

impl Checked {
    /// How many of the diagnostics are errors.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }
}

/// The pipeline that is selected for an application.
pub(super) fn pipeline(
    config: Option<&Path>,
    environment: &Environment,
    source: Source,
    application: &Application,
) -> Result<Option<Arc<Selected>>, Failure> {
    let settings = settings(config, environment)?;
    let (catalog, _) =
        Catalog::load(&settings.pipelines, &settings.pipeline_defaults()).map_err(|faults| unusable(&faults))?;
    Ok(catalog.select(source, application))
}

/// A pipeline file that need not be among those of the settings.
#[derive(Debug)]
pub(super) struct PipelineFile {
    /// What it holds, in its order.
    pub pipelines: Vec<Described>,
    /// What is odd about it.
    pub warnings: Vec<Diagnostic>,
    /// `execution.killGrace`: how much longer than its timeout a script may take.
    pub kill_grace: Span,
}

/// Reads one pipeline file, with what the settings decide where it is silent.
pub(super) fn pipeline_file(
    config: Option<&Path>,
    environment: &Environment,
    path: &Path,
) -> Result<PipelineFile, Failure> {
    let settings = settings(config, environment)?;
    let (pipelines, warnings) =
        one_file::load(path, &settings.pipeline_defaults()).map_err(|faults| unusable(&faults))?;
    Ok(PipelineFile { pipelines, warnings, kill_grace: settings.execution.kill_grace })
}

fn settings(config: Option<&Path>, environment: &Environment) -> Result<Settings, Failure> {
    Settings::load(config, &environment.variables).map_err(|faults| unusable(&faults))
}

fn unusable(faults: &[Diagnostic]) -> Failure {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Failure::Usage(lines.join("\n"))
}

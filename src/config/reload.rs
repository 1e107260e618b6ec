//! Pipelines that follow their files: a good reload is published, a bad one is reported and changes nothing.
//!
//! Nothing here listens for signals. Open deployments are not concerned: they have pinned theirs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::catalog::Catalog;
use super::diagnostic::Diagnostic;
use super::pipeline::Defaults;
use super::watching::{Changes, Target, Watch};

/// How the last reload went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadStatus {
    /// The faults of the last load, errors and warnings.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether the pipelines in force are those of the files.
    pub ok: bool,
    /// The loads since the start that succeeded, the first included.
    pub succeeded: u64,
    /// The reloads since the start that were refused.
    pub failed: u64,
}

/// Holds the pipelines in force and loads them anew.
#[derive(Debug)]
pub struct Reloader {
    directory: PathBuf,
    defaults: Defaults,
    catalog: watch::Sender<Arc<Catalog>>,
    status: watch::Sender<ReloadStatus>,
    // Two reloads at once (a signal, a changed file) could publish the older one last.
    loading: Mutex<Option<Watch>>,
}

impl Reloader {
    /// Loads the pipelines for the first time; here a fault is the caller's to report.
    pub fn open(directory: impl Into<PathBuf>, defaults: Defaults) -> Result<Self, Vec<Diagnostic>> {
        let directory = directory.into();
        let (catalog, diagnostics) = Catalog::load(&directory, &defaults)?;
        let status = ReloadStatus { diagnostics, ok: true, succeeded: 1, failed: 0 };
        Ok(Self {
            directory,
            defaults,
            catalog: watch::Sender::new(Arc::new(catalog)),
            status: watch::Sender::new(status),
            loading: Mutex::default(),
        })
    }

    /// The pipelines in force.
    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// The pipelines in force, from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    /// How the last load went.
    pub fn status(&self) -> ReloadStatus {
        self.status.borrow().clone()
    }

    /// How each load went, from now on; it changes after the catalog did.
    pub fn subscribe_status(&self) -> watch::Receiver<ReloadStatus> {
        self.status.subscribe()
    }

    /// The directory that is read.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Loads the files again; whether they are in force now. Reads files, so it blocks for a moment.
    pub fn reload(&self) -> bool {
        let mut watching = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        // First, so that what changes from here on is seen, and what changed before is read: the directory, or a link
        // to it, may have been replaced, and the watches be on what nobody reads any more.
        if let Some(watching) = watching.as_mut() {
            watching.set(Target::Pipelines(&self.directory));
        }
        match Catalog::load(&self.directory, &self.defaults) {
            Ok((catalog, warnings)) => {
                for warning in &warnings {
                    tracing::warn!("{warning}");
                }
                tracing::info!(pipelines = catalog.len(), directory = %self.directory.display(), "pipelines are loaded");
                self.catalog.send_replace(Arc::new(catalog));
                self.status.send_modify(|status| {
                    status.ok = true;
                    status.succeeded += 1;
                    status.diagnostics = warnings;
                });
                true
            }
            Err(faults) => {
                for fault in &faults {
                    tracing::error!("{fault}");
                }
                tracing::error!(faults = faults.len(), "the pipelines stay as they were: their files have faults");
                self.status.send_modify(|status| {
                    status.ok = false;
                    status.failed += 1;
                    status.diagnostics = faults;
                });
                false
            }
        }
    }

    /// Watches the files from now on, and what leads to them. Blocks for a moment.
    pub fn watch(&self) -> Changes {
        let mut watching = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut watch, changes) = Watch::new();
        watch.set(Target::Pipelines(&self.directory));
        *watching = Some(watch);
        changes
    }

    /// Loads the files again whenever they change. Ends only when they are watched by another; drop it to stop it.
    pub async fn follow(self: Arc<Self>, mut changes: Changes) {
        while changes.next().await.is_some() {
            let this = Arc::clone(&self);
            // It reads files. A panic there is reported by the runtime, and the next change tries again.
            let _ = tokio::task::spawn_blocking(move || this.reload()).await;
        }
    }
}

//! Pipelines that follow their files: a good reload is published, a bad one is reported and changes nothing.
//!
//! Nothing here listens for signals. Open deployments are not concerned: they have pinned theirs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::catalog::Catalog;
use super::diagnostic::Diagnostic;
use super::pipeline::Defaults;

/// An editor or a ConfigMap changes several names at once: what happens within this time is one change.
const QUIET: Duration = Duration::from_millis(200);
/// A directory that never rests is read at least this often.
const PATIENCE: Duration = Duration::from_secs(2);

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
    loading: Mutex<()>,
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
            loading: Mutex::new(()),
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
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Loads the files again whenever they change. Ends only when the watcher does; drop it to stop it.
    pub async fn follow(self: Arc<Self>, mut changes: Changes) {
        while changes.next().await.is_some() {
            let this = Arc::clone(&self);
            // It reads files. A panic there is reported by the runtime, and the next change tries again.
            let _ = tokio::task::spawn_blocking(move || this.reload()).await;
        }
    }
}

/// The changes of a directory, as they happen.
#[derive(Debug)]
pub struct Changes {
    happened: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

/// Watches a directory. The directory and not its files: editors and Kubernetes put new files, or a new link, in
/// the place of old ones. Files that are links to elsewhere are not seen changing there.
pub fn watch(directory: &Path) -> Result<Changes, notify::Error> {
    // One seat: a change that is waiting to be seen stands for all that follow.
    let (sender, happened) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| match event {
        Ok(event) if !changes_something(event.kind) => {}
        Ok(_) => _ = sender.try_send(()),
        Err(error) => {
            tracing::warn!(%error, "the pipelines are not watched well: a changed file may need a SIGHUP");
            _ = sender.try_send(());
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(Changes { happened, _watcher: watcher })
}

/// A reload opens and reads the files itself: were that a change, it would never end.
fn changes_something(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

impl Changes {
    /// Waits for a change, and until the directory rests. None when the watcher is gone.
    pub async fn next(&mut self) -> Option<()> {
        self.happened.recv().await?;
        let rest = async { while let Ok(Some(())) = timeout(QUIET, self.happened.recv()).await {} };
        // Too restless to wait for: what is there now is read, and what comes later is a change of its own.
        _ = timeout(PATIENCE, rest).await;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_no_change() {
        assert!(!changes_something(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!changes_something(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(changes_something(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(changes_something(EventKind::Remove(notify::event::RemoveKind::File)));
    }
}

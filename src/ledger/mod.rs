//! The ledger: an append-only event store on SQLite, one stream for each source and application.
//!
//! It numbers records without gaps, links each to the one before by its hash, and says yes only when they are on
//! the disk. It knows no rule of a deployment: what a fact means is the domain's business, when to write one the
//! engine's. It has no cache, so nothing here can be stale.
//!
//! - [`Ledger`]: the handle of the running service: `append`, and the reads.
//! - [`verify`], [`head()`] and [`backup()`]: proofs over a file and copies of it, with or without a service on it.
//!
//! In it: `file` (folder, lock, connections), `anchor` (what keeps the files open, and knows them again), `schema`
//! (tables), `append` (one append in a transaction), `writer` (the thread that commits), `condition` (damage, and the last
//! fault), `readers`, `read` and `list` (the pool and its queries), `prune` (what goes again), `checkpoint` (up to where),
//! `chain` (the hash), `rows`.

mod anchor;
mod append;
mod backup;
mod chain;
mod checkpoint;
mod condition;
mod error;
mod file;
#[cfg(test)]
#[expect(dead_code, reason = "others use more of it")]
pub(crate) mod filler;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod head;
mod list;
mod partial;
#[cfg(test)]
mod plans;
mod prune;
mod read;
mod readers;
mod rows;
mod schema;
mod verify;
#[cfg(test)]
mod work;
mod writer;

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::condition::Condition;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Application, Revision, Source, StreamId};
use crate::domain::record::{Alias, Record};
use crate::domain::summary::{State, Summary};

pub use append::{Append, AppendError};
pub use backup::{Backup, BackupError, backup};
pub use error::LedgerError;
pub use file::path_of_url;
pub use head::{Head, StreamHead, head};
pub use list::{ListQuery, MAX_PAGE, Page};
pub use partial::Hold;
pub use prune::{Cut, Front, Group, Prunable, Pruned, Step, StreamKey};
pub use read::{Loaded, StoredRecord};
pub use verify::{Finding, Kind, Report, VerifyError, verify};

/// How long a write waits for a lock that another program (a shell, a backup) holds.
const BUSY: Duration = Duration::from_secs(5);

/// The handle of an open ledger; clones share it. When the last one is dropped, what is queued is committed, the
/// file is closed and its lock released.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

impl Ledger {
    /// Opens the ledger at `path`, made where it is missing, and keeps every other server off it.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_waiting(path, BUSY)
    }

    /// As [`Ledger::open`], with the time that a write waits for another program's lock before it is `Unavailable`.
    pub fn open_waiting(path: &Path, busy: Duration) -> Result<Self, LedgerError> {
        let (path, lock) = file::prepare(path)?;
        // Before anything is set on it: a foreign file must be left as it was.
        file::reader(&path, busy)
            .map_err(|error| LedgerError::open(&path, &error))
            .and_then(|reader| schema::refuse_others(&reader, &path))?;
        let mut connection = file::writer(&path, busy).map_err(|error| LedgerError::open(&path, &error))?;
        schema::migrate(&mut connection, &path)?;
        let anchor = anchor::Anchor::hold(&path, busy)?;
        let condition = Arc::new(Condition::default());
        let writer = writer::Writer::start(connection, path.clone(), anchor, busy, Arc::clone(&condition))
            .map_err(|error| LedgerError::file(&path, "its writer can't be started", &error))?;
        let readers = Arc::new(readers::Readers::new(path, busy, Arc::clone(&condition)));
        Ok(Self { inner: Arc::new(Inner { readers, writer, condition, _lock: lock }) })
    }

    /// Writes a decision's facts, all or none, if the stream still ends where the caller saw it end.
    ///
    /// It is queued by the call itself: dropping the future, polled or not, does not take it back. An answer of
    /// success comes only after the commit.
    pub fn append(&self, append: Append) -> impl Future<Output = Result<Vec<Record>, AppendError>> + Send + use<> {
        let outcome = self.inner.writer.append(append);
        async move { outcome.await.unwrap_or_else(|_| Err(gone())) }
    }

    /// Takes one step of pruning, in a transaction of its own, after the appends that are queued. `Conflict` where the
    /// stream was touched since it was looked at: look again.
    pub fn prune(&self, step: Step) -> impl Future<Output = Result<Pruned, AppendError>> + Send + use<> {
        let outcome = self.inner.writer.prune(step);
        async move { outcome.await.unwrap_or_else(|_| Err(gone())) }
    }

    /// The next streams after this one of which something may be prunable: the oldest deployment is not among the newest
    /// `keep`, and over and untouched since before `before`. Without `before`: those whose pruning was cut short.
    pub async fn prunable(
        &self,
        after: StreamKey,
        keep: usize,
        before: Option<Timestamp>,
    ) -> Result<Prunable, LedgerError> {
        self.inner.readers.read(move |connection| prune::prunable(connection, after, keep, before)).await
    }

    /// What may go from the front of a stream; at most `limit` deployments are looked at.
    pub async fn front(
        &self,
        stream: StreamKey,
        keep: usize,
        before: Timestamp,
        limit: usize,
    ) -> Result<Front, LedgerError> {
        self.inner.readers.read(move |connection| prune::front(connection, stream, keep, before, limit)).await
    }

    /// Tries a real write transaction; the error says what is wrong in one line.
    pub fn check_writable(&self) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let outcome = self.inner.writer.probe();
        async move { outcome.await.unwrap_or_else(|_| Err(gone())).map_err(|error| error.to_string()) }
    }

    /// An error where it was found damaged since it was opened: then nothing is appended any more, and nothing may be
    /// decided from what is in memory either.
    pub fn sound(&self) -> Result<(), LedgerError> {
        self.inner.condition.sound()
    }

    /// Holds it as damaged: what a decision rests on is not what was written.
    pub fn hold_as_damaged(&self, why: &str) {
        self.inner.condition.hold(why);
    }

    /// Why the last write failed, if it did.
    pub fn write_fault(&self) -> Option<String> {
        self.inner.condition.fault()
    }

    /// How many write transactions were committed since it was opened.
    pub fn commits(&self) -> u64 {
        self.inner.writer.commits()
    }

    /// The end of a stream: from the record that opened the oldest of its live and its newest `keep` deployments
    /// on. A stream that has no deployment is given whole; one that has none live and `keep` 0, only its head. Of the
    /// load tester's: from its oldest live command or its newest word on the gates on, whichever is first.
    pub async fn load(&self, stream: &StreamId, keep: usize) -> Result<Loaded, LedgerError> {
        let stream = stream.clone();
        self.inner.readers.read(move |connection| read::load(connection, &stream, keep)).await
    }

    /// One deployment's records, and its stream.
    pub async fn load_deployment(&self, id: DeploymentId) -> Result<Option<(StreamId, Loaded)>, LedgerError> {
        self.inner.readers.read(move |connection| read::load_deployment(connection, id)).await
    }

    /// The newest deployment of a stream that has this revision.
    pub async fn newest_of(&self, stream: &StreamId, revision: &Revision) -> Result<Option<DeploymentId>, LedgerError> {
        let (stream, revision) = (stream.clone(), revision.clone());
        self.inner.readers.read(move |connection| read::newest_of(connection, &stream, &revision)).await
    }

    /// The newest deployment of a stream that callers know by this.
    pub async fn known_by(&self, stream: &StreamId, alias: &Alias) -> Result<Option<DeploymentId>, LedgerError> {
        let (stream, alias) = (stream.clone(), alias.clone());
        self.inner.readers.read(move |connection| read::known_by(connection, &stream, &alias)).await
    }

    /// One deployment's records with their hashes, at most `limit` of those after record `after`; none where there is no
    /// such deployment.
    pub async fn records(&self, id: DeploymentId, after: u64, limit: usize) -> Result<Vec<StoredRecord>, LedgerError> {
        self.inner.readers.read(move |connection| read::records(connection, id, after, limit)).await
    }

    /// Where a run belongs.
    pub async fn find_run(&self, run: RunId) -> Result<Option<(StreamId, DeploymentId)>, LedgerError> {
        self.inner.readers.read(move |connection| read::find_run(connection, run)).await
    }

    /// What a run printed, as far as it was kept.
    pub async fn output(&self, run: RunId) -> Result<Option<Vec<u8>>, LedgerError> {
        self.inner.readers.read(move |connection| read::output(connection, run)).await
    }

    /// The deployments to which anything may still happen by itself, oldest first.
    pub async fn live(&self) -> Result<Vec<(StreamId, DeploymentId)>, LedgerError> {
        self.inner.readers.read(read::live).await
    }

    /// The sources that have told of an application.
    pub async fn sources_of(&self, application: &Application) -> Result<Vec<Source>, LedgerError> {
        let application = application.clone();
        self.inner.readers.read(move |connection| read::sources_of(connection, &application)).await
    }

    /// A page of the deployments, newest first.
    pub async fn list(&self, query: &ListQuery) -> Result<Page, LedgerError> {
        let query = query.clone();
        self.inner.readers.read(move |connection| list::list(connection, &query)).await
    }

    /// One deployment in one line.
    pub async fn summary(&self, id: DeploymentId) -> Result<Option<Summary>, LedgerError> {
        self.inner.readers.read(move |connection| list::summary(connection, id)).await
    }

    /// How many deployments are in each state, in the order of [`State::ALL`]; maintained, so it costs nothing.
    pub async fn counts(&self) -> Result<Vec<(State, u64)>, LedgerError> {
        self.inner.readers.read(list::counts).await
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

/// Dropped from top to bottom: the readers first, so that the writer is the last to close the file and SQLite
/// folds the WAL into it; the lock last.
struct Inner {
    readers: Arc<readers::Readers>,
    writer: writer::Writer,
    condition: Arc<Condition>,
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A read that still goes on holds the pool, so dropping our share of it would not close the idle ones.
        self.readers.close();
    }
}

fn gone() -> AppendError {
    AppendError::Unavailable("its writer has stopped; restart stagehook".to_owned())
}

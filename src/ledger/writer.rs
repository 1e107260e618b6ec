//! The one writer: a thread that owns the write connection and commits everything that waits in one transaction.
//!
//! An fsync costs the same for one append as for a hundred, and while it goes on the next ones queue up. Nothing
//! here looks into an append; that is `append`'s business.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::anchor::{Anchor, Astray};
use super::append::{Append, AppendError, Refusal, apply};
use super::condition::{Condition, is_damage};
use super::error::{LedgerError, explain};
use super::file;
use super::prune::{self, Pruned, Step};
use crate::domain::record::Record;
use crate::failpoint::{self, Point};

/// The most appends in one transaction, so that the first of them does not wait for ever.
const BATCH: usize = 256;

/// The handle to the thread. Dropping it commits what is queued, closes the connection and waits for that.
pub(super) struct Writer {
    /// Unbounded on purpose: each caller waits for its answer, so the callers bound it, and a failure report must
    /// never be refused for a full queue. None only while it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
}

/// Where the outcome of a job will arrive.
pub(super) type Answer<T> = oneshot::Receiver<Result<T, AppendError>>;

impl Writer {
    /// Starts the thread on an open connection to the file at `path`.
    pub(super) fn start(
        connection: Connection,
        path: PathBuf,
        anchor: Anchor,
        busy: Duration,
        condition: Arc<Condition>,
    ) -> std::io::Result<Self> {
        let commits = Arc::new(AtomicU64::new(0));
        let (jobs, queue) = channel();
        let connection = Some(connection);
        let commits_of_work = Arc::clone(&commits);
        let work = Work { path, busy, locked: false, connection, anchor, commits: commits_of_work, condition };
        let thread = std::thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || work.run(&queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), commits })
    }

    /// Queues an append. From here on it happens, whether anybody waits for the answer or not.
    pub(super) fn append(&self, append: Append) -> Answer<Vec<Record>> {
        let (answer, outcome) = oneshot::channel();
        self.queue(Job::Append(Box::new(append), answer));
        outcome
    }

    /// Queues a step of pruning.
    pub(super) fn prune(&self, step: Step) -> Answer<Pruned> {
        let (answer, outcome) = oneshot::channel();
        self.queue(Job::Prune(step, answer));
        outcome
    }

    /// Queues a write that changes nothing that matters.
    pub(super) fn probe(&self) -> Answer<()> {
        let (answer, outcome) = oneshot::channel();
        self.queue(Job::Probe(answer));
        outcome
    }

    /// How many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn queue(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Where the thread is gone the job is dropped, its answer with it, and that is what the caller sees.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was already printed, and there is nothing left to save.
            let _ = thread.join();
        }
    }
}

enum Job {
    Append(Box<Append>, oneshot::Sender<Result<Vec<Record>, AppendError>>),
    Probe(oneshot::Sender<Result<(), AppendError>>),
    Prune(Step, oneshot::Sender<Result<Pruned, AppendError>>),
}

impl Job {
    fn fail(self, error: AppendError) {
        // A caller that is gone needs no answer.
        match self {
            Self::Append(_, answer) => drop(answer.send(Err(error))),
            Self::Probe(answer) => drop(answer.send(Err(error))),
            Self::Prune(_, answer) => drop(answer.send(Err(error))),
        }
    }
}

/// A job that is written but not committed: its answer must wait.
enum Written {
    Append(oneshot::Sender<Result<Vec<Record>, AppendError>>, Result<Vec<Record>, AppendError>),
    Probe(oneshot::Sender<Result<(), AppendError>>),
    Prune(oneshot::Sender<Result<Pruned, AppendError>>, Result<Pruned, AppendError>),
}

impl Written {
    fn committed(self) {
        match self {
            Self::Append(answer, outcome) => drop(answer.send(outcome)),
            Self::Probe(answer) => drop(answer.send(Ok(()))),
            Self::Prune(answer, outcome) => drop(answer.send(outcome)),
        }
    }

    fn fail(self, error: AppendError) {
        // Conflicts as well: they may be conflicts with a record of this very batch, which is now gone.
        match self {
            Self::Append(answer, _) => drop(answer.send(Err(error))),
            Self::Probe(answer) => drop(answer.send(Err(error))),
            Self::Prune(answer, _) => drop(answer.send(Err(error))),
        }
    }

    fn changes(&self) -> bool {
        !matches!(self, Self::Append(_, Err(_)) | Self::Prune(_, Err(_)))
    }
}

struct Work {
    path: PathBuf,
    busy: Duration,
    /// Whether the last batch waited for another program's lock in vain. Until it is gone nothing waits for it again:
    /// decisions of one application come one after the other, and the last of many would wait many times.
    locked: bool,
    /// None after an error that may have harmed it; the next batch opens it again.
    connection: Option<Connection>,
    /// Below the connection, to be dropped after it: who closes last folds the WAL into the file.
    anchor: Anchor,
    commits: Arc<AtomicU64>,
    condition: Arc<Condition>,
}

impl Work {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = Vec::with_capacity(8);
            jobs.push(first);
            jobs.extend(queue.try_iter().take(BATCH - 1));
            // A step of pruning is nobody's call: it waits for those that are queued with it, and its failure, or its
            // pages on a full disk, must not be theirs.
            let (steps, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| matches!(job, Job::Prune(..)));
            if !jobs.is_empty() {
                self.commit(jobs);
            }
            steps.into_iter().for_each(|step| self.commit(vec![step]));
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        match self.begin() {
            Ok(connection) => self.finish(connection, jobs),
            Err(error) => jobs.into_iter().for_each(|job| job.fail(error.clone())),
        }
    }

    /// Writes the jobs in the transaction that is begun, and ends it.
    fn finish(&mut self, connection: Connection, jobs: Vec<Job>) {
        let mut written = Vec::with_capacity(jobs.len());
        let mut jobs = jobs.into_iter();
        let mut fault = None;
        for job in jobs.by_ref() {
            match write(&connection, job) {
                Ok(done) => written.push(done),
                Err((job, error)) => {
                    written.push(job);
                    fault = Some(error);
                    break;
                }
            }
        }
        let end = match fault {
            Some(fault) => Err(fault),
            // Acknowledged only where it is still found by name: between the look before and the commit there is time.
            None if written.iter().any(Written::changes) => {
                commit(&connection).map_err(Fault::from).and_then(|()| self.anchor.holds().map_err(Fault::from))
            }
            None => connection.execute_batch("ROLLBACK").map_err(Fault::from),
        };

        match end {
            Ok(()) => {
                if written.iter().any(Written::changes) {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                }
                self.connection = Some(connection);
                self.condition.wrote(Ok(()));
                written.into_iter().for_each(Written::committed);
            }
            Err(fault) => {
                // Closing it rolls back whatever SQLite has not rolled back itself.
                drop(connection);
                let error = match fault {
                    Fault::Sqlite(error) => self.failed(&error),
                    Fault::Damage(why) => self.damaged(&why),
                    Fault::Astray(astray) => self.astray(astray),
                };
                written.into_iter().for_each(|job| job.fail(error.clone()));
                jobs.for_each(|job| job.fail(error.clone()));
            }
        }
    }

    /// Takes the connection with a transaction begun; it is put back when the batch went well.
    fn begin(&mut self) -> Result<Connection, AppendError> {
        self.condition.sound().map_err(|error| AppendError::Damaged(error.to_string()))?;
        self.anchor.holds().map_err(|astray| self.astray(astray))?;
        let patience = if self.locked { Duration::ZERO } else { self.busy };
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => file::writer(&self.path, patience).map_err(|error| self.failed(&error))?,
        };
        let begun = connection.busy_timeout(patience).and_then(|()| connection.execute_batch("BEGIN IMMEDIATE"));
        self.locked = begun.as_ref().is_err_and(is_lock);
        match begun {
            Ok(()) => Ok(connection),
            Err(error) => {
                // A lock that somebody else holds says nothing against the connection.
                if is_lock(&error) && connection.is_autocommit() {
                    self.connection = Some(connection);
                }
                Err(self.failed(&error))
            }
        }
    }

    fn failed(&self, error: &rusqlite::Error) -> AppendError {
        if is_damage(error) { self.damaged(&error.to_string()) } else { self.unavailable(explain(error)) }
    }

    fn astray(&self, astray: Astray) -> AppendError {
        match astray {
            Astray::ForNow(why) => self.unavailable(why),
            Astray::ForGood(why) => self.damaged(&why),
        }
    }

    fn unavailable(&self, why: String) -> AppendError {
        self.condition.wrote(Err(&why));
        AppendError::Unavailable(why)
    }

    fn damaged(&self, why: &str) -> AppendError {
        self.condition.wrote(Err(why));
        self.condition.hold(why);
        AppendError::Damaged(LedgerError::Damaged(why.to_owned()).to_string())
    }
}

/// Why a transaction can't go on.
enum Fault {
    Sqlite(rusqlite::Error),
    Damage(String),
    Astray(Astray),
}

impl From<Astray> for Fault {
    fn from(astray: Astray) -> Self {
        Self::Astray(astray)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn is_lock(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn commit(connection: &Connection) -> rusqlite::Result<()> {
    // What a disk that fails looks like, before and after it has taken the commit.
    let failed = || Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR), None));
    if failpoint::fails(Point::CommitBefore) {
        return failed();
    }
    connection.execute_batch("COMMIT")?;
    if failpoint::fails(Point::CommitAfter) {
        return failed();
    }
    Ok(())
}

/// Writes one job behind a savepoint, so that its refusal undoes nothing of the others in the transaction.
fn write(connection: &Connection, job: Job) -> Result<Written, (Written, Fault)> {
    match job {
        Job::Append(append, answer) => match guarded(connection, |connection| apply(connection, *append)) {
            Ok(outcome) => Ok(Written::Append(answer, outcome)),
            Err(error) => Err((Written::Append(answer, Ok(Vec::new())), error)),
        },
        Job::Prune(step, answer) => match guarded(connection, |connection| prune::step(connection, &step)) {
            Ok(outcome) => Ok(Written::Prune(answer, outcome)),
            Err(error) => Err((Written::Prune(answer, Ok(Pruned::default())), error)),
        },
        Job::Probe(answer) => {
            failpoint::hit(Point::ProbeBefore);
            let beat = connection.execute("UPDATE heartbeat SET beats = beats + 1 WHERE id = 1", []);
            failpoint::hit(Point::ProbeAfter);
            match beat {
                Ok(_) => Ok(Written::Probe(answer)),
                Err(error) => Err((Written::Probe(answer), error.into())),
            }
        }
    }
}

fn guarded<T>(
    connection: &Connection,
    write: impl FnOnce(&Connection) -> Result<T, Refusal>,
) -> Result<Result<T, AppendError>, Fault> {
    connection.execute_batch("SAVEPOINT job")?;
    match write(connection) {
        Ok(written) => {
            connection.execute_batch("RELEASE job")?;
            Ok(Ok(written))
        }
        Err(Refusal::Alone(error)) => {
            connection.execute_batch("ROLLBACK TO job; RELEASE job")?;
            Ok(Err(error))
        }
        Err(Refusal::Transaction(error)) => Err(error.into()),
        Err(Refusal::Damage(why)) => Err(Fault::Damage(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the look at the names and the commit anybody may come.
    #[test]
    fn what_was_committed_into_a_file_that_is_gone_by_then_is_not_acknowledged() {
        for end in ["-wal", "-shm"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger.db");
            drop(crate::ledger::Ledger::open(&path).unwrap());
            let mut work = Work {
                path: path.clone(),
                busy: Duration::ZERO,
                locked: false,
                connection: None,
                anchor: Anchor::hold(&path, Duration::ZERO).unwrap(),
                commits: Arc::default(),
                condition: Arc::default(),
            };
            let mut probe = |remove: bool| {
                let connection = work.begin()?;
                if remove {
                    std::fs::remove_file(file::beside(&path, end)).unwrap();
                }
                let (answer, outcome) = oneshot::channel();
                work.finish(connection, vec![Job::Probe(answer)]);
                outcome.blocking_recv().unwrap()
            };
            probe(false).unwrap();
            let refused = probe(true).unwrap_err();
            assert!(matches!(&refused, AppendError::Damaged(why) if why.contains(end)), "{refused:?}");
            assert!(matches!(probe(false), Err(AppendError::Damaged(_))));
        }
    }
}

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

use super::append::{Append, AppendError, Refusal, apply};
use super::error::explain;
use super::file::{self, Identity};
use crate::domain::record::Record;

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
        identity: Identity,
        busy: Duration,
    ) -> std::io::Result<Self> {
        let commits = Arc::new(AtomicU64::new(0));
        let (jobs, queue) = channel();
        let work = Work { path, identity, busy, connection: Some(connection), commits: Arc::clone(&commits) };
        let thread = std::thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || work.run(&queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), commits })
    }

    /// Queues an append. From here on it happens, whether anybody waits for the answer or not.
    pub(super) fn append(&self, append: Append) -> Answer<Vec<Record>> {
        let (answer, outcome) = oneshot::channel();
        self.queue(Job::Append(Box::new(append), answer));
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
}

impl Job {
    fn fail(self, error: AppendError) {
        // A caller that is gone needs no answer.
        match self {
            Self::Append(_, answer) => drop(answer.send(Err(error))),
            Self::Probe(answer) => drop(answer.send(Err(error))),
        }
    }
}

/// A job that is written but not committed: its answer must wait.
enum Written {
    Append(oneshot::Sender<Result<Vec<Record>, AppendError>>, Result<Vec<Record>, AppendError>),
    Probe(oneshot::Sender<Result<(), AppendError>>),
}

impl Written {
    fn committed(self) {
        match self {
            Self::Append(answer, outcome) => drop(answer.send(outcome)),
            Self::Probe(answer) => drop(answer.send(Ok(()))),
        }
    }

    fn fail(self, error: AppendError) {
        // Conflicts as well: they may be conflicts with a record of this very batch, which is now gone.
        match self {
            Self::Append(answer, _) => drop(answer.send(Err(error))),
            Self::Probe(answer) => drop(answer.send(Err(error))),
        }
    }

    fn changes(&self) -> bool {
        !matches!(self, Self::Append(_, Err(_)))
    }
}

struct Work {
    path: PathBuf,
    identity: Identity,
    busy: Duration,
    /// None after an error that may have harmed it; the next batch opens it again.
    connection: Option<Connection>,
    commits: Arc<AtomicU64>,
}

impl Work {
    fn run(mut self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = Vec::with_capacity(8);
            jobs.push(first);
            jobs.extend(queue.try_iter().take(BATCH - 1));
            self.commit(jobs);
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let connection = match self.begin() {
            Ok(connection) => connection,
            Err(why) => {
                let error = AppendError::Unavailable(why);
                return jobs.into_iter().for_each(|job| job.fail(error.clone()));
            }
        };

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
            Some(error) => Err(error),
            None if written.iter().any(Written::changes) => connection.execute_batch("COMMIT"),
            None => connection.execute_batch("ROLLBACK"),
        };

        match end {
            Ok(()) => {
                if written.iter().any(Written::changes) {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                }
                self.connection = Some(connection);
                written.into_iter().for_each(Written::committed);
            }
            Err(error) => {
                // Closing it rolls back whatever SQLite has not rolled back itself.
                drop(connection);
                let error = AppendError::Unavailable(explain(&error));
                written.into_iter().for_each(|job| job.fail(error.clone()));
                jobs.for_each(|job| job.fail(error.clone()));
            }
        }
    }

    /// Takes the connection with a transaction begun; it is put back when the batch went well.
    fn begin(&mut self) -> Result<Connection, String> {
        match Identity::of(&self.path) {
            Ok(identity) if identity == self.identity => {}
            Ok(_) => {
                return Err(format!(
                    "{} was replaced by another file while it was open; restart stagehook",
                    self.path.display()
                ));
            }
            Err(error) => {
                return Err(format!("{}: {error}; put the file back, or restart stagehook", self.path.display()));
            }
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => file::writer(&self.path, self.busy).map_err(|error| explain(&error))?,
        };
        match connection.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => Ok(connection),
            Err(error) => {
                // A lock that somebody else holds says nothing against the connection.
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && connection.is_autocommit() {
                    self.connection = Some(connection);
                }
                Err(explain(&error))
            }
        }
    }
}

/// Writes one job behind a savepoint, so that its refusal undoes nothing of the others in the transaction.
fn write(connection: &Connection, job: Job) -> Result<Written, (Written, rusqlite::Error)> {
    match job {
        Job::Append(append, answer) => match write_append(connection, *append) {
            Ok(outcome) => Ok(Written::Append(answer, outcome)),
            Err(error) => Err((Written::Append(answer, Ok(Vec::new())), error)),
        },
        Job::Probe(answer) => match connection.execute("UPDATE heartbeat SET beats = beats + 1 WHERE id = 1", []) {
            Ok(_) => Ok(Written::Probe(answer)),
            Err(error) => Err((Written::Probe(answer), error)),
        },
    }
}

fn write_append(connection: &Connection, append: Append) -> rusqlite::Result<Result<Vec<Record>, AppendError>> {
    connection.execute_batch("SAVEPOINT append")?;
    match apply(connection, append) {
        Ok(records) => {
            connection.execute_batch("RELEASE append")?;
            Ok(Ok(records))
        }
        Err(Refusal::Alone(error)) => {
            connection.execute_batch("ROLLBACK TO append; RELEASE append")?;
            Ok(Err(error))
        }
        Err(Refusal::Transaction(error)) => Err(error),
    }
}

//! A few read-only connections, used on tokio's blocking threads. Each read is one transaction: one moment.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::condition::Condition;
use super::error::LedgerError;
use super::file;

/// The most reads at a time; more wait. SQLite reads are short, and the machine is the scripts'.
const READERS: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    busy: Duration,
    condition: Arc<Condition>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, busy: Duration, condition: Arc<Condition>) -> Self {
        Self { path, busy, condition, permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::new(Vec::new()) }
    }

    /// Runs `query` in one read transaction.
    pub(super) async fn read<T, F>(self: &Arc<Self>, query: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    {
        let readers = Arc::clone(self);
        // Never closed, so always some. It goes with the work: a caller that goes away does not end its read.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let work = move || {
            let _permit = permit;
            let outcome = readers.in_transaction(query);
            if let Err(LedgerError::Corrupt(why)) = &outcome {
                readers.condition.hold(why);
            }
            outcome
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(LedgerError::Read(format!("the read was broken off: {error}"))),
        }
    }

    fn in_transaction<T>(&self, query: impl FnOnce(&Connection) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let connection = match self.take() {
            Some(connection) => connection,
            None => file::reader(&self.path, self.busy)?,
        };
        connection.execute_batch("BEGIN")?;
        let outcome = query(&connection);
        let ended = connection.execute_batch("ROLLBACK");
        // A connection that had any trouble is closed: the next one starts clean.
        if outcome.is_ok() && ended.is_ok() {
            self.give_back(connection);
        }
        outcome
    }

    /// Closes the idle connections.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    // A vector of connections is whole whoever panicked, so poison does not matter.
    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

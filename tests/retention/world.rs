//! A ledger in a folder of its own, with streams that are filled, and what prunes it as the engine would.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use stagehook::domain::names::{Source, StreamId};
use stagehook::ledger::{AppendError, Cut, Front, Kind, Ledger, Pruned, Report, Step, StreamKey, verify};

use super::filler::Filler;

/// How many of the newest stay, as the engine wants it.
pub const KEEP: usize = 8;

pub struct Site {
    pub ledger: Ledger,
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        Self { ledger: Ledger::open(&path).unwrap(), path, _folder: folder }
    }

    /// As after a crash: nothing is left of the service but the file.
    pub fn reopen(self) -> Self {
        let Self { ledger, path, _folder } = self;
        drop(ledger);
        Self { ledger: Ledger::open(&path).unwrap(), path, _folder }
    }

    pub async fn put(&self, filler: &mut Filler) {
        self.ledger.append(filler.append()).await.unwrap();
    }

    pub async fn front(&self, before: Timestamp) -> Front {
        self.ledger.front(self.key(), KEEP, before, 1000).await.unwrap()
    }

    /// The only stream, or the first.
    pub fn key(&self) -> StreamKey {
        let prunable = r"SELECT min(id) FROM streams";
        let id: i64 = self.shell().query_row(prunable, [], |row| row.get(0)).unwrap();
        StreamKey::from(id)
    }

    pub async fn step(&self, cut: Option<Cut>, rows: usize) -> Result<Pruned, AppendError> {
        self.ledger.prune(Step { stream: self.key(), cut, rows, at: now() }).await
    }

    /// Prunes the first stream as far as it goes.
    pub async fn prune(&self, before: Timestamp, rows: usize) -> Pruned {
        let mut total = Pruned::default();
        let front = self.front(before).await;
        let mut cut = front.groups.last().map(|group| Cut { until: group.until, head: front.head });
        if cut.is_none() {
            return total;
        }
        loop {
            total.add(self.step(cut.take(), rows).await.unwrap());
            if total.done {
                return total;
            }
        }
    }

    pub fn shell(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    pub fn tamper(&self, sql: &str) {
        self.shell().execute_batch(sql).unwrap();
    }

    pub fn count(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.shell().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap().try_into().unwrap()
    }

    pub fn verify(&self) -> Report {
        verify(&self.path, None).unwrap()
    }

    pub fn kinds(&self) -> Vec<(Kind, Option<u64>)> {
        self.verify().findings.iter().map(|finding| (finding.kind, finding.seq)).collect()
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        let findings = self.verify().findings;
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

pub fn stream(name: &str) -> StreamId {
    StreamId { source: Source::Generic, application: format!("test/{name}").parse().unwrap() }
}

/// When everything happens that is not old.
pub fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// So many days before.
pub fn ago(days: i64) -> Timestamp {
    now() - SignedDuration::from_hours(24 * days)
}

/// A stream that begins a year ago.
pub fn filler(name: &str) -> Filler {
    Filler::new(stream(name), 1, ago(365))
}

//! Proves a ledger: that nothing in it was changed, removed, swapped or cut since it was written.
//!
//! It opens the file on its own, read-only, and sees one moment of it, so it works beside a running service. It
//! repairs nothing. What it can't see: a tail that was cut together with the head that names it; for that it is
//! given an earlier [`Head`], which tells nothing of a stream of which that record was pruned since. It holds little at a
//! time, however large the ledger: one record, and the deployments that are folded at that point of one stream.

mod content;
mod listing;
mod pages;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde::Serialize;

use super::condition::is_damage;
use super::error::LedgerError;
use super::head::{Head, StreamHead};
use super::{file, schema};

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The streams that were walked.
    pub streams: u64,
    /// The records whose hash was computed again.
    pub records: u64,
    /// The pipelines whose hash was.
    pub pipelines: u64,
    /// The outputs whose hash was.
    pub outputs: u64,
    /// The streams whose front was pruned: what is left of them is proven from their checkpoint on.
    pub pruned: u64,
    /// The streams of the earlier head that can't be compared with it: the record that it names was pruned since.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_compared: Vec<String>,
    /// What is wrong; empty for a sound ledger.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, kind: Kind, stream: Option<&str>, seq: Option<u64>, message: impl Into<String>) {
        self.findings.push(Finding { kind, stream: stream.map(str::to_owned), seq, message: message.into() });
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In one word.
    pub kind: Kind,
    /// The stream, where it is about one: `source:application`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The number of the record, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// In one line.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Some(stream) = &self.stream {
            write!(f, " {stream}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, " record {seq}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SQLite itself finds the file damaged.
    Database,
    /// A record is not what was written.
    Changed,
    /// Records in the middle are gone.
    Missing,
    /// A record stands in another one's place.
    Swapped,
    /// Records at the end are gone.
    CutTail,
    /// A pipeline is gone or is not what was pinned.
    Pipeline,
    /// An output is gone or is not what was printed.
    Output,
    /// A list or a head does not tell what the records tell.
    Projection,
}

impl Kind {
    /// As it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Swapped => "swapped",
            Self::CutTail => "cut-tail",
            Self::Pipeline => "pipeline",
            Self::Output => "output",
            Self::Projection => "projection",
        }
    }
}

/// Why a ledger could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It can't be opened or read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The earlier head is no whole document.
    #[error("the earlier head does not have the digest that it states: it was changed or cut; take another copy of it")]
    Against,
}

/// Looks at everything in the ledger at `path`; with `against`, also whether it still holds what it held then.
pub fn verify(path: &Path, against: Option<&Head>) -> Result<Report, VerifyError> {
    if against.is_some_and(|head| !head.is_whole()) {
        return Err(VerifyError::Against);
    }
    let mut report = Report::default();
    let outcome = begin(path).and_then(|connection| Ok(walk(&connection, against, &mut report)?));
    match outcome {
        Ok(()) => Ok(report),
        // Damage on SQLite's level ends the walk, and is itself what was asked for.
        Err(Stop::Sqlite(error)) if is_damage(&error) => {
            report.find(Kind::Database, None, None, format!("{error}; restore a backup"));
            Ok(report)
        }
        Err(Stop::Sqlite(error)) => Err(LedgerError::from(error).into()),
        Err(Stop::Ledger(error)) => Err(error.into()),
    }
}

/// A read-only connection with a transaction begun: everything that is read on it is of one moment.
pub(super) fn open(path: &Path) -> Result<Connection, LedgerError> {
    begin(path).map_err(|stop| match stop {
        Stop::Sqlite(error) => LedgerError::open(path, &error),
        Stop::Ledger(error) => error,
    })
}

enum Stop {
    Sqlite(rusqlite::Error),
    Ledger(LedgerError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn begin(path: &Path) -> Result<Connection, Stop> {
    if !path.is_file() {
        let why = "there is no such file; name the file of ledger.url".to_owned();
        return Err(Stop::Ledger(LedgerError::Open { path: path.to_owned(), why }));
    }
    // A look at the bytes themselves; see there why no service that has it open may do that.
    file::refuse_a_strange_wal(path).map_err(Stop::Ledger)?;
    let connection = file::reader(path, Duration::from_secs(5))?;
    connection.execute_batch("BEGIN")?;
    // The first read fixes the moment, and is the first that fails on a file that is no database.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    if schema::check_version(&connection, path).map_err(Stop::Ledger)? == 0 {
        return Err(Stop::Ledger(LedgerError::Foreign { path: path.to_owned() }));
    }
    Ok(connection)
}

fn walk(connection: &Connection, against: Option<&Head>, report: &mut Report) -> rusqlite::Result<()> {
    pages::check(connection, report)?;

    let mut earlier: BTreeMap<&str, &StreamHead> =
        against.iter().flat_map(|head| &head.streams).map(|head| (head.stream.as_str(), head)).collect();
    let mut content = content::Content::default();
    stream::each(connection, |stream| {
        let earlier = earlier.remove(stream.name.as_str());
        report.streams += 1;
        stream.walk(connection, earlier, &mut content, report)
    })?;
    for (name, head) in earlier {
        report.find(Kind::CutTail, Some(name), Some(head.seq), "the earlier head has this stream, and it is gone");
    }
    stream::strays(connection, report)?;
    content.rest(connection, report)
}

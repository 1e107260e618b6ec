//! Why a ledger can't be opened or read, in words that say what to do.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::condition::is_damage;

/// A ledger that can't be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The setting is no path to a SQLite file.
    #[error(
        "the ledger url {url:?} is not valid: {why}; write sqlite://data/stagehook.db or sqlite:///absolute/path.db"
    )]
    Url {
        /// As it was set.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file or its folder can't be used.
    #[error("the ledger {} can't be opened: {why}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Another server has it.
    #[error("the ledger {} is in use by another stagehook; stop that one, or give this one its own ledger.url", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error(
        "the ledger {} has format {found}, and this stagehook knows formats up to {known}; use the newer stagehook that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// A database of something else.
    #[error("{} is a database, but no stagehook ledger; set ledger.url to a file of its own", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A read failed.
    #[error("the ledger can't be read: {0}")]
    Read(String),
    /// SQLite says that the file is damaged.
    #[error("the ledger can't be read: {0}")]
    Corrupt(String),
    /// What was read makes no sense.
    #[error("the ledger holds what stagehook did not write: {0}; run stagehook ledger verify")]
    Content(String),
    /// It was found damaged while it was open, and is held as such until the process ends.
    #[error(
        "the ledger is damaged: {0}; nothing is recorded or started until stagehook runs on a good file: stop it, run \
         stagehook ledger verify, restore a backup"
    )]
    Damaged(String),
}

impl LedgerError {
    pub(super) fn open(path: &Path, error: &rusqlite::Error) -> Self {
        Self::Open { path: path.to_owned(), why: explain(error) }
    }

    pub(super) fn file(path: &Path, what: &str, error: &std::io::Error) -> Self {
        Self::Open { path: path.to_owned(), why: format!("{what}: {error}; check the path and its permissions") }
    }

    pub(super) fn content(what: &str, error: &impl std::fmt::Display) -> Self {
        Self::Content(format!("{what}: {error}"))
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
        match error {
            // The tables are strict: such a value was not written, it became so.
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => {
                Self::content("a column", &error)
            }
            _ if is_damage(&error) => Self::Corrupt(explain(&error)),
            _ => Self::Read(explain(&error)),
        }
    }
}

/// SQLite's words, and what to do about them.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds its write lock; end that program's transaction"
        }
        Some(ErrorCode::DiskFull) => "free space on its disk",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "make the file and its folder writable for stagehook"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "run stagehook ledger verify, and restore a backup where it finds damage"
        }
        Some(ErrorCode::SystemIoFailure) => "check its disk",
        _ => "this is a bug of stagehook unless somebody changed the file; please report it",
    };
    format!("{error}; {advice}")
}

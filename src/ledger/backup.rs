//! A copy of the ledger in a file of its own, taken while a service writes, and proven before it has its name.
//!
//! The pages are copied by SQLite's online backup in one read transaction, so the copy is of one moment and writers are not
//! held up. Without that transaction the copy would begin anew with each commit of the service, and never end. Until it
//! ends the WAL can't be reused and grows by what is written meanwhile. `VACUUM INTO` would hold it as long, and builds
//! every index again.
//!
//! The copy's header says that it has no WAL. So it may be proven on a medium that can't be written, and one that is put
//! in the place of a ledger whose WAL is still there is noticed: see `file`.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::StepResult;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{LedgerError, explain};
use super::file::{self, Identity};
use super::head::{self, Head};
use super::partial::{self, Hold, Partial};
use super::verify::{self, Report, VerifyError};

/// How many pages are copied between two looks at what else is to be done: 1 MiB.
const STEP: i32 = 256;
/// After how many steps the copy is brought to the disk: one flush of gigabytes would hold up the service's commits.
const FLUSH: u32 = 64;
/// For how long a lock that another program holds on the copy is waited for, and how long until it is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// A copy that was made.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its size.
    pub bytes: u64,
    /// Where its streams end.
    pub head: Head,
    /// What was looked at to prove it.
    pub report: Report,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The file may not or can't be written.
    #[error("the backup {} can't be written: {why}", path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The copy is not sound; nothing was left of it.
    #[error("the copy is not sound, so it was not kept")]
    Unsound(Report),
}

/// Copies the ledger at `source` into `target`, which is there only once the copy is sound and on the disk. A file that is
/// there is replaced with `replace`, unless it is in use as a ledger. By `hold` it can be broken off from elsewhere.
pub fn backup(source: &Path, target: &Path, replace: bool, hold: &Hold) -> Result<Backup, BackupError> {
    let refuse = |why: &str| BackupError::Target { path: target.to_owned(), why: why.to_owned() };
    let failed = |what: &str, error: &io::Error| refuse(&format!("{what}: {error}"));
    let reader = verify::open(source)?;
    look_at(source, target, replace).map_err(|why| refuse(&why))?;

    let partial = Partial::make(target, hold).map_err(|why| refuse(&why))?;
    copy(&reader, &partial, PATIENCE).map_err(|error| match error {
        Stopped::Locked => {
            let path = partial.path.display();
            refuse(&format!("another program holds a lock on {path}; end that program, and begin anew"))
        }
        Stopped::Sqlite(error) => refuse(&explain(&error)),
        Stopped::File(error) => failed("it can't be brought to the disk", &error),
    })?;
    let head = head::read(&reader)?;
    // Its moment has passed into the copy: the WAL may be reused while that is proven.
    drop(reader);

    let report = match verify::verify(&partial.path, Some(&head)) {
        Ok(report) if report.is_sound() => report,
        Ok(report) => return Err(BackupError::Unsound(report)),
        Err(VerifyError::Ledger(error)) => return Err(error.into()),
        Err(error @ VerifyError::Against) => return Err(refuse(&error.to_string())),
    };
    let bytes = partial.keep(target, replace).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => refuse(EXISTS),
        _ => failed("it can't be given its name", &error),
    })?;
    Ok(Backup { bytes, head, report })
}

const EXISTS: &str = "there is such a file; name another one, or replace it with --force";

/// What belongs to a file, beside it.
const BESIDE: [&str; 5] = ["-wal", "-shm", "-journal", ".lock", ".partial"];

fn look_at(source: &Path, target: &Path, replace: bool) -> Result<(), String> {
    let Some(name) = target.file_name() else { return Err("it names no file".to_owned()) };
    for end in BESIDE {
        // Whatever that is, it belongs to the file whose name it has, which may be open.
        if let Some(name) = name.as_bytes().strip_suffix(end.as_bytes()).filter(|name| !name.is_empty()) {
            let of = target.with_file_name(OsString::from_vec(name.to_vec()));
            if std::fs::symlink_metadata(&of).is_ok() {
                return Err(format!("that name belongs to {}; name another file", of.display()));
            }
        }
    }
    // A live one is never replaced: its WAL would be taken for the copy's, and its server would write into nothing.
    if ["-wal", "-journal", ".lock"].iter().any(|end| file::beside(target, end).exists()) {
        return Err(LIVES.to_owned());
    }
    if is_same(source, target) {
        return Err(SAME.to_owned());
    }
    // The copy is made there, and what is there is taken for one that was broken off: of which an empty WAL may be left,
    // and a lock never is.
    let partial = partial::beside(target);
    let of_partial = |why: &str| format!("it would be made in {}: {why}", partial.display());
    let wal = std::fs::metadata(file::beside(&partial, "-wal")).map_or(0, |wal| wal.len());
    if wal > 0 || file::beside(&partial, ".lock").exists() {
        return Err(of_partial(LIVES));
    }
    if is_same(source, &partial) {
        return Err(of_partial(SAME));
    }
    match std::fs::metadata(target) {
        Err(_) => Ok(()),
        Ok(found) if !found.is_file() => Err("there is something that is no file; name another one".to_owned()),
        Ok(_) if !replace => Err(EXISTS.to_owned()),
        Ok(_) => Ok(()),
    }
}

const LIVES: &str = "a ledger lives there; name another file, and see «Backup and restore» in docs/operations.md";
const SAME: &str = "it is the ledger itself; name another file";

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((Identity::of(one), Identity::of(other)), (Ok(one), Ok(other)) if one == other)
}

enum Stopped {
    Sqlite(rusqlite::Error),
    File(io::Error),
    Locked,
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            _ => Self::Sqlite(error),
        }
    }
}

fn copy(reader: &Connection, partial: &Partial, patience: Duration) -> Result<(), Stopped> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    {
        let mut copy = Connection::open_with_flags(&partial.path, flags)?;
        copy.busy_timeout(patience)?;
        // What is left of a copy that was broken off is thrown away, and this program brings it to the disk by itself.
        copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
        copy.busy_timeout(Duration::ZERO)?;
        let backup = rusqlite::backup::Backup::new(reader, &mut copy)?;
        let mut waited = Duration::ZERO;
        let mut steps = 0_u32;
        loop {
            match backup.step(STEP)? {
                StepResult::Done => break,
                // Nobody else has the ledger locked for this one's transaction: somebody has opened the copy.
                StepResult::Busy | StepResult::Locked => {
                    if waited >= patience {
                        return Err(Stopped::Locked);
                    }
                    std::thread::park_timeout(AGAIN);
                    waited += AGAIN;
                }
                _ => {
                    waited = Duration::ZERO;
                    steps += 1;
                    if steps.is_multiple_of(FLUSH) {
                        partial.file.sync_data().map_err(Stopped::File)?;
                    }
                }
            }
        }
    }
    // The pages said that there is a WAL, as they do in the ledger; see the head of this file.
    let copy = Connection::open_with_flags(&partial.path, flags)?;
    copy.busy_timeout(patience)?;
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_the_copy_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        drop(crate::ledger::Ledger::open(&path).unwrap());
        let reader = verify::open(&path).unwrap();
        let partial = Partial::make(&folder.path().join("copy.db"), &Hold::default()).unwrap();
        let other = Connection::open(&partial.path).unwrap();
        for lock in ["IMMEDIATE", "EXCLUSIVE"] {
            other.execute_batch(&format!("BEGIN {lock}")).unwrap();
            assert!(matches!(copy(&reader, &partial, AGAIN * 2), Err(Stopped::Locked)), "{lock}");
            other.execute_batch("ROLLBACK").unwrap();
        }
        // And one that goes in time is no hindrance.
        drop(other);
        assert!(copy(&reader, &partial, AGAIN * 2).is_ok());
    }
}

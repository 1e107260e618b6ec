//! A copy of the ledger in a file of its own, taken while a service writes, and proven before it has its name.
//!
//! The pages are copied by SQLite's online backup in one read transaction, so the copy is of one moment and writers are not
//! held up. Without that transaction the copy would begin anew with each commit of the service, and never end. Until it
//! ends the WAL can't be reused and grows by what is written meanwhile. `VACUUM INTO` would hold it as long, and builds
//! every index again.
//!
//! The copy's header says that it has no WAL. So it may be proven on a medium that can't be written, and one that is put
//! in the place of a ledger whose WAL is still there is noticed: see `file`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::StepResult;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::{LedgerError, explain};
use super::file;
use super::head::{self, Head};
use super::verify::{self, Report, VerifyError};

/// How many pages are copied between two looks at what else is to be done: 1 MiB.
const STEP: i32 = 256;
/// After how many steps the copy is brought to the disk: one flush of gigabytes would hold up the service's commits.
const FLUSH: u32 = 64;

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
/// there is replaced with `replace`, unless it is in use as a ledger.
pub fn backup(source: &Path, target: &Path, replace: bool) -> Result<Backup, BackupError> {
    let refuse = |why: &str| BackupError::Target { path: target.to_owned(), why: why.to_owned() };
    let failed = |what: &str, error: &io::Error| refuse(&format!("{what}: {error}"));
    let reader = verify::open(source)?;
    look_at(source, target, replace).map_err(refuse)?;

    let partial = Partial::make(target).map_err(|why| refuse(&why))?;
    copy(&reader, &partial).map_err(|error| match error {
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

/// Where the copy is while it is not whole: beside its place, so that it can be renamed into it.
pub fn partial(target: &Path) -> PathBuf {
    file::beside(target, ".partial")
}

fn look_at(source: &Path, target: &Path, replace: bool) -> Result<(), &'static str> {
    if target.file_name().is_none() {
        return Err("it names no file");
    }
    // A live one is never replaced: its WAL would be taken for the copy's, and its server would write into nothing.
    if file::beside(target, "-wal").exists() || file::beside(target, ".lock").exists() {
        return Err("a ledger lives there; name another file, and see «Backup and restore» in docs/operations.md");
    }
    let Ok(found) = std::fs::metadata(target) else { return Ok(()) };
    let same = std::fs::metadata(source).is_ok_and(|source| (source.dev(), source.ino()) == (found.dev(), found.ino()));
    if same {
        return Err("it is the ledger itself; name another file");
    }
    if !found.is_file() {
        return Err("there is something that is no file; name another one");
    }
    if replace { Ok(()) } else { Err(EXISTS) }
}

enum Stopped {
    Sqlite(rusqlite::Error),
    File(io::Error),
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn copy(reader: &Connection, partial: &Partial) -> Result<(), Stopped> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    {
        let mut copy = Connection::open_with_flags(&partial.path, flags)?;
        // What is left of a copy that was broken off is thrown away, and this program brings it to the disk by itself.
        copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
        let backup = rusqlite::backup::Backup::new(reader, &mut copy)?;
        for step in 1_u32.. {
            match backup.step(STEP)? {
                StepResult::Done => break,
                _ if step % FLUSH == 0 => partial.file.sync_data().map_err(Stopped::File)?,
                _ => {}
            }
        }
    }
    // The pages said that there is a WAL, as they do in the ledger; see the head of this file.
    let copy = Connection::open_with_flags(&partial.path, flags)?;
    copy.busy_timeout(Duration::ZERO)?;
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    Ok(())
}

/// The copy that is being made. Dropped, it is removed.
struct Partial {
    path: PathBuf,
    /// Locked, to tell a copy that is being made from one that a killed program left. It is closed last: closing it drops
    /// SQLite's own locks on the file.
    file: File,
    kept: bool,
}

impl Partial {
    fn make(target: &Path) -> Result<Self, String> {
        let path = partial(target);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err("another backup into it goes on; let that end".to_owned()),
            Err(TryLockError::Error(error)) => return Err(format!("{} can't be locked: {error}", path.display())),
        }
        let made = Self { path, file, kept: false };
        // What a killed one left, also beside it, is no part of this one.
        made.file.set_len(0).map_err(|error| format!("{}: {error}", made.path.display()))?;
        made.remove_beside();
        Ok(made)
    }

    /// Brings it to the disk and gives it its name.
    fn keep(mut self, target: &Path, replace: bool) -> io::Result<u64> {
        self.file.sync_all()?;
        let bytes = self.file.metadata()?.len();
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match renameat_with(CWD, &self.path, CWD, target, flags) {
            Ok(()) => {}
            // A file system that can't do it in one: it was looked for before.
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(&self.path, target)?,
            Err(error) => return Err(error.into()),
        }
        self.kept = true;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(bytes)
    }

    fn remove_beside(&self) {
        for end in ["-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(file::beside(&self.path, end));
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // What can't be removed is overwritten by the next one.
            let _ = std::fs::remove_file(&self.path);
            self.remove_beside();
        }
    }
}

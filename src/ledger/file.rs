//! The file itself: its url, its folder, its lock, and how connections to it are set up.
//!
//! The database file is never opened by anything but SQLite once it exists: closing any other descriptor of it in
//! this process would silently drop SQLite's POSIX locks.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::error::LedgerError;

/// How long another holder of the lock may take to vanish.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before trying the lock again: it has no timed wait of its own.
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// The file of a `sqlite://…` url: `sqlite://data/x.db` is relative, `sqlite:///data/x.db` absolute.
pub fn path_of_url(url: &str) -> Result<PathBuf, LedgerError> {
    let refuse = |why| Err(LedgerError::Url { url: url.to_owned(), why });
    let Some(path) = url.strip_prefix("sqlite://") else {
        return refuse("only sqlite:// is known");
    };
    if path.is_empty() || path.ends_with('/') {
        return refuse("it names no file");
    }
    if path.contains(['?', '#', '\0']) {
        return refuse("it takes no parameters");
    }
    if path.contains(":memory:") {
        return refuse("a ledger in memory would forget what it acknowledged");
    }
    Ok(PathBuf::from(path))
}

/// Makes the folder and the file where they are missing, and takes the lock that keeps a second server out. The
/// lock is held for as long as the returned file lives.
pub(super) fn prepare(path: &Path) -> Result<(PathBuf, File), LedgerError> {
    let path = std::path::absolute(path).map_err(|error| LedgerError::file(path, "it has no absolute path", &error))?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(LedgerError::Open { path, why: "it names no file; add a file name".to_owned() });
    };
    make_folder(folder).map_err(|error| LedgerError::file(&path, "its folder can't be made", &error))?;

    // Through links to the one real file, so that two names of it share one lock.
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(_) => folder
            .canonicalize()
            .map_err(|error| LedgerError::file(&path, "its folder can't be read", &error))?
            .join(name),
    };

    refuse_what_is_no_file(&real)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(beside(&real, ".lock"))
        .map_err(|error| LedgerError::file(&real, "its lock file can't be made", &error))?;
    match take(&lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse { path: real }),
        Err(TryLockError::Error(error)) => return Err(LedgerError::file(&real, "its lock can't be taken", &error)),
    }

    refuse_a_strange_wal(&real)?;
    // Only under the lock, and only where it is missing: see the head of this file. SQLite gives its WAL the same mode.
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(&real) {
        Ok(file) => sync_created(&file, &real)
            .map_err(|error| LedgerError::file(&real, "its creation can't be made durable", &error))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(LedgerError::file(&real, "it can't be made", &error)),
    }
    Ok((real, lock))
}

/// Refuses what can't hold a ledger, before anything is opened: reading a fifo would wait for ever.
fn refuse_what_is_no_file(path: &Path) -> Result<(), LedgerError> {
    let refuse = |why: String| Err(LedgerError::Open { path: path.to_owned(), why });
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => refuse("it is no regular file; name a file in ledger.url".to_owned()),
        // Each name would have a lock and a WAL of its own.
        Ok(found) if found.nlink() > 1 => {
            refuse(format!("the file has {} names (hard links); remove all but one", found.nlink()))
        }
        _ => Ok(()),
    }
}

/// Refuses a WAL that can't be this file's: SQLite would take up what it holds, or delete it without a word.
///
/// A backup says in its header that it has no WAL, so one that stands beside it is of the file whose place it took. A
/// file that is missing or empty never had one either. It opens the file itself, so it is for programs that have not let
/// SQLite open it yet: see the head of this file.
pub(super) fn refuse_a_strange_wal(path: &Path) -> Result<(), LedgerError> {
    let wal = beside(path, "-wal");
    if std::fs::metadata(&wal).map_or(0, |wal| wal.len()) == 0 {
        return Ok(());
    }
    let refuse = |why: &str| {
        let why = format!("{why}, and {} holds records of another one; {ADVICE}", wal.display());
        Err(LedgerError::Open { path: path.to_owned(), why })
    };
    const ADVICE: &str =
        "put the ledger that it belongs to back, or, where you restore a backup, move -wal and -shm away";
    let mut header = [0; HEADER_VERSIONS + 2];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if header.ends_with(&[1, 1]) => refuse("it is a backup"),
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => refuse("it is not there"),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => refuse("it is empty or cut"),
        // What keeps it from being read is told by whoever needs it.
        Err(_) => Ok(()),
    }
}

/// Where the header of a SQLite file has its two format versions: 1 for a rollback journal, 2 for a WAL.
const HEADER_VERSIONS: usize = 18;

/// Takes the lock, or finds out that it stays taken.
///
/// A server that was killed in the middle of starting a script leaves its descriptors to the half-started process, for
/// the instant until that one's `exec` closes them. A restart must not be refused for that.
fn take(lock: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::park_timeout(LOCK_AGAIN),
            result => return result,
        }
    }
}

/// The path of a file that stands beside the ledger's: `-wal`, `-shm`, `.lock`.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The connection that writes.
pub(super) fn writer(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    // Without CREATE: a ledger that has vanished is a fault, not a reason to begin an empty one.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // After a long reader the WAL is cut back to this, so that one verify does not fill the disk for ever.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// A connection that can only read.
pub(super) fn reader(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Which file a path leads to, to notice one that was removed or replaced while it is open: SQLite would go on
/// writing to the removed one, and what it acknowledges would be gone at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    fn from(metadata: &std::fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // A new folder is durable only once the one above it is.
    for made in missing {
        if let Some(above) = made.parent() {
            File::open(above)?.sync_all()?;
        }
    }
    Ok(())
}

fn sync_created(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(path_of_url("sqlite://data/stagehook.db").unwrap(), PathBuf::from("data/stagehook.db"));
        assert_eq!(path_of_url("sqlite:///var/lib/s.db").unwrap(), PathBuf::from("/var/lib/s.db"));
        for bad in [
            "data/stagehook.db",
            "postgres://x",
            "sqlite://",
            "sqlite:///data/",
            "sqlite://a?mode=ro",
            "sqlite://:memory:",
        ] {
            let error = path_of_url(bad).unwrap_err().to_string();
            assert!(error.contains("sqlite://data/stagehook.db"), "{error}");
        }
    }

    #[test]
    fn the_folder_and_the_file_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _lock) = prepare(&dir.path().join("a/b/ledger.db")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(path.parent().unwrap().parent().unwrap()), 0o700);
    }

    #[test]
    fn a_link_to_the_file_shares_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _lock) = prepare(&dir.path().join("ledger.db")).unwrap();
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(prepare(&link), Err(LedgerError::InUse { .. })));
    }
}

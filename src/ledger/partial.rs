//! A backup while it is made: `FILE.partial`, beside its place, so that it can be renamed into it.
//!
//! Whoever has it locked owns the name, and nobody else makes, overwrites or removes what is there. What a killed program
//! left is a regular file that nobody has locked; it is removed and a new one made, so that no rights, links or contents
//! of it live on. Anything else in that place is somebody's, and refused.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::file::{self, Identity};

/// How often the name may be taken by others between two looks at it.
const AGAIN: usize = 8;

/// The copy that is being made. Dropped, it is removed.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    /// Locked, to tell a copy that is being made from one that a killed program left. It is closed last: closing it drops
    /// SQLite's own locks on the file.
    pub(super) file: File,
    hold: Hold,
}

/// Breaks a backup off from beside it, while its own thread is busy for long.
#[derive(Clone, Default)]
pub struct Hold {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// There is one at this path, this very file, and it is locked.
    Made(PathBuf, Identity),
    /// It has its name.
    Kept,
    /// Nothing more is made, and nothing gets its name.
    Broken,
}

impl Hold {
    /// Removes what there is of the copy, and keeps it from getting its name. False where it has it already.
    pub fn break_off(&self) -> bool {
        let mut state = self.lock();
        match &*state {
            State::Kept => return false,
            State::Made(path, identity) => remove(path, *identity),
            State::Idle | State::Broken => {}
        }
        *state = State::Broken;
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // It is whole whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where it is made.
pub(super) fn beside(target: &Path) -> PathBuf {
    file::beside(target, ".partial")
}

impl Partial {
    /// Makes an empty one for `target` and locks it.
    pub(super) fn make(target: &Path, hold: &Hold) -> Result<Self, String> {
        // Under it nothing is waited for; so who breaks off finds all or nothing of it.
        let mut state = hold.lock();
        if matches!(*state, State::Broken) {
            return Err(BROKEN.to_owned());
        }
        let path = beside(target);
        for _ in 0..AGAIN {
            clear(&path)?;
            let failed = |error: io::Error| format!("{}: {error}", path.display());
            let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
            let file = match made {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed(error)),
            };
            lock(&file, &path)?;
            let identity = Identity::of_file(&file).map_err(failed)?;
            // Between the two it looked like a left-over, and may have been removed as one.
            if Identity::of(&path).ok() != Some(identity) {
                continue;
            }
            // Of one that is gone. SQLite would take it up into this one.
            remove_beside(&path);
            *state = State::Made(path.clone(), identity);
            let made = Self { path, file, hold: hold.clone() };
            drop(state);
            // Whatever the umask took of it.
            made.file
                .set_permissions(Permissions::from_mode(0o600))
                .map_err(|error| format!("{}: {error}", made.path.display()))?;
            return Ok(made);
        }
        Err(format!("{} comes and goes; let other backups into it end", path.display()))
    }

    /// Brings it to the disk and gives it its name.
    pub(super) fn keep(self, target: &Path, replace: bool) -> io::Result<u64> {
        self.file.sync_all()?;
        let bytes = self.file.metadata()?.len();
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        {
            let mut state = self.hold.lock();
            if matches!(*state, State::Broken) {
                return Err(io::Error::other(BROKEN));
            }
            match renameat_with(CWD, &self.path, CWD, target, flags) {
                Ok(()) => {}
                // A file system that can't do it in one: it was looked for before.
                Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(&self.path, target)?,
                Err(error) => return Err(error.into()),
            }
            *state = State::Kept;
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(bytes)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let mut state = self.hold.lock();
        if let State::Made(path, identity) = &*state {
            remove(path, *identity);
            *state = State::Idle;
        }
    }
}

const BROKEN: &str = "it was broken off";

/// Removes the one that is held, and only that: once its name is free the next one may have it. What can't be removed is
/// a left-over.
fn remove(path: &Path, held: Identity) {
    if Identity::of(path).ok() == Some(held) {
        // What is beside it first, while it is ours.
        remove_beside(path);
        let _ = std::fs::remove_file(path);
    }
}

fn remove_beside(path: &Path) {
    for end in ["-wal", "-shm", "-journal"] {
        let _ = std::fs::remove_file(file::beside(path, end));
    }
}

/// Takes away what a killed program left at `path`.
fn clear(path: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let refuse = |what: &str| Err(format!("{} is {what}; move it away, or name another file", path.display()));
    // Before anything is opened: to open a device may be to use it.
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(found) if found.is_symlink() => return refuse("a symbolic link"),
        Ok(found) if found.file_type().is_fifo() => return refuse("a fifo"),
        Ok(_) => return refuse("no regular file"),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let left = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let left = match left {
        Ok(left) => left,
        // Another backup's, which ended.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let found = left.metadata().map_err(failed)?;
    if !found.is_file() {
        return refuse("no regular file");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("another user's");
    }
    if found.nlink() > 1 {
        return refuse("a file with another name (hard link)");
    }
    lock(&left, path)?;
    remove(path, Identity::of_file(&left).map_err(failed)?);
    Ok(())
}

fn lock(file: &File, path: &Path) -> Result<(), String> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err("another backup into it goes on; let that end".to_owned()),
        Err(TryLockError::Error(error)) => Err(format!("{} can't be locked: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A left-over that two of them have found: the second gets its lock when the first has made a new one.
    #[test]
    fn what_has_taken_its_name_since_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.db.partial");
        std::fs::write(&path, "a left-over").unwrap();
        let left = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another one's").unwrap();
        std::fs::write(file::beside(&path, "-journal"), "another one's").unwrap();
        remove(&path, Identity::of_file(&left).unwrap());
        assert!(path.exists() && file::beside(&path, "-journal").exists());
    }

    #[test]
    fn only_who_holds_it_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("copy.db");
        let first = Hold::default();
        let made = Partial::make(&target, &first).unwrap();
        // One that is refused has nothing to remove.
        let second = Hold::default();
        assert!(Partial::make(&target, &second).is_err_and(|why| why.contains("goes on")));
        assert!(second.break_off());
        assert!(made.path.exists(), "the second one removed it");

        // Broken off, its name is free; the thread that made it ends later, and finds another one's.
        assert!(first.break_off());
        assert!(!made.path.exists());
        let next = Hold::default();
        let other = Partial::make(&target, &next).unwrap();
        let why = made.keep(&target, true).unwrap_err();
        assert!(why.to_string().contains("broken off") && !target.exists(), "{why}");
        assert!(other.path.exists(), "the old one removed it");

        other.keep(&target, false).unwrap();
        assert!(!next.break_off(), "it has its name");
        assert!(target.exists());
        assert!(Partial::make(&target, &first).is_err_and(|why| why.contains("broken off")));
        assert!(!beside(&target).exists());
    }
}

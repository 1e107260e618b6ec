//! The folder of the running scripts' own folders: made, and held against a second service.
//!
//! Deliberately without a clue what is in it: that is for `run_dir`.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fchmod, major, minor, open};

use super::confinement::Confinement;
use super::identity::Credentials;

/// How long another holder of the lock may take to vanish: a service that was killed in the middle of starting a script
/// leaves its descriptors to the half-started process, for an instant.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before trying the lock again: it has no timed wait of its own.
const AGAIN: Duration = Duration::from_millis(10);

/// `execution.workDir`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkDir {
    path: PathBuf,
    /// The folder as it was opened, locked for as long as this lives.
    held: Option<Arc<Mutex<File>>>,
}

/// One that nobody else uses; it is not held.
impl From<PathBuf> for WorkDir {
    fn from(path: PathBuf) -> Self {
        Self { path, held: None }
    }
}

impl WorkDir {
    /// Its rights: scripts of another user have to pass it to what is theirs, and see no more.
    pub fn rights(scripts: Option<&Credentials>) -> u32 {
        if scripts.is_some() { 0o711 } else { 0o700 }
    }

    /// Makes it where it is missing, and holds it: what another life of a service left there is removed at the start, so
    /// two services must not share one. The error is a line for people.
    pub fn take(path: &Path, confinement: &Confinement) -> Result<Self, String> {
        let named = |error: io::Error| format!("execution.workDir {}: {error}", path.display());
        let folder = open_or_make(path, Self::rights(confinement.credentials())).map_err(named)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), held: Some(Arc::new(Mutex::new(folder))) }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::park_timeout(AGAIN),
                Err(TryLockError::WouldBlock) => return Err(in_use(path, &folder)),
                Err(TryLockError::Error(error)) => {
                    return Err(format!("execution.workDir {}: it can't be locked: {error}", path.display()));
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it. Where it is gone it is made again, and held again.
    pub(super) fn open(&self, rights: u32) -> io::Result<File> {
        let folder = open_or_make(&self.path, rights)?;
        let Some(held) = &self.held else { return Ok(folder) };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if identity(&held)? != identity(&folder)? {
            match folder.try_lock() {
                Ok(()) => *held = folder.try_clone()?,
                Err(TryLockError::WouldBlock) => return Err(io::Error::other(in_use(&self.path, &folder))),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(folder)
    }
}

fn open_or_make(path: &Path, rights: u32) -> io::Result<File> {
    let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    for folder in missing.collect::<Vec<_>>().into_iter().rev() {
        match DirBuilder::new().mode(rights).create(folder) {
            // Whatever the umask: another user could not pass it. Only what was just made, so not through a link.
            Ok(()) => fchmod(open(folder, FOLDER | OFlags::NOFOLLOW, Mode::empty())?, Mode::from_raw_mode(rights))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(open(path, FOLDER, Mode::empty())?.into())
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn identity(folder: &File) -> io::Result<(u64, u64)> {
    folder.metadata().map(|found| (found.dev(), found.ino()))
}

fn in_use(path: &Path, folder: &File) -> String {
    let who = holder(folder).map(|process| format!(" (process {process})")).unwrap_or_default();
    format!(
        "execution.workDir {} is in use by another stagehook{who}, whose running scripts' files are in it; stop that one, or \
         set another directory",
        path.display()
    )
}

/// Who holds the lock, where the kernel tells.
fn holder(folder: &File) -> Option<u32> {
    let (device, inode) = identity(folder).ok()?;
    let place = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4711 fd:00:131 0 EOF`
    let of_line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, process, at, ..] if at == place => process.parse().ok(),
        _ => None,
    };
    locks.lines().find_map(of_line).filter(|process| *process > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_service_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/work");
        let first = WorkDir::take(&path, &Confinement::default()).unwrap();
        let refused = WorkDir::take(&path, &Confinement::default()).unwrap_err();
        let who = format!("{} is in use by another stagehook (process {})", path.display(), std::process::id());
        assert!(refused.contains(&who), "{refused}");
        drop(first);
        WorkDir::take(&path, &Confinement::default()).unwrap();
    }

    #[test]
    fn one_that_was_made_again_is_held_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work");
        let first = WorkDir::take(&path, &Confinement::default()).unwrap();
        fs::remove_dir(&path).unwrap();
        first.open(0o700).unwrap();
        assert!(WorkDir::take(&path, &Confinement::default()).is_err());
        // Another service was faster.
        fs::remove_dir(&path).unwrap();
        let second = WorkDir::take(&path, &Confinement::default()).unwrap();
        assert!(first.open(0o700).unwrap_err().to_string().contains("is in use by another stagehook"));
        second.open(0o700).unwrap();
    }
}

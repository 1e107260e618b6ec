//! The private folder of one attempt: the call's payload, and the file in which it leaves its outputs.
//!
//! Deliberately not the scripts' working directory. It is gone when the attempt is over, so whatever one
//! made of it the next doesn't find.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::identity::Credentials;
use super::removal::remove;
use super::work_dir::WorkDir;
use crate::domain::ids::RunId;

/// A folder that only the script's user may enter; removed when it is dropped, if not before.
pub struct RunDir {
    path: PathBuf,
    attempt: u32,
    removed: bool,
}

impl RunDir {
    /// Makes the folder of an attempt, with the payload and the outputs file in it. They are the `owner`'s, else the
    /// service's own.
    pub fn create(
        work_dir: &WorkDir,
        run: RunId,
        attempt: u32,
        event: &serde_json::Value,
        owner: Option<&Credentials>,
    ) -> io::Result<Self> {
        let above = work_dir.open(WorkDir::rights(owner))?;
        let name = run.to_string();
        let path = fs::canonicalize(work_dir.path())?.join(&name);
        // What an earlier life of the service left under that name is nobody's any more.
        match remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        mkdirat(&above, &name, Mode::RWXU)?;
        let dir = Self { path, attempt, removed: false };
        // By what was opened, never by a name again: a name might be somebody's link by then.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = File::from(openat(&above, &name, flags, Mode::empty())?);
        let give = |file: &File| owner.map_or(Ok(()), |owner| fchown(file, Some(owner.uid), Some(owner.gid)));
        let file = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(openat(&own, name, flags, Mode::RUSR | Mode::WUSR)?);
            give(&file).map(|()| file)
        };
        file(&dir.event())?.write_all(&serde_json::to_vec(event)?)?;
        file(&dir.outputs())?;
        // Last, since nobody else can do anything in it until then.
        give(&own)?;
        Ok(dir)
    }

    /// The payload's file.
    pub fn event(&self) -> PathBuf {
        self.path.join("event.json")
    }

    /// The outputs file.
    pub fn outputs(&self) -> PathBuf {
        self.path.join(format!("output-{}", self.attempt))
    }

    /// Removes it, which takes as long as there is much in it. What can't be removed now is at the next start; the error
    /// is a line for people.
    pub fn remove(mut self) -> Result<(), String> {
        self.removed = true;
        remove(&self.path).map_err(|error| {
            format!(
                "the run's folder {} could not be removed, and is tried again at the next start: {error}",
                self.path.display()
            )
        })
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.removed {
            let _ = remove(&self.path);
        }
    }
}

/// To whom an earlier life of the service gave a run's folder, if it is still there: that was the script's user.
pub fn owner(work_dir: &Path, run: RunId) -> Option<u32> {
    fs::symlink_metadata(work_dir.join(run.to_string())).ok().map(|found| found.uid())
}

/// Removes the folders that an earlier life of the service left; one that can't be removed keeps none of the others.
pub fn clean(work_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(work_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut outcome = Ok(());
    for entry in entries {
        let entry = entry?;
        // Nothing but what is named like a run: the folder may be shared by mistake.
        if entry.file_name().to_str().is_some_and(|name| name.parse::<RunId>().is_ok()) {
            outcome = outcome.and(remove(&entry.path()));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::fs::{CWD, RenameFlags};

    use super::*;

    fn work_dir(folder: &tempfile::TempDir) -> WorkDir {
        folder.path().to_owned().into()
    }

    fn run(n: u8) -> RunId {
        format!("run_0000000000000000000000000{n}").parse().unwrap()
    }

    #[test]
    fn nothing_is_left_of_a_run_that_took_its_own_rights_away() {
        let work = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let rights = fs::Permissions::from_mode(0o755);
        fs::set_permissions(elsewhere.path(), rights.clone()).unwrap();
        let leave = |n| {
            let dir = RunDir::create(&work_dir(&work), run(n), 1, &serde_json::Value::Null, None).unwrap();
            let deep = dir.path.join("cache/deep");
            fs::create_dir_all(&deep).unwrap();
            fs::write(deep.join("file"), "x").unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), dir.path.join("cache/link")).unwrap();
            fs::set_permissions(&deep, fs::Permissions::from_mode(0o555)).unwrap();
            fs::set_permissions(dir.path.join("cache"), fs::Permissions::from_mode(0o000)).unwrap();
            dir
        };
        drop(leave(1));
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
        std::mem::forget(leave(1));
        std::mem::forget(leave(2));
        fs::write(work.path().join("notes.txt"), "mine").unwrap();
        clean(work.path()).unwrap();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1, "what is named otherwise stays");
        assert_eq!(fs::metadata(elsewhere.path()).unwrap().permissions().mode() & 0o777, rights.mode() & 0o777);
    }

    #[test]
    fn what_is_exchanged_for_a_link_is_not_followed() {
        // Whoever owned the work folder could do this; the service refuses such a folder, and follows nothing even so.
        let (work, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (own, link) = (work.path().join(run(1).to_string()), work.path().join("link"));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(CWD, &own, CWD, &link, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..500 {
                let _ = std::os::unix::fs::symlink(victim.path(), &link);
                drop(RunDir::create(&work_dir(&work), run(1), 1, &serde_json::Value::Null, None));
                for left in [&own, &link] {
                    let _ = fs::remove_file(left);
                    let _ = remove(left);
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let reached: Vec<_> = fs::read_dir(victim.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(reached.is_empty(), "{reached:?}");
    }

    #[test]
    fn what_cannot_be_removed_keeps_none_of_the_others() {
        let work = tempfile::tempdir().unwrap();
        for n in [1, 3] {
            std::mem::forget(RunDir::create(&work_dir(&work), run(n), 1, &serde_json::Value::Null, None).unwrap());
        }
        // A file is no run's folder, and is not ours to remove.
        fs::write(work.path().join(run(2).to_string()), "x").unwrap();
        assert!(clean(work.path()).is_err());
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1);
    }
}

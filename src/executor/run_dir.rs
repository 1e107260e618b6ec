//! The private folder of one attempt: the call's payload, and the file in which it leaves its outputs.
//!
//! Deliberately not the scripts' working directory. It is gone when the attempt is over, so whatever one
//! made of it the next doesn't find.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::identity::Credentials;
use super::removal::remove;
use crate::domain::ids::RunId;

/// A folder that only the script's user may enter; removed when it is dropped, if not before.
pub struct RunDir {
    path: PathBuf,
    owner: Option<Credentials>,
    removed: bool,
}

impl RunDir {
    /// Makes the folder of a run, with the payload in it. It is the `owner`'s, else the service's own.
    pub fn create(
        work_dir: &Path,
        run: RunId,
        event: &serde_json::Value,
        owner: Option<Credentials>,
    ) -> io::Result<Self> {
        // Another user has to pass, and need not know what else there is.
        let mode = if owner.is_some() { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(work_dir)?;
        let path = work_dir.join(run.to_string());
        // What an earlier life of the service left under that name is nobody's any more.
        match remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        let dir = Self { path: fs::canonicalize(path)?, owner, removed: false };
        let mut file = dir.file(&dir.event())?;
        file.write_all(&serde_json::to_vec(event)?)?;
        // No link can stand there: the folder above is the service's.
        dir.give(&fs::File::open(&dir.path)?)?;
        Ok(dir)
    }

    /// The payload's file.
    pub fn event(&self) -> PathBuf {
        self.path.join("event.json")
    }

    /// The outputs file of an attempt, made anew.
    pub fn outputs(&self, attempt: u32) -> io::Result<PathBuf> {
        let path = self.path.join(format!("output-{attempt}"));
        self.file(&path)?;
        Ok(path)
    }

    /// A new file. It must be new: in a folder of its own a user may have put a link to any other.
    fn file(&self, path: &Path) -> io::Result<fs::File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        self.give(&file)?;
        Ok(file)
    }

    fn give(&self, file: &fs::File) -> io::Result<()> {
        match &self.owner {
            Some(owner) => fchown(file, Some(owner.uid), Some(owner.gid)),
            None => Ok(()),
        }
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

    use super::*;

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
            let dir = RunDir::create(work.path(), run(n), &serde_json::Value::Null, None).unwrap();
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
    fn what_cannot_be_removed_keeps_none_of_the_others() {
        let work = tempfile::tempdir().unwrap();
        for n in [1, 3] {
            std::mem::forget(RunDir::create(work.path(), run(n), &serde_json::Value::Null, None).unwrap());
        }
        // A file is no run's folder, and is not ours to remove.
        fs::write(work.path().join(run(2).to_string()), "x").unwrap();
        assert!(clean(work.path()).is_err());
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1);
    }
}

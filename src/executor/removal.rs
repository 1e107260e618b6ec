//! Removing a folder that anybody may have filled with anything.
//!
//! Whatever its depth two descriptors are open at a time and nothing is recursive: what is deep is
//! moved up first. A folder without rights is opened, links are not followed, and what is mounted in
//! it is left alone. Deliberately without a clue what the folder is for.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, fchmod, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Removes a folder with all that is in it, as far as that is possible.
pub fn remove(path: &Path) -> io::Result<()> {
    let top = open(CWD, path, ResolveFlags::empty())?;
    let mut number = 0_u64;
    loop {
        let (mut removed, before) = (0_u64, number);
        let mut stuck = None;
        each(&top, |name| match remove_entry(top.as_fd(), name, &mut number) {
            Ok(()) => removed += 1,
            Err(error) => stuck = Some(error),
        })?;
        match (removed, stuck) {
            (0, None) => return Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?),
            (0, Some(error)) if number == before => return Err(error.into()),
            // Those that were moved up meanwhile, and those that were stuck: once more.
            _ => {}
        }
    }
}

/// Removes what has this name in the top folder. The folders in it come to the top.
fn remove_entry(top: BorrowedFd<'_>, name: &CStr, number: &mut u64) -> Result<(), Errno> {
    match unlinkat(top, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    }
    let folder = match open(top, name, ResolveFlags::NO_XDEV) {
        // A file that nobody may remove.
        Err(Errno::NOTDIR) => return Err(Errno::PERM),
        opened => opened?,
    };
    loop {
        let mut found = false;
        let mut stuck = None;
        each(&folder, |inner| {
            found = true;
            let done = match unlinkat(&folder, inner, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => move_up(folder.as_fd(), inner, top, number),
                done => done,
            };
            stuck = stuck.or(done.err());
        })?;
        match (stuck, found) {
            (Some(error), _) => return Err(error),
            (None, true) => {}
            (None, false) => return unlinkat(top, name, AtFlags::REMOVEDIR),
        }
    }
}

fn move_up(folder: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, number: &mut u64) -> Result<(), Errno> {
    // Its own rights count as well, since it gets another parent.
    open(folder, name, ResolveFlags::NO_XDEV)?;
    let before = *number;
    loop {
        *number += 1;
        match renameat(folder, name, top, format!(".removed-{number}")) {
            // A name that is taken, by whatever.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => {
                *number = before;
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Opens a folder, not through a link, and takes every right to it that its owner may take.
fn open(at: impl AsFd, path: impl Arg + Copy, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let plainly = |flags| match openat2(&at, path, flags, Mode::empty(), how) {
        // An old kernel, or a sandbox that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => openat(&at, path, flags, Mode::empty()),
        Err(Errno::XDEV) => Err(Errno::BUSY),
        opened => opened,
    };
    let opened = match plainly(flags) {
        Err(Errno::ACCESS) => {
            // By the descriptor, since a name might be another folder's by then.
            let found = plainly(OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
            plainly(flags)?
        }
        opened => opened?,
    };
    // Whoever may not, may not remove it either, and is told there.
    let _ = fchmod(&opened, Mode::RWXU);
    Ok(opened)
}

/// Every name in a folder, as it is read: what is moved into it meanwhile may be missing.
fn each(folder: &OwnedFd, mut visit: impl FnMut(&CStr)) -> Result<(), Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            visit(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn depth_takes_no_descriptors_and_no_stack() {
        // More than a process may usually have open.
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("deep");
        fs::create_dir(&path).unwrap();
        let mut at = open(CWD, &path, ResolveFlags::empty()).unwrap();
        for depth in 0..1_200 {
            // A name that is taken at the top, too.
            let name = format!(".removed-{}", depth % 3);
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            let next = open(&at, name.as_str(), ResolveFlags::NO_XDEV).unwrap();
            fchmod(&at, Mode::empty()).unwrap();
            at = next;
        }
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_linked_to_stays() {
        let work = tempfile::tempdir().unwrap();
        let elsewhere = work.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "x").unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
        let path = work.path().join("run");
        fs::create_dir_all(path.join("a/b")).unwrap();
        for link in ["link", "a/link", "a/b/link"] {
            std::os::unix::fs::symlink(&elsewhere, path.join(link)).unwrap();
        }
        remove(&path).unwrap();
        assert!(!path.exists());
        assert!(elsewhere.join("file").exists());
        assert_eq!(fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o755);
        // Neither is a link in the folder's own place.
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(remove(&path).is_err());
        assert!(elsewhere.join("file").exists());
    }
}

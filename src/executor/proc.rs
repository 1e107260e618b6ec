//! Looking at other processes through `/proc`, and signalling exactly the one that was seen.
//!
//! Deliberately without `/proc/PID/task/TID/children`: many kernels lack it, and it may miss
//! children of running processes. A scan of the parents is only paid for when something is left.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// How often the processes are listed at most, where there are always new ones.
const LISTINGS: u32 = 20;

/// One process for ever: numbers are used again, but not with the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// What `/proc/PID/stat` tells.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Which process.
    pub process: Process,
    /// Its parent; 0 for the first.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Dead, and only waiting for its parent to notice.
    pub zombie: bool,
    /// Suspended by a signal, until another one lets it go on.
    pub suspended: bool,
}

/// Reads one process; nothing when it is gone.
pub fn stat(pid: Pid) -> Option<Stat> {
    let mut bytes = [0; 1024];
    let length = fs::File::open(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?.read(&mut bytes).ok()?;
    // The name stands in parentheses and may hold anything, so begin after the last one.
    let after_name = bytes[..length].iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&bytes[after_name..length]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(13)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    // A process whose first thread has ended looks like a zombie while its other threads live on.
    let zombie = matches!(state, "Z" | "X" | "x") && threads <= 1;
    Some(Stat { process: Process { pid, start }, parent, group, session, zombie, suspended: state == "T" })
}

/// Every process there is, read one by one in the order of their numbers while the caller acts. The kernel lists a
/// small table all at once, and who was started after that is not in it: so it is listed again until there is nobody
/// new, and a process that keeps forking is caught up with.
pub fn all() -> impl Iterator<Item = Stat> {
    let mut seen = HashSet::new();
    let mut listing = numbers();
    let (mut listings, mut fresh) = (1, false);
    std::iter::from_fn(move || {
        loop {
            match listing.next() {
                Some(pid) if seen.insert(pid) => {
                    fresh = true;
                    if let Some(stat) = stat(pid) {
                        return Some(stat);
                    }
                }
                Some(_) => {}
                None if fresh && listings < LISTINGS => {
                    listing = numbers();
                    (listings, fresh) = (listings + 1, false);
                }
                None => return None,
            }
        }
    })
}

/// The numbers of all processes at this moment.
fn numbers() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

/// Visits every descendant of those that `is_root` accepts, and these themselves.
pub fn visit_trees(mut is_root: impl FnMut(&Stat) -> bool, mut visit: impl FnMut(&Stat)) {
    let mut known = HashSet::new();
    for stat in all() {
        if known.contains(&stat.parent) || is_root(&stat) {
            known.insert(stat.process.pid.as_raw_nonzero().get());
            visit(&stat);
        }
    }
}

/// Signals this very process; false when it is gone or not ours to signal.
pub fn signal(process: Process, signal: Signal) -> bool {
    match open(process) {
        Ok(Some(pidfd)) => pidfd_send_signal(&pidfd, signal).is_ok(),
        Ok(None) => false,
        // A kernel or sandbox without pidfds: the number alone must do.
        Err(Errno::NOSYS) => kill_process(process.pid, signal).is_ok(),
        Err(_) => false,
    }
}

/// A descriptor of this very process; nothing when it is gone.
pub fn open(process: Process) -> Result<Option<OwnedFd>, Errno> {
    let pidfd = match pidfd_open(process.pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Had the number been given away before the descriptor was opened, the start would differ.
    Ok(stat(process.pid).is_some_and(|stat| stat.process == process).then_some(pidfd))
}

/// Whether the first argument of the process is `argument`.
pub fn has_first_argument(pid: Pid, argument: &str) -> bool {
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
        .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(argument.as_bytes()))
}

/// A process for people: its number, its name, its state and its user.
pub fn describe(process: Process) -> String {
    let pid = process.pid.as_raw_nonzero();
    let folder = format!("/proc/{pid}");
    let line = fs::read(format!("{folder}/stat")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let named = line.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    let Some((name, rest)) = named else { return pid.to_string() };
    let state = rest.split_ascii_whitespace().next().unwrap_or("?");
    let user = fs::metadata(folder).map_or_else(|_| "?".to_owned(), |metadata| metadata.uid().to_string());
    // Whoever has a name may have any characters in it.
    format!("{pid} ({name:?}, state {state}, user {user})")
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;

    use super::*;

    #[test]
    fn reads_itself() {
        let me = stat(getpid()).unwrap();
        assert_eq!(Some(me.parent), rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
        assert!(!me.zombie);
        assert!(me.process.start > 0);
        let mut seen = 0;
        visit_trees(|stat| stat.process == me.process, |_| seen += 1);
        assert!(seen >= 1);
    }
    #[test]
    fn who_is_started_meanwhile_is_seen() {
        let mut all = all();
        all.next().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let found = all.any(|stat| stat.process.pid == pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}

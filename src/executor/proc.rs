//! Looking at other processes through `/proc`, and signalling exactly the one that was seen.
//!
//! Deliberately without `/proc/PID/task/TID/children`: many kernels lack it, and it may miss
//! children of running processes. A scan of the parents is only paid for when something is left.
//!
//! What is not seen must not be taken for dead: no descriptor, no memory or no `/proc` is an error, and the caller has to
//! look again. Gone is only what the kernel says is gone. What it hides (`hidepid`) can't be told from that here: `sight`
//! and `children` are for it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal};

/// How often the processes are listed at most, where there are always new ones.
const LISTINGS: u32 = 20;

/// One process for ever: numbers are used again, but not with the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// When it started, in clock ticks since boot. None of a child of this process that `/proc` may hide: it was not waited
    /// for, so its number is its own.
    pub start: Option<u64>,
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

/// A file of a process; nothing when it is gone, or is none of those that one may read.
///
/// Not allowed is no fault of the look: `hidepid=1` refuses what `hidepid=2` does not show at all, and neither changes
/// when one looks again.
pub fn read(pid: Pid, file: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absence(error: &io::Error) -> bool {
    // Gone before the file was opened, gone before it was read, hidden.
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM))
}

/// Reads one process; nothing when it is gone, or hidden.
pub fn stat(pid: Pid) -> io::Result<Option<Stat>> {
    let mut bytes = [0; 1024];
    let opened = fs::File::open(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    match opened.and_then(|mut file| file.read(&mut bytes)) {
        Ok(length) => parse(pid, &bytes[..length]).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{}/stat is none", pid.as_raw_nonzero()))
        }),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(pid: Pid, line: &[u8]) -> Option<Stat> {
    // The name stands in parentheses and may hold anything, so begin after the last one.
    let after_name = line.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&line[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(13)?.parse().ok()?;
    let start = Some(fields.nth(1)?.parse().ok()?);
    // A process whose first thread has ended looks like a zombie while its other threads live on.
    let zombie = matches!(state, "Z" | "X" | "x") && threads <= 1;
    Some(Stat { process: Process { pid, start }, parent, group, session, zombie, suspended: state == "T" })
}

/// Every process there is, read one by one in the order of their numbers while the caller acts. The kernel lists a
/// small table all at once, and who was started after that is not in it: so it is listed again until there is nobody
/// new, and a process that keeps forking is caught up with.
///
/// After an error nothing more comes: it was no whole look.
pub fn all() -> impl Iterator<Item = io::Result<Stat>> {
    let mut seen = HashSet::new();
    let mut listing = Vec::new().into_iter();
    let (mut listings, mut fresh) = (0, true);
    let mut next = move || {
        loop {
            match listing.next() {
                Some(pid) if seen.insert(pid) => {
                    fresh = true;
                    if let Some(stat) = stat(pid)? {
                        return Ok(Some(stat));
                    }
                }
                Some(_) => {}
                None if fresh && listings < LISTINGS => {
                    listing = numbers()?.into_iter();
                    (listings, fresh) = (listings + 1, false);
                }
                None => return Ok(None),
            }
        }
    };
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let next = next().transpose();
        failed = matches!(next, Some(Err(_)));
        next
    })
}

/// The numbers of all processes at this moment.
fn numbers() -> io::Result<Vec<Pid>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw));
    }
    // Whoever looks is there, or this is no list of the processes that it could signal.
    if numbers.contains(&getpid()) {
        return Ok(numbers);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "/proc does not list the process that reads it: is it mounted?"))
}

/// Visits every descendant of those that `is_root` accepts, and these themselves. After an error, some of them.
pub fn visit_trees(mut is_root: impl FnMut(&Stat) -> bool, mut visit: impl FnMut(&Stat)) -> io::Result<()> {
    let mut known = HashSet::new();
    for stat in all() {
        let stat = stat?;
        if known.contains(&stat.parent) || is_root(&stat) {
            known.insert(stat.process.pid.as_raw_nonzero().get());
            visit(&stat);
        }
    }
    Ok(())
}

/// Signals this very process; false when it is gone, not ours to signal, or there is no descriptor left to do it with.
pub fn signal(process: Process, signal: Signal) -> bool {
    match open(process) {
        Ok(Some(pidfd)) => pidfd_send_signal(&pidfd, signal).is_ok(),
        Ok(None) => false,
        // A kernel or sandbox without pidfds: the number alone must do.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSYS) => kill_process(process.pid, signal).is_ok(),
        Err(_) => false,
    }
}

/// A descriptor of this very process; nothing when it is gone.
pub fn open(process: Process) -> io::Result<Option<OwnedFd>> {
    let pidfd = match pidfd_open(process.pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Had the number been given away before the descriptor was opened, the start would differ.
    let its = process.start.is_none() || stat(process.pid)?.is_some_and(|stat| stat.process == process);
    Ok(its.then_some(pidfd))
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
    use super::*;

    #[test]
    fn reads_itself() {
        let me = stat(getpid()).unwrap().unwrap();
        assert_eq!(Some(me.parent), rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
        assert!(!me.zombie);
        assert!(me.process.start > Some(0));
        let mut seen = 0;
        visit_trees(|stat| stat.process == me.process, |_| seen += 1).unwrap();
        assert!(seen >= 1);
    }
    #[test]
    fn who_is_started_meanwhile_is_seen() {
        let mut all = all();
        all.next().unwrap().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let found = all.any(|stat| stat.unwrap().process.pid == pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}

//! The children of this process as the kernel knows them, whatever `/proc` shows.
//!
//! By `waitid` alone, which needs no descriptor and no right to look: who is a child can always be waited for. It can't
//! list them, so every number is tried. Only after a supervisor was lost, and in one where `/proc` shows nobody: that takes a
//! microsecond for three to five numbers, and there may be four million. Deliberately not those below the children: whoever loses its parent becomes a child of
//! the subreaper above it, so that who kills children until there is none has killed all.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Looks, without waiting and without reaping.
const LOOK: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG).union(WaitIdOptions::NOWAIT);
/// The highest number that Linux ever gives, where it does not say which it is here.
const MOST: i32 = 1 << 22;

static TOLD: AtomicBool = AtomicBool::new(false);

/// All that were not waited for yet, dead or alive.
pub fn all() -> Vec<Pid> {
    if look(&WaitId::All) == Look::Nobody {
        return Vec::new();
    }
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    let most = most.and_then(|most| most.trim().parse().ok()).unwrap_or(MOST);
    (1..=most).filter_map(Pid::from_raw).filter(|pid| look(&WaitId::Pid(*pid)) != Look::Nobody).collect()
}

/// Whether a child that was not waited for yet has died; also when it is no child, or no more.
pub fn is_dead(child: Pid) -> bool {
    look(&WaitId::Pid(child)) != Look::Alive
}

/// Whether a child that was not waited for yet is in this process group: then its number still means that group.
pub fn is_one_in_group(group: Pid) -> bool {
    look(&WaitId::Pgid(Some(group))) != Look::Nobody
}

/// The process group of a child that was not waited for yet.
pub fn group_of(child: Pid) -> i32 {
    // SAFETY: it takes and gives a number. (Not rustix's, which can't carry 0.)
    unsafe { libc::getpgid(child.as_raw_nonzero().get()) }
}

/// The session of a child that was not waited for yet, or of this process itself.
pub fn session_of(pid: Pid) -> i32 {
    // SAFETY: it takes and gives a number. (Not rustix's, which can't carry 0.)
    unsafe { libc::getsid(pid.as_raw_nonzero().get()) }
}

#[derive(PartialEq, Eq)]
enum Look {
    Alive,
    Dead,
    Nobody,
}

fn look(whom: &WaitId<'_>) -> Look {
    loop {
        match waitid(whom.clone(), LOOK) {
            Ok(None) => return Look::Alive,
            Ok(Some(_)) => return Look::Dead,
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Look::Nobody,
            // Not allowed here, as by a filter of system calls: then what `/proc` shows is all there is.
            Err(error) => {
                if !TOLD.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "waitid fails here, so scripts are proven dead by what /proc shows alone; allow it");
                }
                return Look::Nobody;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_alive_and_dead_until_they_are_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(all().contains(&pid) && !is_dead(pid));
        assert_eq!(
            (session_of(pid), group_of(pid)),
            (session_of(rustix::process::getpid()), group_of(rustix::process::getpid()))
        );
        child.kill().unwrap();
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(all().contains(&pid) && is_dead(pid));
        child.wait().unwrap();
        assert!(!all().contains(&pid) && is_dead(pid));
    }
}

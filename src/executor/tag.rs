//! The tag of a run: a number that its processes carry and can't lose by mistake.
//!
//! A resource limit is inherited by every child and kept by `exec`, `setsid`, `setuid` and `env -i`, and anybody may
//! read it in `/proc/PID/limits`, also of another user's process or one that can't be traced. RLIMIT_RTTIME only counts
//! for programs that run under a real-time scheduler, in microseconds: a limit of two hundred thousand years is none. So a
//! value up there says which run a process belongs to, whatever became of its environment.
//!
//! Deliberately no security: a process may lower its limits, and root may set any. Who does that and drops its
//! environment and leaves its supervisor's tree does it on purpose. Nor may a stranger who copies a number that anybody
//! can read hold up the service with it: the tag alone counts only where the process's real user is the service's, that of
//! the scripts (today's, and whoever the folder of the run was given to), or root. The real one, since a setuid program that a script starts keeps the script's, and one that a
//! stranger starts the stranger's, whoever it is in effect. Who has become somebody else for good (`sudo -u`) is still
//! found by its environment and by its parents.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Resource, Rlimit, geteuid, getpid, getuid, setrlimit};
use sha2::{Digest as _, Sha256};

use super::MARKER;
use super::proc::{self, Process};
use crate::domain::ids::RunId;

/// The highest byte of every tag, so between 2^62 and 2^63: above every limit that anybody means, below «unlimited».
const PREFIX: u64 = 0x53;

/// A run's number: the prefix, and 56 bits of the SHA-256 of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(u64);

impl Tag {
    /// The tag of a run.
    pub fn of(run: RunId) -> Self {
        let digest = Sha256::digest(run.to_string());
        let bits = digest.iter().take(7).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        Self(PREFIX << 56 | bits)
    }

    /// Gives it to this process and to all that it will start. Refused where a lower hard limit was inherited and may
    /// not be raised: then the environment alone must do.
    pub fn wear(self) -> io::Result<()> {
        Ok(setrlimit(Resource::Rttime, Rlimit { current: Some(self.0), maximum: Some(self.0) })?)
    }
}

/// By what the processes of some runs are known.
pub struct Marks {
    by_id: HashMap<Vec<u8>, RunId>,
    by_tag: HashMap<u64, RunId>,
    /// Whose processes the tag alone may mark.
    users: Vec<u32>,
    /// Whether the log was told of a tag that marks nothing.
    copy_told: AtomicBool,
    strangers: Mutex<Strangers>,
}

/// Who was seen not to be of any of the runs. Nobody becomes that later, but for one: a supervisor between `vfork` and
/// `exec` still shows the service's environment. That is harmless: what it is to run it is told only after that.
#[derive(Default)]
struct Strangers {
    /// Those of the last look, so that the numbers of the dead are not kept for as long as something can't be killed.
    before: HashSet<Process>,
    /// Those of this one.
    now: HashSet<Process>,
}

impl Strangers {
    fn knows(&mut self, process: Process) -> bool {
        let known = self.before.contains(&process);
        if known {
            self.now.insert(process);
        }
        known || self.now.contains(&process)
    }
}

impl Marks {
    /// The marks of these runs, and of no other. `users` are those whose processes their scripts are, where they are not the
    /// own user's.
    pub fn of(runs: &[RunId], users: impl IntoIterator<Item = u32>) -> Self {
        Self {
            by_id: runs.iter().map(|run| (run.to_string().into_bytes(), *run)).collect(),
            by_tag: runs.iter().map(|run| (Tag::of(*run).0, *run)).collect(),
            users: [getuid().as_raw(), geteuid().as_raw(), 0].into_iter().chain(users).collect(),
            copy_told: AtomicBool::new(false),
            strangers: Mutex::default(),
        }
    }

    /// To be called before each look at all processes.
    pub fn begin_look(&self) {
        let mut strangers = self.strangers();
        strangers.before = std::mem::take(&mut strangers.now);
    }

    /// To which of the runs a process belongs by what it carries. Never true of the process that asks. An error where
    /// that can't be read now and could be otherwise.
    pub fn run_of(&self, process: Process) -> io::Result<Option<RunId>> {
        if process.pid == getpid() || self.strangers().knows(process) {
            return Ok(None);
        }
        let environment = proc::read(process.pid, "environ")?.unwrap_or_default();
        let run = match self.by_environment(&environment) {
            Some(run) => Some(run),
            None => self.by_limit(process)?,
        };
        // For a moment of its `exec` a process shows none. Who has one has shown all that there is.
        if run.is_none() && !environment.is_empty() {
            self.strangers().now.insert(process);
        }
        Ok(run)
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        // A set is whole after a panic, too.
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_environment(&self, environment: &[u8]) -> Option<RunId> {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|one| {
            let id = one.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=")?;
            self.by_id.get(id).copied()
        })
    }

    fn by_limit(&self, process: Process) -> io::Result<Option<RunId>> {
        let limits = proc::read(process.pid, "limits")?.unwrap_or_default();
        let limits = String::from_utf8_lossy(&limits);
        let line = limits.lines().rev().find_map(|line| line.strip_prefix("Max realtime timeout"));
        let mut fields = line.unwrap_or_default().split_ascii_whitespace().take(2);
        // Soft and hard: who lowered the one has still the other. «unlimited» is no number.
        let Some(run) = fields.find_map(|limit| self.by_tag.get(&limit.parse().ok()?).copied()) else {
            return Ok(None);
        };
        // Gone meanwhile, or whose it is can't be read of it: nobody whom the tag would free from suspicion.
        let Some(user) = real_user(process.pid)? else { return Ok(Some(run)) };
        if self.users.contains(&user) {
            return Ok(Some(run));
        }
        if !self.copy_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %run,
                process = proc::describe(process),
                started_by = user,
                "a process of another user carries this run's mark (RLIMIT_RTTIME) and nothing else of it: it is left alone, and \
                 nothing waits for it; a script of this run made it that user's, or somebody has copied the mark"
            );
        }
        Ok(None)
    }
}

/// Whose process it is, whoever it acts as.
fn real_user(pid: Pid) -> io::Result<Option<u32>> {
    let status = proc::read(pid, "status")?.unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(users.and_then(|users| users.split_ascii_whitespace().next()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_its_run_s_and_beyond_any_real_limit() {
        let runs: Vec<RunId> = (0..200).map(|n| format!("run_{n:026}").parse().unwrap()).collect();
        let marks = Marks::of(&runs, None);
        assert_eq!(marks.by_tag.len(), runs.len(), "no two are the same");
        for run in runs {
            let Tag(tag) = Tag::of(run);
            assert!((1 << 62..1 << 63).contains(&tag), "{tag:x}");
            assert_eq!(marks.by_tag[&tag], run);
        }
    }
    #[test]
    fn strangers_are_kept_for_as_long_as_they_are_seen() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = proc::stat(Pid::from_child(&child)).unwrap().unwrap().process;
        let marks = Marks::of(&[], None);
        let kept = || {
            let strangers = marks.strangers();
            strangers.before.len() + strangers.now.len()
        };
        // Until its `exec` is over it shows no environment, and may be anybody.
        while kept() == 0 {
            assert_eq!(marks.run_of(process).unwrap(), None);
        }
        assert_eq!(kept(), 1);
        marks.begin_look();
        assert_eq!(marks.run_of(process).unwrap(), None);
        assert!(marks.strangers().now.contains(&process), "and known the next time, too");
        child.kill().unwrap();
        child.wait().unwrap();
        marks.begin_look();
        marks.begin_look();
        assert_eq!(kept(), 0);
    }
}

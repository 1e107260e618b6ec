//! The tag of a run: a number that its processes carry and can't lose by mistake.
//!
//! A resource limit is inherited by every child and kept by `exec`, `setsid`, `setuid` and `env -i`, and anybody may
//! read it in `/proc/PID/limits`, also of another user's process or one that can't be traced. RLIMIT_RTTIME only counts
//! for programs that run under a real-time scheduler, in microseconds: a limit of two hundred thousand years is none. So a
//! value up there says which run a process belongs to, whatever became of its environment.
//!
//! Deliberately no security: a process may lower its limits, and root may set any. Who does that and drops its
//! environment and leaves its supervisor's tree does it on purpose.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Resource, Rlimit, getpid, setrlimit};
use sha2::{Digest as _, Sha256};

use super::MARKER;
use super::proc::Process;
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
    /// Who was seen not to be of any of them: nobody becomes that later.
    strangers: Mutex<HashSet<Process>>,
}

impl Marks {
    /// The marks of these runs, and of no other.
    pub fn of(runs: &[RunId]) -> Self {
        Self {
            by_id: runs.iter().map(|run| (run.to_string().into_bytes(), *run)).collect(),
            by_tag: runs.iter().map(|run| (Tag::of(*run).0, *run)).collect(),
            strangers: Mutex::default(),
        }
    }

    /// To which of the runs a process belongs by what it carries. Never true of the process that asks.
    pub fn run_of(&self, process: Process) -> Option<RunId> {
        if process.pid == getpid() || self.strangers().contains(&process) {
            return None;
        }
        let environment = fs::read(format!("/proc/{}/environ", process.pid.as_raw_nonzero())).unwrap_or_default();
        let run = self.by_environment(&environment).or_else(|| self.by_limit(process.pid));
        // For a moment of its `exec` a process shows none. Who has one has shown all that there is.
        if run.is_none() && !environment.is_empty() {
            self.strangers().insert(process);
        }
        run
    }

    fn strangers(&self) -> MutexGuard<'_, HashSet<Process>> {
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

    fn by_limit(&self, pid: Pid) -> Option<RunId> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).ok()?;
        let line = limits.lines().rev().find_map(|line| line.strip_prefix("Max realtime timeout"))?;
        // Soft and hard: who lowered the one has still the other. «unlimited» is no number.
        line.split_ascii_whitespace().take(2).find_map(|limit| self.by_tag.get(&limit.parse().ok()?).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_its_run_s_and_beyond_any_real_limit() {
        let runs: Vec<RunId> = (0..200).map(|n| format!("run_{n:026}").parse().unwrap()).collect();
        let marks = Marks::of(&runs);
        assert_eq!(marks.by_tag.len(), runs.len(), "no two are the same");
        for run in runs {
            let Tag(tag) = Tag::of(run);
            assert!((1 << 62..1 << 63).contains(&tag), "{tag:x}");
            assert_eq!(marks.by_tag[&tag], run);
        }
    }
}

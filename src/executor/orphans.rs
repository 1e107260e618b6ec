//! Processes that have no living supervisor: found through `/proc`, killed, and proven dead.
//!
//! This is for the day on which a supervisor was itself killed, or the service before this one. In ordinary
//! life the supervisor's own proof is all there is, and nothing here looks at anything.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, waitpid};

use super::MARKER;
use super::proc::{self, Process, Stat};
use super::supervisor;
use crate::domain::ids::RunId;

/// How long a supervisor that was told to kill its tree may take before it is killed itself.
const SUPERVISOR_TIME: Duration = Duration::from_secs(5);
/// How long to wait for one death before looking at everything again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

static SUBREAPER: AtomicBool = AtomicBool::new(false);
/// The living supervisors of this process, whichever executor started them. Children of a process
/// are the process's: so is this.
static SUPERVISORS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Makes this process the one to whom the descendants of a supervisor come that was killed. To be
/// called once, at the start of the service.
pub fn become_subreaper() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    SUBREAPER.store(true, Ordering::Relaxed);
    Ok(())
}

/// What recovery found of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The run.
    pub run: RunId,
    /// How many processes of it were still alive, its supervisor included. They are dead now.
    pub processes: usize,
}

/// Finds every process of these runs, kills them, and waits until none is left.
pub async fn prove_dead(runs: &[RunId]) -> io::Result<Vec<Leftover>> {
    let markers: Vec<(RunId, String)> = runs.iter().map(|run| (*run, format!("{MARKER}={run}"))).collect();
    let mut seen: BTreeMap<RunId, HashSet<Process>> = BTreeMap::new();
    if markers.is_empty() {
        return Ok(Vec::new());
    }
    // A supervisor knows its tree better than a look from outside.
    let supervisors = blocking({
        let markers = markers.clone();
        move || marked(&markers)
    })
    .await?;
    for (run, stat, supervises) in supervisors {
        seen.entry(run).or_default().insert(stat.process);
        if supervises && proc::signal(stat.process, Signal::QUIT) {
            // Stopped, it would not hear it.
            proc::signal(stat.process, Signal::CONT);
            death(stat.process, SUPERVISOR_TIME).await;
        }
    }
    loop {
        let found = blocking({
            let markers = markers.clone();
            move || {
                let mut found = Vec::new();
                let mut run_of = BTreeMap::new();
                for (run, stat, _) in marked(&markers) {
                    run_of.insert(stat.process.pid.as_raw_nonzero().get(), run);
                }
                // Descendants count as their ancestor's, whatever they did to their environment.
                let me = getpid();
                for stat in proc::all().filter(|stat| !stat.zombie && stat.process.pid != me) {
                    let pid = stat.process.pid.as_raw_nonzero().get();
                    let run = run_of.get(&pid).or_else(|| run_of.get(&stat.parent)).copied();
                    if let Some(run) = run {
                        run_of.insert(pid, run);
                        found.push((run, stat.process));
                    }
                }
                found
            }
        })
        .await?;
        if found.is_empty() {
            break;
        }
        for (run, process) in &found {
            seen.entry(*run).or_default().insert(*process);
            proc::signal(*process, Signal::KILL);
        }
        for (_, process) in found {
            death(process, LOOK_AGAIN).await;
        }
    }
    reap_adopted();
    Ok(seen.into_iter().map(|(run, processes)| Leftover { run, processes: processes.len() }).collect())
}

/// Every living process with one of the markers, and whether it is a supervisor.
fn marked(markers: &[(RunId, String)]) -> Vec<(RunId, Stat, bool)> {
    let mut all = Vec::new();
    for stat in proc::all().filter(|stat| !stat.zombie) {
        let pid = stat.process.pid;
        if let Some((run, _)) = markers.iter().find(|(_, marker)| proc::has_in_environment(pid, marker)) {
            all.push((*run, stat, proc::has_first_argument(pid, supervisor::ARGUMENT)));
        }
    }
    all
}

/// Kills what is left of a run whose supervisor was killed, and waits until none is left. The
/// supervisor itself must be dead and not yet reaped, so that its number is still its own.
pub async fn clear(run: RunId, supervisor: Pid) -> io::Result<usize> {
    let marker = format!("{MARKER}={run}");
    let session = supervisor.as_raw_nonzero().get();
    let mut seen = HashSet::new();
    loop {
        reap_adopted();
        let marker = marker.clone();
        let found = blocking(move || {
            let adopted = adopted();
            let mut found = Vec::new();
            proc::visit_trees(
                |stat| {
                    stat.process.pid != supervisor
                        && (stat.session == session
                            || adopted.contains(&stat.process)
                            || proc::has_in_environment(stat.process.pid, &marker))
                },
                |stat| {
                    if !stat.zombie && stat.process.pid != supervisor && stat.process.pid != getpid() {
                        proc::signal(stat.process, Signal::KILL);
                        found.push(stat.process);
                    }
                },
            );
            found
        })
        .await?;
        if found.is_empty() {
            reap_adopted();
            return Ok(seen.len());
        }
        seen.extend(found.iter().copied());
        for process in found {
            death(process, LOOK_AGAIN).await;
        }
    }
}

/// Waits until this process is dead, reaped or not, or for so long.
pub async fn death(process: Process, longest: Duration) {
    // Waiting on a thread for it is fine: this is no ordinary life. On a kernel without pidfds
    // nothing is waited for, and the caller looks again anyway.
    let _ = blocking(move || {
        if let Ok(Some(pidfd)) = proc::open(process) {
            let seconds = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
            let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
        }
    })
    .await;
}

/// Starts a supervisor and notes it as one of ours, both or neither for anybody who looks.
pub fn register<C>(spawn: impl FnOnce() -> io::Result<(C, Option<Pid>)>) -> io::Result<(C, Registered)> {
    let mut supervisors = supervisors();
    let (child, pid) = spawn()?;
    let pid = pid.map(|pid| pid.as_raw_nonzero().get());
    supervisors.extend(pid);
    Ok((child, Registered(pid)))
}

/// As long as it lives, the supervisor is nobody's orphan.
pub struct Registered(Option<i32>);

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            supervisors().remove(&pid);
        }
    }
}

fn supervisors() -> MutexGuard<'static, BTreeSet<i32>> {
    // A set of numbers is whole after a panic, too.
    SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The children of this process that it did not start: they came from a supervisor that was killed.
/// They are in another session than this process, as every supervisor and all below it. (In a container
/// whose first process this is, orphans of an `exec` into it come here as well; nothing tells them apart.)
fn adopted() -> HashSet<Process> {
    if !SUBREAPER.load(Ordering::Relaxed) {
        return HashSet::new();
    }
    // Not by getsid: 0 is an answer as good as any here, where the session began outside this PID namespace.
    let Some(me) = proc::stat(getpid()) else {
        return HashSet::new();
    };
    let supervisors = supervisors();
    proc::all()
        .filter(|stat| stat.parent == me.process.pid.as_raw_nonzero().get() && stat.session != me.session)
        .filter(|stat| !supervisors.contains(&stat.process.pid.as_raw_nonzero().get()))
        .map(|stat| stat.process)
        .collect()
}

/// Reaps the dead among the adopted, and nobody that tokio waits for. Done after every lost
/// supervisor; a service that is the first process of its container may do it now and then.
pub fn reap_adopted() {
    for process in adopted() {
        let _ = waitpid(Some(process.pid), WaitOptions::NOHANG);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

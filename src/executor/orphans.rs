//! Processes that have no living supervisor: found through `/proc`, killed, and proven dead.
//!
//! This is for the day on which a supervisor was itself killed, or the service before this one. In ordinary
//! life the supervisor's own proof is all there is, and nothing here looks at anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, waitpid};

use super::proc::{self, Process, Stat};
use super::supervisor;
use super::tag::Marks;
use crate::domain::ids::RunId;

/// How long a supervisor that was told to kill its tree may take before it is killed itself.
const SUPERVISOR_TIME: Duration = Duration::from_secs(5);
/// How long to wait for one death before looking at everything again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long what was killed may take to die before the log tells of it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the log tells of it again.
const REMIND: Duration = Duration::from_secs(60);
/// How many processes of a run it names.
const NAMED: usize = 8;

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
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let marks = Arc::new(Marks::of(runs));
    let mut seen: BTreeMap<RunId, HashSet<Process>> = BTreeMap::new();
    // A supervisor knows its tree better than a look from outside.
    let found = blocking({
        let marks = Arc::clone(&marks);
        move || belonging(|stat| marks.run_of(stat.process), drop)
    })
    .await?;
    let mut told = Vec::new();
    for (run, process) in found {
        seen.entry(run).or_default().insert(process);
        let supervises = proc::has_first_argument(process.pid, supervisor::ARGUMENT);
        if supervises && proc::signal(process, Signal::QUIT) {
            // Stopped, it would not hear it.
            proc::signal(process, Signal::CONT);
            told.push(process);
        }
    }
    for process in told {
        death(process, SUPERVISOR_TIME).await;
    }
    let left = until_none(|| {
        let marks = Arc::clone(&marks);
        move || belonging(|stat| marks.run_of(stat.process), stop)
    });
    for (run, process) in left.await? {
        seen.entry(run).or_default().insert(process);
    }
    reap_adopted();
    Ok(seen.into_iter().map(|(run, processes)| Leftover { run, processes: processes.len() }).collect())
}

/// Kills what is left of a run whose supervisor was killed, and waits until none is left. The
/// supervisor itself must be dead and not yet reaped, so that its number is still its own.
pub async fn clear(run: RunId, supervisor: Pid) -> io::Result<usize> {
    let marks = Arc::new(Marks::of(&[run]));
    let session = supervisor.as_raw_nonzero().get();
    let cleared = until_none(|| {
        reap_adopted();
        let marks = Arc::clone(&marks);
        move || {
            let adopted = adopted();
            let its = |stat: &Stat| {
                stat.process.pid != supervisor
                    && (stat.session == session
                        || adopted.contains(&stat.process)
                        || marks.run_of(stat.process).is_some())
            };
            belonging(|stat| its(stat).then_some(run), stop)
        }
    });
    let cleared = cleared.await?;
    reap_adopted();
    Ok(cleared.len())
}

/// Every living process that is some run's by `run_of`, and whatever descends from one: that counts as its
/// ancestor's, whatever it did to itself. Each is handed to `seize` as soon as it is seen: a chain of processes of
/// which each starts the next and ends would be gone by the end of the look.
fn belonging(run_of: impl Fn(&Stat) -> Option<RunId>, seize: impl Fn(Process)) -> Vec<(RunId, Process)> {
    let me = getpid();
    let mut known = HashMap::new();
    let mut found = Vec::new();
    let mut others = Vec::new();
    let mut note = |stat: &Stat, run: RunId, known: &mut HashMap<i32, RunId>| {
        known.insert(stat.process.pid.as_raw_nonzero().get(), run);
        if !stat.zombie {
            seize(stat.process);
            found.push((run, stat.process));
        }
    };
    for stat in proc::all().filter(|stat| stat.process.pid != me) {
        match known.get(&stat.parent).copied().or_else(|| run_of(&stat)) {
            Some(run) => note(&stat, run, &mut known),
            None => others.push(stat),
        }
    }
    // Where the numbers began anew a child has a lower one than its parent. Until nobody more is known.
    loop {
        let before = others.len();
        others.retain(|stat| match known.get(&stat.parent).copied() {
            Some(run) => {
                note(stat, run, &mut known);
                false
            }
            None => true,
        });
        if others.len() == before {
            return found;
        }
    }
}

/// Looks, which stops what it finds, and kills that, until nothing is found; gives all that was. It takes as long as it takes: what can't be killed is
/// told in the log, now and then, and nothing goes on beside it.
async fn until_none<L>(mut look: impl FnMut() -> L) -> io::Result<HashSet<(RunId, Process)>>
where
    L: FnOnce() -> Vec<(RunId, Process)> + Send + 'static,
{
    let mut seen = HashSet::new();
    let mut empty = 0;
    let mut complain_at = Instant::now() + PATIENCE;
    loop {
        let found = blocking(look()).await?;
        empty = if found.is_empty() { empty + 1 } else { 0 };
        // Twice: where the numbers begin anew, a process that forks and ends while it is looked at might slip through once.
        if empty == 2 {
            return Ok(seen);
        }
        for (_, process) in &found {
            proc::signal(*process, Signal::KILL);
        }
        if Instant::now() >= complain_at {
            complain(&found);
            complain_at = Instant::now() + REMIND;
        }
        seen.extend(found.iter().copied());
        for (_, process) in found {
            death(process, LOOK_AGAIN).await;
        }
    }
}

/// Not killed before everybody is seen: the children of who is dead are nobody's whom one could know them by.
fn stop(process: Process) {
    proc::signal(process, Signal::STOP);
}

fn complain(found: &[(RunId, Process)]) {
    let mut of_run: BTreeMap<RunId, Vec<Process>> = BTreeMap::new();
    for (run, process) in found {
        of_run.entry(*run).or_default().push(*process);
    }
    for (run, processes) in of_run {
        let mut named: Vec<_> = processes.iter().take(NAMED).map(|process| proc::describe(*process)).collect();
        if processes.len() > NAMED {
            named.push(format!("and {} more", processes.len() - NAMED));
        }
        tracing::error!(
            %run,
            processes = named.join(", "),
            "processes of a script can't be killed, and nothing goes on beside them: state D hangs in a disk or a network \
             mount, which must be freed; another user's must be killed as that user or as root; else restart the machine"
        );
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

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

use super::children;
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
/// How long to wait where a look or a descriptor failed before it is tried again.
const BREATH: Duration = Duration::from_millis(100);
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
/// `users` are those whose processes the scripts are or were, where they are not the service's own user's.
pub async fn prove_dead(runs: &[RunId], users: impl IntoIterator<Item = u32>) -> Vec<Leftover> {
    if runs.is_empty() {
        return Vec::new();
    }
    let marks = Arc::new(Marks::of(runs, users));
    let mut seen: BTreeMap<RunId, HashSet<Process>> = BTreeMap::new();
    let look = |seize: fn(Process)| {
        let marks = Arc::clone(&marks);
        move || {
            marks.begin_look();
            belonging(|stat| marks.run_of(stat.process), seize)
        }
    };
    // A supervisor knows its tree better than a look from outside.
    let mut complaint = Complaint::new();
    let found = loop {
        match blocking(look(drop)).await {
            Ok(found) => break found,
            Err(error) => complaint.blind(&error),
        }
        tokio::time::sleep(BREATH).await;
    };
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
    for (run, process) in until_none(|| look(stop), Vec::new).await {
        seen.entry(run).or_default().insert(process);
    }
    reap_adopted();
    seen.into_iter().map(|(run, processes)| Leftover { run, processes: processes.len() }).collect()
}

/// Kills what is left of a run whose supervisor was killed, and waits until none is left. The
/// supervisor itself must be dead and not yet reaped, so that its number is still its own.
///
/// `/proc` may hide some of them, and shows where they are before they are anybody's: so the proof is that this process
/// has no child left that it does not know. To it they all come, as to the subreaper above them.
pub async fn clear(run: RunId, user: Option<u32>, supervisor: Pid) -> usize {
    let marks = Arc::new(Marks::of(&[run], user));
    let session = supervisor.as_raw_nonzero().get();
    let look = || {
        reap_adopted();
        let marks = Arc::clone(&marks);
        move || {
            marks.begin_look();
            let adopted = adopted()?;
            let its = |stat: &Stat| {
                let known = stat.session == session || adopted.contains(&stat.process);
                Ok(match stat.process.pid == supervisor {
                    true => None,
                    false if known => Some(run),
                    false => marks.run_of(stat.process)?,
                })
            };
            belonging(its, stop)
        }
    };
    let unseen = move || unknown_children().into_iter().map(|process| (run, process)).collect();
    let cleared = until_none(look, unseen).await;
    reap_adopted();
    cleared.len()
}

/// Every living process that is some run's by `run_of`, and whatever descends from one: that counts as its
/// ancestor's, whatever it did to itself. Each is handed to `seize` as soon as it is seen: a chain of processes of
/// which each starts the next and ends would be gone by the end of the look.
fn belonging(
    run_of: impl Fn(&Stat) -> io::Result<Option<RunId>>,
    seize: impl Fn(Process),
) -> io::Result<Vec<(RunId, Process)>> {
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
    for stat in proc::all() {
        let stat = stat?;
        if stat.process.pid == me {
            continue;
        }
        let run = match known.get(&stat.parent) {
            Some(run) => Some(*run),
            None => run_of(&stat)?,
        };
        match run {
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
            return Ok(found);
        }
    }
}

/// Looks, which stops what it finds, and kills that, until nothing is found; gives all that was. It takes as long as it takes: what can't be killed is
/// told in the log, now and then, and nothing goes on beside it. A look that failed has shown nothing: that is told, too,
/// and it looks again.
///
/// `unseen` is asked once looking finds nobody any more: for those that no look can show.
async fn until_none<L>(
    mut look: impl FnMut() -> L,
    unseen: impl Fn() -> Vec<(RunId, Process)> + Clone + Send + 'static,
) -> HashSet<(RunId, Process)>
where
    L: FnOnce() -> io::Result<Vec<(RunId, Process)>> + Send + 'static,
{
    let mut seen = HashSet::new();
    let mut empty = 0;
    let mut complaint = Complaint::new();
    loop {
        // Twice: where the numbers begin anew, a process that forks and ends while it is looked at might slip through once.
        let looked = if empty < 2 {
            blocking(look()).await
        } else {
            let unseen = unseen.clone();
            blocking(move || Ok(unseen())).await
        };
        let found = match looked {
            Ok(found) if found.is_empty() && empty == 2 => return seen,
            Ok(found) => found,
            Err(error) => {
                empty = 0;
                complaint.blind(&error);
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        empty = if found.is_empty() { empty + 1 } else { 0 };
        for (_, process) in &found {
            proc::signal(*process, Signal::KILL);
        }
        complaint.alive(&found);
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

/// What is told in the log, now and then, while nothing goes on.
struct Complaint {
    alive_at: Instant,
    blind_at: Instant,
}

impl Complaint {
    fn new() -> Self {
        let now = Instant::now();
        Self { alive_at: now + PATIENCE, blind_at: now }
    }

    /// A look has failed.
    fn blind(&mut self, error: &io::Error) {
        if self.blind_at <= Instant::now() {
            self.blind_at = Instant::now() + REMIND;
            tracing::error!(
                %error,
                "the processes of this machine can't be looked at, so what is left of a script may be alive, and nothing goes \
                 on beside it: files (LimitNOFILE=, fs.file-max) or memory may be used up, or /proc is not mounted; it is \
                 tried again"
            );
        }
    }

    /// A look has found these, and they were killed.
    fn alive(&mut self, found: &[(RunId, Process)]) {
        if self.alive_at > Instant::now() {
            return;
        }
        self.alive_at = Instant::now() + REMIND;
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
}

/// Waits until this process is dead, reaped or not, or for so long.
pub async fn death(process: Process, longest: Duration) {
    // Waiting on a thread for it is fine: this is no ordinary life.
    let waited = blocking(move || {
        if let Some(pidfd) = proc::open(process)? {
            let seconds = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
            let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
        }
        Ok(())
    });
    // On a kernel without pidfds, or without a descriptor left, the caller looks again, but not without a pause.
    if waited.await.is_err() {
        tokio::time::sleep(BREATH).await;
    }
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
fn adopted() -> io::Result<HashSet<Process>> {
    if !SUBREAPER.load(Ordering::Relaxed) {
        return Ok(HashSet::new());
    }
    // Not by getsid: 0 is an answer as good as any here, where the session began outside this PID namespace.
    let Some(me) = proc::stat(getpid())? else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "/proc does not show the process that reads it: is it mounted?",
        ));
    };
    let supervisors = supervisors();
    let mut adopted = HashSet::new();
    for stat in proc::all() {
        let stat = stat?;
        let child = stat.parent == me.process.pid.as_raw_nonzero().get() && stat.session != me.session;
        if child && !supervisors.contains(&stat.process.pid.as_raw_nonzero().get()) {
            adopted.insert(stat.process);
        }
    }
    Ok(adopted)
}

/// The same whatever `/proc` shows, and alive: the dead among them are reaped.
fn unknown_children() -> Vec<Process> {
    if !SUBREAPER.load(Ordering::Relaxed) {
        return Vec::new();
    }
    let children = children::all();
    let own = children::session_of(getpid());
    // Only now, since that took its time. Who is a child still and no supervisor by now was none when it was found.
    let supervisors = supervisors();
    let unknown = children.into_iter().filter(|pid| !supervisors.contains(&pid.as_raw_nonzero().get()));
    let alive = unknown.filter(|pid| {
        children::session_of(*pid) != own && matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None))
    });
    alive.map(|pid| Process { pid, start: None }).collect()
}

/// Reaps the dead among the adopted, and nobody that tokio waits for. Done after every lost
/// supervisor; a service that is the first process of its container may do it now and then.
pub fn reap_adopted() {
    // Where nobody can be looked at, they are reaped the next time.
    for process in adopted().unwrap_or_default() {
        let _ = waitpid(Some(process.pid), WaitOptions::NOHANG);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // A look that panicked has seen nothing either.
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn a_look_that_failed_has_shown_nothing() {
        let looks = AtomicUsize::new(0);
        let look = || {
            let number = looks.fetch_add(1, Ordering::Relaxed);
            move || match number {
                1 => Err(io::ErrorKind::OutOfMemory.into()),
                3 => panic!("a look that panics"),
                _ => Ok(Vec::new()),
            }
        };
        // One that is empty, after that, is the first again.
        assert!(until_none(look, Vec::new).await.is_empty());
        assert_eq!(looks.load(Ordering::Relaxed), 6);
    }
}

//! The tree of processes below the supervisor, and how it is brought to its end.
//!
//! Deliberately ignorant of sockets and signals sent to the supervisor: it is told, and looks only
//! at its own descendants.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, setpriority_process, wait};

use super::super::proc::{self, Process, Stat};
use super::super::wire::{Exit, Report};
use crate::failpoint::{self, Point};

/// What outlives the script has this long to end by itself: bash's `exec > >(tee log)` is still
/// writing then.
const LINGER: Duration = Duration::from_millis(200);
/// What outlives even that has this long between SIGTERM and SIGKILL.
const LEFT_BEHIND_GRACE: Duration = Duration::from_secs(1);
/// How often the killing looks again by itself; normally each death wakes it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A script's process and everything below it.
pub struct Tree {
    main: Pid,
    exit: Option<Exit>,
    phase: Phase,
    grace: Duration,
    stopped: bool,
    suspended: u32,
    told: HashSet<Process>,
    told_after_end: bool,
    left_behind: HashSet<Process>,
}

enum Phase {
    Running,
    /// The script's process has ended; others are left.
    Lingering {
        until: Instant,
    },
    Terminating {
        until: Instant,
    },
    Killing {
        look_again: Instant,
    },
}

impl Tree {
    /// The tree of the process that was just started.
    pub fn new(main: Pid, grace: Duration) -> Self {
        Self {
            main,
            exit: None,
            phase: Phase::Running,
            grace,
            stopped: false,
            suspended: 0,
            told: HashSet::new(),
            told_after_end: false,
            left_behind: HashSet::new(),
        }
    }

    /// Begins the end: SIGTERM now, SIGKILL after the grace. Nothing when it has begun already.
    pub fn stop(&mut self, now: Instant) {
        // It may have ended while the word was on its way; then its own end is the truth.
        if self.reap().is_ok() && matches!(self.phase, Phase::Running) && self.exit.is_none() {
            self.stopped = true;
            self.terminate(now, self.grace);
        }
    }

    /// SIGKILL to everything, at once.
    pub fn kill(&mut self) {
        if self.reap().is_ok() && self.exit.is_none() {
            self.stopped = true;
        }
        self.phase = Phase::Killing { look_again: Instant::now() };
    }

    /// When to call [`Tree::advance`] even if nothing happens.
    pub fn wakes_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => None,
            Phase::Lingering { until } | Phase::Terminating { until } => Some(until),
            Phase::Killing { look_again } => Some(look_again),
        }
    }

    /// Takes note of who died and does what is due. A report means that nobody is left.
    pub fn advance(&mut self, now: Instant) -> io::Result<Option<Report>> {
        if self.reap()? {
            // Only its own child's end makes the tree empty, so it is known.
            let exit = self.exit.unwrap_or(Exit::Code(-1));
            let left_behind = u32::try_from(self.left_behind.len()).unwrap_or(u32::MAX);
            return Ok(Some(Report::Ended { exit, left_behind, stopped: self.stopped, suspended: self.suspended }));
        }
        match self.phase {
            Phase::Running if self.exit.is_some() => self.phase = Phase::Lingering { until: now + LINGER },
            Phase::Lingering { until } if until <= now => self.terminate(now, self.grace.min(LEFT_BEHIND_GRACE)),
            Phase::Terminating { until } if until <= now => self.phase = Phase::Killing { look_again: now },
            // Those that came after the first time are told as well.
            Phase::Terminating { .. } if self.exit.is_some() && !self.told_after_end => self.tell(),
            Phase::Running | Phase::Lingering { .. } | Phase::Terminating { .. } | Phase::Killing { .. } => {}
        }
        if matches!(self.phase, Phase::Killing { .. }) {
            self.strike();
            self.phase = Phase::Killing { look_again: Instant::now() + LOOK_AGAIN };
            // The last of them may be dead already.
            return if self.reap()? { self.advance(now) } else { Ok(None) };
        }
        Ok(None)
    }

    /// Reaps all the dead; true when no child is left at all.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match wait(WaitOptions::NOHANG) {
                // Only once: the number may be given away again.
                Ok(Some((pid, status))) if pid == self.main && self.exit.is_none() => {
                    self.exit = Some(exit_of(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Ok(false),
                Err(Errno::CHILD) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn terminate(&mut self, now: Instant, grace: Duration) {
        // A grace beyond the clock's range is none that ends.
        let until = now.checked_add(grace).unwrap_or(now + Duration::from_secs(u64::from(u32::MAX)));
        self.phase = Phase::Terminating { until };
        self.tell();
    }

    /// SIGTERM to each descendant that has not had it, the first time with its whole group. What a
    /// script starts to clean up after itself is left alone until the grace is over: so nobody is
    /// told before the looking is done, and it is not repeated while the script goes on.
    fn tell(&mut self) {
        self.told_after_end = self.exit.is_some();
        let first = self.told.is_empty();
        let own = proc::stat(getpid()).map(|stat| stat.group);
        let mut newly = Vec::new();
        // Twice, for those whose parent had the higher number.
        for _ in 0..2 {
            visit(|stat| {
                if self.told.insert(stat.process) {
                    self.suspended += u32::from(first && stat.suspended);
                    newly.push((stat.process, Some(stat.group).filter(|group| Some(*group) != own)));
                }
            });
        }
        let mut groups = HashSet::new();
        for (process, group) in newly {
            if self.exit.is_some() && !self.stopped {
                self.left_behind.insert(process);
            }
            // A stopped process would not see a SIGTERM without a SIGCONT.
            match group.and_then(Pid::from_raw) {
                // A signal to a group can't be raced by a fork. The group is in a session that
                // began with or below the supervisor, so nobody else is in it.
                Some(group) if first => {
                    if groups.insert(group) {
                        let _ = kill_process_group(group, Signal::TERM);
                        let _ = kill_process_group(group, Signal::CONT);
                    }
                }
                Some(_) | None => {
                    proc::signal(process, Signal::TERM);
                    proc::signal(process, Signal::CONT);
                }
            }
        }
    }

    /// SIGKILL to each descendant and to its whole group, until a look finds none that had not
    /// had it. A signal to a group can't be raced by a fork; a signal to a process can.
    fn strike(&mut self) {
        failpoint::hit(Point::KillBefore);
        // A loop of forks would leave this process a small share of the machine. Not everybody
        // may go before others; then it takes longer.
        let _ = setpriority_process(None, -20);
        let own = proc::stat(getpid()).map(|stat| stat.group);
        let mut struck = HashSet::new();
        loop {
            let mut newly = false;
            let mut groups = HashSet::new();
            visit(|stat| {
                if struck.insert(stat.process) && proc::signal(stat.process, Signal::KILL) {
                    newly = true;
                    if self.exit.is_some() && !self.stopped {
                        self.left_behind.insert(stat.process);
                    }
                }
                // Its group is in a session that began with or below the supervisor, so nobody
                // else is in it; only the supervisor's own must be left alone.
                if Some(stat.group) != own
                    && let Some(group) = Pid::from_raw(stat.group)
                    && groups.insert(group)
                {
                    let _ = kill_process_group(group, Signal::KILL);
                }
            });
            // A full table of the dead would keep others from being seen.
            if !newly || self.reap().unwrap_or(true) {
                break;
            }
        }
    }
}

fn visit(mut each: impl FnMut(&Stat)) {
    let me = getpid().as_raw_nonzero().get();
    proc::visit_trees(
        |stat| stat.parent == me,
        |stat| {
            if !stat.zombie {
                each(stat);
            }
        },
    );
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        // Neither: it only stopped or went on, which is not asked for.
        (None, None) => Exit::Code(-1),
    }
}

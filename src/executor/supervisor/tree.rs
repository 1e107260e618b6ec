//! The tree of processes below the supervisor, and how it is brought to its end.
//!
//! Deliberately ignorant of sockets and signals sent to the supervisor: it is told, and looks only
//! at its own descendants. Whom `/proc` does not show, since it hides other users' processes or can't be read now, is
//! known all the same: the script's group by its number, and every child by `waitid`. The end is never what was seen, but
//! that there is no child left.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, setpriority_process, wait,
};

use super::super::children;
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
/// How often it tries all numbers, where there is somebody whom it can't see and who does not die.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How many times as long as it took.
const RESTS: u32 = 10;

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
    /// When all numbers may be tried again.
    try_at: Option<Instant>,
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
            try_at: None,
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
        let own = getpid().as_raw_nonzero().get();
        let mut newly = Vec::new();
        // Twice, for those whose parent had the higher number.
        for _ in 0..2 {
            // Who can't be seen now has its SIGTERM with the group below, or SIGKILL later.
            let _ = visit(|stat| {
                if self.told.insert(stat.process) {
                    self.suspended += u32::from(first && stat.suspended);
                    newly.push((stat.process, Some(stat.group).filter(|group| *group != own)));
                }
            });
        }
        let mut groups = HashSet::new();
        if first && let Some(group) = self.own_group() {
            groups.insert(group);
            let _ = kill_process_group(group, Signal::TERM);
            let _ = kill_process_group(group, Signal::CONT);
        }
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
        let own = getpid().as_raw_nonzero().get();
        if let Some(group) = self.own_group() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let mut struck = HashSet::new();
        loop {
            let (mut newly, mut anybody) = (false, false);
            let mut groups = HashSet::new();
            let looked = visit(|stat| {
                anybody = true;
                if struck.insert(stat.process) && proc::signal(stat.process, Signal::KILL) {
                    newly = true;
                    if self.exit.is_some() && !self.stopped {
                        self.left_behind.insert(stat.process);
                    }
                }
                // Its group is in a session that began with or below the supervisor, so nobody
                // else is in it; only the supervisor's own must be left alone.
                if stat.group != own
                    && let Some(group) = Pid::from_raw(stat.group)
                    && groups.insert(group)
                {
                    let _ = kill_process_group(group, Signal::KILL);
                }
            });
            // A full table of the dead would keep others from being seen.
            if self.reap().unwrap_or(true) {
                break;
            }
            if looked.is_err() || !anybody {
                newly = self.strike_unseen(own, &mut struck);
            }
            if !newly {
                break;
            }
        }
    }

    /// SIGKILL to each child and its group, seen or not: there is one, and nobody was seen. Its own children come to this
    /// process as theirs come. True when there was one that had not had it.
    fn strike_unseen(&mut self, own: i32, struck: &mut HashSet<Process>) -> bool {
        let began = Instant::now();
        if self.try_at.is_some_and(|at| began < at) {
            return false;
        }
        let mut newly = false;
        for pid in children::all().into_iter().filter(|pid| !children::is_dead(*pid)) {
            let process = Process { pid, start: None };
            if struck.insert(process) {
                newly = true;
                // Its own child, and not reaped: by the number is by the process.
                let _ = kill_process(pid, Signal::KILL);
                if self.exit.is_some() && !self.stopped {
                    self.left_behind.insert(process);
                }
            }
            if let Some(group) = Pid::from_raw(children::group_of(pid)).filter(|_| children::group_of(pid) != own) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        // Where there are millions of numbers, looking again and again must not take a processor.
        let rest = TRY_AGAIN.max(began.elapsed().saturating_mul(RESTS));
        self.try_at = (!newly).then(|| Instant::now() + rest);
        newly
    }

    /// The group that the script was started in, as long as its number means that group: while its first process was not
    /// waited for, and while a child is in it.
    fn own_group(&self) -> Option<Pid> {
        (self.exit.is_none() || children::is_one_in_group(self.main)).then_some(self.main)
    }
}

fn visit(mut each: impl FnMut(&Stat)) -> io::Result<()> {
    let me = getpid().as_raw_nonzero().get();
    proc::visit_trees(
        |stat| stat.parent == me,
        |stat| {
            if !stat.zombie {
                each(stat);
            }
        },
    )
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        // Neither: it only stopped or went on, which is not asked for.
        (None, None) => Exit::Code(-1),
    }
}

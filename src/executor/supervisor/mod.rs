//! The supervisor: this program once more, small, as the parent of one script.
//!
//! A child subreaper, so that every descendant of the script, whatever it did to its group, session
//! or environment, stays below it. It is done only when `waitpid` says that no child is left: that is the proof of
//! death which the server reports. When the server dies, the socket closes and everything is
//! killed. Deliberately without tokio, threads and anything that could allocate much: it should be
//! the last one that the system's memory killer picks.

mod signals;
mod tree;

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::Errno;
use rustix::process::{Pid, chdir, getpid, set_child_subreaper, setsid};

use self::signals::Signals;
use self::tree::Tree;
use super::MARKER;
use super::identity::Credentials;
use super::limits;
use super::open_files;
use super::tag::Tag;
use super::wire::{KILL, Order, Report, TERM};
use crate::failpoint::{self, Point};

/// The argument that makes this program a supervisor.
pub const ARGUMENT: &str = "__supervise";

/// Runs as a supervisor if the first argument says so; to be asked first of all in `main`.
pub fn main_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != ARGUMENT {
        return None;
    }
    Some(match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Stderr is the run's output.
            let _ = writeln!(io::stderr(), "the supervisor of this script failed: {error}");
            ExitCode::FAILURE
        }
    })
}

fn supervise() -> io::Result<()> {
    let control = io::stdin();
    if rustix::net::sockopt::socket_type(&control).is_err() {
        return Err(io::Error::other("it is started by the service itself, never by hand"));
    }
    keep_descriptors()?;
    wear_tag();
    if let Some(files) = std::env::args().nth(2) {
        open_files::restore(&files)?;
    }
    failpoint::hit(Point::SupervisorBegins);
    // A session of its own: no terminal's signals come here, and the script can't join the
    // server's process group.
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    let signals = Signals::install()?;
    let mut control = File::from(control.as_fd().try_clone_to_owned()?);
    let order = Order::read(&mut control)?;
    failpoint::hit(Point::ExecBefore);
    let started = start(&order);
    failpoint::hit(Point::ExecAfter);
    let report = match started {
        Ok(main) => watch(Tree::new(main, order.kill_grace), &control, &signals)?,
        Err(error) => Report::NotStarted { errno: error.raw_os_error().unwrap_or(0) },
    };
    // The server may be gone: then nobody is interested.
    failpoint::hit(Point::ReportBefore);
    let _ = control.write_all(&report.encode());
    failpoint::hit(Point::SupervisorEnds);
    Ok(())
}

/// What the service was started with besides its three streams (`serve 7</etc/shadow`) is not for scripts. Before
/// anything is opened here, so that it is no more than that.
fn keep_descriptors() -> io::Result<()> {
    // SAFETY: it takes numbers, and closes nothing before an `exec`.
    if unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return Ok(());
    }
    // Linux before 5.11, or a sandbox that does not know the call.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // SAFETY: as above; the listing's own number may be gone by then, which is an error and nothing else.
        if number > 2 && unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBADF) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Before there is a script: all of it carries the tag then. Until now, and where a tag can't be had, the marker in the
/// environment does.
fn wear_tag() {
    let run = std::env::var(MARKER).ok().and_then(|run| run.parse().ok());
    let _ = run.map(Tag::of).map(Tag::wear);
}

fn start(order: &Order) -> io::Result<Pid> {
    let text = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
    let (program, arguments) = order.argv.split_first().ok_or(Errno::INVAL)?;
    let mut command = Command::new(text(program));
    command
        .args(arguments.iter().map(text))
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (text(name), text(value))))
        .stdin(Stdio::null())
        .process_group(0);
    if order.credentials.is_none() && order.limits.is_empty() {
        command.current_dir(text(&order.directory));
    } else {
        confine(&mut command, order)?;
    }
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}

/// What the script's own process does between `fork` and `exec`, so that the supervisor stays who it is.
fn confine(command: &mut Command, order: &Order) -> io::Result<()> {
    if let Some(Credentials { uid, gid, .. }) = order.credentials {
        // `> /dev/stderr` opens the pipe anew, and asks whose it is.
        for stream in [io::stdout().as_fd(), io::stderr().as_fd()] {
            fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
    }
    let directory = CString::new(order.directory.clone())?;
    let (credentials, limits) = (order.credentials.clone(), order.limits.clone());
    let enter = move || {
        // Before the right to is lost.
        limits::set(&limits)?;
        if let Some(credentials) = &credentials {
            credentials.assume()?;
        }
        // As whom it will be: a folder that this user can't enter is an error, and not where it is by chance.
        Ok(chdir(directory.as_c_str())?)
    };
    // SAFETY: between `fork` and `exec` it makes system calls and nothing else; all that they take was made before, so
    // nothing is allocated and no lock is taken. This process has a single thread anyway.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

fn watch(mut tree: Tree, control: &File, signals: &Signals) -> io::Result<Report> {
    let mut connected = true;
    loop {
        signals.clear();
        if signals.term() {
            tree.stop(Instant::now());
        }
        if signals.quit() {
            tree.kill();
        }
        if let Some(report) = tree.advance(Instant::now())? {
            return Ok(report);
        }
        let timeout = tree.wakes_at().map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut descriptors =
            [PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        // A closed socket would be ready for ever.
        let watched = if connected { 2 } else { 1 };
        match poll(&mut descriptors[..watched], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if connected && !descriptors[1].revents().is_empty() {
            let mut word = [0];
            match rustix::io::read(control, &mut word) {
                Ok(1) if word[0] == TERM => tree.stop(Instant::now()),
                Ok(1) if word[0] == KILL => tree.kill(),
                Ok(1) | Err(Errno::INTR | Errno::AGAIN) => {}
                // The server is dead: its scripts don't outlive it.
                Ok(_) | Err(_) => {
                    connected = false;
                    tree.kill();
                }
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

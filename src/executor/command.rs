//! One command under its supervisor, from the server's side: started, listened to, stopped, over.
//!
//! It returns only when the command and everything that it started is proven dead. Deliberately
//! ignorant of attempts and of what an ending means.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

use super::children;
use super::orphans::{self, Registered};
use super::output::Recorder;
use super::proc::Process;
use super::stop::{Cause, Stops};
use super::wire::{Order, Report, TERM};
use super::{MARKER, open_files, supervisor};
use crate::domain::ids::RunId;
use crate::failpoint::{self, Point};

/// How long after the SIGKILL was due a supervisor may be silent before it counts as lost: its
/// script may keep it from running.
const SILENCE: Duration = Duration::from_secs(10);
/// The most that is read of a pipe after its supervisor's end: what a pipe can hold.
const PIPE: usize = 1 << 20;

/// How a command ended.
pub struct CommandEnd {
    /// The supervisor's word; none when it was killed itself.
    pub report: Option<Report>,
    /// How many processes were killed after a lost supervisor.
    pub cleared: usize,
    /// Why it was told to stop, if it was.
    pub cause: Option<Cause>,
}

/// Runs one command to its end.
pub async fn run(
    program: &Path,
    run: RunId,
    order: &Order,
    stops: &mut Stops,
    output: &mut Recorder,
) -> io::Result<CommandEnd> {
    failpoint::hit(Point::SpawnBefore);
    let (mut supervised, registered) = spawn(program, run)?;
    failpoint::hit(Point::SpawnAfter);
    // A supervisor that is gone already shows below, as a socket that is closed.
    let _ = supervised.control.write_all(&order.encode()).await;
    failpoint::hit(Point::OrderAfter);
    let (report, cause) = listen(&mut supervised, order.kill_grace, stops, output).await;
    failpoint::hit(Point::ReportAfter);
    let mut cleared = 0;
    if report.is_none() {
        failpoint::hit(Point::ClearBefore);
        let user = order.credentials.as_ref().map(|credentials| credentials.uid);
        cleared = clear(&mut supervised.child, run, user).await;
        failpoint::hit(Point::ClearAfter);
    }
    supervised.child.wait().await?;
    failpoint::hit(Point::ReapedAfter);
    drop(registered);
    drain(&supervised.pipe, output);
    Ok(CommandEnd { report, cleared, cause })
}

struct Supervised {
    child: Child,
    control: UnixStream,
    pipe: pipe::Receiver,
}

fn spawn(program: &Path, run: RunId) -> io::Result<(Supervised, Registered)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (child, registered) = orphans::register(|| {
        // Nothing that would keep std from its fast way to start a process. The command holds
        // the pipe's writing end, and is gone when this closure is over.
        let child = Command::new(program)
            .arg0("stagehook")
            .arg(supervisor::ARGUMENT)
            .args(open_files::argument())
            .env_clear()
            .env(MARKER, run.to_string())
            .envs(failpoint::handed_on())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(write.try_clone()?))
            .stderr(Stdio::from(write))
            .spawn()?;
        let pid = pid_of(&child);
        Ok((child, pid))
    })?;
    let control = UnixStream::from_std(ours)?;
    Ok((Supervised { child, control, pipe: pipe::Receiver::from_owned_fd(read)? }, registered))
}

/// Passes the output on until the supervisor's end of the socket is closed.
async fn listen(
    supervised: &mut Supervised,
    kill_grace: Duration,
    stops: &mut Stops,
    output: &mut Recorder,
) -> (Option<Report>, Option<Cause>) {
    let Supervised { child, control, pipe } = supervised;
    let mut said = Vec::new();
    let mut printed = vec![0; 64 * 1024];
    let mut pipe_open = true;
    let mut cause = None;
    let mut lost_at = None;
    loop {
        let mut word = [0; 16];
        tokio::select! {
            read = pipe.read(&mut printed), if pipe_open => match read {
                Ok(0) | Err(_) => pipe_open = false,
                Ok(length) => output.push(&printed[..length]),
            },
            read = control.read(&mut word) => match read {
                Ok(0) | Err(_) => break,
                Ok(length) => said.extend_from_slice(&word[..length]),
            },
            why = stops.wait(), if cause.is_none() => {
                cause = Some(why);
                lost_at = Instant::now().checked_add(kill_grace).and_then(|at| at.checked_add(SILENCE));
                let _ = control.write_all(&[TERM]).await;
                // Its script may have stopped it. It is not reaped, so the number is its own.
                if let Some(pid) = pid_of(child) {
                    let _ = kill_process(pid, Signal::CONT);
                }
            }
            () = at(lost_at), if lost_at.is_some() => {
                lost_at = None;
                let _ = child.start_kill();
            }
        }
    }
    (Report::decode(&said), cause)
}

/// The supervisor is no more: kills what it leaves.
async fn clear(child: &mut Child, run: RunId, user: Option<u32>) -> usize {
    // Should it only have closed its socket, it is of no more use.
    let _ = child.start_kill();
    let Some(pid) = pid_of(child) else { return 0 };
    while !children::is_dead(pid) {
        orphans::death(Process { pid, start: None }, SILENCE).await;
    }
    orphans::clear(run, user, pid).await
}

/// What is still in the pipe; nobody writes it any more, so nothing is waited for.
fn drain(pipe: &pipe::Receiver, output: &mut Recorder) {
    let mut buffer = vec![0; 64 * 1024];
    let mut drained = 0;
    while drained < PIPE {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                output.push(&buffer[..length]);
                drained += length;
            }
        }
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

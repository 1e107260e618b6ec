//! Whether the processes of the user that scripts run as can be seen here: asked once, before there is any.
//!
//! `/proc` may be mounted such that it hides other users' processes (`hidepid`). What is hidden is neither found after a
//! crash nor known to be dead. Deliberately shown with a process, and not read from the mount's options: a group, a
//! capability or a security module may decide as well.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::identity::Credentials;
use super::proc;

/// What is wrong where that user's processes are hidden, as a line for people.
pub fn fault(credentials: &Credentials) -> Option<String> {
    match is_seen(credentials) {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "execution.runAs: /proc hides the processes of user {} from the service, which could not prove that a script is \
             dead: it is mounted with hidepid (ProtectProc=invisible in a systemd unit). Set ProtectProc=default, or mount /proc \
             with hidepid=0, or give the service CAP_SYS_PTRACE",
            credentials.uid
        )),
        Err(error) => Some(format!(
            "execution.runAs: it can't be told whether the service sees the processes of user {}: {error}",
            credentials.uid
        )),
    }
}

/// Whether `/proc` shows a process that has become that user's.
fn is_seen(credentials: &Credentials) -> io::Result<bool> {
    let (mut ours, theirs) = UnixStream::pair()?;
    // SAFETY: the child makes system calls and nothing else, as after any `fork` of a process with threads: nothing is
    // allocated, no lock is taken, nothing is dropped.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let assumed = credentials.assume();
            let _ = rustix::io::write(&theirs, &[u8::from(assumed.is_ok())]);
            // SAFETY: as above. Until the service has looked, or is dead: nobody else has the other end then.
            unsafe {
                libc::close(ours.as_raw_fd());
                libc::read(theirs.as_raw_fd(), [0_u8; 1].as_mut_ptr().cast(), 1);
                libc::_exit(0)
            }
        }
        pid => Pid::from_raw(pid).ok_or(Errno::SRCH)?,
    };
    drop(theirs);
    let seen = look(&mut ours, child);
    // It ends with the socket.
    let _ = ours.write_all(&[0]);
    while let Err(Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {}
    seen
}

fn look(socket: &mut UnixStream, child: Pid) -> io::Result<bool> {
    let mut assumed = [0];
    socket.read_exact(&mut assumed)?;
    if assumed == [0] {
        return Err(io::Error::other("the service can't become that user"));
    }
    for stat in proc::all() {
        if stat?.process.pid == child {
            return Ok(true);
        }
    }
    Ok(false)
}

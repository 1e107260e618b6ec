//! The supervisor's signals, as a descriptor that can be polled.
//!
//! Handlers, not a blocked mask and not `SIG_IGN`: handlers are reset when the script is executed,
//! so it starts with the signals of any other program.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

static WAKE: OnceLock<OwnedFd> = OnceLock::new();
static TERM: AtomicBool = AtomicBool::new(false);
static QUIT: AtomicBool = AtomicBool::new(false);

/// The signals that came in, and the descriptor that tells that some did.
pub struct Signals {
    read: OwnedFd,
}

impl Signals {
    /// Takes over SIGCHLD, and every signal that would end the supervisor but SIGKILL and faults.
    pub fn install() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        WAKE.set(write).map_err(|_| io::ErrorKind::AlreadyExists)?;
        let handler = on_signal as extern "C" fn(libc::c_int);
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGHUP,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
        ] {
            // SAFETY: the handler only loads and stores atomics and calls write(2), all of which
            // may be done in a signal handler; it lives as long as the program.
            if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { read })
    }

    /// What to poll.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.read)
    }

    /// Forgets the wake-ups so far. To be called before looking at what they were about.
    pub fn clear(&self) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.read, &mut bytes).is_ok_and(|length| length > 0) {}
    }

    /// Whether SIGTERM came since the last time.
    pub fn term(&self) -> bool {
        TERM.swap(false, Ordering::Relaxed)
    }

    /// Whether SIGQUIT came since the last time.
    pub fn quit(&self) -> bool {
        QUIT.swap(false, Ordering::Relaxed)
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    match signal {
        libc::SIGTERM => TERM.store(true, Ordering::Relaxed),
        libc::SIGQUIT => QUIT.store(true, Ordering::Relaxed),
        // SIGCHLD only wakes; the others must not take the supervisor away from its tree.
        _ => {}
    }
    if let Some(wake) = WAKE.get() {
        // A full pipe is fine: the wake-up is already in it.
        let _ = rustix::io::write(wake, b"!");
    }
}

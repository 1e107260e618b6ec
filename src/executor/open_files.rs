//! The limit of open files: raised for the service, and given to its scripts as it was.
//!
//! The usual 1024 is for programs that use `select`, which some scripts still start; a service with thousands of
//! connections needs more. It is a limit of the whole process, so it is kept for the whole process.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the limit was; nothing while it was not raised.
static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the limit as far as that is allowed, and gives what it is now; none: there is no limit. To be called once,
/// before anything is started.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A second time it was raised already.
    let _ = BEFORE.set(current);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

/// What a supervisor is told of the limit that its script is to have.
pub(super) fn argument() -> Option<String> {
    BEFORE.get().map(|before| before.map_or_else(|| "unlimited".to_owned(), |before| before.to_string()))
}

/// Takes the limit that the service had before it raised it, for this process and those that it starts.
pub(super) fn restore(argument: &str) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = argument.parse().ok();
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    Ok(())
}

//! Why a command did not do what it was asked, and the exit code that says so.

use std::io;

/// The answer is no: rejected, still pending, not found, conflict, a ledger that is not sound.
pub(super) const NO: u8 = 1;
/// The command line, the settings or a file named in them can't be used.
pub(super) const USAGE: u8 = 2;
/// The server can't be reached.
pub(super) const UNREACHABLE: u8 = 3;

/// Why a command did not do what it was asked, in one line.
#[derive(Debug)]
pub(super) enum Failure {
    /// The answer is no.
    No(String),
    /// The answer is no, and what there is to say about it has been printed as the command's output.
    Said,
    /// The command line or the settings can't be used.
    Usage(String),
    /// As `Usage`, and printed already.
    UsageSaid,
    /// The server can't be reached, or went away in the middle.
    Unreachable(String),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::No(_) | Self::Said => NO,
            Self::Usage(_) | Self::UsageSaid => USAGE,
            Self::Unreachable(_) => UNREACHABLE,
        }
    }

    /// What is to be said on standard error.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::No(reason) | Self::Usage(reason) | Self::Unreachable(reason) => Some(reason.clone()),
            Self::Said | Self::UsageSaid => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Usage(format!("the output can't be written: {error}"))
    }
}

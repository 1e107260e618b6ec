//! How a run ended: its outcome, its attempts, and what it printed, in numbers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// The state.
    pub outcome: Outcome,
    /// The last attempt's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// In one line: `exit code 3`, `timed out after 5m`, `cancelled: asked by …`.
    pub message: String,
    /// The last line that it printed, masked and cut; what a rejection quotes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_line: String,
    /// The attempts, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What it printed, in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputDigest>,
    /// What it left in its outputs file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
}

impl Ending {
    /// An ending without a process: a wait that is over, a script that never started.
    pub fn plain(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            exit_code: None,
            signal: None,
            message: message.into(),
            last_line: String::new(),
            attempts: Vec::new(),
            output: None,
            outputs: BTreeMap::new(),
        }
    }
}

/// One attempt of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// When its process was started.
    pub started_at: Timestamp,
    /// When the whole process tree was dead.
    pub finished_at: Timestamp,
    /// The exit code, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal, where one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// In one line.
    pub message: String,
}

/// The size and hash of a run's masked output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputDigest {
    /// All bytes that it printed.
    pub bytes: u64,
    /// The bytes that were kept: head and tail. Equal to `bytes` when nothing was cut.
    pub kept: u64,
    /// SHA-256, in hex, of the text that was kept (with the mark where it was cut).
    pub sha256: String,
}

/// The ends of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It ended with a failure, or could not be started.
    Failed,
    /// Its time was up.
    TimedOut,
    /// Somebody stopped it.
    Cancelled,
    /// Stagehook died while it ran: what it did is unknown.
    Interrupted,
}

impl Outcome {
    /// As it is written in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::TimedOut => "TimedOut",
            Self::Cancelled => "Cancelled",
            Self::Interrupted => "Interrupted",
        }
    }
}

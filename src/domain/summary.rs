//! One line about a deployment: what the ledger keeps beside the records for listing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::DeploymentId;
use super::names::{Application, Revision, Source};
use super::record::Reason;

/// A deployment in one line; derived from its records, kept for listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its id.
    pub id: DeploymentId,
    /// What is deployed.
    pub application: Application,
    /// Who tells of it.
    pub source: Source,
    /// What is rolled out, where known.
    pub revision: Option<Revision>,
    /// Where it stands.
    pub state: State,
    /// Why.
    pub reason: Option<Reason>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When its last record was committed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The number of the record that opened it.
    pub opened_seq: u64,
    /// Whether anything may still happen to it by itself: it is not ended, or a script of it
    /// runs. Recovery at start looks at these alone.
    pub live: bool,
}

/// The state of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Its rollout goes on.
    Progressing,
    /// The rollout succeeded.
    Succeeded,
    /// Its rollback is being replayed.
    RollingBack,
    /// What was executed is undone.
    RolledBack,
    /// A rollback script failed.
    RollbackFailed,
    /// Over, without our knowing how.
    Abandoned,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Progressing,
        Self::Succeeded,
        Self::RollingBack,
        Self::RolledBack,
        Self::RollbackFailed,
        Self::Abandoned,
    ];

    /// As it is written in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "Progressing",
            Self::Succeeded => "Succeeded",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::RollbackFailed => "RollbackFailed",
            Self::Abandoned => "Abandoned",
        }
    }
}

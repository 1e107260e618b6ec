//! The lifecycle points of a rollout.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::names::{InvalidName, Shown};

/// A lifecycle point at which a delivery tool calls; the names are Flagger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Before anything is scaled up.
    ConfirmRollout,
    /// Before traffic is routed to the new revision.
    PreRollout,
    /// While the new revision takes traffic, at each step.
    Rollout,
    /// Before each increase of traffic.
    ConfirmTrafficIncrease,
    /// Before the new revision is promoted.
    ConfirmPromotion,
    /// After the rollout has ended.
    PostRollout,
    /// When a rollback is asked for or reported.
    Rollback,
}

impl Hook {
    /// Every hook, in the order of a rollout.
    pub const ALL: [Self; 7] = [
        Self::ConfirmRollout,
        Self::PreRollout,
        Self::Rollout,
        Self::ConfirmTrafficIncrease,
        Self::ConfirmPromotion,
        Self::PostRollout,
        Self::Rollback,
    ];

    /// As it is written in paths and pipeline files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfirmRollout => "confirm-rollout",
            Self::PreRollout => "pre-rollout",
            Self::Rollout => "rollout",
            Self::ConfirmTrafficIncrease => "confirm-traffic-increase",
            Self::ConfirmPromotion => "confirm-promotion",
            Self::PostRollout => "post-rollout",
            Self::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Hook {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|hook| hook.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|hook| hook.as_str()).collect();
            InvalidName::new("hook", format!("{} is none of {}", Shown(text), known.join(", ")))
        })
    }
}

//! Ids of deployments and runs: a prefix and a ULID, so that they sort by time and name their kind.
//!
//! Nothing here reads the clock or rolls dice: a [`Mint`] is handed its time and its randomness.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::names::InvalidName;

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(Ulid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .and_then(|ulid| Ulid::from_string(ulid).ok())
                    .map(Self)
                    .ok_or_else(|| InvalidName::new($what, concat!("it is written ", $prefix, " and 26 letters or digits")))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

prefixed_id!(
    /// The id of one deployment: `dep_…`, sortable by the time it was opened.
    DeploymentId,
    "dep_",
    "deployment id"
);
prefixed_id!(
    /// The id of one run: `run_…`, sortable by the time it started.
    RunId,
    "run_",
    "run id"
);

/// Makes the ids of one decision: the same time, and random bits that count upward.
#[derive(Debug)]
pub struct Mint {
    millis: u64,
    random: u128,
}

impl Mint {
    /// A mint for the instant `now`; only the low 80 bits of `random` are used.
    pub fn new(now: Timestamp, random: u128) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self { millis, random }
    }

    /// A fresh deployment id.
    pub fn deployment(&mut self) -> DeploymentId {
        DeploymentId(self.next())
    }

    /// A fresh run id.
    pub fn run(&mut self) -> RunId {
        RunId(self.next())
    }

    fn next(&mut self) -> Ulid {
        self.random = self.random.wrapping_add(1);
        Ulid::from_parts(self.millis, self.random)
    }
}

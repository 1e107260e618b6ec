//! Lengths of time as people write them: `250ms`, `5m`, `1h30m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::{InvalidName, Shown};

/// A length of time that is written like `250ms`, `5m` or `1h30m`, in files and in answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime writes "1h 30m"; the way back accepts both, people write it without the space.
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

/// More than any length of time takes to be written, in bytes.
const LONGEST: usize = 100;

impl FromStr for Span {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRITTEN: &str = "it is written like 250ms, 5m or 1h30m";
        if text.len() > LONGEST {
            return Err(InvalidName::new("duration", format!("{} is too long; {WRITTEN}", Shown(text))));
        }
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| InvalidName::new("duration", format!("{text:?}: {error}; {WRITTEN}")))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

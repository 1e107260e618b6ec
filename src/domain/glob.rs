//! Globs of names, as selectors, limits of credentials and rules write them: of namespaces, branches, workflows.
//!
//! A name may hold slashes (`octo/app`, `release/1.2`), so `*` goes over them. What commands are compared with is no
//! glob: see `allow`.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

/// A glob, ready to be matched with.
#[derive(Clone)]
pub struct Glob(GlobMatcher);

impl Glob {
    /// Reads a glob; the error says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        let glob = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
        Ok(Self(glob.map_err(|error| error.kind().to_string())?.compile_matcher()))
    }

    /// Whether it matches all of a text.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.glob().glob()
    }

    /// The regular expression that it matches with.
    pub fn regex(&self) -> &str {
        self.0.glob().regex()
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Glob {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_goes_over_slashes_and_a_backslash_takes_its_meaning() {
        let release = Glob::new("release/*").unwrap();
        assert!(release.matches("release/1.2/hotfix") && !release.matches("main"));
        assert!(Glob::new(r"a\*").unwrap().matches("a*") && !Glob::new(r"a\*").unwrap().matches("ab"));
        assert!(Glob::new("[").is_err() && Glob::new("").is_err());
        assert_eq!(format!("{release:?}"), "\"release/*\"");
    }
}

//! GitHub's environments as namespaces, and the rules by which a pipeline makes calls of pushes, releases and workflow
//! runs. Pure data: where the rules are written is `config`'s business, what a payload says is `source`'s.

use super::glob::Glob;
use super::hook::Hook;
use super::names::{InvalidName, Namespace};

/// The namespace of an environment. An environment may have any characters; those that no namespace may have, and `%`,
/// are written as the `%XX` of their bytes, so that two environments never share a namespace: `eu/west 1` is
/// `eu%2Fwest%201`.
pub fn namespace(environment: &str) -> Result<Namespace, InvalidName> {
    if environment.is_empty() {
        return Err(InvalidName::new("environment", "it is empty"));
    }
    let mut escaped = String::with_capacity(environment.len());
    for c in environment.chars() {
        if matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        } else {
            escaped.push(c);
        }
    }
    Namespace::new(escaped).map_err(|error| InvalidName::new("environment", error.why))
}

/// The environment of a namespace that [`namespace`] made.
pub fn environment(namespace: &Namespace) -> String {
    let (mut bytes, mut rest) = (Vec::new(), namespace.as_str().as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The rules of one pipeline: `spec.sources.github`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For `push`.
    pub push: Vec<Rule<Pushes>>,
    /// For `release`.
    pub release: Vec<Rule<Releases>>,
    /// For `workflow_run`.
    pub workflow_run: Vec<Rule<WorkflowRuns>>,
}

impl Rules {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.push.is_empty() && self.release.is_empty() && self.workflow_run.is_empty()
    }
}

/// Which events are meant, and what they are then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<T> {
    /// What they are.
    pub target: Target,
    /// Which are meant.
    pub when: T,
}

/// What an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The hook.
    pub hook: Hook,
    /// The environment, as a namespace.
    pub environment: Namespace,
}

/// Some pushes. Without branches and tags: those to any branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushes {
    /// Branches, by globs.
    pub branch: Globs,
    /// Tags, by globs.
    pub tag: Globs,
}

/// Some releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Releases {
    /// What happened to the release: `published`, …
    pub actions: Vec<String>,
    /// The tag, by globs; any where there are none.
    pub tag: Globs,
    /// Prereleases only, or none of them.
    pub prerelease: Option<bool>,
}

/// Some workflow runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowRuns {
    /// What happened to the run: `completed`, …
    pub actions: Vec<String>,
    /// The workflow's name, path, or file name, by globs; any where there are none.
    pub workflow: Globs,
    /// The branch, by globs; any where there are none.
    pub branch: Globs,
    /// What the run was triggered by (`push`, …), by globs; anything where there are none.
    pub event: Globs,
    /// How a completed run ended; anyhow where there are none.
    pub conclusions: Vec<String>,
}

/// Globs of which one must match. `*` goes over slashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs(Vec<Glob>);

impl Globs {
    /// Some globs.
    pub fn new(globs: Vec<Glob>) -> Self {
        Self(globs)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(text))
    }

    /// Whether one matches, or there is none.
    pub fn allow(&self, text: &str) -> bool {
        self.is_empty() || self.matches(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_environment_keeps_what_a_namespace_may_have() {
        for (environment, wanted) in [
            ("production", "production"),
            ("Production", "Production"),
            ("eu/west 1", "eu%2Fwest%201"),
            ("a:b", "a%3Ab"),
            ("100%", "100%25"),
            ("a%2Fb", "a%252Fb"),
            ("vor\u{a0}schau", "vor%C2%A0schau"),
            ("zürich", "zürich"),
            ("tab\there", "tab%09here"),
        ] {
            let namespace = namespace(environment).unwrap();
            assert_eq!(namespace.as_str(), wanted);
            assert_eq!(super::environment(&namespace), environment);
        }
        assert_eq!(namespace("").unwrap_err().to_string(), "the environment is not valid: it is empty");
        let long = namespace(&" ".repeat(100)).unwrap_err().to_string();
        assert!(long.contains("the environment is not valid: it is 300 bytes long"), "{long}");
    }

    proptest! {
        #[test]
        fn no_two_environments_share_a_namespace(a in "[a/:% \t2F]{1,6}", b in "[a/:% \t2F]{1,6}") {
            prop_assert_eq!(a == b, namespace(&a).unwrap() == namespace(&b).unwrap());
        }
    }

    #[test]
    fn globs_go_over_slashes() {
        let globs = Globs::new(vec![Glob::new("main").unwrap(), Glob::new("release/*").unwrap()]);
        assert!(globs.matches("main") && globs.matches("release/1.0/rc"));
        assert!(!globs.matches("maintenance") && !globs.allow("feature"));
        assert!(Globs::default().allow("anything") && !Globs::default().matches("anything"));
    }
}

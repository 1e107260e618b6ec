//! The names that callers give things: validated once, here, so that no control character, NUL or
//! kilobyte of text travels further in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest namespace, name, cluster or revision, in bytes. Kubernetes allows 253.
pub const MAX_NAME: usize = 253;

/// Why a text is not the name it should be. Reads as "the namespace is empty".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} is not valid: {why}")]
pub struct InvalidName {
    /// What it should have been: `namespace`, `name`, `revision`, …
    pub what: &'static str,
    /// What is wrong with it, in words.
    pub why: String,
}

impl InvalidName {
    /// An error about `what`.
    pub fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

fn check(what: &'static str, text: &str, forbidden: &[char]) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::new(what, "it is empty"));
    }
    if text.len() > MAX_NAME {
        return Err(InvalidName::new(
            what,
            format!("it is {} bytes long, and at most {MAX_NAME} are allowed", text.len()),
        ));
    }
    if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(InvalidName::new(
            what,
            format!("it has the control character U+{:04X} at byte {at}", u32::from(c)),
        ));
    }
    if let Some(c) = text.chars().find(|c| c.is_whitespace() || forbidden.contains(c)) {
        return Err(InvalidName::new(what, format!("it has the character {c:?}, which is not allowed there")));
    }
    Ok(())
}

/// The longest piece of somebody's text that a message repeats, in characters.
const SHOWN: usize = 100;

/// Somebody's text in a message: quoted, and cut. (A precision, as in `{:.100}`, cuts what is displayed, and nothing
/// that is quoted.)
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $forbidden:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps `text`.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                check($what, &text, $forbidden)?;
                Ok(Self(text))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }
    };
}

name_type!(
    /// A cluster, where a caller names one.
    Cluster,
    "cluster",
    &['/', ':']
);
name_type!(
    /// The namespace of an application.
    Namespace,
    "namespace",
    &['/', ':']
);
name_type!(
    /// The name of an application; it may hold slashes (GitHub's `octo/app`).
    Name,
    "name",
    &[':']
);
name_type!(
    /// What a source says is being rolled out: Flagger's checksum, a commit, a chart version.
    Revision,
    "revision",
    &[]
);
name_type!(
    /// The caller's own id of one rollout: GitHub's deployment, Argo CD's operation.
    RolloutId,
    "rollout id",
    &[]
);
name_type!(
    /// The id of a stage in its pipeline.
    StageId,
    "stage id",
    &['/', ':', ',']
);

/// What is being deployed: `namespace/name`, or `cluster:namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Application {
    /// The cluster, where a credential, the query or the metadata names one.
    pub cluster: Option<Cluster>,
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: Name,
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cluster) = &self.cluster {
            write!(f, "{cluster}:")?;
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Application {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (cluster, rest) = match text.split_once(':') {
            Some((cluster, rest)) => (Some(Cluster::new(cluster)?), rest),
            None => (None, text),
        };
        let (namespace, name) = rest
            .split_once('/')
            .ok_or_else(|| InvalidName::new("application", "it is written namespace/name or cluster:namespace/name"))?;
        Ok(Self { cluster, namespace: Namespace::new(namespace)?, name: Name::new(name)? })
    }
}

impl From<Application> for String {
    fn from(application: Application) -> Self {
        application.to_string()
    }
}

impl TryFrom<String> for Application {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Who tells of a deployment: one adapter for one kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Flagger's canary webhooks.
    Flagger,
    /// Any caller that can POST a small JSON document.
    Generic,
    /// GitHub's webhooks.
    Github,
    /// Argo CD's hook Jobs and notifications.
    Argocd,
    /// Argo Rollouts' web metrics and notifications.
    ArgoRollouts,
    /// Flux's notification controller.
    Flux,
    /// Callers of Flagger's load tester, which is stood in for.
    Loadtester,
}

impl Source {
    /// Every source there is.
    pub const ALL: [Self; 7] =
        [Self::Flagger, Self::Generic, Self::Github, Self::Argocd, Self::ArgoRollouts, Self::Flux, Self::Loadtester];

    /// As it is written in paths, settings and the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flagger => "flagger",
            Self::Generic => "generic",
            Self::Github => "github",
            Self::Argocd => "argocd",
            Self::ArgoRollouts => "argo-rollouts",
            Self::Flux => "flux",
            Self::Loadtester => "loadtester",
        }
    }

    /// Whether it is closed, on loopback too, until a secret is configured: its calls come from the internet, and it
    /// can sign each of them.
    pub const fn is_never_open(self) -> bool {
        matches!(self, Self::Github)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Source {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|source| source.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            InvalidName::new("source", format!("{} is none of {known}", Shown(text)))
        })
    }
}

/// The ledger's unit of order: one source's word about one application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// Who tells.
    pub source: Source,
    /// About what.
    pub application: Application,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.application)
    }
}

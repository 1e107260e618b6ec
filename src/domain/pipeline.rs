//! A pipeline as the core sees it: checked, complete, every default resolved.
//!
//! This is what a deployment pins. It serialises to JSON, and the SHA-256 of that JSON is its
//! [`PipelineHash`]; secrets are in it as references only. Reading files is `config`'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hook::Hook;
use super::names::{InvalidName, StageId};
use super::span::Span;

/// An ordered list of stages, with the policies of its rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// `metadata.name`, or `spec.name` in a PipeCD file.
    pub name: String,
    /// The file that it came from, for messages; it may be gone by the time it runs.
    pub file: String,
    /// The working directory of its scripts: the absolute folder of the file.
    pub directory: String,
    /// What scripts see as `SR_LABELS_X`.
    pub labels: BTreeMap<String, String>,
    /// How a rollback replays.
    pub rollback: RollbackPolicy,
    /// What becomes of a deployment that is proven superseded.
    pub on_supersede: OnSupersede,
    /// Whether a failed stage asks for the rollback by itself.
    pub on_failure: OnFailure,
    /// The stages, in order. Their ids are unique.
    pub stages: Vec<Stage>,
}

impl Pipeline {
    /// The stage with this id.
    pub fn stage(&self, id: &StageId) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.id == *id)
    }

    /// The index of the stage with this id.
    pub fn position(&self, id: &StageId) -> Option<usize> {
        self.stages.iter().position(|stage| stage.id == *id)
    }

    /// The stages that run on a hook, with their index, in pipeline order.
    pub fn on_hook(&self, hook: Hook) -> impl Iterator<Item = (usize, &Stage)> {
        self.stages.iter().enumerate().filter(move |(_, stage)| stage.hook() == Some(hook))
    }

    /// The JSON that is pinned, and its hash.
    pub fn pinned(&self) -> (PipelineHash, String) {
        // A struct of strings, numbers and maps with string keys has no way to fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        (PipelineHash::of(&json), json)
    }
}

/// The SHA-256 of a pinned pipeline's JSON, in hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PipelineHash([u8; 32]);

impl PipelineHash {
    /// The hash of a pinned pipeline's JSON.
    pub fn of(json: &str) -> Self {
        Self(Sha256::digest(json.as_bytes()).into())
    }
}

impl fmt::Display for PipelineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PipelineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PipelineHash {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map(|()| Self(bytes))
            .map_err(|_| InvalidName::new("pipeline hash", "it is written as 64 hex digits"))
    }
}

impl From<PipelineHash> for String {
    fn from(hash: PipelineHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for PipelineHash {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// One step of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Unique in the pipeline.
    pub id: StageId,
    /// What it does.
    pub work: Work,
}

impl Stage {
    /// The hook that it runs on; none for a stage that the delivery tool acts out.
    pub fn hook(&self) -> Option<Hook> {
        match &self.work {
            Work::Script { hook, .. } | Work::Wait { hook, .. } => Some(*hook),
            Work::External { .. } => None,
        }
    }

    /// The stage's type as it is written in a pipeline: SCRIPT_RUN, WAIT, K8S_CANARY_ROLLOUT, …
    pub fn type_name(&self) -> &str {
        match &self.work {
            Work::Script { .. } => "SCRIPT_RUN",
            Work::Wait { .. } => "WAIT",
            Work::External { name } => name,
        }
    }

    /// Whether a further call runs it again. A stage of the delivery tool never runs here.
    pub fn repeat(&self) -> Repeat {
        match &self.work {
            Work::Script { script, .. } => script.repeat,
            Work::Wait { repeat, .. } => *repeat,
            Work::External { .. } => Repeat::Once,
        }
    }

    /// The script, where it is one.
    pub fn script(&self) -> Option<&Script> {
        match &self.work {
            Work::Script { script, .. } => Some(script),
            Work::Wait { .. } | Work::External { .. } => None,
        }
    }
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Work {
    /// SCRIPT_RUN.
    Script {
        /// When.
        hook: Hook,
        /// What.
        script: Script,
    },
    /// WAIT: holds the hook for a time that is counted from its start record.
    Wait {
        /// When.
        hook: Hook,
        /// How long.
        duration: Span,
        /// Whether a further call waits again.
        repeat: Repeat,
    },
    /// A stage of a PipeCD file that marks where the delivery tool acts; nothing runs here.
    External {
        /// The stage's type.
        name: String,
    },
}

/// A SCRIPT_RUN stage's `with`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Script {
    /// The program and its leading arguments; the script's text is the last one.
    pub shell: Vec<String>,
    /// What runs forward: in order, stopping at the first that fails.
    pub run: Vec<String>,
    /// What undoes it; empty when nothing does.
    pub on_rollback: Vec<String>,
    /// The stage's own environment; it wins over every other.
    pub env: BTreeMap<String, EnvValue>,
    /// For all attempts together.
    pub timeout: Span,
    /// How many further attempts one run has.
    pub retries: u32,
    /// Whether a further call runs it again.
    pub repeat: Repeat,
    /// What becomes of it when Stagehook died while it ran.
    pub on_interrupt: OnInterrupt,
}

/// A value of a script's environment. A secret is only ever its reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// The text itself.
    Plain(String),
    /// The content of a file, read when the script starts, masked wherever it shows.
    FromFile(String),
    /// A variable of the service's own environment, read when the script starts, masked likewise.
    FromEnv(String),
}

/// Whether a further call runs a stage again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repeat {
    /// A success is kept for ever; Failed and TimedOut run again.
    #[default]
    RetryFailed,
    /// Any result is kept.
    Once,
    /// It runs on each call.
    Always,
}

/// What a call does about a stage whose run was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnInterrupt {
    /// Run it again, once the old process is proven dead.
    #[default]
    Rerun,
    /// Reject until a person decides (`stagehook release`).
    Hold,
}

/// What becomes of a deployment whose revision is proven superseded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSupersede {
    /// Replay its rollback.
    #[default]
    Rollback,
    /// Leave it as it is.
    Keep,
}

/// What a failed stage does about its deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The caller decides.
    #[default]
    Wait,
    /// It requests the rollback itself.
    Rollback,
}

/// How a rollback replays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackPolicy {
    /// In which order.
    pub order: RollbackOrder,
    /// Whether one that fails stops the rest.
    pub on_failure: RollbackOnFailure,
}

/// The order of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackOrder {
    /// As the stages stand in the pipeline.
    #[default]
    Pipeline,
    /// Last first. Stages with `hook: rollback` still come after, in pipeline order.
    Reverse,
}

/// What a failed rollback script does to the rest of the replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackOnFailure {
    /// The others still run.
    #[default]
    Continue,
    /// The others are left out.
    Stop,
}

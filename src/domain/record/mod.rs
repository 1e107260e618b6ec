//! What the ledger holds: facts about deployments, in the order in which they were committed.
//!
//! A record is never changed. State is a fold over records (`state`), so a new kind of fact is a
//! new [`Event`]; an old one keeps its shape for ever. How a run ended is in `ending`.

mod ending;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::call::Verdict;
use super::hook::Hook;
use super::ids::{DeploymentId, RunId};
use super::loadtester::{Gate, Gates};
use super::names::{Revision, RolloutId, StageId};
use super::pipeline::PipelineHash;

pub use ending::{Attempt, Ending, Outcome, OutputDigest};

/// One fact of a stream, numbered by the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in the stream: 1, 2, 3, … without a gap.
    pub seq: u64,
    /// The rest.
    #[serde(flatten)]
    pub fact: Fact,
}

/// A fact before the ledger has numbered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// When it was decided.
    pub at: Timestamp,
    /// Who caused it.
    pub by: Actor,
    /// The deployment that it is about; none for a fact about the stream as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// What happened.
    pub event: Event,
}

/// Who did it: a caller, a named token, a person, or Stagehook itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(pub String);

impl Actor {
    /// Stagehook itself: a timer, a recovery, a script's end.
    pub fn stagehook() -> Self {
        Self("stagehook".to_owned())
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// A deployment begins; the pipeline is pinned.
    Opened {
        /// The hook whose call opened it.
        hook: Hook,
        /// What is rolled out, where the caller said so.
        revision: Option<Revision>,
        /// The caller's own id of this rollout, where it said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<RolloutId>,
        /// The checksum that Flagger's confirm-rollout carried: that of the revision before.
        under: Option<Revision>,
        /// What its phase said, where it was Flagger's confirm-rollout that opened it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opening: Option<Before>,
        /// The pipeline, by its content.
        pipeline: PipelineHash,
        /// What scripts see of who and why.
        about: About,
        /// Whether this stream's caller has ever asked the rollback question; carried along so
        /// that a fold may begin at any deployment.
        question_asked: bool,
        /// Which of the load tester's gates are open; carried along likewise.
        #[serde(default, skip_serializing_if = "Gates::are_closed")]
        gates: Gates,
    },
    /// A person, or whoever may, opened or closed one of the load tester's gates.
    GateSet {
        /// Which.
        gate: Gate,
        /// Whether it is open now.
        open: bool,
        /// How both are now: so nothing before this needs to be read.
        gates: Gates,
    },
    /// The deployment learned which revision it rolls out.
    RevisionAdopted {
        /// That revision.
        revision: Revision,
    },
    /// The deployment learned by which id its caller knows it.
    RolloutNamed {
        /// That id.
        rollout: RolloutId,
    },
    /// A call that named itself was answered for this deployment.
    KeySeen {
        /// Its hook.
        hook: Hook,
        /// Its name.
        key: CallKey,
    },
    /// A call wants its outcome told elsewhere, too.
    ReportWanted {
        /// Which report of this deployment: 1, 2, …
        report: u32,
        /// The call's hook.
        hook: Hook,
        /// Where to.
        to: ReportTo,
        /// What is told of: the replay, else the stages of the hook.
        replay: bool,
        /// What is to be told, where it was known at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        known: Option<Finding>,
    },
    /// That was done, or is given up.
    ReportSent {
        /// Which report.
        report: u32,
        /// Why it was given up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// A call that set the stages of a hook going: the beginning of a pass over them.
    Called {
        /// Which hook.
        hook: Hook,
        /// The pass's number in this deployment and hook: 1, 2, …
        pass: u32,
        /// The call's payload.
        payload: Payload,
        /// What the call says of who and why: it fills what no call before has said.
        #[serde(default, skip_serializing_if = "About::is_empty")]
        about: About,
        /// Whether nobody waits for its verdict and nobody will ask again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unattended: bool,
    },
    /// A call for whose verdict nobody waits joined a pass: it is to be taken up by itself from then on.
    Unattended {
        /// The hook of the pass.
        hook: Hook,
    },
    /// A run begins. Durable before its process exists.
    StageStarted {
        /// The run.
        run: RunId,
        /// Its stage.
        stage: StageId,
        /// What it runs for.
        purpose: Purpose,
        /// For WAIT: when it is over.
        until: Option<Timestamp>,
        /// Who alone can say how it ended.
        owner: Owner,
    },
    /// Somebody wants a run ended; the kill comes after this record.
    StopRequested {
        /// The run.
        run: RunId,
        /// Why, in words.
        why: String,
    },
    /// A run is over: its whole process tree is dead. Durable before any answer that reports it.
    StageFinished {
        /// The run.
        run: RunId,
        /// How it ended.
        ending: Ending,
        /// Whether a call was waiting for it, so that the result counts as delivered.
        awaited: bool,
    },
    /// A result that nobody had waited for was given to a later call.
    Delivered {
        /// The hook; `rollback` for the result of a replay.
        hook: Hook,
    },
    /// A result that counted as delivered was not: the caller hung up as it was committed.
    Undelivered {
        /// The hook; `rollback` for the result of a replay.
        hook: Hook,
    },
    /// The source said that the rollout succeeded.
    RolloutSucceeded,
    /// The source's own end of a deployment that Stagehook had ended by itself was seen.
    CallerEndSeen,
    /// A person lets a held or ended deployment go on.
    Released,
    /// Flagger asked its rollback question for the first time in this stream.
    QuestionAsked,
    /// Flagger's event `New revision detected! Scaling up` was seen: another rollout began, and how
    /// this one ended was not told.
    StartNoted,
    /// Flagger's event `New revision detected! Restarting analysis` was seen.
    RestartNoted,
    /// After that a call named this deployment's revision: it came back, and was not given up.
    RestartOver,
    /// A rollback was requested, and will be signalled to the caller first.
    RollbackRequested {
        /// Why.
        reason: Reason,
    },
    /// The first time that the caller was told yes.
    RollbackSignalled,
    /// The replay begins, once every forward script is dead.
    RollbackStarted {
        /// Which replay of this deployment: 1, 2, …
        replay: u32,
        /// Why.
        reason: Reason,
        /// Whether Stagehook decided it, so that further forward calls are rejected until the
        /// caller's own end is seen.
        own: bool,
        /// The payload of the call that reported the failure, where it was a call.
        payload: Option<Payload>,
    },
    /// The deployment is over (again, where a replay or a later post-rollout changed its end).
    Ended {
        /// How.
        state: EndState,
        /// Why.
        reason: Option<Reason>,
        /// The stages that never ran, each with the reason.
        skipped: Vec<Skipped>,
    },
    /// Something that a caller told which changes nothing: a Flagger event, a repeated failure.
    Noted {
        /// In one line.
        message: String,
    },
}

/// The name that a caller gives one call, so that its repetition can be told from another call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallKey {
    /// The name: an `Idempotency-Key`, a delivery's id.
    pub id: String,
    /// When it was signed, in seconds since 1970, where the signature says so. A caller that tries again signs
    /// again: the very same call, after it was answered, is a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<i64>,
}

/// What else than its own id a deployment is known by: callers name it so, however long ago it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alias {
    /// The caller's id of the rollout. The newest deployment that has it is meant.
    Rollout(RolloutId),
    /// The name of a call of this hook that was answered for it.
    Key(Hook, String),
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No hook is called so, and one is called «rollout».
            Self::Rollout(id) => write!(f, "id:{id}"),
            Self::Key(hook, key) => write!(f, "{hook}:{key}"),
        }
    }
}

impl Event {
    /// By what its deployment is known from then on.
    pub fn alias(&self) -> Option<Alias> {
        match self {
            Self::Opened { rollout, .. } => rollout.clone().map(Alias::Rollout),
            Self::RolloutNamed { rollout } => Some(Alias::Rollout(rollout.clone())),
            Self::KeySeen { hook, key } => Some(Alias::Key(*hook, key.id.clone())),
            _ => None,
        }
    }
}

/// Where a caller wants the outcome of its call told. Only the adapter of its source understands it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReportTo(pub serde_json::Value);

/// What is told in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// In one line.
    pub message: String,
}

/// What Flagger's phase in a confirm-rollout says of the rollout before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Before {
    /// Failed.
    Failed,
    /// Succeeded or Initialized.
    Succeeded,
    /// Waiting: it succeeded if the checksum equals its revision, else it failed.
    ByChecksum,
}

/// What scripts see of who started a deployment, and why; empty where the caller did not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct About {
    /// SR_TRIGGERED_COMMIT_HASH.
    pub commit_hash: String,
    /// SR_TRIGGERED_COMMANDER.
    pub commander: String,
    /// SR_REPOSITORY_URL.
    pub repository_url: String,
    /// SR_SUMMARY.
    pub summary: String,
}

impl About {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes from another what is not said here.
    pub fn fill(&mut self, other: &Self) {
        for (own, told) in [
            (&mut self.commit_hash, &other.commit_hash),
            (&mut self.commander, &other.commander),
            (&mut self.repository_url, &other.repository_url),
            (&mut self.summary, &other.summary),
        ] {
            if own.is_empty() {
                own.clone_from(told);
            }
        }
    }
}

/// A call's body, as scripts see it in their event file, and its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The body as JSON.
    pub body: serde_json::Value,
    /// `metadata` of the body, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Purpose {
    /// A stage of a hook, in one pass over its stages.
    Forward {
        /// The hook.
        hook: Hook,
        /// The pass.
        pass: u32,
    },
    /// A step of a replay: an executed stage's `onRollback`, or a stage with `hook: rollback`.
    Rollback {
        /// The replay.
        replay: u32,
    },
}

/// The process that runs a script: only it can say how the run ended, or whoever took over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The machine.
    pub instance: String,
    /// One start of the service on it.
    pub boot: String,
}

/// The ends of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndState {
    /// The rollout succeeded.
    Succeeded,
    /// What was executed is undone.
    RolledBack,
    /// A rollback script failed.
    RollbackFailed,
    /// Over, without our knowing how; nothing was replayed.
    Abandoned,
}

impl EndState {
    /// As it is written in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::RolledBack => "RolledBack",
            Self::RollbackFailed => "RollbackFailed",
            Self::Abandoned => "Abandoned",
        }
    }
}

/// Why a deployment is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The source reported the failure.
    Failed,
    /// A later call of the source shows that its failure report was lost.
    FailureMissed,
    /// A later call of the source shows that its success report was lost.
    SuccessMissed,
    /// Another revision took its place.
    Superseded,
    /// A person requested the rollback.
    Requested,
    /// A stage failed in a pipeline with `onFailure: rollback`.
    StageFailed,
    /// A person cancelled it.
    Cancelled,
    /// A stage after the rollout failed.
    PostRolloutFailed,
    /// A person closed it.
    Closed,
    /// Stagehook died while its command ran.
    Interrupted,
}

impl Reason {
    /// As it is written in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "Failed",
            Self::FailureMissed => "FailureMissed",
            Self::SuccessMissed => "SuccessMissed",
            Self::Superseded => "Superseded",
            Self::Requested => "Requested",
            Self::StageFailed => "StageFailed",
            Self::Cancelled => "Cancelled",
            Self::PostRolloutFailed => "PostRolloutFailed",
            Self::Closed => "Closed",
            Self::Interrupted => "Interrupted",
        }
    }
}

/// A stage that never ran in a deployment that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The stage.
    pub stage: StageId,
    /// Why, in one line.
    pub reason: String,
}

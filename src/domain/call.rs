//! What comes in and what goes out of a decision: commands, actions, replies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hook::Hook;
use super::ids::{DeploymentId, RunId};
use super::loadtester::{Gate, Task};
use super::names::{Revision, RolloutId, Source, StageId};
use super::record::{About, Ending, Payload};

pub use super::record::{Alias, Before, CallKey, ReportTo};

/// One authenticated call of a source, in the core's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The hook of the path.
    pub hook: Hook,
    /// What the call means.
    pub says: Says,
    /// The body, as scripts see it.
    pub payload: Payload,
    /// Who and why, where the body says so.
    pub about: About,
    /// Who calls. A generic rollback may be decided in the stream of another source.
    pub source: Source,
    /// The caller's own id of the rollout: it says which deployment is meant before any revision does.
    pub rollout: Option<RolloutId>,
    /// The name of this very call: repeated, it is answered from the ledger and runs nothing.
    pub key: Option<CallKey>,
    /// Where the outcome is to be told once it is known, beside the answer.
    pub report: Option<ReportTo>,
    /// Nobody holds the connection until the verdict, and nobody asks again: never refused for load, and
    /// taken up again at the next start.
    pub unattended: bool,
}

impl Call {
    /// A plain call: it names no rollout and no key, its caller waits for the verdict and asks again.
    pub const fn new(source: Source, hook: Hook, says: Says, payload: Payload, about: About) -> Self {
        Self { hook, says, payload, about, source, rollout: None, key: None, report: None, unattended: false }
    }

    /// By what it names a deployment, or its own repetition.
    pub fn aliases(&self) -> impl Iterator<Item = Alias> {
        let key = self.key.iter().map(|key| Alias::Key(self.hook, key.id.clone()));
        key.chain(self.rollout.iter().cloned().map(Alias::Rollout))
    }
}

/// What a call means. Each source's adapter translates its dialect into one of these.
#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    /// Flagger's confirm-rollout: the next rollout asks to begin.
    Opening {
        /// The checksum that it carries: that of the revision before, after a failure already the new one.
        under: Option<Revision>,
        /// What its phase says of the rollout before.
        before: Before,
    },
    /// A gate of the rollout in progress.
    Forward {
        /// What is rolled out; without it the open deployment is meant.
        revision: Option<Revision>,
    },
    /// The rollout succeeded.
    Succeeded {
        /// What was rolled out.
        revision: Option<Revision>,
    },
    /// The caller found once more that what it rolled out is in place. Told again and again: of a rollout
    /// that has ended it is only noted.
    Reconciled {
        /// What is rolled out.
        revision: Option<Revision>,
    },
    /// The caller went back to an earlier revision: the newest rollout that is not of it is undone.
    Reverted {
        /// What it went back to.
        to: Option<Revision>,
    },
    /// The rollout failed.
    Failed {
        /// What was rolled out.
        revision: Option<Revision>,
    },
    /// Undo a deployment, whatever became of it; without either, the newest.
    Undo {
        /// By its id.
        deployment: Option<DeploymentId>,
        /// By its revision.
        revision: Option<Revision>,
    },
    /// Flagger's rollback webhook: shall it roll back?
    Question {
        /// The revision in question.
        revision: Option<Revision>,
    },
    /// Flagger's event webhook.
    Event {
        /// In one line.
        message: String,
        /// What it means.
        tells: Tells,
    },
    /// One of the load tester's gates: is it open? Or it is to be set.
    LoadGate {
        /// Which.
        gate: Gate,
        /// Open or closed from now on; none to ask.
        set: Option<bool>,
    },
    /// A command that the call itself brings, for the load tester.
    Task(Task),
}

impl Says {
    /// What a call of a hook means where its caller tells by the hook alone how the rollout goes on, and how it ended.
    pub fn of(hook: Hook, revision: Option<Revision>) -> Self {
        match hook {
            Hook::Rollback => Self::Failed { revision },
            Hook::PostRollout => Self::Succeeded { revision },
            Hook::ConfirmRollout
            | Hook::PreRollout
            | Hook::Rollout
            | Hook::ConfirmTrafficIncrease
            | Hook::ConfirmPromotion => Self::Forward { revision },
        }
    }
}

/// What an event means for the open deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// A rollout begins: whatever was going on before is over.
    Start,
    /// The analysis begins again for another revision: the one in progress is given up.
    Restart,
    /// It failed, if this rollout is the one in progress; of one that is over it is nothing.
    Failure,
    /// Nothing that matters here.
    Other,
}

/// Something to decide about one stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A source called.
    Call(Call),
    /// A person asks.
    Operate {
        /// About this deployment.
        deployment: DeploymentId,
        /// For this.
        operation: Operation,
    },
    /// A slot is there for the next stage of a pass.
    Granted {
        /// The deployment.
        deployment: DeploymentId,
        /// The hook whose pass waits.
        hook: Hook,
    },
    /// A slot is there for the next step of a replay.
    GrantedReplay {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// A run's process tree is proven dead, or its wait is over.
    Finished {
        /// The run.
        run: RunId,
        /// How it ended.
        ending: Ending,
        /// The keys that calls wait on right now.
        waited: Vec<WaitKey>,
    },
    /// The outcome of a call was told where the caller wanted it, or never can be.
    Reported {
        /// The deployment.
        deployment: DeploymentId,
        /// Which of its reports.
        report: u32,
        /// Why it can't be told, where it can't.
        problem: Option<String>,
    },
    /// Every call that waited for a result hung up while it was committed as delivered.
    Unheard {
        /// What they had waited for.
        key: WaitKey,
    },
    /// The time between the first yes and the replay is over.
    SignalTimedOut {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// Go on with what may go on: after a start, or when something that blocked is over.
    Resume {
        /// Whether this is the start of the service: then only what no call will ask for again is resumed.
        at_start: bool,
    },
}

/// What a person can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Roll back.
    Rollback {
        /// Replay at once, without telling the caller first.
        now: bool,
    },
    /// Stop its scripts, then roll back at once.
    Cancel,
    /// End it as Abandoned; nothing is replayed.
    Close,
    /// Let a held stage, or an undone revision, go on.
    Release,
    /// Stop one script.
    CancelRun(RunId),
}

/// What the engine does after the facts are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a script; the slot that the decision was given goes with it.
    Start(RunId),
    /// Kill a script's whole tree.
    Stop {
        /// The run.
        run: RunId,
        /// Why, for its record.
        why: String,
    },
    /// Finish a WAIT when its time has come.
    ArmWait {
        /// The run.
        run: RunId,
        /// When.
        until: Timestamp,
    },
    /// Send `SignalTimedOut` then.
    ArmSignal {
        /// The deployment.
        deployment: DeploymentId,
        /// When.
        at: Timestamp,
    },
    /// Get a slot for a pass, then send `Granted`.
    Queue {
        /// The deployment.
        deployment: DeploymentId,
        /// The hook.
        hook: Hook,
    },
    /// Get a slot for a replay, before any forward script, then send `GrantedReplay`.
    QueueReplay {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// Something that blocked forward stages of this application is over: send `Resume` to its streams.
    Unblocked,
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitKey {
    /// The verdict of the current pass of a hook.
    Hook(DeploymentId, Hook),
    /// The end of a replay.
    Replay(DeploymentId),
}

/// What a decision says to whoever asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nobody asked: a timer, a script's end.
    Nothing,
    /// The answer.
    Answer(Answer),
    /// The answer comes when this is over.
    Wait(WaitKey),
    /// A person's request is taken on.
    Accepted {
        /// In one line.
        message: String,
    },
    /// There is no such thing: no pipeline and no open deployment, no such deployment.
    Unknown {
        /// In one line, with what to do.
        message: String,
    },
    /// It can't be done in this state.
    Conflict {
        /// In one line, with what to do.
        message: String,
    },
    /// The queue is full; nothing was started.
    Busy {
        /// In one line.
        message: String,
    },
}

/// The verdict on one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Go on.
    Approved,
    /// Stop.
    Rejected,
    /// Not known yet.
    Pending,
}

impl Verdict {
    /// As it is written in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Pending => "pending",
        }
    }
}

/// What kind of question an answer answers: sources render the kinds differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A gate.
    Gate,
    /// A failure report or a request to undo: approved is «undone», pending «still going on».
    Replay,
    /// Flagger's question: approved is «yes, roll back».
    Question,
    /// An event, or anything else that is only noted.
    Note,
}

/// The answer to one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// What it is about.
    pub subject: Subject,
    /// The hook.
    pub hook: Hook,
    /// The deployment, where there is one.
    pub deployment: Option<DeploymentId>,
    /// In one line: what a person reads.
    pub message: String,
    /// The hook's stages, or the replay's steps.
    pub stages: Vec<StageReport>,
}

/// Where one stage of an answer stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReport {
    /// The stage.
    pub id: StageId,
    /// Its type.
    pub name: String,
    /// `Running`, `Succeeded`, …; null when it has not run.
    pub state: Option<String>,
    /// Its newest run.
    pub run: Option<RunId>,
    /// The exit code, where it has one.
    pub exit_code: Option<i32>,
    /// How long it took, in milliseconds, once it is over.
    pub duration_ms: Option<i64>,
}

//! The state of a stream: a fold over its records, and nothing else.
//!
//! Here stands what *is*; what shall be is `decide`'s business.

use std::sync::Arc;

use jiff::Timestamp;

use super::hook::Hook;
use super::ids::{DeploymentId, RunId};
use super::loadtester::Gates;
use super::names::{Revision, RolloutId, Source, StageId, StreamId};
use super::pass::{Next, Pass, PassEnd};
use super::pipeline::{Pipeline, PipelineHash};
use super::record::{
    About, Actor, Alias, Before, CallKey, EndState, Ending, Event, Fact, Outcome, Owner, Payload, Purpose, Reason,
    Record, Skipped,
};
use super::report::Report;
use super::summary::{State, Summary};

/// One source's word about one application, as far back as it matters.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Which stream.
    pub id: StreamId,
    /// The number of the last record; 0 when there is none.
    pub head: u64,
    /// Whether its caller has ever asked the rollback question.
    pub question_asked: bool,
    /// Which of the load tester's gates are open.
    pub gates: Gates,
    /// The number of the record that says so.
    gates_at: u64,
    /// The deployments, oldest first. The last one is the current one.
    pub deployments: Vec<Deployment>,
}

/// A record names a pipeline that is not in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} pins the pipeline {hash}, which the ledger does not hold; run `stagehook ledger verify`")]
pub struct MissingPipeline {
    /// The record.
    pub seq: u64,
    /// The hash.
    pub hash: PipelineHash,
}

impl Stream {
    /// A stream without records.
    pub fn new(id: StreamId) -> Self {
        Self { id, head: 0, question_asked: false, gates: Gates::default(), gates_at: 0, deployments: Vec::new() }
    }

    /// Takes one record in. `pinned` resolves the pipelines that deployments pin.
    pub fn apply(
        &mut self,
        record: &Record,
        pinned: &dyn Fn(&PipelineHash) -> Option<Arc<Pipeline>>,
    ) -> Result<(), MissingPipeline> {
        let Record { seq, fact } = record;
        if let (Some(id), Event::Opened { pipeline: hash, .. }) = (fact.deployment, &fact.event) {
            let pipeline = pinned(hash).ok_or_else(|| MissingPipeline { seq: *seq, hash: hash.clone() })?;
            self.open(*seq, id, fact, pipeline);
        } else {
            self.advance(*seq, fact);
        }
        Ok(())
    }

    /// Takes in the fact that a deployment was opened.
    pub fn open(&mut self, seq: u64, id: DeploymentId, fact: &Fact, pipeline: Arc<Pipeline>) {
        self.head = self.head.max(seq);
        if let Event::Opened { hook, revision, rollout, under, opening, pipeline: hash, about, question_asked, gates } =
            &fact.event
        {
            self.question_asked |= question_asked;
            // One that is loaded later, since a command names it, is of the past.
            if self.gates_at < seq {
                (self.gates, self.gates_at) = (*gates, seq);
            }
            let at = self.deployments.partition_point(|d| d.opened_seq < seq);
            self.deployments.insert(
                at,
                Deployment {
                    id,
                    opened_seq: seq,
                    opened_at: fact.at,
                    opened_by: fact.by.clone(),
                    opened_hook: *hook,
                    updated_at: fact.at,
                    revision: revision.clone(),
                    rollout: rollout.clone(),
                    under: under.clone(),
                    opening: *opening,
                    pipeline,
                    pipeline_hash: hash.clone(),
                    about: about.clone(),
                    standing: Standing::Progressing,
                    promoted: false,
                    start_noted: false,
                    restart_noted: false,
                    request: None,
                    undone: false,
                    end_seen: false,
                    polled: self.id.source == Source::ArgoRollouts,
                    passes: Vec::new(),
                    replay: None,
                    runs: Vec::new(),
                    keys: Vec::new(),
                    reports: Vec::new(),
                },
            );
        }
    }

    /// Takes in any other fact. One about a deployment from before the window is not for us.
    pub fn advance(&mut self, seq: u64, fact: &Fact) {
        self.head = self.head.max(seq);
        match fact.event {
            Event::QuestionAsked => self.question_asked = true,
            Event::GateSet { gates, .. } if self.gates_at < seq => (self.gates, self.gates_at) = (gates, seq),
            _ => {}
        }
        if let Some(deployment) = fact.deployment.and_then(|id| self.get_mut(id)) {
            deployment.updated_at = fact.at;
            deployment.take(fact);
        }
    }

    /// The newest deployment: the one that calls are about.
    pub fn current(&self) -> Option<&Deployment> {
        self.deployments.last()
    }

    /// The deployment with this id.
    pub fn get(&self, id: DeploymentId) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.id == id)
    }

    /// The deployment with this id.
    fn get_mut(&mut self, id: DeploymentId) -> Option<&mut Deployment> {
        self.deployments.iter_mut().find(|d| d.id == id)
    }

    /// The deployment that a run belongs to.
    pub fn owner_of(&self, run: RunId) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.runs.iter().any(|r| r.id == run))
    }

    /// Drops ended deployments that no rule looks at any more: all but the newest `keep`.
    pub fn forget(&mut self, keep: usize) {
        let old = self.deployments.len().saturating_sub(keep);
        let mut index = 0;
        self.deployments.retain(|d| {
            index += 1;
            index > old || d.is_live()
        });
    }

    /// The line for listing of a deployment.
    pub fn summary(&self, deployment: &Deployment) -> Summary {
        let (reason, ended_at) = match &deployment.standing {
            Standing::Progressing => (deployment.request.as_ref().map(|r| r.reason), None),
            Standing::RollingBack { reason } => (Some(*reason), None),
            Standing::Ended(end) => (end.reason, Some(end.at)),
        };
        Summary {
            id: deployment.id,
            application: self.id.application.clone(),
            source: self.id.source,
            revision: deployment.revision.clone(),
            state: deployment.state(),
            reason,
            opened_at: deployment.opened_at,
            updated_at: deployment.updated_at,
            ended_at,
            opened_seq: deployment.opened_seq,
            live: deployment.is_live(),
        }
    }
}

/// One rollout of one revision, as told by one source.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// The number of the record that opened it.
    pub opened_seq: u64,
    /// When.
    pub opened_at: Timestamp,
    /// By whom.
    pub opened_by: Actor,
    /// By which hook.
    pub opened_hook: Hook,
    /// When its last record was committed.
    pub updated_at: Timestamp,
    /// What it rolls out, once known.
    pub revision: Option<Revision>,
    /// By which id its caller knows it, once told.
    pub rollout: Option<RolloutId>,
    /// The checksum that it was opened under.
    pub under: Option<Revision>,
    /// What Flagger's phase said in the confirm-rollout that opened it, where one did.
    pub opening: Option<Before>,
    /// The pipeline that it pins.
    pub pipeline: Arc<Pipeline>,
    /// The hash of that.
    pub pipeline_hash: PipelineHash,
    /// Who and why.
    pub about: About,
    /// Where it stands.
    pub standing: Standing,
    /// The source said that the rollout succeeded; its post-rollout stages may still run.
    pub promoted: bool,
    /// The start of another rollout was noted: what is told of a restart from then on is not about this one.
    pub start_noted: bool,
    /// A restarted analysis was noted: the revision was given up.
    pub restart_noted: bool,
    /// A rollback that was requested and not begun.
    pub request: Option<Request>,
    /// Stagehook ended it by itself and the caller's own end was not seen: its forward calls are rejected.
    pub undone: bool,
    /// That end was seen since.
    pub end_seen: bool,
    /// Its caller asks one question again until it is answered: what has run for it is not run again.
    pub polled: bool,
    /// The newest pass of each hook.
    pub passes: Vec<(Hook, Pass)>,
    /// The newest replay.
    pub replay: Option<Replay>,
    /// Every run, oldest first.
    pub runs: Vec<Arc<Run>>,
    /// The calls that named themselves and were answered for it.
    pub keys: Vec<(Hook, CallKey)>,
    /// What its callers want to be told elsewhere.
    pub reports: Vec<Report>,
}

/// Where a deployment stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Its rollout goes on.
    Progressing,
    /// Its rollback is being replayed.
    RollingBack {
        /// Why.
        reason: Reason,
    },
    /// It is over.
    Ended(End),
}

/// The end of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// How.
    pub state: EndState,
    /// Why.
    pub reason: Option<Reason>,
    /// When.
    pub at: Timestamp,
    /// What never ran.
    pub skipped: Vec<Skipped>,
}

/// A rollback that waits for the caller to hear of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Why.
    pub reason: Reason,
    /// Who.
    pub by: Actor,
    /// When the caller was first told yes.
    pub signalled_at: Option<Timestamp>,
}

/// One walk over the rollback steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// 1, 2, …
    pub number: u32,
    /// Why.
    pub reason: Reason,
    /// The payload of the call that reported the failure.
    pub payload: Option<Arc<Payload>>,
    /// Whether its result was given to a call.
    pub delivered: bool,
}

/// One execution of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its stage.
    pub stage: StageId,
    /// What for.
    pub purpose: Purpose,
    /// When it began.
    pub started_at: Timestamp,
    /// For WAIT: when it is over.
    pub until: Option<Timestamp>,
    /// Who runs it.
    pub owner: Owner,
    /// Why it is to be stopped.
    pub stop: Option<String>,
    /// A person let its stage run again.
    pub released: bool,
    /// How and when it ended.
    pub end: Option<(Timestamp, Ending)>,
}

impl Run {
    /// How it ended.
    pub fn ending(&self) -> Option<&Ending> {
        self.end.as_ref().map(|(_, ending)| ending)
    }

    /// The end's kind.
    pub fn outcome(&self) -> Option<Outcome> {
        self.ending().map(|ending| ending.outcome)
    }

    /// Whether it is a step of a replay.
    pub fn is_rollback(&self) -> bool {
        matches!(self.purpose, Purpose::Rollback { .. })
    }
}

impl Deployment {
    /// The state's name.
    pub fn state(&self) -> State {
        match &self.standing {
            Standing::Progressing => State::Progressing,
            Standing::RollingBack { .. } => State::RollingBack,
            Standing::Ended(end) => match end.state {
                EndState::Succeeded => State::Succeeded,
                EndState::RolledBack => State::RolledBack,
                EndState::RollbackFailed => State::RollbackFailed,
                EndState::Abandoned => State::Abandoned,
            },
        }
    }

    /// Whether the rollout may still go on: not over, and not known to have succeeded.
    pub fn is_open(&self) -> bool {
        matches!(self.standing, Standing::Progressing) && !self.promoted
    }

    /// Whether a pass of this hook may start stages: the rollout is open, or has succeeded and
    /// this is what comes after.
    pub fn goes_on(&self, hook: Hook) -> bool {
        match &self.standing {
            Standing::Progressing => !self.promoted || hook == Hook::PostRollout,
            Standing::Ended(end) => end.state == EndState::Succeeded && hook == Hook::PostRollout,
            Standing::RollingBack { .. } => false,
        }
    }

    /// Whether its rollback is being replayed.
    pub fn is_rolling_back(&self) -> bool {
        matches!(self.standing, Standing::RollingBack { .. })
    }

    /// How it ended, where it has.
    pub fn end(&self) -> Option<&End> {
        match &self.standing {
            Standing::Ended(end) => Some(end),
            Standing::Progressing | Standing::RollingBack { .. } => None,
        }
    }

    /// Whether anything may still happen to it by itself, be it that an outcome is told.
    pub fn is_live(&self) -> bool {
        self.is_busy() || self.reports.iter().any(|report| !report.is_over())
    }

    /// Whether something of it may still run.
    pub fn is_busy(&self) -> bool {
        self.end().is_none() || self.alive().next().is_some() || self.post_rollout_due()
    }

    /// Whether its post-rollout stages were called for and are not through, be it after its end: they
    /// wait, run, or were cut and may run again. No call will ask for them once more.
    pub fn post_rollout_due(&self) -> bool {
        let hook = Hook::PostRollout;
        let due = |pass: &Pass| match &pass.end {
            None => true,
            Some(PassEnd::Interrupted { .. }) => matches!(self.next_on(hook, 0), Next::Run(_)),
            Some(PassEnd::Approved | PassEnd::Rejected { .. }) => false,
        };
        self.goes_on(hook) && self.promoted && self.pass(hook).is_some_and(due)
    }

    /// Whether it is known by this.
    pub fn is_known_by(&self, alias: &Alias) -> bool {
        match alias {
            Alias::Rollout(id) => self.rollout.as_ref() == Some(id),
            Alias::Key(hook, id) => self.keys.iter().any(|(of, key)| of == hook && key.id == *id),
        }
    }

    /// The runs that have no end yet.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.iter().filter(|run| run.end.is_none())
    }

    /// The run with this id.
    pub fn run(&self, id: RunId) -> Option<&Arc<Run>> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// The newest forward run of a stage: whether it was executed, and how that ended.
    pub fn last_forward(&self, stage: &StageId) -> Option<&Arc<Run>> {
        self.runs.iter().rev().find(|run| run.stage == *stage && !run.is_rollback())
    }

    /// The newest rollback run of a stage.
    pub fn last_rollback(&self, stage: &StageId) -> Option<&Arc<Run>> {
        self.runs.iter().rev().find(|run| run.stage == *stage && run.is_rollback())
    }

    /// The newest pass of a hook.
    pub fn pass(&self, hook: Hook) -> Option<&Pass> {
        self.passes.iter().find(|(of, _)| *of == hook).map(|(_, pass)| pass)
    }

    fn pass_mut(&mut self, hook: Hook) -> Option<&mut Pass> {
        self.passes.iter_mut().find(|(of, _)| *of == hook).map(|(_, pass)| pass)
    }

    fn run_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id).map(Arc::make_mut)
    }

    fn take(&mut self, fact: &Fact) {
        match &fact.event {
            Event::RevisionAdopted { revision } => {
                self.revision = Some(revision.clone());
                // Of whatever analysis was begun again before: it is that one's.
                self.restart_noted = false;
            }
            Event::RolloutNamed { rollout } => self.rollout = Some(rollout.clone()),
            Event::KeySeen { hook, key } => self.keys.push((*hook, key.clone())),
            Event::ReportWanted { .. } | Event::ReportSent { .. } => self.take_report(&fact.event),
            Event::Called { hook, pass, payload, about, unattended } => {
                self.about.fill(about);
                self.passes.retain(|(of, _)| of != hook);
                self.passes.push((*hook, Pass::new(*pass, payload.clone(), *unattended)));
            }
            Event::Unattended { hook } => {
                if let Some(pass) = self.pass_mut(*hook) {
                    pass.unattended = true;
                }
            }
            Event::StageStarted { run, stage, purpose, until, owner } => {
                if let Purpose::Forward { hook, .. } = purpose
                    && let Some(pass) = self.pass_mut(*hook)
                {
                    pass.running = Some(*run);
                }
                self.runs.push(Arc::new(Run {
                    id: *run,
                    stage: stage.clone(),
                    purpose: *purpose,
                    started_at: fact.at,
                    until: *until,
                    owner: owner.clone(),
                    stop: None,
                    released: false,
                    end: None,
                }));
            }
            Event::StopRequested { run, why } => {
                if let Some(run) = self.run_mut(*run) {
                    run.stop = Some(why.clone());
                }
            }
            Event::StageFinished { run, ending, awaited } => self.finish(*run, fact.at, ending, *awaited),
            Event::Delivered { hook } => self.deliver(*hook, true),
            Event::Undelivered { hook } => self.deliver(*hook, false),
            Event::RolloutSucceeded => {
                self.promoted = true;
                self.request = None;
                // Of one that was given up it is the end that was not known; what comes after it is still to run.
                if self.end().is_some_and(|end| end.state == EndState::Abandoned) {
                    self.standing = Standing::Progressing;
                }
            }
            Event::CallerEndSeen => (self.undone, self.end_seen) = (false, true),
            Event::Released => self.release(),
            Event::StartNoted => self.start_noted = true,
            Event::RestartNoted => self.restart_noted = true,
            Event::RestartOver => self.restart_noted = false,
            Event::RollbackRequested { reason } => {
                self.request = Some(Request { reason: *reason, by: fact.by.clone(), signalled_at: None });
            }
            Event::RollbackSignalled => {
                if let Some(request) = &mut self.request {
                    request.signalled_at = Some(fact.at);
                }
            }
            Event::RollbackStarted { replay, reason, own, payload } => {
                self.standing = Standing::RollingBack { reason: *reason };
                self.request = None;
                (self.undone, self.end_seen) = (*own, self.end_seen && !own);
                self.replay = Some(Replay {
                    number: *replay,
                    reason: *reason,
                    payload: payload.clone().map(Arc::new),
                    delivered: false,
                });
            }
            Event::Ended { state, reason, skipped } => {
                self.request = None;
                self.standing =
                    Standing::Ended(End { state: *state, reason: *reason, at: fact.at, skipped: skipped.clone() });
            }
            // `Opened` is `Stream::open`'s; the others change nothing of a deployment.
            Event::Opened { .. } | Event::GateSet { .. } | Event::QuestionAsked | Event::Noted { .. } => {}
        }
    }

    /// What was cut may run again; a rejection because of it that nobody has heard is withdrawn.
    fn release(&mut self) {
        self.undone = false;
        for run in &mut self.runs {
            if matches!(run.outcome(), Some(Outcome::Interrupted | Outcome::Cancelled)) {
                Arc::make_mut(run).released = true;
            }
        }
        let released = |stage: &StageId| self.last_forward(stage).is_some_and(|run| run.released);
        let withdrawn: Vec<Hook> = self
            .passes
            .iter()
            .filter(|(_, pass)| matches!(&pass.end, Some(PassEnd::Rejected { stage }) if released(stage)))
            .map(|(hook, _)| *hook)
            .collect();
        for (_, pass) in self.passes.iter_mut().filter(|(hook, _)| withdrawn.contains(hook)) {
            pass.delivered = true;
        }
    }

    fn deliver(&mut self, hook: Hook, delivered: bool) {
        if hook == Hook::Rollback {
            if let Some(replay) = &mut self.replay {
                replay.delivered = delivered;
            }
        } else if let Some(pass) = self.pass_mut(hook) {
            pass.delivered = delivered;
        }
    }

    fn finish(&mut self, id: RunId, at: Timestamp, ending: &Ending, awaited: bool) {
        let Some(run) = self.run_mut(id) else { return };
        run.end = Some((at, ending.clone()));
        let (purpose, stage) = (run.purpose, run.stage.clone());
        match purpose {
            Purpose::Rollback { .. } => {
                if let Some(replay) = &mut self.replay {
                    replay.delivered = awaited;
                }
            }
            Purpose::Forward { hook, .. } => {
                let Some(index) = self.pipeline.position(&stage) else { return };
                let end = match ending.outcome {
                    Outcome::Succeeded => self.pass_end(hook, index + 1),
                    Outcome::Interrupted => Some(PassEnd::Interrupted { stage }),
                    Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled => Some(PassEnd::Rejected { stage }),
                };
                if let Some(pass) = self.pass_mut(hook) {
                    pass.running = None;
                    pass.cursor = index + 1;
                    // Of one that nobody waits for the outcome is read elsewhere; no later call is owed it.
                    pass.delivered = (awaited || pass.unattended) && end.is_some();
                    pass.end = end;
                }
            }
        }
    }
}

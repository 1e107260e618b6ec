//! One deployment: the fold over the facts about it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Revision, RolloutId, StageId};
use crate::domain::pass::{Next, Pass, PassEnd};
use crate::domain::pipeline::{Pipeline, PipelineHash};
use crate::domain::record::{
    About, Actor, Alias, Before, CallKey, EndState, Ending, Event, Fact, Outcome, Owner, Payload, Purpose, Reason,
    Skipped,
};
use crate::domain::report::Report;
use crate::domain::summary::State;

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

impl End {
    /// Whether the rollout succeeded.
    pub fn is_success(&self) -> bool {
        self.state == EndState::Succeeded
    }

    /// Whether how it ended was not known: its caller may still tell. What a person closed stays closed.
    pub fn is_unknown(&self) -> bool {
        self.state == EndState::Abandoned && self.reason != Some(Reason::Closed)
    }
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
            Standing::Ended(end) => end.is_success() && hook == Hook::PostRollout,
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

    /// Takes in a fact about it.
    pub(super) fn take(&mut self, fact: &Fact) {
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

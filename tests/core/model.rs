//! A second, plain account of the rules, written from the contract and not from the code: what
//! `tests/core_model.rs` holds the core against.
//!
//! It is deliberately naive. It keeps whole lists where the core keeps cursors, knows neither
//! records nor actions, and says only what must be so after a step: states, reasons, verdicts, and
//! which run may start next.

#[path = "model/deployment.rs"]
mod deployment;
#[path = "model/runs.rs"]
mod runs;

use std::collections::BTreeMap;
use std::sync::Arc;

use stagehook::domain::call::{Before, Says, Tells, Verdict, WaitKey};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::{DeploymentId, RunId};
use stagehook::domain::names::{Revision, Source, StageId};
use stagehook::domain::pipeline::{OnSupersede, Pipeline};
use stagehook::domain::record::{EndState, Outcome, Reason};

/// Where a deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The rollout goes on.
    Open,
    /// The source said that it succeeded; its post-rollout stages are not through.
    Promoted,
    /// Being undone.
    Rolling(Reason),
    /// Over.
    Over(EndState, Option<Reason>),
}

/// One run of a stage.
#[derive(Clone, Debug)]
pub struct MRun {
    pub id: RunId,
    pub stage: StageId,
    pub rollback: Option<u32>,
    pub outcome: Option<Outcome>,
    pub released: bool,
    /// It is to be killed.
    pub stop: bool,
}

/// How a walk over a hook's stages stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Walk {
    /// The stages still to look at.
    Going(Vec<StageId>),
    /// Over, and whether a call has heard of it.
    Over { verdict: Verdict, heard: bool, by: Option<StageId> },
}

/// A deployment.
#[derive(Clone, Debug)]
pub struct MDep {
    pub id: DeploymentId,
    pub pipeline: Arc<Pipeline>,
    pub revision: Option<Revision>,
    pub under: Option<Revision>,
    /// The phase of the confirm-rollout that opened it.
    pub opening: Option<Before>,
    pub phase: Phase,
    pub undone: bool,
    /// The caller's own end of what was undone here was seen.
    pub end_seen: bool,
    /// The source has said that it succeeded.
    pub promoted: bool,
    pub requested: Option<Reason>,
    pub signalled: bool,
    pub restarted: bool,
    /// Another rollout has begun: a restart is that one's.
    pub passed_by: bool,
    pub replay: u32,
    /// Whether a call has heard how the replay ended.
    pub replay_heard: bool,
    pub walks: BTreeMap<Hook, Walk>,
    pub runs: Vec<MRun>,
}

/// What the core is expected to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    Gate(Verdict),
    Wait(WaitKey),
    Replay(Verdict),
    Question(bool),
    Accepted,
    Conflict,
    Note,
    Unknown,
    Busy,
}

/// The world around one call.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    pub queue_full: bool,
    pub draining: bool,
    pub elsewhere: bool,
}

/// The model of one stream.
#[derive(Clone, Debug)]
pub struct Model {
    pub source: Source,
    pub pipeline: Arc<Pipeline>,
    pub deps: Vec<MDep>,
    pub asked: bool,
    /// The ids that the core gave to the deployments that the next command opens.
    pub ids: Vec<DeploymentId>,
}

impl Model {
    pub fn new(source: Source, pipeline: Arc<Pipeline>) -> Self {
        Self { source, pipeline, deps: Vec::new(), asked: false, ids: Vec::new() }
    }

    fn index(&self, id: DeploymentId) -> Option<usize> {
        self.deps.iter().position(|d| d.id == id)
    }

    fn current(&self) -> Option<usize> {
        self.deps.len().checked_sub(1)
    }

    /// Whether a forward stage of this deployment has to stand back: a rollback goes on, a script
    /// of an older deployment is not dead yet, or its post-rollout is not through.
    pub fn blocked(&self, at: usize, around: Around) -> bool {
        around.elsewhere
            || self.deps.iter().any(MDep::rolling)
            || self.deps[..at].iter().any(|d| d.alive() || d.phase == Phase::Promoted || d.called_again())
    }

    /// Whether a step of a replay has to stand back: something is being undone or killed in another
    /// deployment, or a newer one is to be undone first.
    pub fn undone_later(&self, at: usize) -> bool {
        let others = || self.deps.iter().enumerate().filter(|(other, _)| *other != at);
        let killed = |r: &MRun| r.outcome.is_none() && (r.rollback.is_some() || r.stop);
        others().any(|(other, d)| d.runs.iter().any(killed) || other > at && d.rolling())
    }

    fn open(&mut self, revision: &Option<Revision>, under: &Option<Revision>, opening: Option<Before>) -> usize {
        // A next rollout is the proof that the caller is through with the one before.
        self.deps.iter_mut().for_each(|d| d.see_end());
        assert!(!self.ids.is_empty(), "the core opened no deployment, and the contract opens one");
        self.deps.push(MDep {
            id: self.ids.remove(0),
            pipeline: self.pipeline.clone(),
            revision: revision.clone(),
            under: under.clone(),
            opening,
            phase: Phase::Open,
            undone: false,
            end_seen: false,
            promoted: false,
            requested: None,
            signalled: false,
            restarted: false,
            passed_by: false,
            replay: 0,
            replay_heard: false,
            walks: BTreeMap::new(),
            runs: Vec::new(),
        });
        self.deps.len() - 1
    }

    fn adopt(&mut self, at: usize, revision: &Option<Revision>) {
        let d = &mut self.deps[at];
        // Called about by its name, it was not given up.
        d.restarted &= revision.is_none();
        d.revision = d.revision.take().or_else(|| revision.clone());
    }

    fn end(&mut self, at: usize, state: EndState, reason: Option<Reason>) {
        self.deps[at].phase = Phase::Over(state, reason);
        self.deps[at].requested = None;
    }

    fn abandon(&mut self, at: usize, reason: Reason) {
        self.deps[at].stop_all();
        self.end(at, EndState::Abandoned, Some(reason));
    }

    fn begin(&mut self, at: usize, reason: Reason, own: bool) {
        let d = &mut self.deps[at];
        d.phase = Phase::Rolling(reason);
        (d.requested, d.undone, d.replay, d.replay_heard) = (None, own, d.replay + 1, false);
        d.end_seen &= !own;
        d.stop_all();
        self.roll_on(at);
    }

    fn roll_on(&mut self, at: usize) {
        if let (Phase::Rolling(reason), false) = (self.deps[at].phase, self.deps[at].alive())
            && let Err(state) = self.deps[at].next_step()
        {
            self.end(at, state, Some(reason));
        }
    }

    /// A rollback that Stagehook or a person wants: Flagger is told first where it asks.
    fn request(&mut self, at: usize, reason: Reason) {
        if self.source == Source::Flagger && self.asked {
            self.deps[at].requested.get_or_insert(reason);
        } else {
            self.begin(at, reason, true);
        }
    }

    fn gate(&mut self, at: usize, hook: Hook, around: Around) -> Expect {
        let d = &mut self.deps[at];
        let key = WaitKey::Hook(d.id, hook);
        match d.walks.get_mut(&hook) {
            Some(Walk::Going(_)) => return Expect::Wait(key),
            Some(Walk::Over { verdict, heard, .. }) if !*heard && *verdict != Verdict::Pending => {
                *heard = true;
                return Expect::Gate(*verdict);
            }
            _ => {}
        }
        match d.strike(&d.stages(hook)) {
            Err(verdict) => Expect::Gate(verdict),
            Ok(list) => {
                let refusable = hook != Hook::PostRollout && !d.is_wait(&list[0]);
                if refusable && around.queue_full {
                    return Expect::Busy;
                }
                if refusable && around.draining {
                    return Expect::Gate(Verdict::Pending);
                }
                d.walks.insert(hook, Walk::Going(list));
                Expect::Wait(key)
            }
        }
    }

    /// An open deployment gives way to another revision: undone only where that is proven right.
    fn supersede(&mut self, at: usize) {
        let d = &self.deps[at];
        let confirmed = d.opening.is_some() && !d.passed_by;
        if (confirmed || d.restarted) && d.pipeline.on_supersede == OnSupersede::Rollback {
            self.begin(at, Reason::Superseded, false);
        } else {
            self.abandon(at, Reason::Superseded);
        }
    }

    pub fn call(&mut self, hook: Hook, says: &Says, around: Around) -> Expect {
        match says {
            Says::Opening { under, before } => self.opening(hook, under, *before, around),
            Says::Forward { revision } => self.forward(hook, revision, around),
            Says::Succeeded { revision } => self.succeeded(hook, revision, around),
            Says::Failed { revision } => self.failed(revision),
            Says::Undo { deployment, revision } => self.undo(*deployment, revision),
            Says::Question { revision } => self.question(revision),
            // Flux's and the load tester's words; the histories are of Flagger and of generic callers.
            Says::Reconciled { .. } | Says::Reverted { .. } | Says::LoadGate { .. } | Says::Task(_) => {
                unreachable!("{says:?}")
            }
            Says::Event { tells, .. } => {
                if let Some(d) = self.deps.last_mut().filter(|d| d.open()) {
                    d.restarted |= *tells == Tells::Restart && !d.passed_by;
                    d.passed_by |= *tells == Tells::Start && d.revision.is_some();
                }
                Expect::Note
            }
        }
    }

    fn opening(&mut self, hook: Hook, under: &Option<Revision>, before: Before, around: Around) -> Expect {
        if let Some(at) = self.current() {
            let d = &self.deps[at];
            let anew = d.opening == Some(Before::Succeeded) && before == Before::Failed;
            let same = d.revision.is_none() && d.under == *under && !anew;
            match d.phase {
                Phase::Open if same => return self.gate(at, hook, around),
                Phase::Open => {
                    let well = match before {
                        Before::Failed => false,
                        Before::Succeeded => true,
                        Before::ByChecksum => d.revision.is_some() && d.revision == *under,
                    };
                    if well {
                        self.deps[at].promoted = true;
                        self.end(at, EndState::Succeeded, Some(Reason::SuccessMissed));
                    } else {
                        self.begin(at, Reason::FailureMissed, false);
                    }
                }
                _ if d.undone && same => return Expect::Gate(Verdict::Rejected),
                _ => {}
            }
        }
        let at = self.open(&None, under, Some(before));
        self.gate(at, hook, around)
    }

    fn forward(&mut self, hook: Hook, revision: &Option<Revision>, around: Around) -> Expect {
        if let Some(at) = self.current() {
            let d = &self.deps[at];
            if d.open() && d.takes(revision) {
                self.adopt(at, revision);
                return self.gate(at, hook, around);
            }
            if d.open() {
                self.supersede(at);
            } else if d.undone && d.is(revision) {
                return Expect::Gate(Verdict::Rejected);
            }
        }
        let at = self.open(revision, &None, None);
        self.gate(at, hook, around)
    }

    /// A late repetition: the deployment before the open one had this very revision and was told
    /// to have succeeded, and the open one is of another, or was opened under it.
    fn repeated(&self, revision: &Option<Revision>) -> Option<usize> {
        let [.., before, current] = &self.deps[..] else { return None };
        let other = match &current.revision {
            Some(own) => Some(own) != revision.as_ref(),
            None => current.under == *revision,
        };
        (current.open() && revision.is_some() && other && before.revision == *revision && before.promoted)
            .then(|| self.deps.len() - 2)
    }

    fn succeeded(&mut self, hook: Hook, revision: &Option<Revision>, around: Around) -> Expect {
        if let Some(at) = self.repeated(revision) {
            return if self.deps[at].goes(hook) {
                self.gate(at, hook, around)
            } else {
                Expect::Gate(Verdict::Rejected)
            };
        }
        if let Some(at) = self.current() {
            let d = &mut self.deps[at];
            let unheard = match d.walks.get(&hook) {
                Some(Walk::Going(_)) => true,
                Some(Walk::Over { heard, .. }) => !heard,
                None => false,
            };
            let exact = revision.is_some() && d.revision == *revision;
            match d.phase {
                Phase::Open if d.takes(revision) => {
                    self.adopt(at, revision);
                    return self.promote(at, hook, around);
                }
                Phase::Open => self.supersede(at),
                Phase::Promoted if d.is(revision) => return self.gate(at, hook, around),
                Phase::Rolling(_) | Phase::Over(..) if d.undone && d.is(revision) => {
                    d.see_end();
                    self.adopt(at, revision);
                    return Expect::Gate(Verdict::Rejected);
                }
                Phase::Rolling(_) | Phase::Over(..) if d.end_seen && exact => return Expect::Gate(Verdict::Rejected),
                Phase::Over(EndState::Succeeded, _) if exact || revision.is_none() && unheard => {
                    return self.gate(at, hook, around);
                }
                _ => {}
            }
        }
        let at = self.open(revision, &None, None);
        self.promote(at, hook, around)
    }

    fn promote(&mut self, at: usize, hook: Hook, around: Around) -> Expect {
        let d = &mut self.deps[at];
        (d.phase, d.promoted, d.requested) = (Phase::Promoted, true, None);
        if d.stages(hook).is_empty() {
            self.end(at, EndState::Succeeded, None);
        }
        let expect = self.gate(at, hook, around);
        if let (Expect::Gate(verdict), Phase::Promoted) = (&expect, self.deps[at].phase) {
            let reason = (*verdict != Verdict::Approved).then_some(Reason::PostRolloutFailed);
            self.end(at, EndState::Succeeded, reason);
        }
        expect
    }

    fn failed(&mut self, revision: &Option<Revision>) -> Expect {
        if let Some(at) = self.current() {
            let d = &self.deps[at];
            if d.open() && self.repeated(revision).is_none() && !self.late_failure(revision) && d.takes(revision) {
                self.adopt(at, revision);
                let reason = self.deps[at].requested.unwrap_or(Reason::Failed);
                self.begin(at, reason, false);
                return self.replay_or(at);
            }
            let over_well = matches!(d.phase, Phase::Over(EndState::Succeeded, _));
            let unnamed = d.revision.is_none() && (d.undone || d.rolling());
            let told = match revision {
                None => Some(at).filter(|_| !over_well),
                Some(_) if unnamed => Some(at),
                Some(_) => self.deps.iter().rposition(|d| d.revision == *revision).filter(|of| self.may_be_meant(*of)),
            };
            if let Some(expect) = told.and_then(|told| self.failed_again(told, revision)) {
                return expect;
            }
            if self.deps[at].open() {
                self.supersede(at);
            }
        }
        let at = self.open(revision, &None, None);
        self.begin(at, Reason::Failed, false);
        self.replay_or(at)
    }

    /// A failure of the rollout before, while the next is not named yet, and was not opened under it.
    fn late_failure(&self, revision: &Option<Revision>) -> bool {
        let [.., before, current] = &self.deps[..] else { return false };
        let over = matches!(before.phase, Phase::Over(..)) && before.revision == *revision;
        let unnamed = current.open() && current.revision.is_none();
        revision.is_some() && unnamed && !current.restarted && current.under != *revision && over
    }

    /// How the rollout of a content ended is told late only until another has come between.
    fn may_be_meant(&self, at: usize) -> bool {
        let last = self.deps.len() - 1;
        match self.deps[at].phase {
            Phase::Over(EndState::Abandoned, reason) if reason != Some(Reason::Closed) => {
                self.source == Source::Generic || at == last || at + 1 == last && self.deps[last].open()
            }
            _ => true,
        }
    }

    /// Ended here without the caller's knowing, and nothing has come since.
    fn left_open(&self, at: usize) -> bool {
        at + 1 == self.deps.len() && matches!(self.deps[at].phase, Phase::Over(EndState::Abandoned, _))
    }

    fn failed_again(&mut self, at: usize, revision: &Option<Revision>) -> Option<Expect> {
        let expect = match self.deps[at].phase {
            Phase::Open => return None,
            Phase::Over(EndState::Abandoned, reason) if reason != Some(Reason::Closed) => {
                self.deps[at].revision.as_ref()?;
                self.begin(at, Reason::Failed, false);
                return Some(self.replay_or(at));
            }
            _ => self.replay_or(at),
        };
        if self.deps[at].undone || self.deps[at].rolling() {
            self.adopt(at, revision);
        }
        self.deps[at].see_end();
        let closed_while = self.deps[at].undoing();
        self.deps[at].replay_heard |=
            !closed_while && matches!(self.deps[at].phase, Phase::Over(EndState::RollbackFailed, _));
        Some(expect)
    }

    fn replay_or(&self, at: usize) -> Expect {
        let key = WaitKey::Replay(self.deps[at].id);
        match (self.deps[at].phase, self.settled(key)) {
            (Phase::Promoted, _) => Expect::Replay(Verdict::Approved),
            (_, Some(verdict)) => Expect::Replay(verdict),
            _ => Expect::Wait(key),
        }
    }

    fn undo(&mut self, deployment: Option<DeploymentId>, revision: &Option<Revision>) -> Expect {
        let at = match deployment {
            Some(id) => self.index(id),
            None => (self.deps.iter().rposition(|d| revision.is_none() || d.revision == *revision))
                .or_else(|| self.current().filter(|at| self.deps[*at].open() && self.deps[*at].revision.is_none())),
        };
        let Some(at) = at else {
            return if deployment.is_none() && revision.is_none() { Expect::Note } else { Expect::Unknown };
        };
        if !self.deps[at].is(revision) {
            return Expect::Conflict;
        }
        let foreign = self.source != Source::Generic;
        let held = foreign && (self.deps[at].undone || self.left_open(at));
        if self.deps[at].open() {
            self.adopt(at, revision);
        }
        let d = &mut self.deps[at];
        if !foreign {
            d.see_end();
        }
        match d.phase {
            Phase::Rolling(_) | Phase::Over(EndState::RolledBack, _) => {}
            Phase::Open | Phase::Promoted => {
                let reason = d.requested.unwrap_or(if foreign { Reason::Requested } else { Reason::Failed });
                let own = foreign && d.open();
                self.begin(at, reason, own);
            }
            Phase::Over(EndState::RollbackFailed, _) if !d.replay_heard => d.replay_heard = true,
            // Its own end, once more: a hold on its forward calls stays.
            Phase::Over(EndState::RollbackFailed, reason) => {
                self.begin(at, reason.unwrap(), held);
            }
            Phase::Over(..) => {
                self.begin(at, Reason::Requested, held);
            }
        }
        self.replay_or(at)
    }

    fn question(&mut self, revision: &Option<Revision>) -> Expect {
        self.asked = true;
        let Some(at) = self.current() else { return Expect::Question(false) };
        if self.deps[at].open() && !self.deps[at].takes(revision) {
            self.supersede(at);
            return Expect::Question(false);
        }
        if self.deps[at].open() {
            self.adopt(at, revision);
        }
        let d = &mut self.deps[at];
        let yes = d.is(revision) && (d.undone || d.requested.is_some());
        d.signalled |= yes && d.requested.is_some();
        Expect::Question(yes)
    }
}

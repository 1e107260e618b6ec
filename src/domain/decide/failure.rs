//! What is told of a failure: which deployment a report is about, what becomes of it, and `POST /hooks/generic/rollback`,
//! which undoes whatever it names.
//!
//! The replay itself is in `rollback`. The rules for Flagger were read from its source: see «Callers» in ARCHITECTURE.md.

use super::{Turn, note};
use crate::domain::answer;
use crate::domain::call::{Call, Reply, WaitKey};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Revision, Source};
use crate::domain::record::{EndState, Event, Reason};
use crate::domain::state::{Deployment, End, Standing};

impl Turn<'_> {
    /// A failure that the source reports.
    pub(super) fn failed(&mut self, call: &Call, revision: Option<&Revision>) -> Reply {
        if let Some(current) = self.current() {
            let (id, open, other) = (current.id, current.is_open(), !self.may_be(current));
            let about_before = self.succeeded_before(revision).is_some() || self.failed_before(revision);
            if open && !about_before && self.adopts(id, revision) {
                let reason = self.requested_or(id, Reason::Failed);
                return self.replay(id, reason, false, call);
            }
            if open && other {
                let message = format!("nothing was started for this rollout, and {id} is another one");
                return note(call.hook, Some(id), message);
            }
            if let Some(reply) = self.told_of(revision).and_then(|told| self.failed_again(told, revision, call)) {
                return reply;
            }
            if self.current().is_some_and(Deployment::is_open) && self.context.pipeline.is_some() {
                self.supersede(id);
            }
        }
        match self.open(call.hook, revision.cloned(), None, &call.about) {
            Some(id) => self.replay(id, Reason::Failed, false, call),
            None => self.unknown_application(),
        }
    }

    /// Whether a failure of this revision is told of the deployment right before the open one, which has
    /// not named its own yet: a repetition.
    ///
    /// Where Flagger's confirm-rollout opened it, that carried the checksum of the new revision already
    /// if the one before had failed; then a failure of that is its own. So it is if the analysis was begun
    /// again since: it may be of the revision before, gone back to.
    fn failed_before(&self, revision: Option<&Revision>) -> bool {
        let ([.., before, current], Some(_)) =
            (self.stream.deployments.as_slice(), revision.filter(|_| self.rollout.is_none()))
        else {
            return false;
        };
        let unnamed = current.is_open() && current.revision.is_none() && !current.restart_noted;
        unnamed && current.under.as_ref() != revision && before.end().is_some() && before.revision.as_ref() == revision
    }

    /// The deployment that is over, or nearly, and that a failure report is about.
    fn told_of(&self, revision: Option<&Revision>) -> Option<DeploymentId> {
        let current = self.current()?;
        // It was undone before a call had named its revision: the caller's end is the first that does.
        let unnamed = current.revision.is_none() && (current.undone || current.is_rolling_back());
        match revision {
            None => Some(current).filter(|d| d.end().is_none_or(|end| !end.is_success())),
            Some(_) if unnamed => Some(current),
            Some(_) => {
                let found =
                    self.stream.deployments.iter().rev().find(|d| d.revision.as_ref() == revision && self.may_be(d));
                found.filter(|d| self.may_be_told_of(d))
            }
        }
        .map(|d| d.id)
    }

    /// Whether a failure report can still be about this deployment.
    ///
    /// Flagger's checksum names content, not a rollout. So a report about one whose end was not known
    /// is the missing proof only while that is the current one, or right before an open one; later the
    /// same content was rolled out again, and a success that was lost must not be undone.
    fn may_be_told_of(&self, deployment: &Deployment) -> bool {
        if self.stream.id.source != Source::Flagger || !deployment.end().is_some_and(End::is_unknown) {
            return true;
        }
        match self.stream.deployments.as_slice() {
            [.., last] if last.id == deployment.id => true,
            [.., before, last] => before.id == deployment.id && last.is_open(),
            _ => false,
        }
    }

    /// A failure of a deployment that is over, or nearly: the caller's word on what was undone
    /// here, or a repetition. Answered from the ledger.
    pub(super) fn failed_again(&mut self, id: DeploymentId, revision: Option<&Revision>, call: &Call) -> Option<Reply> {
        let told = self.deployment(id)?;
        let undone = told.undone;
        let unheard = told.replay.as_ref().is_some_and(|replay| !replay.delivered);
        let mut delivered = false;
        let reply = match &told.standing {
            Standing::RollingBack { .. } => Reply::Wait(WaitKey::Replay(id)),
            Standing::Progressing if told.promoted => Reply::Answer(answer::replayed(told, EndState::Succeeded)),
            Standing::Progressing => return None,
            // How it ended was not known; now it is. What a person closed stays closed.
            Standing::Ended(end) if end.is_unknown() => {
                return told.revision.is_some().then(|| self.replay(id, Reason::Failed, false, call));
            }
            // A step of the replay that a person cut short is still being stopped.
            Standing::Ended(_) if told.alive().any(|run| run.is_rollback()) => Reply::Wait(WaitKey::Replay(id)),
            Standing::Ended(end) => {
                delivered = end.state == EndState::RollbackFailed && unheard;
                Reply::Answer(answer::replayed(told, end.state))
            }
        };
        if told.end().is_none() || undone {
            self.adopts(id, revision);
        }
        if delivered {
            self.emit(id, Event::Delivered { hook: Hook::Rollback });
        }
        if undone {
            self.emit(id, Event::CallerEndSeen);
        }
        let of = self.deployment(id).and_then(|d| d.revision.as_ref()).map_or_else(String::new, |r| format!(" of {r}"));
        let again = if undone { "" } else { " again" };
        self.emit(id, Event::Noted { message: format!("the failure{of} was reported{again} by {}", call.hook) });
        Some(reply)
    }

    /// Begins a replay for a call, which is answered when it is over.
    pub(super) fn replay(&mut self, id: DeploymentId, reason: Reason, own: bool, call: &Call) -> Reply {
        self.begin_rollback(id, reason, own, Some(&call.payload));
        match self.deployment(id).and_then(|d| d.end().map(|end| answer::replayed(d, end.state))) {
            Some(answer) => Reply::Answer(answer),
            None => Reply::Wait(WaitKey::Replay(id)),
        }
    }

    /// `POST /hooks/generic/rollback`: replays the deployment that is meant, whatever became of it.
    pub(super) fn undo(&mut self, call: &Call, named: Option<DeploymentId>, revision: Option<&Revision>) -> Reply {
        let target = match (named, revision) {
            (Some(id), _) => self.deployment(id),
            (None, Some(_)) => {
                let told = self.stream.deployments.iter().rev().find(|d| d.revision.as_ref() == revision);
                // One that has not told its revision yet tells it so, as it would by a failure report.
                told.or_else(|| self.current().filter(|d| d.is_open() && d.revision.is_none()))
            }
            (None, None) => self.current(),
        };
        let Some(target) = target else { return self.nothing_to_undo(call, named, revision) };
        if let (Some(own), Some(told)) = (&target.revision, revision)
            && own != told
        {
            let message = format!("{} is of revision {own}, not {told}; leave one of the two out", target.id);
            return Reply::Conflict { message };
        }
        let (id, standing, undone) = (target.id, target.standing.clone(), target.undone);
        let held = undone || self.is_left_open(target);
        if target.is_open() {
            self.adopts(id, revision);
        }
        // Told by its own caller this is that one's word; by another it is not.
        let foreign = self.stream.id.source != call.source;
        if undone && !foreign {
            self.emit(id, Event::CallerEndSeen);
        }
        match standing {
            Standing::RollingBack { .. } => Reply::Wait(WaitKey::Replay(id)),
            Standing::Progressing => {
                let reason = self.requested_or(id, if foreign { Reason::Requested } else { Reason::Failed });
                // A rollout that its source has told to have succeeded is over there: nothing to hold.
                let own = foreign && self.deployment(id).is_some_and(Deployment::is_open);
                self.replay(id, reason, own, call)
            }
            Standing::Ended(end) => {
                let undelivered = self.deployment(id).and_then(|d| d.replay.as_ref()).is_some_and(|r| !r.delivered);
                // What is held against the rollout stays held through a further replay.
                let own = held && foreign;
                match (end.state, undelivered) {
                    (EndState::RolledBack, _) | (EndState::RollbackFailed, true) => {
                        if end.state == EndState::RollbackFailed {
                            self.emit(id, Event::Delivered { hook: Hook::Rollback });
                        }
                        self.deployment(id).map_or(Reply::Nothing, |d| Reply::Answer(answer::replayed(d, end.state)))
                    }
                    (EndState::RollbackFailed, false) => {
                        self.replay(id, end.reason.unwrap_or(Reason::Requested), own, call)
                    }
                    (EndState::Succeeded | EndState::Abandoned, _) => {
                        let reason = if call.source == Source::Generic { Reason::Requested } else { Reason::Failed };
                        self.replay(id, reason, own, call)
                    }
                }
            }
        }
    }

    fn nothing_to_undo(&self, call: &Call, named: Option<DeploymentId>, revision: Option<&Revision>) -> Reply {
        let application = &self.stream.id.application;
        match (named, revision) {
            (Some(id), _) => Reply::Unknown { message: format!("{application} has no deployment {id}") },
            // Its caller reads no answer, and has done nothing wrong.
            (None, Some(revision)) if call.unattended && self.context.pipeline.is_some() => note(
                call.hook,
                None,
                format!("nothing to undo: no deployment of {application} at revision {revision} was opened"),
            ),
            (None, Some(revision)) => Reply::Unknown {
                message: format!(
                    "{} has told of no deployment of {application} at revision {revision}",
                    self.stream.id.source
                ),
            },
            (None, None) if !self.context.elsewhere.is_empty() => {
                let others: Vec<_> =
                    self.context.elsewhere.iter().map(|(source, id)| format!("{id} ({source})")).collect();
                Reply::Unknown {
                    message: format!(
                        "{} has told of no deployment of {application}, but others have: {}; name one as `deployment`",
                        self.stream.id.source,
                        others.join(", ")
                    ),
                }
            }
            (None, None) if self.context.pipeline.is_some() => {
                note(call.hook, None, format!("nothing to undo: no deployment of {application} was ever opened"))
            }
            (None, None) => self.unknown_application(),
        }
    }

    /// Whether a deployment was ended here without the caller's knowing, and nothing has come since.
    pub(super) fn is_left_open(&self, deployment: &Deployment) -> bool {
        let abandoned = deployment.end().is_some_and(|end| end.state == EndState::Abandoned);
        abandoned && self.current().is_some_and(|current| current.id == deployment.id)
    }

    pub(super) fn requested_or(&self, id: DeploymentId, otherwise: Reason) -> Reason {
        self.deployment(id).and_then(|d| d.request.as_ref()).map_or(otherwise, |request| request.reason)
    }
}

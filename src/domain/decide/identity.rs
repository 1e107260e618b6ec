//! Which deployment a call is about: opening, adopting a revision, superseding, success, and what a call
//! tells of an older deployment whose end was never reported.
//!
//! The rules for Flagger were read from its source: see «Callers» in ARCHITECTURE.md.

use super::{Turn, note};
use crate::domain::answer;
use crate::domain::call::{Action, Before, Call, Reply, Says, Tells, Verdict};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Revision, Source};
use crate::domain::record::{EndState, Event, Reason};
use crate::domain::state::{Deployment, Standing};

impl Turn<'_> {
    pub(super) fn call(&mut self, call: &Call) -> Reply {
        self.rollout.clone_from(&call.rollout);
        if let Some(reply) = self.of_rollout(call) {
            return reply;
        }
        match &call.says {
            Says::Opening { under, before } => self.opening(call, under.as_ref(), *before),
            Says::Forward { revision } => self.forward(call, revision.as_ref()),
            Says::Succeeded { revision } => self.succeeded(call, revision.as_ref()),
            Says::Reconciled { revision } => self.reconciled(call, revision.as_ref()),
            Says::Reverted { to } => self.reverted(call, to.as_ref()),
            Says::Failed { revision } => self.failed(call, revision.as_ref()),
            Says::Undo { deployment, revision } => self.undo(call, *deployment, revision.as_ref()),
            Says::Question { revision } => self.question(call, revision.as_ref()),
            Says::Event { message, tells } => self.event(call, message, *tells),
            Says::LoadGate { gate, set } => self.load_gate(call, *gate, *set),
            Says::Task(task) => self.task(call, task),
        }
    }

    pub(super) fn current(&self) -> Option<&Deployment> {
        self.stream.current()
    }

    /// Flagger's confirm-rollout. It repeats until it passes, and several webhooks repeat it too:
    /// the same deployment while that has no revision and the checksum is the one that opened it.
    /// Otherwise an open deployment is over in Flagger, its post-rollout was lost, and the phase
    /// tells how it ended.
    fn opening(&mut self, call: &Call, under: Option<&Revision>, before: Before) -> Reply {
        if let Some(current) = self.current() {
            let id = current.id;
            // The repetitions of one opening carry its phase, then Waiting.
            let failed_since = before == Before::Failed && current.opening == Some(Before::Succeeded);
            let same = current.revision.is_none() && current.under.as_ref() == under && !failed_since;
            if current.is_open() {
                if same {
                    return self.gate(id, call.hook, call);
                }
                let succeeded = match before {
                    Before::Failed => false,
                    Before::Succeeded => true,
                    Before::ByChecksum => under.is_some() && current.revision.as_ref() == under,
                };
                if succeeded {
                    self.succeeded_unseen(id);
                } else {
                    self.begin_rollback(id, Reason::FailureMissed, false, Some(&call.payload));
                }
            } else if current.undone && same {
                return self.undone(id, call.hook);
            }
        }
        match self.open(call.hook, None, Some((under.cloned(), before)), &call.about) {
            Some(id) => self.gate(id, call.hook, call),
            None => self.unknown_application(),
        }
    }

    /// A gate of the rollout in progress.
    fn forward(&mut self, call: &Call, revision: Option<&Revision>) -> Reply {
        if let Some(current) = self.current() {
            let id = current.id;
            if current.is_open() {
                if self.adopts(id, revision) {
                    return self.gate(id, call.hook, call);
                }
                if self.context.pipeline.is_some() {
                    self.supersede(id);
                }
            } else if current.undone && self.matches(current, revision) {
                return self.undone(id, call.hook);
            } else if let Some(reply) = self.still_there(current, call, revision) {
                return reply;
            }
        }
        match self.open(call.hook, revision.cloned(), None, &call.about) {
            Some(id) => self.gate(id, call.hook, call),
            None => self.unknown_application(),
        }
    }

    /// The rollout succeeded: the post-rollout stages run, then the deployment is over.
    pub(super) fn succeeded(&mut self, call: &Call, revision: Option<&Revision>) -> Reply {
        if let Some(repeated) = self.succeeded_before(revision) {
            return self.succeeded_again(repeated, call);
        }
        if let Some(current) = self.current() {
            let id = current.id;
            match &current.standing {
                Standing::Progressing if current.promoted => {
                    if self.matches(current, revision) {
                        return self.gate(id, call.hook, call);
                    }
                }
                Standing::Progressing => {
                    if self.adopts(id, revision) {
                        return self.promote(id, call);
                    }
                    if self.context.pipeline.is_some() {
                        self.supersede(id);
                    }
                }
                Standing::RollingBack { .. } | Standing::Ended(_)
                    if current.undone && self.matches(current, revision) =>
                {
                    self.adopts(id, revision);
                    self.emit(id, Event::CallerEndSeen);
                    return self.undone(id, call.hook);
                }
                // The same word once more: it was undone here, and opens nothing.
                Standing::RollingBack { .. } | Standing::Ended(_)
                    if current.end_seen && revision.is_some() && current.revision.as_ref() == revision =>
                {
                    return self.undone(id, call.hook);
                }
                // Flux says so once for each upgrade, and two may be of the same chart's version.
                Standing::Ended(end) if end.is_success() && self.stream.id.source != Source::Flux => {
                    let undelivered = current.pass(call.hook).is_some_and(|pass| !pass.delivered);
                    if revision.is_some() && current.revision.as_ref() == revision || revision.is_none() && undelivered
                    {
                        return self.gate(id, call.hook, call);
                    }
                }
                Standing::RollingBack { .. } | Standing::Ended(_) => {}
            }
        }
        match self.open(call.hook, revision.cloned(), None, &call.about) {
            Some(id) => self.promote(id, call),
            None => self.unknown_application(),
        }
    }

    pub(super) fn promote(&mut self, id: DeploymentId, call: &Call) -> Reply {
        self.emit(id, Event::RolloutSucceeded);
        if self.deployment(id).is_some_and(|d| d.pipeline.on_hook(Hook::PostRollout).next().is_none()) {
            self.end(id, EndState::Succeeded, None);
        }
        let reply = self.gate(id, Hook::PostRollout, call);
        // Answered at once: no stage is left to run, so nothing else will end it.
        if let Reply::Answer(answer) = &reply
            && self.deployment(id).is_some_and(|d| d.end().is_none())
        {
            let reason = (answer.verdict != Verdict::Approved).then_some(Reason::PostRolloutFailed);
            self.end(id, EndState::Succeeded, reason);
        }
        reply
    }

    /// The deployment before the open one, where this is a late repetition of its success.
    ///
    /// The open one is of another revision, or was opened under this very checksum. Only the
    /// deployment right before it can be meant: after a failed rollout confirm-rollout carries the
    /// new checksum already, and going back to what ran before is a rollout of its own.
    pub(super) fn succeeded_before(&self, revision: Option<&Revision>) -> Option<DeploymentId> {
        let [.., before, current] = self.stream.deployments.as_slice() else { return None };
        // By its own id it would have been found.
        let revision = Some(revision.filter(|_| self.rollout.is_none())?);
        let another = match &current.revision {
            Some(own) => Some(own) != revision,
            None => current.under.as_ref() == revision,
        };
        let repeated = current.is_open() && another && before.promoted && before.revision.as_ref() == revision;
        repeated.then_some(before.id)
    }

    fn succeeded_again(&mut self, id: DeploymentId, call: &Call) -> Reply {
        match self.deployment(id) {
            Some(told) if told.goes_on(Hook::PostRollout) => self.gate(id, call.hook, call),
            Some(told) => Reply::Answer(answer::over(told, call.hook)),
            None => Reply::Nothing,
        }
    }

    /// Flagger's rollback webhook: yes only while a rollback of that revision is wanted here.
    fn question(&mut self, call: &Call, revision: Option<&Revision>) -> Reply {
        if self.current().is_none() && self.context.pipeline.is_none() {
            return self.unknown_application();
        }
        if !self.stream.question_asked {
            self.emit_for(None, Event::QuestionAsked);
        }
        let Some(current) = self.current() else { return self.no_rollback(call, None) };
        let id = current.id;
        if current.is_open() && !self.adopts(id, revision) {
            // A changed revision in mid-analysis: this question is the first call that carries it.
            self.supersede(id);
            return self.no_rollback(call, Some(id));
        }
        let Some(current) = self.deployment(id).filter(|d| self.matches(d, revision)) else {
            return self.no_rollback(call, Some(id));
        };
        let (requested, undone) = (current.request.clone(), current.undone);
        if requested.is_none() && !undone {
            return self.no_rollback(call, Some(id));
        }
        if requested.is_some_and(|request| request.signalled_at.is_none()) {
            self.emit(id, Event::RollbackSignalled);
            let at = self.replay_at(self.context.now);
            self.actions.push(Action::ArmSignal { deployment: id, at });
        }
        let message = format!("a rollback of {} ({id}) is requested", self.stream.id.application);
        Reply::Answer(answer::question(true, call.hook, Some(id), message))
    }

    fn no_rollback(&self, call: &Call, id: Option<DeploymentId>) -> Reply {
        let message = format!(
            "no rollback of {} is requested, so Flagger goes on (2xx would make it roll back); to replay onRollback now: \
             POST /hooks/generic/rollback",
            self.stream.id.application
        );
        Reply::Answer(answer::question(false, call.hook, id, message))
    }

    /// Flagger's event webhook: noted where a deployment is open, and never more than that.
    ///
    /// A restart proves that the open deployment's revision was given up, unless another rollout
    /// has begun since: then that one was restarted, and this one may have succeeded unseen.
    fn event(&mut self, call: &Call, message: &str, tells: Tells) -> Reply {
        let Some(current) = self.current().filter(|d| d.is_open()) else {
            return note(call.hook, None, "no deployment is open, so the event was not noted".to_owned());
        };
        let (id, known) = (current.id, current.revision.is_some());
        let (started, restarted) = (current.start_noted, current.restart_noted);
        self.emit(id, Event::Noted { message: message.to_owned() });
        if tells == Tells::Failure && self.deployment(id).is_some_and(|d| self.may_be(d)) {
            let reason = self.requested_or(id, Reason::Failed);
            return self.replay(id, reason, false, call);
        }
        match tells {
            Tells::Start if known && !started => self.emit(id, Event::StartNoted),
            Tells::Restart if !started && !restarted => self.emit(id, Event::RestartNoted),
            Tells::Start | Tells::Restart | Tells::Failure | Tells::Other => {}
        }
        note(call.hook, Some(id), "noted".to_owned())
    }

    /// Whether a call with this revision may be about this deployment.
    fn matches(&self, deployment: &Deployment, revision: Option<&Revision>) -> bool {
        self.may_be(deployment) && matches(deployment, revision)
    }

    /// Whether the rollout that the call names may be this deployment: it is, or one of them names none.
    pub(super) fn may_be(&self, deployment: &Deployment) -> bool {
        match (&deployment.rollout, &self.rollout) {
            (Some(own), Some(told)) => own == told,
            (None, _) | (_, None) => true,
        }
    }

    /// Whether a call with this revision is about an open deployment, which learns it when it had none.
    /// Not once another rollout was seen to begin: with the same content it is another one still.
    pub(super) fn adopts(&mut self, id: DeploymentId, revision: Option<&Revision>) -> bool {
        let Some(deployment) = self.deployment(id).filter(|d| self.may_be(d)) else { return false };
        if let (None, Some(rollout)) = (&deployment.rollout, self.rollout.clone())
            && matches(deployment, revision)
        {
            self.emit(id, Event::RolloutNamed { rollout });
        }
        let Some(deployment) = self.deployment(id) else { return false };
        match (&deployment.revision, revision) {
            (_, None) => true,
            (Some(own), Some(told)) => {
                let same = own == told && !deployment.start_noted;
                if same && deployment.restart_noted {
                    self.emit(id, Event::RestartOver);
                }
                same
            }
            (None, Some(told)) => {
                self.emit(id, Event::RevisionAdopted { revision: told.clone() });
                true
            }
        }
    }

    /// A call of a rollout that was undone here: it can't go on.
    pub(super) fn undone(&self, id: DeploymentId, hook: Hook) -> Reply {
        self.deployment(id).map_or(Reply::Nothing, |d| Reply::Answer(answer::undone(d, self.stream.id.source, hook)))
    }
}

/// Whether a call with this revision may be about this deployment, as far as revisions tell.
fn matches(deployment: &Deployment, revision: Option<&Revision>) -> bool {
    match (&deployment.revision, revision) {
        (None, _) | (_, None) => true,
        (Some(own), Some(told)) => own == told,
    }
}

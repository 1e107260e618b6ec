//! Which deployment a call is about: opening, adopting a revision, superseding, and what a call
//! tells of an older deployment whose end was never reported.
//!
//! The rules for Flagger were read from its source: see «Callers» in ARCHITECTURE.md.

use super::{Turn, note};
use crate::domain::answer;
use crate::domain::call::{Action, Before, Call, Reply, Says, Tells, Verdict, WaitKey};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Revision, Source};
use crate::domain::record::{EndState, Event, Reason};
use crate::domain::state::{Deployment, End, Standing};

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
                Standing::Ended(end) if end.state == EndState::Succeeded && self.stream.id.source != Source::Flux => {
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
    fn succeeded_before(&self, revision: Option<&Revision>) -> Option<DeploymentId> {
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

    fn succeeded_again(&mut self, id: DeploymentId, call: &Call) -> Reply {
        match self.deployment(id) {
            Some(told) if told.goes_on(Hook::PostRollout) => self.gate(id, call.hook, call),
            Some(told) => Reply::Answer(answer::over(told, call.hook)),
            None => Reply::Nothing,
        }
    }

    /// A failure that the source reports.
    fn failed(&mut self, call: &Call, revision: Option<&Revision>) -> Reply {
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

    /// The deployment that is over, or nearly, and that a failure report is about.
    fn told_of(&self, revision: Option<&Revision>) -> Option<DeploymentId> {
        let current = self.current()?;
        // It was undone before a call had named its revision: the caller's end is the first that does.
        let unnamed = current.revision.is_none() && (current.undone || current.is_rolling_back());
        match revision {
            None => Some(current).filter(|d| d.end().is_none_or(|end| end.state != EndState::Succeeded)),
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
        let unknown = |end: &End| end.state == EndState::Abandoned && end.reason != Some(Reason::Closed);
        if self.stream.id.source != Source::Flagger || !deployment.end().is_some_and(unknown) {
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
            Standing::Ended(end) if end.state == EndState::Abandoned && end.reason != Some(Reason::Closed) => {
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
    fn undo(&mut self, call: &Call, named: Option<DeploymentId>, revision: Option<&Revision>) -> Reply {
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

    /// Whether a deployment was ended here without the caller's knowing, and nothing has come since.
    pub(super) fn is_left_open(&self, deployment: &Deployment) -> bool {
        let abandoned = deployment.end().is_some_and(|end| end.state == EndState::Abandoned);
        abandoned && self.current().is_some_and(|current| current.id == deployment.id)
    }

    /// Whether a call with this revision may be about this deployment.
    fn matches(&self, deployment: &Deployment, revision: Option<&Revision>) -> bool {
        self.may_be(deployment) && matches(deployment, revision)
    }

    /// Whether the rollout that the call names may be this deployment: it is, or one of them names none.
    fn may_be(&self, deployment: &Deployment) -> bool {
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

    pub(super) fn requested_or(&self, id: DeploymentId, otherwise: Reason) -> Reason {
        self.deployment(id).and_then(|d| d.request.as_ref()).map_or(otherwise, |request| request.reason)
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

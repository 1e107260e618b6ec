//! Gates: a call of a forward hook joins the pass that goes on, takes the result that nobody has
//! taken, is answered from the ledger, or begins a new pass.

use super::{Turn, busy, is_wait, pending};
use crate::domain::answer;
use crate::domain::call::{Action, Call, Reply, WaitKey};
use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::pass::{Next, PassEnd};
use crate::domain::pipeline::{OnFailure, Work};
use crate::domain::record::{EndState, Ending, Event, Outcome, Purpose, Reason};

impl Turn<'_> {
    /// The gate of one hook in one deployment.
    pub(super) fn gate(&mut self, id: DeploymentId, hook: Hook, call: &Call) -> Reply {
        let Some(deployment) = self.deployment(id) else { return Reply::Nothing };
        let number = match deployment.pass(hook) {
            Some(pass) => match &pass.end {
                None => return self.join(id, hook, call.unattended),
                Some(end @ (PassEnd::Approved | PassEnd::Rejected { .. })) if !pass.delivered => {
                    let reply = Reply::Answer(answer::gate(deployment, hook, end));
                    self.emit(id, Event::Delivered { hook });
                    return reply;
                }
                Some(_) => pass.number + 1,
            },
            None => 1,
        };
        match deployment.next_on(hook, 0) {
            Next::Done => return Reply::Answer(answer::gate(deployment, hook, &PassEnd::Approved)),
            Next::Kept(stage) => {
                let end = PassEnd::Rejected { stage: stage.id.clone() };
                return Reply::Answer(answer::gate(deployment, hook, &end));
            }
            Next::Run(stage) => {
                // A post-rollout call comes at most once, and so does every call of some callers: refused, its
                // stages would be lost.
                let comes_again = hook != Hook::PostRollout && !call.unattended;
                let refusable = comes_again && !is_wait(stage) && !self.context.slot;
                if refusable && self.context.queue_full {
                    return busy(&format!("stage {}", stage.id));
                }
                if refusable && self.context.draining {
                    return pending(deployment, hook, "Stagehook is shutting down; call again");
                }
            }
        }
        let (payload, about, unattended) = (call.payload.clone(), call.about.clone(), call.unattended);
        self.emit(id, Event::Called { hook, pass: number, payload, about, unattended });
        self.go_on(id, hook);
        Reply::Wait(WaitKey::Hook(id, hook))
    }

    /// Joins the pass that goes on. After a start of the service it may be one that was left to its next call.
    pub(super) fn join(&mut self, id: DeploymentId, hook: Hook, unattended: bool) -> Reply {
        if unattended && self.deployment(id).and_then(|d| d.pass(hook)).is_some_and(|pass| !pass.unattended) {
            self.emit(id, Event::Unattended { hook });
        }
        self.go_on(id, hook);
        Reply::Wait(WaitKey::Hook(id, hook))
    }

    /// Starts the next stage of a pass that waits for nothing, or gets in line for it.
    pub(super) fn go_on(&mut self, id: DeploymentId, hook: Hook) {
        if self.context.draining || self.is_blocked(id) {
            return;
        }
        let Some(deployment) = self.deployment(id) else { return };
        if !deployment.goes_on(hook) {
            return;
        }
        let Some(pass) = deployment.pass(hook).filter(|pass| pass.end.is_none() && pass.running.is_none()) else {
            return;
        };
        let (number, cursor) = (pass.number, pass.cursor);
        let Next::Run(stage) = deployment.next_on(hook, cursor) else { return };
        let (stage_id, until) = match &stage.work {
            Work::Wait { duration, .. } => {
                let wait = jiff::SignedDuration::try_from(duration.0).unwrap_or(jiff::SignedDuration::MAX);
                // A wait beyond the end of time ends there.
                (stage.id.clone(), Some(self.context.now.checked_add(wait).unwrap_or(jiff::Timestamp::MAX)))
            }
            Work::Script { .. } | Work::External { .. } => (stage.id.clone(), None),
        };
        if until.is_none() && !std::mem::take(&mut self.context.slot) {
            self.actions.push(Action::Queue { deployment: id, hook });
            return;
        }
        let run = self.context.mint.run();
        let owner = self.context.owner.clone();
        let purpose = Purpose::Forward { hook, pass: number };
        self.emit(id, Event::StageStarted { run, stage: stage_id, purpose, until, owner });
        self.actions.push(match until {
            Some(until) => Action::ArmWait { run, until },
            None => Action::Start(run),
        });
    }

    pub(super) fn granted(&mut self, id: DeploymentId, hook: Hook) -> Reply {
        self.go_on(id, hook);
        Reply::Nothing
    }

    /// A run is over.
    pub(super) fn finished(&mut self, run: RunId, mut ending: Ending, waited: &[WaitKey]) -> Reply {
        let Some(deployment) = self.stream.owner_of(run) else { return Reply::Nothing };
        let id = deployment.id;
        let Some(found) = deployment.run(run).filter(|run| run.end.is_none()) else { return Reply::Nothing };
        let purpose = found.purpose;
        // The stop was recorded, then the service died: the word that was given holds.
        if let (Outcome::Interrupted, Some(why)) = (ending.outcome, &found.stop) {
            ending.outcome = Outcome::Cancelled;
            ending.message = format!("cancelled: {why} ({})", ending.message);
        }
        let key = match purpose {
            Purpose::Forward { hook, .. } => WaitKey::Hook(id, hook),
            Purpose::Rollback { .. } => WaitKey::Replay(id),
        };
        let outcome = ending.outcome;
        self.emit(id, Event::StageFinished { run, ending, awaited: waited.contains(&key) });
        let Some(deployment) = self.deployment(id) else { return Reply::Nothing };
        if let Purpose::Forward { hook, .. } = purpose
            && !deployment.is_rolling_back()
        {
            self.after_forward(id, hook, outcome);
        }
        // Its own replay, or another deployment's, may have waited for this run to be dead.
        self.go_on_replaying_all();
        if self.deployment(id).is_some_and(|d| !d.is_busy()) {
            self.actions.push(Action::Unblocked);
        }
        Reply::Nothing
    }

    /// Nobody heard a result after all: the next call gets it.
    pub(super) fn unheard(&mut self, key: WaitKey) -> Reply {
        let (id, hook, delivered) = match key {
            WaitKey::Hook(id, hook) => {
                let pass = self.deployment(id).and_then(|d| d.pass(hook));
                (id, hook, pass.is_some_and(|pass| pass.end.is_some() && pass.delivered))
            }
            WaitKey::Replay(id) => {
                let ended = self.deployment(id).filter(|d| d.end().is_some());
                (id, Hook::Rollback, ended.and_then(|d| d.replay.as_ref()).is_some_and(|replay| replay.delivered))
            }
        };
        if delivered {
            self.emit(id, Event::Undelivered { hook });
        }
        Reply::Nothing
    }

    fn after_forward(&mut self, id: DeploymentId, hook: Hook, outcome: Outcome) {
        if self.has_tasks() {
            return self.task_over(id, outcome);
        }
        let Some(deployment) = self.deployment(id) else { return };
        let Some(end) = deployment.pass(hook).and_then(|pass| pass.end.clone()) else {
            self.go_on(id, hook);
            return;
        };
        if hook == Hook::PostRollout && deployment.promoted {
            // Cut, and to run again: it is not through, and stays live for the next start to take up.
            if deployment.end().is_none() && deployment.post_rollout_due() {
                return;
            }
            let reason = (end != PassEnd::Approved).then_some(Reason::PostRolloutFailed);
            // The end may have been recorded before, by an earlier pass of the same hook.
            if deployment.end().is_none_or(|end| end.is_success() && end.reason != reason) {
                self.end(id, EndState::Succeeded, reason);
            }
            return;
        }
        let failed = matches!(outcome, Outcome::Failed | Outcome::TimedOut);
        if failed && deployment.is_open() && deployment.pipeline.on_failure == OnFailure::Rollback {
            if hook == Hook::ConfirmRollout && deployment.opening.is_some() {
                // Flagger has not begun, asks this again until it passes, and asks nothing else: there is
                // no end to be seen, and its next question opens the next deployment.
                self.begin_rollback(id, Reason::StageFailed, false, None);
            } else {
                self.request_rollback(id, Reason::StageFailed);
            }
        }
    }

    /// Whether no forward stage of this deployment may start now: a rollback of the application
    /// goes on, or an older deployment is not through: a script is alive, a post-rollout is due.
    pub(super) fn is_blocked(&self, id: DeploymentId) -> bool {
        let seq = self.deployment(id).map_or(0, |d| d.opened_seq);
        self.context.rolling_back_elsewhere.is_some()
            || !self.has_tasks()
                && self.stream.deployments.iter().any(|other| {
                    other.id != id && (other.is_rolling_back() || other.opened_seq < seq && other.is_busy())
                })
    }
}

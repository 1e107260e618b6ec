//! Rollbacks: how one is requested, begun, walked and ended; and how a deployment ends.

use jiff::{SignedDuration, Timestamp};

use super::{Turn, is_wait};
use crate::domain::call::{Action, Reply};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::Source;
use crate::domain::pass::{Next, Pass, PassEnd};
use crate::domain::pipeline::OnSupersede;
use crate::domain::record::{About, EndState, Ending, Event, Outcome, Payload, Purpose, Reason, Skipped};
use crate::domain::replay::Step;
use crate::domain::state::Deployment;

impl Turn<'_> {
    /// A rollback that Stagehook or a person wants: Flagger hears of it first, where it asks.
    pub(super) fn request_rollback(&mut self, id: DeploymentId, reason: Reason) {
        if self.stream.id.source == Source::Flagger && self.stream.question_asked {
            if self.deployment(id).is_some_and(|d| d.request.is_none()) {
                self.emit(id, Event::RollbackRequested { reason });
            }
        } else {
            self.begin_rollback(id, reason, true, None);
        }
    }

    /// Begins the replay; it goes on when every forward script is dead.
    ///
    /// `own`: Stagehook decided it, and the caller does not know.
    pub(super) fn begin_rollback(&mut self, id: DeploymentId, reason: Reason, own: bool, payload: Option<&Payload>) {
        let replay = self.deployment(id).and_then(|d| d.replay.as_ref()).map_or(1, |replay| replay.number + 1);
        self.emit(id, Event::RollbackStarted { replay, reason, own, payload: payload.cloned() });
        self.stop_all(id, &format!("stopped for the rollback ({})", reason.as_str()));
        self.go_on_replaying(id);
    }

    /// Asks every run of a deployment to end. A wait ends here and now.
    pub(super) fn stop_all(&mut self, id: DeploymentId, why: &str) {
        let alive: Vec<_> =
            self.deployment(id).into_iter().flat_map(Deployment::alive).map(|run| (run.id, run.until)).collect();
        for (run, until) in alive {
            if until.is_some() {
                let ending = Ending::plain(Outcome::Cancelled, why);
                self.emit(id, Event::StageFinished { run, ending, awaited: false });
            } else {
                self.emit(id, Event::StopRequested { run, why: why.to_owned() });
            }
            // Of a wait it is the timer that ends.
            self.actions.push(Action::Stop { run, why: why.to_owned() });
        }
    }

    /// Starts the next step of a replay, gets in line for it, or ends the deployment.
    pub(super) fn go_on_replaying(&mut self, id: DeploymentId) {
        let Some(deployment) = self.deployment(id).filter(|d| d.is_rolling_back() && d.alive().next().is_none()) else {
            return;
        };
        let replay = deployment.replay.as_ref().map_or(1, |replay| replay.number);
        let reason = deployment.replay.as_ref().map(|replay| replay.reason);
        match deployment.next_step() {
            Step::End(state) => self.end(id, state, reason),
            Step::Run(_) if self.context.draining || self.must_wait(deployment) => {}
            Step::Run(stage) => {
                let stage = stage.id.clone();
                if !std::mem::take(&mut self.context.slot) {
                    self.actions.push(Action::QueueReplay { deployment: id });
                    return;
                }
                let run = self.context.mint.run();
                let owner = self.context.owner.clone();
                let purpose = Purpose::Rollback { replay };
                self.emit(id, Event::StageStarted { run, stage, purpose, until: None, owner });
                self.actions.push(Action::Start(run));
            }
        }
    }

    /// Whether a replay has to wait for another deployment of this stream: for what is being undone or
    /// killed there, and for a newer one's whole replay, since the last done is the first undone.
    fn must_wait(&self, deployment: &Deployment) -> bool {
        let killed = |other: &Deployment| other.alive().any(|run| run.is_rollback() || run.stop.is_some());
        let newer = |other: &Deployment| other.opened_seq > deployment.opened_seq && other.is_rolling_back();
        self.stream.deployments.iter().any(|other| other.id != deployment.id && (killed(other) || newer(other)))
    }

    /// Goes on with every replay that may, the newest first.
    pub(super) fn go_on_replaying_all(&mut self) {
        let rolling: Vec<_> =
            self.stream.deployments.iter().rev().filter(|d| d.is_rolling_back()).map(|d| d.id).collect();
        for id in rolling {
            self.go_on_replaying(id);
        }
    }

    pub(super) fn granted_replay(&mut self, id: DeploymentId) -> Reply {
        self.go_on_replaying(id);
        Reply::Nothing
    }

    /// Ends a deployment.
    pub(super) fn end(&mut self, id: DeploymentId, state: EndState, reason: Option<Reason>) {
        let Some(deployment) = self.deployment(id) else { return };
        let skipped = skipped(deployment, state);
        self.emit(id, Event::Ended { state, reason, skipped });
        self.actions.push(Action::Unblocked);
    }

    /// The rollout is known to have succeeded although nobody said so: post-rollout was lost.
    pub(super) fn succeeded_unseen(&mut self, id: DeploymentId) {
        self.emit(id, Event::RolloutSucceeded);
        self.end(id, EndState::Succeeded, Some(Reason::SuccessMissed));
    }

    /// Another revision takes the place of an open deployment's.
    ///
    /// It is undone only where it is proven that it had not succeeded: confirm-rollout is wired
    /// (it opened this deployment, and no rollout was seen to begin without one since) and would have
    /// come first, or the restart of the analysis was noted. Otherwise a lost success looks the same,
    /// and undoing a live revision is worse.
    pub(super) fn supersede(&mut self, id: DeploymentId) {
        let Some(deployment) = self.deployment(id) else { return };
        let confirmed = deployment.opening.is_some() && !deployment.start_noted;
        let proven = confirmed || deployment.restart_noted;
        if proven && deployment.pipeline.on_supersede == OnSupersede::Rollback {
            self.begin_rollback(id, Reason::Superseded, false, None);
        } else {
            self.abandon(id, Reason::Superseded);
        }
    }

    /// Ends a deployment without undoing anything; its scripts do not go on beside the next one.
    pub(super) fn abandon(&mut self, id: DeploymentId, reason: Reason) {
        self.stop_all(id, &format!("stopped: the deployment was abandoned ({})", reason.as_str()));
        self.end(id, EndState::Abandoned, Some(reason));
    }

    pub(super) fn signal_timed_out(&mut self, id: DeploymentId) -> Reply {
        if let Some(deployment) = self.deployment(id)
            && deployment.is_open()
            && let Some(request) = deployment.request.as_ref().filter(|request| request.signalled_at.is_some())
        {
            let reason = request.reason;
            self.begin_rollback(id, reason, true, None);
        }
        Reply::Nothing
    }

    /// When a rollback that was signalled then is replayed without the caller's report.
    pub(super) fn replay_at(&self, signalled: Timestamp) -> Timestamp {
        let wait = SignedDuration::try_from(self.context.signal_timeout.0).unwrap_or(SignedDuration::MAX);
        signalled.checked_add(wait).unwrap_or(Timestamp::MAX)
    }

    /// Goes on with replays and with passes that were blocked.
    ///
    /// At the start of the service a pass of a rollout in progress is left to the next call, which
    /// begins or continues it: nobody waits for it now. A post-rollout call never comes again, nor does that of
    /// a caller that does not wait. A command of the load tester that was taken is begun in any case.
    pub(super) fn resume(&mut self, at_start: bool) -> Reply {
        // The newest first, as replays go.
        let all: Vec<_> = self.stream.deployments.iter().rev().map(|d| d.id).collect();
        for id in all {
            if at_start {
                self.arm_again(id);
                self.begin_again_all(id);
            }
            let Some(deployment) = self.deployment(id) else { continue };
            if deployment.is_rolling_back() {
                self.go_on_replaying(id);
                continue;
            }
            let hooks: Vec<_> = deployment
                .passes
                .iter()
                .filter(|(hook, pass)| !at_start || *hook == Hook::PostRollout || pass.unattended || self.has_tasks())
                .map(|(hook, _)| *hook)
                .collect();
            for hook in hooks {
                self.go_on(id, hook);
            }
        }
        Reply::Nothing
    }

    /// The timers of a deployment, which were lost with the process, and the kills that were due.
    fn arm_again(&mut self, id: DeploymentId) {
        let Some(deployment) = self.deployment(id) else { return };
        let waits: Vec<_> = deployment.alive().filter_map(|run| run.until.map(|until| (run.id, until))).collect();
        let stops: Vec<_> = deployment.alive().filter_map(|run| Some((run.id, run.stop.clone()?))).collect();
        let signalled = deployment.request.as_ref().and_then(|request| request.signalled_at);
        self.actions.extend(waits.into_iter().map(|(run, until)| Action::ArmWait { run, until }));
        // Alive here after a commit in doubt: the kill that was to follow the record was left out.
        self.actions.extend(stops.into_iter().map(|(run, why)| Action::Stop { run, why }));
        if let Some(signalled) = signalled {
            let at = self.replay_at(signalled);
            self.actions.push(Action::ArmSignal { deployment: id, at });
        }
    }

    /// Passes that no call will ask for again, that were cut, and whose stage may run again, begin anew with
    /// the payload of the call that is gone.
    /// Returns the hooks of such passes, begun anew or not.
    pub(super) fn begin_again_all(&mut self, id: DeploymentId) -> Vec<Hook> {
        let Some(deployment) = self.deployment(id) else { return Vec::new() };
        let comes_once = |(hook, pass): &&(Hook, Pass)| {
            deployment.goes_on(*hook) && (pass.unattended || *hook == Hook::PostRollout && deployment.promoted)
        };
        let hooks: Vec<_> = deployment.passes.iter().filter(comes_once).map(|(hook, _)| *hook).collect();
        for hook in &hooks {
            self.begin_again(id, *hook);
        }
        hooks
    }

    fn begin_again(&mut self, id: DeploymentId, hook: Hook) {
        let Some(deployment) = self.deployment(id) else { return };
        let Some(pass) = deployment.pass(hook) else { return };
        let unattended = pass.unattended;
        let cut = match &pass.end {
            Some(PassEnd::Interrupted { .. }) => true,
            Some(PassEnd::Rejected { stage }) => deployment.last_forward(stage).is_some_and(|run| run.released),
            Some(PassEnd::Approved) | None => false,
        };
        if cut && matches!(deployment.next_on(hook, 0), Next::Run(_)) {
            let (pass, payload) = (pass.number + 1, Payload::clone(&pass.payload));
            self.emit(id, Event::Called { hook, pass, payload, about: About::default(), unattended });
        }
    }
}

/// The forward stages that never ran, each with the reason.
fn skipped(deployment: &Deployment, state: EndState) -> Vec<Skipped> {
    let never = |stage: &&crate::domain::pipeline::Stage| deployment.last_forward(&stage.id).is_none();
    let because = |hook: Hook| match (state, deployment.pass(hook)) {
        (EndState::Succeeded, None) => format!("{hook} was never called"),
        (EndState::Succeeded, Some(pass)) if pass.end.is_none() => {
            format!("the rollout succeeded before its turn on {hook}")
        }
        (EndState::Succeeded, Some(_)) => format!("an earlier stage of {hook} did not succeed"),
        (EndState::RolledBack | EndState::RollbackFailed | EndState::Abandoned, None) => {
            format!("the deployment ended before {hook} was called")
        }
        (EndState::RolledBack | EndState::RollbackFailed | EndState::Abandoned, Some(_)) => {
            format!("the deployment ended before its turn on {hook}")
        }
    };
    deployment
        .pipeline
        .stages
        .iter()
        .filter(never)
        .filter_map(|stage| stage.hook().map(|hook| (stage, hook)))
        .filter(|(stage, hook)| *hook != Hook::Rollback || is_wait(stage))
        .map(|(stage, hook)| Skipped { stage: stage.id.clone(), reason: because(hook) })
        .collect()
}

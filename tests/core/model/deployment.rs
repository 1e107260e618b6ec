//! What the model says of one deployment by itself: what is kept, what is left, what a rollback runs.

use stagehook::domain::call::Verdict;
use stagehook::domain::hook::Hook;
use stagehook::domain::names::{Revision, StageId};
use stagehook::domain::pipeline::{OnInterrupt, Repeat, RollbackOnFailure, RollbackOrder, Stage};
use stagehook::domain::record::{EndState, Outcome};

use super::{MDep, MRun, Phase, Walk};

impl MDep {
    pub fn open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub fn rolling(&self) -> bool {
        matches!(self.phase, Phase::Rolling(_))
    }

    pub fn alive(&self) -> bool {
        self.runs.iter().any(|run| run.outcome.is_none())
    }

    /// Whether a step of its rollback is alive.
    pub fn undoing(&self) -> bool {
        self.runs.iter().any(|run| run.outcome.is_none() && run.rollback.is_some())
    }

    pub fn newest(&self, stage: &StageId, rollback: bool) -> Option<&MRun> {
        self.runs.iter().rfind(|run| run.stage == *stage && run.rollback.is_some() == rollback)
    }

    pub fn is(&self, revision: &Option<Revision>) -> bool {
        revision.is_none() || self.revision.is_none() || self.revision == *revision
    }

    /// Whether a stage's last result lets it run (`None`), or stands as a success or a refusal.
    pub fn kept(&self, stage: &Stage) -> Option<bool> {
        let run = self.newest(&stage.id, false)?;
        let hold = stage.script().is_some_and(|script| script.on_interrupt == OnInterrupt::Hold);
        match (run.outcome?, stage.repeat()) {
            (Outcome::Succeeded, Repeat::Always) => None,
            (Outcome::Succeeded, _) => Some(true),
            (Outcome::Cancelled, _) if !run.released => Some(false),
            (Outcome::Interrupted, _) if hold && !run.released => Some(false),
            (Outcome::Failed | Outcome::TimedOut, Repeat::Once) => Some(false),
            _ => None,
        }
    }

    pub fn stages(&self, hook: Hook) -> Vec<StageId> {
        self.pipeline.stages.iter().filter(|s| s.hook() == Some(hook)).map(|s| s.id.clone()).collect()
    }

    pub fn is_wait(&self, stage: &StageId) -> bool {
        self.pipeline.stage(stage).unwrap().script().is_none()
    }

    pub fn running_on(&self, hook: Hook) -> bool {
        let on = self.stages(hook);
        self.runs.iter().any(|r| r.outcome.is_none() && r.rollback.is_none() && on.contains(&r.stage))
    }

    /// Whether stages of this hook may start, as far as the deployment itself goes.
    pub fn goes(&self, hook: Hook) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Promoted | Phase::Over(EndState::Succeeded, _) => hook == Hook::PostRollout,
            _ => false,
        }
    }

    /// Whether an open deployment is what a call with this revision is about.
    pub fn takes(&self, revision: &Option<Revision>) -> bool {
        self.is(revision) && !(self.passed_by && revision.is_some())
    }

    /// The caller's own end of what was undone here.
    pub fn see_end(&mut self) {
        self.end_seen |= std::mem::take(&mut self.undone);
    }

    /// Whether its post-rollout was called for again after its end, and has still to run.
    pub fn called_again(&self) -> bool {
        let over = self.promoted && matches!(self.phase, Phase::Over(EndState::Succeeded, _));
        over && match self.walks.get(&Hook::PostRollout) {
            Some(Walk::Going(_)) => true,
            Some(Walk::Over { verdict: Verdict::Pending, .. }) => self.strike(&self.stages(Hook::PostRollout)).is_ok(),
            _ => false,
        }
    }

    /// Its waits end here and now; its scripts have to die first.
    pub fn stop_all(&mut self) {
        for at in 0..self.runs.len() {
            self.runs[at].stop |= self.runs[at].outcome.is_none();
            if self.runs[at].outcome.is_none() && self.is_wait(&self.runs[at].stage) {
                self.runs[at].outcome = Some(Outcome::Cancelled);
                let stage = self.runs[at].stage.clone();
                let hook = self.pipeline.stage(&stage).unwrap().hook().unwrap();
                self.walks.insert(hook, Walk::Over { verdict: Verdict::Rejected, heard: false, by: Some(stage) });
            }
        }
    }

    /// Strikes from a walk what needs no run: `Ok` is what is left to run, `Err` the verdict.
    pub fn strike(&self, list: &[StageId]) -> Result<Vec<StageId>, Verdict> {
        for (at, id) in list.iter().enumerate() {
            match self.kept(self.pipeline.stage(id).unwrap()) {
                None => return Ok(list[at..].to_vec()),
                Some(true) => {}
                Some(false) => return Err(Verdict::Rejected),
            }
        }
        Err(Verdict::Approved)
    }

    /// The stages of a rollback, in the order of their replay.
    pub fn steps(&self) -> Vec<StageId> {
        let undoes =
            |s: &&Stage| s.script().is_some_and(|x| !x.on_rollback.is_empty()) && s.hook() != Some(Hook::Rollback);
        let mut list: Vec<StageId> = (self.pipeline.stages.iter().filter(undoes))
            .filter(|s| self.newest(&s.id, false).is_some())
            .map(|s| s.id.clone())
            .collect();
        if self.pipeline.rollback.order == RollbackOrder::Reverse {
            list.reverse();
        }
        list.extend(self.stages(Hook::Rollback));
        list
    }

    /// What a replay runs next, or how it ends.
    pub fn next_step(&self) -> Result<StageId, EndState> {
        let mut failed = false;
        for id in self.steps() {
            match self.newest(&id, true) {
                Some(run) if run.outcome == Some(Outcome::Succeeded) => {}
                Some(run) if run.rollback == Some(self.replay) && run.outcome != Some(Outcome::Interrupted) => {
                    failed = true;
                    if self.pipeline.rollback.on_failure == RollbackOnFailure::Stop {
                        break;
                    }
                }
                _ => return Ok(id),
            }
        }
        Err(if failed { EndState::RollbackFailed } else { EndState::RolledBack })
    }
}

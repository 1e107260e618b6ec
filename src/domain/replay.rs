//! The steps of a rollback: which there are, which is next, and how it ends.

use super::hook::Hook;
use super::pipeline::{RollbackOnFailure, RollbackOrder, Stage};
use super::record::{EndState, Outcome, Purpose};
use super::state::Deployment;

/// What a replay comes to next.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// This stage's rollback is to run.
    Run(&'a Stage),
    /// It is over.
    End(EndState),
}

impl Deployment {
    /// The steps of its rollback: the `onRollback` of every executed stage, in the pipeline's
    /// order or reversed, then the stages with `hook: rollback`.
    pub fn rollback_steps(&self) -> Vec<&Stage> {
        let mut steps: Vec<&Stage> = self
            .pipeline
            .stages
            .iter()
            .filter(|stage| stage.hook() != Some(Hook::Rollback))
            .filter(|stage| stage.script().is_some_and(|script| !script.on_rollback.is_empty()))
            .filter(|stage| self.last_forward(&stage.id).is_some())
            .collect();
        if self.pipeline.rollback.order == RollbackOrder::Reverse {
            steps.reverse();
        }
        steps.extend(self.pipeline.on_hook(Hook::Rollback).map(|(_, stage)| stage).filter(|s| s.script().is_some()));
        steps
    }

    /// What comes next in the current replay, when nothing of the deployment is alive.
    ///
    /// A step that succeeded, in this replay or an earlier one, stays; an interrupted one runs again.
    pub fn next_step(&self) -> Step<'_> {
        let number = self.replay.as_ref().map_or(0, |replay| replay.number);
        let mut failed = false;
        for stage in self.rollback_steps() {
            let Some(run) = self.last_rollback(&stage.id) else { return Step::Run(stage) };
            match run.outcome() {
                Some(Outcome::Succeeded) => {}
                None | Some(Outcome::Interrupted) => return Step::Run(stage),
                Some(Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled) => {
                    if run.purpose != (Purpose::Rollback { replay: number }) {
                        return Step::Run(stage);
                    }
                    failed = true;
                    if self.pipeline.rollback.on_failure == RollbackOnFailure::Stop {
                        break;
                    }
                }
            }
        }
        Step::End(if failed { EndState::RollbackFailed } else { EndState::RolledBack })
    }
}

//! Where the stages of a hook, or the rollback, of a deployment stand: for callers that did not wait for the verdict and
//! ask later.
//!
//! Read from the state alone, so it is the same after a restart. It answers nothing and counts nothing as delivered.

use std::collections::BTreeMap;

use super::answer;
use super::call::{Answer, Verdict};
use super::hook::Hook;
use super::names::{Source, StageId};
use super::pass::{Next, PassEnd};
use super::record::{EndState, Outcome, Reason};
use super::state::{Deployment, Standing};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It goes on, or will by itself.
    Running,
    /// Approved; undone.
    Succeeded,
    /// Rejected; the rollback failed.
    Failed,
    /// Somebody stopped it.
    Canceled,
}

/// Where a hook of a deployment stands, and the answer that a call would have been given. `None`: it was never called
/// for. `source` is whose deployment it is.
pub fn of(deployment: &Deployment, source: Source, hook: Hook) -> Option<(Phase, Answer)> {
    if hook == Hook::Rollback { of_rollback(deployment) } else { of_stages(deployment, source, hook) }
}

/// What the newest run of each stage of a hook left as outputs, by stage; of the rollback, what its steps left.
pub fn results(deployment: &Deployment, hook: Hook) -> BTreeMap<&StageId, &BTreeMap<String, String>> {
    let run = |stage: &StageId| match hook {
        Hook::Rollback => deployment.last_rollback(stage),
        _ => deployment.last_forward(stage),
    };
    let stages: Vec<_> = match hook {
        Hook::Rollback => deployment.rollback_steps(),
        _ => deployment.pipeline.on_hook(hook).map(|(_, stage)| stage).collect(),
    };
    let ended = stages.into_iter().filter_map(|stage| Some((&stage.id, run(&stage.id)?.ending()?)));
    ended.filter(|(_, ending)| !ending.outputs.is_empty()).map(|(stage, ending)| (stage, &ending.outputs)).collect()
}

fn of_stages(deployment: &Deployment, source: Source, hook: Hook) -> Option<(Phase, Answer)> {
    let over = || (stopped(deployment), answer::over(deployment, hook));
    let answer = |end: &PassEnd| answer::gate(deployment, hook, end);
    let pass = deployment.pass(hook);
    let end = pass.and_then(|pass| pass.end.as_ref());
    if let Some(end @ PassEnd::Rejected { stage }) = end {
        let cancelled = deployment.last_forward(stage).and_then(|run| run.outcome()) == Some(Outcome::Cancelled);
        return Some((if cancelled { Phase::Canceled } else { Phase::Failed }, answer(end)));
    }
    if pass.is_some_and(|pass| pass.running.is_some()) {
        return Some((Phase::Running, answer::still_pending(deployment, hook)));
    }
    if deployment.undone {
        // Whatever has passed before, a call of it is turned away.
        return Some((stopped(deployment), answer::undone(deployment, source, hook)));
    }
    match (end, deployment.next_on(hook, 0)) {
        (Some(end @ PassEnd::Approved), _) => Some((Phase::Succeeded, answer(end))),
        // Interrupted, and a person has to let it run again: a call would be told no.
        (Some(_), Next::Kept(stage)) => Some((Phase::Failed, answer(&PassEnd::Rejected { stage: stage.id.clone() }))),
        // No stage was to run, so no pass has begun.
        (None, Next::Done) if pass.is_none() => Some((Phase::Succeeded, answer(&PassEnd::Approved))),
        _ if !deployment.goes_on(hook) => Some(over()),
        (Some(end), _) => Some((Phase::Running, answer(end))),
        (None, _) => pass.map(|_| (Phase::Running, answer::still_pending(deployment, hook))),
    }
}

fn of_rollback(deployment: &Deployment) -> Option<(Phase, Answer)> {
    let replayed = |state| answer::replayed(deployment, state);
    match &deployment.standing {
        Standing::RollingBack { .. } => Some((Phase::Running, answer::still_replaying(deployment))),
        // Closed in the middle of its replay, with a step that is being stopped.
        Standing::Ended(_) if deployment.alive().any(|run| run.is_rollback()) => {
            Some((Phase::Running, answer::still_replaying(deployment)))
        }
        Standing::Ended(end) => {
            let answer = replayed(end.state);
            let phase = match (answer.verdict, end.reason) {
                (Verdict::Approved, _) => Phase::Succeeded,
                (_, Some(Reason::Closed)) => Phase::Canceled,
                _ => Phase::Failed,
            };
            Some((phase, answer))
        }
        Standing::Progressing if deployment.promoted => Some((Phase::Succeeded, replayed(EndState::Succeeded))),
        Standing::Progressing if deployment.request.is_some() => {
            Some((Phase::Running, answer::still_replaying(deployment)))
        }
        Standing::Progressing => None,
    }
}

/// Stages that do not go on: because a person wanted it so, or because the rollout failed.
fn stopped(deployment: &Deployment) -> Phase {
    let reason = deployment.replay.as_ref().map(|replay| replay.reason);
    match deployment.end().and_then(|end| end.reason).or(reason) {
        Some(Reason::Cancelled | Reason::Closed) => Phase::Canceled,
        _ => Phase::Failed,
    }
}

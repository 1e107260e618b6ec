//! Answers: the verdict, and in one line why.

use super::call::{Answer, StageReport, Subject, Verdict};
use super::hook::Hook;
use super::ids::DeploymentId;
use super::names::Source;
use super::pass::PassEnd;
use super::pipeline::Stage;
use super::record::{EndState, Ending, Outcome, Reason};
use super::state::{Deployment, Run};

/// The verdict of a pass that is over.
pub fn gate(deployment: &Deployment, hook: Hook, end: &PassEnd) -> Answer {
    let (verdict, message) = match end {
        PassEnd::Approved => (Verdict::Approved, approved(deployment, hook)),
        PassEnd::Rejected { stage } => {
            let run = deployment.last_forward(stage);
            (Verdict::Rejected, format!("stage {stage} {}", run.map_or_else(String::new, |run| how(run))))
        }
        PassEnd::Interrupted { stage } => {
            let unattended = deployment.pass(hook).is_some_and(|pass| pass.unattended);
            let again = if unattended || hook == Hook::PostRollout && deployment.post_rollout_due() {
                "it runs again when Stagehook starts"
            } else {
                "call again"
            };
            (Verdict::Pending, format!("pending: stage {stage} was interrupted when Stagehook stopped; {again}"))
        }
    };
    answer(deployment, hook, Subject::Gate, verdict, message)
}

/// A gate of a deployment that ended, or began to roll back, before the gate's turn came.
pub fn over(deployment: &Deployment, hook: Hook) -> Answer {
    let is = if deployment.promoted && deployment.end().is_none() {
        "has succeeded at its caller".to_owned()
    } else {
        format!("is {}", standing(deployment))
    };
    let message = format!("{} {is}, so {hook} does not go on", deployment.id);
    answer(deployment, hook, Subject::Gate, Verdict::Rejected, message)
}

/// A gate of a rollout that was undone here.
pub fn undone(deployment: &Deployment, source: Source, hook: Hook) -> Answer {
    let (id, standing) = (deployment.id, standing(deployment));
    let message = if deployment.undone {
        format!(
            "this rollout was undone here ({id} is {standing}): its hooks are rejected until {source} has reported its end, \
             or `stagehook release {id}`"
        )
    } else {
        format!(
            "this rollout was undone here ({id} is {standing}) before {source} reported its end, so {hook} does not run"
        )
    };
    answer(deployment, hook, Subject::Gate, Verdict::Rejected, message)
}

/// The end of a deployment, to whoever asked for its rollback.
pub fn replayed(deployment: &Deployment, state: EndState) -> Answer {
    let id = deployment.id;
    let steps = deployment.rollback_steps();
    let (verdict, message) = match state {
        EndState::RolledBack if steps.is_empty() => {
            (Verdict::Approved, format!("{id} is RolledBack: nothing to undo, no executed stage has an onRollback"))
        }
        EndState::RolledBack => (Verdict::Approved, format!("{id} is RolledBack: {}", names(&steps))),
        EndState::Succeeded => (
            Verdict::Approved,
            format!("{id} has already Succeeded, so the failure report was noted and nothing is undone"),
        ),
        EndState::Abandoned if deployment.end().is_some_and(|end| end.reason == Some(Reason::Closed)) => {
            (Verdict::Rejected, closed(deployment, &steps))
        }
        EndState::Abandoned => (Verdict::Rejected, format!("{id} is Abandoned: its rollback did not come to an end")),
        EndState::RollbackFailed => {
            let failed = steps
                .iter()
                .filter_map(|stage| deployment.last_rollback(&stage.id))
                .find(|run| run.outcome() != Some(Outcome::Succeeded));
            let why = failed.map_or_else(String::new, |run| format!("onRollback of stage {} {}", run.stage, how(run)));
            (Verdict::Rejected, format!("{id} is RollbackFailed: {why}"))
        }
    };
    answer(deployment, Hook::Rollback, Subject::Replay, verdict, message)
}

/// What a person's closing has left undone.
fn closed(deployment: &Deployment, steps: &[&Stage]) -> String {
    let id = deployment.id;
    let done: Vec<&Stage> = steps
        .iter()
        .copied()
        .filter(|stage| {
            deployment.last_rollback(&stage.id).is_some_and(|run| run.outcome() == Some(Outcome::Succeeded))
        })
        .collect();
    if deployment.replay.is_none() {
        format!("{id} was closed by a person, so nothing of it is undone; to undo it: `stagehook rollback {id}`")
    } else if done.is_empty() {
        format!("{id} was closed by a person before anything of it was undone; to undo it: `stagehook rollback {id}`")
    } else {
        let done = names(&done);
        format!(
            "{id} was closed by a person in the middle of its rollback; undone: {done}; for the rest: `stagehook rollback {id}`"
        )
    }
}

/// Flagger's question: approved makes it roll back.
pub fn question(yes: bool, hook: Hook, deployment: Option<DeploymentId>, message: String) -> Answer {
    let verdict = if yes { Verdict::Approved } else { Verdict::Rejected };
    Answer { verdict, subject: Subject::Question, hook, deployment, message, stages: Vec::new() }
}

/// A gate that has no verdict yet.
pub fn pending(deployment: &Deployment, hook: Hook, why: &str) -> Answer {
    answer(deployment, hook, Subject::Gate, Verdict::Pending, format!("pending: {why}"))
}

/// A gate whose call waited as long as it may.
pub fn still_pending(deployment: &Deployment, hook: Hook) -> Answer {
    let running = deployment.pass(hook).and_then(|pass| pass.running).and_then(|id| deployment.run(id));
    match running {
        Some(run) => pending(deployment, hook, &format!("stage {} is running ({})", run.stage, run.id)),
        None => pending(
            deployment,
            hook,
            "the next stage waits for a slot, or for what an earlier rollout of this application has still to do",
        ),
    }
}

/// A rollback whose call waited as long as it may.
pub fn still_replaying(deployment: &Deployment) -> Answer {
    let running = deployment.alive().next();
    let why = match running {
        Some(run) if run.is_rollback() => format!("onRollback of stage {} is running ({})", run.stage, run.id),
        Some(run) => format!("stage {} is being stopped first ({})", run.stage, run.id),
        None => "the next step waits for a slot, or for another rollback of this application".to_owned(),
    };
    let message = format!("pending: {} is RollingBack: {why}", deployment.id);
    answer(deployment, Hook::Rollback, Subject::Replay, Verdict::Pending, message)
}

/// Where each stage of a hook stands, or each step of the rollback.
pub fn reports(deployment: &Deployment, subject: Subject, hook: Hook) -> Vec<StageReport> {
    match subject {
        Subject::Gate => deployment
            .pipeline
            .on_hook(hook)
            .map(|(_, stage)| report(stage, deployment.last_forward(&stage.id).map(AsRef::as_ref)))
            .collect(),
        Subject::Replay => deployment
            .rollback_steps()
            .into_iter()
            .map(|stage| report(stage, deployment.last_rollback(&stage.id).map(AsRef::as_ref)))
            .collect(),
        Subject::Question | Subject::Note => Vec::new(),
    }
}

/// Where one stage stands, by its newest run.
pub fn report(stage: &Stage, run: Option<&Run>) -> StageReport {
    StageReport {
        id: stage.id.clone(),
        name: stage.type_name().to_owned(),
        state: run.map(|run| run.outcome().map_or("Running", Outcome::as_str).to_owned()),
        run: run.map(|run| run.id),
        exit_code: run.and_then(Run::ending).and_then(|ending| ending.exit_code),
        duration_ms: run
            .and_then(|run| run.end.as_ref().map(|(at, _)| at.duration_since(run.started_at)))
            .map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
    }
}

fn answer(deployment: &Deployment, hook: Hook, subject: Subject, verdict: Verdict, message: String) -> Answer {
    let stages = reports(deployment, subject, hook);
    Answer { verdict, subject, hook, deployment: Some(deployment.id), message, stages }
}

fn approved(deployment: &Deployment, hook: Hook) -> String {
    let stages: Vec<_> = deployment.pipeline.on_hook(hook).map(|(_, stage)| stage).collect();
    if stages.is_empty() {
        format!("approved: no stage runs on {hook}")
    } else {
        format!("approved: {}", names(&stages))
    }
}

fn names(stages: &[&Stage]) -> String {
    stages.iter().map(|stage| stage.id.as_str()).collect::<Vec<_>>().join(", ")
}

/// How a run ended and its last line: `failed (exit code 3): no such table`.
fn how(run: &Run) -> String {
    let Some(Ending { outcome, message, last_line, .. }) = run.ending() else { return "is running".to_owned() };
    let what = match outcome {
        Outcome::Succeeded => format!("succeeded ({message})"),
        Outcome::Failed => format!("failed ({message})"),
        // It says so itself, and after how long.
        Outcome::TimedOut => message.clone(),
        Outcome::Cancelled => format!("was cancelled ({})", message.strip_prefix("cancelled: ").unwrap_or(message)),
        Outcome::Interrupted => format!(
            "was interrupted, and is held until `stagehook release` ({})",
            message.strip_prefix("interrupted: ").unwrap_or(message)
        ),
    };
    if last_line.is_empty() { what } else { format!("{what}: {last_line}") }
}

fn standing(deployment: &Deployment) -> String {
    let reason = deployment.replay.as_ref().map(|replay| replay.reason);
    let reason = deployment.end().and_then(|end| end.reason).or(reason);
    let state = deployment.state().as_str();
    reason.map_or_else(|| state.to_owned(), |reason| format!("{state}, {}", reason.as_str()))
}

//! How deployments and runs are written in answers. The names of the fields are part of the contract.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{RolloutId, StageId, StreamId};
use crate::domain::pipeline::{PipelineHash, Stage as Planned};
use crate::domain::record::{Actor, Attempt, Ending, Outcome, OutputDigest, Purpose, Reason};
use crate::domain::report::Report as Wanted;
use crate::domain::state::{Deployment as Folded, Run as FoldedRun, Standing, Stream};
use crate::domain::summary::Summary;

/// A deployment, complete.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    #[serde(flatten)]
    summary: Summary,
    opened_by: Actor,
    rollout: Option<RolloutId>,
    hook: Hook,
    pipeline: Pipeline,
    undone: bool,
    requested: Option<Requested>,
    reports: Vec<Report>,
    stages: Vec<Stage>,
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Pipeline {
    name: String,
    file: String,
    hash: PipelineHash,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Requested {
    reason: Reason,
    by: Actor,
    signalled_at: Option<Timestamp>,
}

/// An outcome that its caller wants told elsewhere. Where is the business of the source alone.
#[derive(Debug, Serialize)]
struct Report {
    report: u32,
    hook: Hook,
    /// `waiting` until it was told, then `sent`, or `failed`, which is tried again only where its call comes again.
    state: &'static str,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Stage {
    id: StageId,
    name: String,
    hook: Option<Hook>,
    state: Option<&'static str>,
    reason: Option<String>,
    run: Option<RunId>,
}

/// A run, complete.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    id: RunId,
    deployment: DeploymentId,
    stage: StageId,
    name: String,
    purpose: &'static str,
    hook: Option<Hook>,
    pass: Option<u32>,
    replay: Option<u32>,
    state: &'static str,
    started_at: Timestamp,
    until: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    duration_ms: Option<i64>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    message: Option<String>,
    last_line: Option<String>,
    attempts: Vec<Attempt>,
    output: Option<OutputDigest>,
    outputs: BTreeMap<String, String>,
    stop: Option<String>,
}

impl Run {
    /// Whether its end is in the ledger.
    pub const fn is_over(&self) -> bool {
        self.finished_at.is_some()
    }
}

/// A deployment of a stream.
pub fn deployment(stream: &StreamId, folded: &Folded) -> Deployment {
    Deployment {
        summary: Stream::new(stream.clone()).summary(folded),
        opened_by: folded.opened_by.clone(),
        rollout: folded.rollout.clone(),
        hook: folded.opened_hook,
        pipeline: Pipeline {
            name: folded.pipeline.name.clone(),
            file: folded.pipeline.file.clone(),
            hash: folded.pipeline_hash.clone(),
        },
        undone: folded.undone,
        requested: folded.request.as_ref().map(|request| Requested {
            reason: request.reason,
            by: request.by.clone(),
            signalled_at: request.signalled_at,
        }),
        reports: folded.reports.iter().map(report).collect(),
        stages: folded.pipeline.stages.iter().map(|planned| stage(folded, planned)).collect(),
        runs: folded.runs.iter().map(|found| run(folded, found)).collect(),
    }
}

fn report(wanted: &Wanted) -> Report {
    let (state, problem) = match &wanted.sent {
        None => ("waiting", None),
        Some(None) => ("sent", None),
        Some(Some(why)) => ("failed", Some(why.clone())),
    };
    Report { report: wanted.number, hook: wanted.hook, state, problem }
}

/// Where a stage stands: by its newest run forward (for a stage that belongs to the rollback: back), or why it has none.
fn stage(folded: &Folded, planned: &Planned) -> Stage {
    let hook = planned.hook();
    let newest = match hook {
        Some(Hook::Rollback) => folded.last_rollback(&planned.id),
        _ => folded.last_forward(&planned.id),
    };
    let skipped = || match &folded.standing {
        Standing::Ended(end) => end.skipped.iter().find(|skipped| skipped.stage == planned.id),
        Standing::Progressing | Standing::RollingBack { .. } => None,
    };
    let (state, reason) = match (newest, newest.is_none().then(skipped).flatten()) {
        (Some(run), _) => (Some(state(run)), run.ending().map(|ending| ending.message.clone())),
        (None, Some(skipped)) => (Some("Skipped"), Some(skipped.reason.clone())),
        (None, None) => (None, None),
    };
    let name = planned.type_name().to_owned();
    Stage { id: planned.id.clone(), name, hook, state, reason, run: newest.map(|run| run.id) }
}

/// A run of a deployment.
pub fn run(folded: &Folded, run: &FoldedRun) -> Run {
    let (purpose, hook, pass, replay) = match run.purpose {
        Purpose::Forward { hook, pass } => ("forward", Some(hook), Some(pass), None),
        Purpose::Rollback { replay } => ("rollback", None, None, Some(replay)),
    };
    let forward = || folded.pipeline.stage(&run.stage).map_or("SCRIPT_RUN", Planned::type_name);
    let name = if run.is_rollback() { "SCRIPT_RUN_ROLLBACK" } else { forward() };
    let finished_at = run.end.as_ref().map(|(at, _)| *at);
    let took = finished_at.map(|at| at.duration_since(run.started_at).as_millis());
    let ending = run.ending();
    Run {
        id: run.id,
        deployment: folded.id,
        stage: run.stage.clone(),
        name: name.to_owned(),
        purpose,
        hook,
        pass,
        replay,
        state: state(run),
        started_at: run.started_at,
        until: run.until,
        finished_at,
        duration_ms: took.map(|took| i64::try_from(took).unwrap_or(i64::MAX)),
        exit_code: ending.and_then(|ending| ending.exit_code),
        signal: ending.and_then(|ending| ending.signal),
        message: ending.map(|ending| ending.message.clone()),
        last_line: ending.map(|ending| ending.last_line.clone()).filter(|line| !line.is_empty()),
        attempts: ending.map(|ending| ending.attempts.clone()).unwrap_or_default(),
        output: ending.and_then(|ending| ending.output.clone()),
        outputs: ending.map(|Ending { outputs, .. }| outputs.clone()).unwrap_or_default(),
        stop: run.stop.clone(),
    }
}

fn state(run: &FoldedRun) -> &'static str {
    run.outcome().map_or("Running", Outcome::as_str)
}

//! What a run needs of its deployment: script, environment, event.

use crate::domain::hook::Hook;
use crate::domain::ids::RunId;
use crate::domain::pipeline::Work;
use crate::domain::record::{Payload, Purpose};
use crate::domain::state::{Deployment, Run, Stream};
use crate::executor::Job;
use crate::executor::environment::{self, Facts, Forward};

/// The job of a run that was decided: everything from the records, nothing from files.
pub fn of(inherited: &[(String, String)], stream: &Stream, run: RunId) -> Option<Job> {
    let deployment = stream.owner_of(run)?;
    let run = deployment.run(run)?;
    let stage = deployment.pipeline.stage(&run.stage)?;
    let Work::Script { hook: own_hook, script } = &stage.work else { return None };
    let (hook, undoes) = match run.purpose {
        Purpose::Forward { hook, .. } => (hook, false),
        Purpose::Rollback { .. } => (Hook::Rollback, *own_hook != Hook::Rollback),
    };
    let forward = run.is_rollback().then(|| deployment.last_forward(&run.stage)).flatten();
    let payload = payload(deployment, run, forward.map(AsRef::as_ref));
    let variables = environment::environment(&Facts {
        inherited,
        deployment: deployment.id,
        application: &stream.id.application,
        hook,
        source: stream.id.source,
        revision: deployment.revision.as_ref(),
        stage: &run.stage,
        run: run.id,
        metadata: &payload.metadata,
        labels: &deployment.pipeline.labels,
        about: &deployment.about,
        is_rollback: run.is_rollback(),
        triggered_at: deployment.opened_at,
        forward: forward
            .and_then(|run| run.ending())
            .map(|ending| Forward { outcome: ending.outcome, exit_code: ending.exit_code }),
        own: &script.env,
    });
    Some(Job {
        run: run.id,
        shell: script.shell.clone(),
        commands: if undoes { script.on_rollback.clone() } else { script.run.clone() },
        env: variables.all,
        not_told: variables.left_out,
        directory: deployment.pipeline.directory.clone(),
        timeout: script.timeout.0,
        retries: script.retries,
        event: payload.body,
        outputs_of_earlier: outputs(deployment, run),
        secret_values: Vec::new(),
    })
}

/// What the script sees of the call. A rollback sees the forward call's metadata, under that of
/// the call that reported the failure: what was migrated is named there.
fn payload(deployment: &Deployment, run: &Run, forward: Option<&Run>) -> Payload {
    let of = |run: &Run| match run.purpose {
        Purpose::Forward { hook, .. } => deployment.pass(hook).map(|pass| pass.payload.as_ref()),
        Purpose::Rollback { .. } => deployment.replay.as_ref().and_then(|replay| replay.payload.as_deref()),
    };
    let mut payload = of(run).cloned().unwrap_or_default();
    if let Some(before) = forward.and_then(of) {
        if payload.body.is_null() {
            payload.body = before.body.clone();
        }
        for (key, value) in &before.metadata {
            payload.metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    payload
}

/// The outputs of the stages so far, by stage.
fn outputs(deployment: &Deployment, run: &Run) -> serde_json::Value {
    deployment
        .pipeline
        .stages
        .iter()
        .filter(|stage| run.is_rollback() || stage.id != run.stage)
        .filter_map(|stage| deployment.last_forward(&stage.id))
        .filter_map(|run| run.ending().map(|ending| (run, ending)))
        .filter(|(_, ending)| !ending.outputs.is_empty())
        .map(|(run, ending)| (run.stage.to_string(), serde_json::json!(ending.outputs)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

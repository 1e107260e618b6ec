//! `plan`: what runs on which hook of an application, and what a rollback would replay.
//!
//! It reads the files as they are now. A deployment that is open already keeps the pipeline that it pinned.

use std::path::Path;

use serde_json::{Value, json};

use crate::domain::hook::Hook;
use crate::domain::pipeline::{
    OnFailure, OnSupersede, Pipeline, Repeat, RollbackOnFailure, RollbackOrder, Stage, Work,
};

use super::Environment;
use super::args::{Output, PlanArgs};
use super::failure::Failure;
use super::local;
use super::out::Out;
use super::text::{Table, escape};

/// Shows the plan of an application.
pub(super) fn plan(
    args: &PlanArgs,
    config: Option<&Path>,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let application = &args.application;
    let Some(selected) = local::pipeline(config, environment, args.source, application)? else {
        return Err(Failure::No(format!("no pipeline selects {application} as told by {}", args.source)));
    };
    let pipeline = &selected.pipeline;
    if args.output == Output::Json {
        return out.json(&document(args, pipeline));
    }
    out.line(format!("application  {application} (told by {})", args.source))?;
    out.line(format!("pipeline     {} ({})", escape(&pipeline.name), escape(&pipeline.file)))?;
    let policy = &pipeline.rollback;
    out.line(format!(
        "rollback     order {}, onFailure {}; onSupersede {}; a stage that fails: {}",
        word(policy.order == RollbackOrder::Pipeline, "pipeline", "reverse"),
        word(policy.on_failure == RollbackOnFailure::Continue, "continue", "stop"),
        word(pipeline.on_supersede == OnSupersede::Rollback, "rollback", "keep"),
        word(pipeline.on_failure == OnFailure::Wait, "the caller decides", "rolls back by itself"),
    ))?;
    out.line("")?;
    let mut table = Table::new(&["STAGE", "NAME", "HOOK", "REPEAT", "TIMEOUT", "RETRIES", "ROLLED BACK BY"]);
    for stage in &pipeline.stages {
        let script = stage.script();
        let acts = stage.hook().is_some();
        let undone = match script {
            _ if stage.hook() == Some(Hook::Rollback) => "",
            Some(script) if !script.on_rollback.is_empty() => "onRollback",
            _ => "",
        };
        table.row([
            stage.id.as_str(),
            stage.type_name(),
            stage.hook().map_or("(the delivery tool)", Hook::as_str),
            if acts { repeat(stage.repeat()) } else { "" },
            &timeout(stage),
            &script.map(|script| script.retries.to_string()).unwrap_or_default(),
            undone,
        ]);
    }
    table.lines(0).into_iter().try_for_each(|line| out.line(line))?;
    out.line("")?;
    let mut table = Table::new(&["WHEN IT FAILS AT", "A ROLLBACK REPLAYS"]);
    for rollback in rollbacks(pipeline) {
        let steps = rollback.steps.iter().map(|stage| stage.id.as_str()).collect::<Vec<_>>().join(", ");
        table.row([rollback.when(), if steps.is_empty() { "nothing" } else { &steps }]);
    }
    table.lines(0).into_iter().try_for_each(|line| out.line(line))
}

/// What a rollback would replay, and when.
struct Rollback<'p> {
    /// The stage at which the rollout fails; none when it fails after all of them.
    fails_at: Option<&'p Stage>,
    /// Whether it had succeeded, so that the post-rollout stages ran too.
    succeeded: bool,
    /// The steps, in their order.
    steps: Vec<&'p Stage>,
}

impl Rollback<'_> {
    fn when(&self) -> &str {
        match self.fails_at {
            Some(stage) => stage.id.as_str(),
            None if self.succeeded => "(undone after success)",
            None => "(after all of them)",
        }
    }
}

/// The rollbacks that differ by when the rollout fails, or is undone.
///
/// A hook's stages count as executed when the hook comes earlier in a rollout, whatever the order of the file; what
/// the delivery tool acts out stands where the file has it.
fn rollbacks(pipeline: &Pipeline) -> Vec<Rollback<'_>> {
    let can_fail = pipeline.stages.iter().enumerate().filter(|(_, stage)| !is_after(stage));
    let mut rollbacks: Vec<_> = can_fail
        .map(|(failed, stage)| {
            let executed = |index: usize, other: &Stage| match (stage.hook(), other.hook()) {
                (Some(failed_on), Some(on)) if failed_on != on => on < failed_on,
                _ => index <= failed && !is_after(other),
            };
            Rollback { fails_at: Some(stage), succeeded: false, steps: steps(pipeline, executed) }
        })
        .collect();
    let all = steps(pipeline, |_, stage| !is_after(stage));
    rollbacks.push(Rollback { fails_at: None, succeeded: false, steps: all });
    rollbacks.push(Rollback { fails_at: None, succeeded: true, steps: steps(pipeline, |_, _| true) });
    rollbacks
}

/// The same as a replay would do it of a deployment in which these were executed.
fn steps(pipeline: &Pipeline, executed: impl Fn(usize, &Stage) -> bool) -> Vec<&Stage> {
    let forward = pipeline.stages.iter().enumerate().filter(|(_, stage)| stage.hook() != Some(Hook::Rollback));
    let mut steps: Vec<_> = forward
        .filter(|(index, stage)| executed(*index, stage))
        .map(|(_, stage)| stage)
        .filter(|stage| stage.script().is_some_and(|script| !script.on_rollback.is_empty()))
        .collect();
    if pipeline.rollback.order == RollbackOrder::Reverse {
        steps.reverse();
    }
    steps.extend(pipeline.on_hook(Hook::Rollback).map(|(_, stage)| stage).filter(|stage| stage.script().is_some()));
    steps
}

/// Whether it runs only when the rollout is over.
fn is_after(stage: &Stage) -> bool {
    matches!(stage.hook(), Some(Hook::PostRollout | Hook::Rollback))
}

fn document(args: &PlanArgs, pipeline: &Pipeline) -> Value {
    let stages = pipeline.stages.iter().map(|stage| {
        json!({
            "id": stage.id,
            "name": stage.type_name(),
            "hook": stage.hook(),
            "repeat": stage.hook().map(|_| repeat(stage.repeat())),
            "timeout": stage.script().map(|script| script.timeout),
            "retries": stage.script().map(|script| script.retries),
            "onRollback": stage.script().is_some_and(|script| !script.on_rollback.is_empty()),
        })
    });
    let rollbacks = rollbacks(pipeline).into_iter().map(|rollback| {
        json!({
            "failsAt": rollback.fails_at.map(|stage| &stage.id),
            "succeeded": rollback.succeeded,
            "replays": rollback.steps.iter().map(|stage| &stage.id).collect::<Vec<_>>(),
        })
    });
    json!({
        "application": args.application,
        "source": args.source,
        "pipeline": {"name": pipeline.name, "file": pipeline.file, "hash": pipeline.pinned().0},
        "rollback": pipeline.rollback,
        "onSupersede": pipeline.on_supersede,
        "onFailure": pipeline.on_failure,
        "stages": stages.collect::<Vec<_>>(),
        "rollbacks": rollbacks.collect::<Vec<_>>(),
    })
}

fn timeout(stage: &Stage) -> String {
    match &stage.work {
        Work::Script { script, .. } => script.timeout.to_string(),
        Work::Wait { duration, .. } => format!("waits {duration}"),
        Work::External { .. } => String::new(),
    }
}

const fn repeat(repeat: Repeat) -> &'static str {
    match repeat {
        Repeat::RetryFailed => "retry-failed",
        Repeat::Once => "once",
        Repeat::Always => "always",
    }
}

const fn word(first: bool, yes: &'static str, no: &'static str) -> &'static str {
    if first { yes } else { no }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(id: &str, hook: Option<&str>, undo: bool) -> Value {
        let script = json!({
            "shell": ["/bin/sh", "-c"], "run": ["x"], "onRollback": if undo { vec!["y"] } else { vec![] }, "env": {},
            "timeout": "5m", "retries": 0, "repeat": "retry-failed", "onInterrupt": "rerun",
        });
        match hook {
            Some(hook) => json!({"id": id, "work": {"script": {"hook": hook, "script": script}}}),
            None => json!({"id": id, "work": {"external": {"name": "K8S_PRIMARY_ROLLOUT"}}}),
        }
    }

    fn pipeline(order: &str) -> Pipeline {
        serde_json::from_value(json!({
            "name": "p", "file": "p.yaml", "directory": "/", "labels": {},
            "rollback": {"order": order, "onFailure": "continue"}, "onSupersede": "rollback", "onFailure": "wait",
            "stages": [
                stage("canary", None, false),
                stage("three", Some("rollout"), true),
                stage("primary", None, false),
                stage("five", Some("confirm-promotion"), true),
                stage("six", Some("confirm-promotion"), false),
                stage("seven", Some("post-rollout"), true),
                stage("last", Some("rollback"), false),
                stage("first", Some("pre-rollout"), true),
            ],
        }))
        .unwrap()
    }

    fn shown(pipeline: &Pipeline) -> Vec<String> {
        rollbacks(pipeline)
            .into_iter()
            .map(|rollback| {
                let steps: Vec<_> = rollback.steps.iter().map(|stage| stage.id.as_str()).collect();
                format!("{}: {}", rollback.when(), steps.join(" "))
            })
            .collect()
    }

    #[test]
    fn a_rollback_replays_what_was_executed_and_then_the_rollback_stages() {
        assert_eq!(
            shown(&pipeline("pipeline")),
            [
                "canary: last",
                "three: three first last",
                "primary: three last",
                "five: three five first last",
                "six: three five first last",
                "first: first last",
                "(after all of them): three five first last",
                "(undone after success): three five seven first last",
            ]
        );
        assert_eq!(shown(&pipeline("reverse"))[4], "six: first five three last");
    }
}

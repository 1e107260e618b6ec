//! `show`: one deployment with its stages and runs, or one run.

use jiff::Timestamp;
use serde_json::Value;

use super::Environment;
use super::args::{Id, Output, ShowArgs};
use super::failure::Failure;
use super::out::Out;
use super::target::Target;
use super::text::{self, Table, escape};
use super::view::{self, Deployment, Run};

/// Shows a deployment or a run.
pub(super) async fn show(
    args: &ShowArgs,
    target: &Target,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let (kind, id) = match args.id {
        Id::Deployment(id) => ("deployments", id.to_string()),
        Id::Run(id) => ("runs", id.to_string()),
    };
    let document = target.client()?.get(&["api", "v1", kind, &id], &[]).await?;
    if args.output == Output::Json {
        return out.json(&document);
    }
    let now = (environment.now)();
    match args.id {
        Id::Deployment(_) => deployment(&view::read(&document)?, now, out),
        Id::Run(_) => run(&view::read(&document)?, now, out),
    }
}

fn deployment(shown: &Deployment, now: Timestamp, out: &mut Out) -> Result<(), Failure> {
    let time = |at: Option<Timestamp>| at.map(|at| text::time(at, now)).unwrap_or_default();
    let state = match &shown.reason {
        Some(reason) => format!("{} ({reason})", shown.state),
        None => shown.state.clone(),
    };
    facts(
        &[
            ("deployment", shown.id.clone()),
            ("application", shown.application.clone()),
            ("source", shown.source.clone()),
            ("revision", shown.revision.clone().unwrap_or_default()),
            ("rollout", shown.rollout.clone().unwrap_or_default()),
            ("state", state),
            ("opened", time(shown.opened_at)),
            ("opened by", shown.opened_by.as_ref().map(plain).unwrap_or_default()),
            ("updated", time(shown.updated_at)),
            ("ended", time(shown.ended_at)),
            ("pipeline", format!("{} ({})", shown.pipeline.name, shown.pipeline.file)),
            ("pinned as", shown.pipeline.hash.chars().take(12).collect()),
        ],
        out,
    )?;
    let mut stages = Table::new(&["STAGE", "NAME", "HOOK", "STATE", "RUN", "REASON"]);
    for stage in &shown.stages {
        let cells =
            [&stage.hook, &stage.state, &stage.run, &stage.reason].map(|cell| cell.as_deref().unwrap_or_default());
        stages.row([&stage.id, &stage.name, cells[0], cells[1], cells[2], cells[3]]);
    }
    section(&stages, out)?;
    let mut runs = Table::new(&["RUN", "STAGE", "NAME", "STATE", "STARTED", "TOOK", "MESSAGE"]);
    for run in &shown.runs {
        runs.row([
            &run.id,
            &run.stage,
            &run.name,
            &run.state,
            &run.started_at.map(|at| text::ago(at, now)).unwrap_or_default(),
            &run.duration_ms.map(text::duration).unwrap_or_default(),
            &[run.message.as_deref(), run.last_line.as_deref()]
                .into_iter()
                .flatten()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(": "),
        ]);
    }
    section(&runs, out)?;
    let mut reports = Table::new(&["REPORT OF", "STATE", "PROBLEM"]);
    for report in &shown.reports {
        reports.row([report.hook.as_str(), &report.state, report.problem.as_deref().unwrap_or_default()]);
    }
    section(&reports, out)
}

fn run(shown: &Run, now: Timestamp, out: &mut Out) -> Result<(), Failure> {
    let time = |at: Option<Timestamp>| at.map(|at| text::time(at, now)).unwrap_or_default();
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let output = shown.output.as_ref().map(|output| match output.bytes.saturating_sub(output.kept) {
        0 => format!("{} bytes", output.bytes),
        cut => format!("{} bytes, {cut} of them cut", output.bytes),
    });
    facts(
        &[
            ("run", shown.id.clone()),
            ("deployment", shown.deployment.clone()),
            ("stage", format!("{} ({})", shown.stage, shown.name)),
            ("hook", shown.hook.clone().unwrap_or_default()),
            ("state", shown.state.clone()),
            ("message", shown.message.clone().unwrap_or_default()),
            ("last line", shown.last_line.clone().unwrap_or_default()),
            ("exit code", number(shown.exit_code)),
            ("signal", number(shown.signal)),
            ("started", time(shown.started_at)),
            ("finished", time(shown.finished_at)),
            ("took", shown.duration_ms.map(text::duration).unwrap_or_default()),
            ("output", output.unwrap_or_default()),
        ],
        out,
    )?;
    let mut attempts = Table::new(&["ATTEMPT", "STARTED", "FINISHED", "MESSAGE"]);
    for (index, attempt) in shown.attempts.iter().enumerate().filter(|_| shown.attempts.len() > 1) {
        let field = |name| attempt.get(name).map(plain).unwrap_or_default();
        attempts.row([(index + 1).to_string(), field("startedAt"), field("finishedAt"), field("message")]);
    }
    section(&attempts, out)?;
    let mut outputs = Table::new(&["OUTPUT", "VALUE"]);
    for (key, value) in &shown.outputs {
        outputs.row([key, value]);
    }
    section(&outputs, out)
}

/// Names and values; what is empty is left out.
fn facts(facts: &[(&str, String)], out: &mut Out) -> Result<(), Failure> {
    facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .try_for_each(|(name, value)| out.line(format!("{name:12} {}", escape(value))))
}

fn section(table: &Table, out: &mut Out) -> Result<(), Failure> {
    if table.is_empty() {
        return Ok(());
    }
    out.line("")?;
    table.lines(0).into_iter().try_for_each(|line| out.line(line))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

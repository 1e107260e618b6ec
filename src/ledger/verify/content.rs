//! What records name but do not hold: pipelines, outputs, and the lists of runs and names.
//!
//! Each record is asked for what it names; then it is counted whether the ledger holds more. Only where it does, whose
//! that is is looked for, so that nothing has to be remembered but a number.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Kind, Report};
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::pipeline::{Pipeline, PipelineHash};
use crate::domain::record::{Event, Fact};
use crate::ledger::rows::to_sql;
use crate::ledger::schema;

/// How many pipelines are kept parsed.
const PARSED: usize = 256;

/// What was seen so far.
#[derive(Default)]
pub(super) struct Content {
    /// How many deployments pin each pipeline.
    pins: HashMap<String, u64>,
    parsed: HashMap<PipelineHash, Arc<Pipeline>>,
    /// How many runs, outputs and names the records speak of, and the lists have.
    runs: u64,
    outputs: u64,
    pub(super) aliases: u64,
}

/// The record that is looked at.
pub(super) struct At<'a> {
    pub(super) stream_id: i64,
    pub(super) stream: &'a str,
    pub(super) seq: u64,
}

impl Content {
    /// What one record names; gives the pipeline that it pins.
    pub(super) fn of(
        &mut self,
        connection: &Connection,
        at: &At<'_>,
        fact: &Fact,
        report: &mut Report,
    ) -> rusqlite::Result<Option<Arc<Pipeline>>> {
        match &fact.event {
            Event::Opened { pipeline, .. } => {
                if let Some(id) = fact.deployment {
                    opened(connection, at, id, report)?;
                }
                return self.pinned(connection, at, pipeline, report);
            }
            Event::StageStarted { run, .. } => {
                if let Some(id) = fact.deployment {
                    self.runs += u64::from(started(connection, at, *run, id, report)?);
                }
            }
            Event::StageFinished { run, ending, .. } => {
                let Some(digest) = &ending.output else { return Ok(None) };
                let body: Option<Vec<u8>> = connection
                    .prepare_cached("SELECT body FROM outputs WHERE run = ?1")?
                    .query_row([run.to_string()], |row| Ok(row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec()))
                    .optional()?;
                let stored = hex::encode(Sha256::digest(body.as_deref().unwrap_or_default()));
                report.outputs += 1;
                self.outputs += u64::from(body.is_some());
                if stored == digest.sha256.to_ascii_lowercase() {
                    return Ok(None);
                }
                let message = match body {
                    // A run that printed nothing needs no row: that one has the digest of nothing.
                    None => format!("the output of {run} is missing"),
                    Some(_) => {
                        format!("the output of {run} was changed: it has sha256 {stored}, not {}", digest.sha256)
                    }
                };
                report.find(Kind::Output, Some(at.stream), Some(at.seq), message);
            }
            _ => {}
        }
        Ok(None)
    }

    fn pinned(
        &mut self,
        connection: &Connection,
        at: &At<'_>,
        pipeline: &PipelineHash,
        report: &mut Report,
    ) -> rusqlite::Result<Option<Arc<Pipeline>>> {
        let known = self.pins.entry(pipeline.to_string()).or_default();
        *known += 1;
        let first = *known == 1;
        if let Some(parsed) = self.parsed.get(pipeline) {
            return Ok(Some(Arc::clone(parsed)));
        }
        let json: Option<String> = connection
            .prepare_cached("SELECT json FROM pipelines WHERE hash = ?1")?
            .query_row([pipeline.to_string()], |row| Ok(exact(row.get_ref(0)?)))
            .optional()?;
        report.pipelines += u64::from(first);
        let message = match json {
            None => format!("the pipeline {pipeline} that it pins is missing"),
            Some(json) if PipelineHash::of(&json) != *pipeline => {
                format!(
                    "the pipeline {pipeline} that it pins was changed: it has sha256 {} now",
                    PipelineHash::of(&json)
                )
            }
            Some(json) => match serde_json::from_str(&json) {
                Ok(parsed) => {
                    if self.parsed.len() >= PARSED {
                        self.parsed.clear();
                    }
                    let parsed: Arc<Pipeline> = Arc::new(parsed);
                    self.parsed.insert(pipeline.clone(), Arc::clone(&parsed));
                    return Ok(Some(parsed));
                }
                Err(error) => format!("the pipeline {pipeline} that it pins is none of this version: {error}"),
            },
        };
        if first {
            report.find(Kind::Pipeline, Some(at.stream), Some(at.seq), message);
        }
        Ok(None)
    }

    /// What no record led to.
    pub(super) fn rest(&mut self, connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT hash, json FROM pipelines")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let hash = lossy(row.get_ref(0)?);
            if self.pins.contains_key(&hash) {
                continue;
            }
            report.pipelines += 1;
            if PipelineHash::of(&exact(row.get_ref(1)?)).to_string() != hash {
                report.find(
                    Kind::Pipeline,
                    None,
                    None,
                    format!("the pipeline {hash}, which no record pins, was changed"),
                );
            }
        }

        let mut statement = connection.prepare(
            "SELECT d.id, s.source || ':' || s.application, d.opened_seq
             FROM deployments d LEFT JOIN streams s ON s.id = d.stream_id
             WHERE NOT EXISTS (SELECT 1 FROM records r
                 WHERE r.stream_id = d.stream_id AND r.seq = d.opened_seq AND r.deployment = d.id)",
        )?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let stream = lossy(row.get_ref(1)?);
            let seq = u64::try_from(row.get::<_, i64>(2)?).ok();
            let message = format!("the list has {}, and that record did not open it", lossy(row.get_ref(0)?));
            report.find(Kind::Projection, Some(&stream), seq, message);
        }

        // Where records are changed or gone, whatever they named is in no record any more: that was told.
        let torn = |kind| matches!(kind, Kind::Changed | Kind::Missing | Kind::Swapped | Kind::CutTail);
        if report.findings.iter().any(|finding| torn(finding.kind)) {
            return Ok(());
        }
        if rows_of(connection, "SELECT count(*) FROM runs")? != self.runs {
            stray_runs(connection, report)?;
        }
        if rows_of(connection, "SELECT count(*) FROM aliases")? != self.aliases {
            stray_aliases(connection, report)?;
        }
        // Whoever asks for the output of such a run would be shown this one.
        if rows_of(connection, "SELECT count(*) FROM outputs")? != self.outputs {
            stray_outputs(connection, report)?;
        }
        self.pins(connection, report)
    }

    /// How many pin each pipeline: pruning believes that.
    fn pins(&self, connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
        let told = report.findings.iter().any(|finding| matches!(finding.kind, Kind::Projection | Kind::Pipeline));
        if told || !schema::is_prunable(connection)? {
            return Ok(());
        }
        let mut statement = connection.prepare("SELECT hash, pins FROM pipelines")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let (hash, listed) = (lossy(row.get_ref(0)?), row.get::<_, i64>(1)?);
            let pins = self.pins.get(&hash).copied().unwrap_or_default();
            if u64::try_from(listed) != Ok(pins) {
                let message = format!("the pipeline {hash} is pinned by {pins}, and its row says by {listed}");
                report.find(Kind::Projection, None, None, message);
            }
        }
        Ok(())
    }
}

fn rows_of(connection: &Connection, sql: &str) -> rusqlite::Result<u64> {
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| u64::try_from(n).unwrap_or_default())
}

fn stray_runs(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT run, deployment FROM runs")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (run, deployment) = (lossy(row.get_ref(0)?), lossy(row.get_ref(1)?));
        let named = |event: &Event| match event {
            Event::StageStarted { run: named, .. } | Event::StageFinished { run: named, .. } => {
                named.to_string() == run
            }
            _ => false,
        };
        if !says(connection, &deployment, 0, named)? {
            let message = format!("the list of runs has {run}, which no record started");
            report.find(Kind::Projection, None, None, message);
        }
    }
    Ok(())
}

/// Whoever names a rollout or a call would be given the wrong deployment, or none.
fn stray_aliases(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT alias, deployment FROM aliases")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (alias, deployment) = (lossy(row.get_ref(0)?), lossy(row.get_ref(1)?));
        if !says(connection, &deployment, 0, |event| event.alias().is_some_and(|told| told.to_string() == alias))? {
            let message = format!("the list of names has {alias} for {deployment}, and no record says so");
            report.find(Kind::Projection, None, None, message);
        }
    }
    Ok(())
}

fn stray_outputs(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare("SELECT o.run, coalesce(r.deployment, '') FROM outputs o LEFT JOIN runs r ON r.run = o.run")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (run, deployment) = (lossy(row.get_ref(0)?), lossy(row.get_ref(1)?));
        let printed = |event: &Event| match event {
            Event::StageFinished { run: finished, ending, .. } => {
                ending.output.is_some() && finished.to_string() == run
            }
            _ => false,
        };
        if !says(connection, &deployment, 0, printed)? {
            report.find(Kind::Output, None, None, format!("there is an output of {run}, and no record says so"));
        }
    }
    Ok(())
}

/// Whether a record of a deployment after `seq` says this.
pub(super) fn says(
    connection: &Connection,
    deployment: &str,
    seq: u64,
    this: impl Fn(&Event) -> bool,
) -> rusqlite::Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT body FROM records WHERE deployment = ?1 AND seq > ?2 ORDER BY seq")?;
    let mut found = statement.query(params![deployment, to_sql(seq)])?;
    while let Some(row) = found.next()? {
        if serde_json::from_str::<Fact>(&exact(row.get_ref(0)?)).is_ok_and(|fact| this(&fact.event)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A text that is hashed: one that is no UTF-8 any more becomes empty, which no hash fits. Read leniently, a byte that
/// was put in place of a U+FFFD would be read as that very character.
pub(super) fn exact(value: rusqlite::types::ValueRef<'_>) -> String {
    value.as_bytes().ok().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default().to_owned()
}

/// A text that is shown or compared, and may have been damaged: never an error.
pub(super) fn lossy(value: rusqlite::types::ValueRef<'_>) -> String {
    match value.as_bytes() {
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(_) => String::new(),
    }
}

fn opened(connection: &Connection, at: &At<'_>, id: DeploymentId, report: &mut Report) -> rusqlite::Result<()> {
    let listed = connection
        .prepare_cached("SELECT 1 FROM deployments WHERE id = ?1 AND stream_id = ?2 AND opened_seq = ?3")?
        .exists(params![id.to_string(), at.stream_id, to_sql(at.seq)])?;
    if !listed {
        let message = format!("it opened {id}, and the list does not have that");
        report.find(Kind::Projection, Some(at.stream), Some(at.seq), message);
    }
    Ok(())
}

fn started(
    connection: &Connection,
    at: &At<'_>,
    run: RunId,
    id: DeploymentId,
    report: &mut Report,
) -> rusqlite::Result<bool> {
    let listed: Option<bool> = connection
        .prepare_cached("SELECT deployment = ?2 AND stream_id = ?3 FROM runs WHERE run = ?1")?
        .query_row(params![run.to_string(), id.to_string(), at.stream_id], |row| row.get(0))
        .optional()?;
    if listed != Some(true) {
        let message = format!("it started {run} of {id}, and the list of runs does not have that");
        report.find(Kind::Projection, Some(at.stream), Some(at.seq), message);
    }
    Ok(listed.is_some())
}

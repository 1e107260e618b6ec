//! What records name but do not hold: pipelines, outputs, and the rows of the lists.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Kind, Report};
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::pipeline::PipelineHash;
use crate::domain::record::{Event, Fact};
use crate::ledger::rows::to_sql;

/// Remembers what was looked at: pipelines, so that each is hashed once and named at the first record that pins it;
/// runs and outputs, so that those that no record names are found.
#[derive(Default)]
pub(super) struct Content {
    pipelines: HashSet<String>,
    runs: HashSet<RunId>,
    outputs: HashSet<RunId>,
    /// By what each stream's deployments are known: the newest that has it.
    aliases: HashMap<(i64, String), DeploymentId>,
}

/// The record that is looked at.
pub(super) struct At<'a> {
    pub(super) stream_id: i64,
    pub(super) stream: &'a str,
    pub(super) seq: u64,
}

impl Content {
    /// What one record names.
    pub(super) fn of(
        &mut self,
        connection: &Connection,
        at: &At<'_>,
        fact: &Fact,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        if let (Some(alias), Some(id)) = (fact.event.alias(), fact.deployment) {
            self.aliases.insert((at.stream_id, alias.to_string()), id);
        }
        match &fact.event {
            Event::Opened { pipeline, .. } => {
                if let Some(id) = fact.deployment {
                    opened(connection, at, id, report)?;
                }
                self.pinned(connection, at, pipeline, report)
            }
            Event::StageStarted { run, .. } => {
                self.runs.insert(*run);
                match fact.deployment {
                    Some(id) => started(connection, at, *run, id, report),
                    None => Ok(()),
                }
            }
            Event::StageFinished { run, ending, .. } => {
                self.runs.insert(*run);
                let Some(digest) = &ending.output else { return Ok(()) };
                self.outputs.insert(*run);
                let body: Option<Vec<u8>> = connection
                    .prepare_cached("SELECT body FROM outputs WHERE run = ?1")?
                    .query_row([run.to_string()], |row| Ok(row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec()))
                    .optional()?;
                let stored = hex::encode(Sha256::digest(body.as_deref().unwrap_or_default()));
                report.outputs += 1;
                if stored == digest.sha256.to_ascii_lowercase() {
                    return Ok(());
                }
                let message = match body {
                    // A run that printed nothing needs no row: that one has the digest of nothing.
                    None => format!("the output of {run} is missing"),
                    Some(_) => {
                        format!("the output of {run} was changed: it has sha256 {stored}, not {}", digest.sha256)
                    }
                };
                report.find(Kind::Output, Some(at.stream), Some(at.seq), message);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn pinned(
        &mut self,
        connection: &Connection,
        at: &At<'_>,
        pipeline: &PipelineHash,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        if !self.pipelines.insert(pipeline.to_string()) {
            return Ok(());
        }
        let json: Option<String> = connection
            .prepare_cached("SELECT json FROM pipelines WHERE hash = ?1")?
            .query_row([pipeline.to_string()], |row| Ok(exact(row.get_ref(0)?)))
            .optional()?;
        report.pipelines += 1;
        let message = match json {
            None => format!("the pipeline {pipeline} that it pins is missing"),
            Some(json) if PipelineHash::of(&json) != *pipeline => {
                format!(
                    "the pipeline {pipeline} that it pins was changed: it has sha256 {} now",
                    PipelineHash::of(&json)
                )
            }
            Some(_) => return Ok(()),
        };
        report.find(Kind::Pipeline, Some(at.stream), Some(at.seq), message);
        Ok(())
    }

    /// What no record led to.
    pub(super) fn rest(&mut self, connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT hash, json FROM pipelines")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let hash = lossy(row.get_ref(0)?);
            if self.pipelines.contains(&hash) {
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
        let named = |runs: &HashSet<RunId>, text: &str| text.parse().is_ok_and(|run| runs.contains(&run));
        let mut statement = connection.prepare("SELECT run FROM runs")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let run = lossy(row.get_ref(0)?);
            if !named(&self.runs, &run) {
                report.find(
                    Kind::Projection,
                    None,
                    None,
                    format!("the list of runs has {run}, which no record started"),
                );
            }
        }
        self.compare_aliases(connection, report)?;
        // Whoever asks for the output of such a run would be shown this one.
        let mut statement = connection.prepare("SELECT run FROM outputs")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let run = lossy(row.get_ref(0)?);
            if !named(&self.outputs, &run) {
                report.find(Kind::Output, None, None, format!("there is an output of {run}, and no record says so"));
            }
        }
        Ok(())
    }
}

impl Content {
    /// Whoever names a rollout or a call would be given the wrong deployment, or none.
    fn compare_aliases(&mut self, connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT stream_id, alias, deployment FROM aliases")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let (alias, listed) = (lossy(row.get_ref(1)?), lossy(row.get_ref(2)?));
            if self.aliases.remove(&(row.get(0)?, alias.clone())).is_none_or(|id| id.to_string() != listed) {
                let message = format!("the list of names has {alias} for {listed}, and no record says so");
                report.find(Kind::Projection, None, None, message);
            }
        }
        for ((_, alias), id) in self.aliases.drain() {
            let message = format!("{id} is known by {alias}, and the list of names does not have that");
            report.find(Kind::Projection, None, None, message);
        }
        Ok(())
    }
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
) -> rusqlite::Result<()> {
    let listed = connection
        .prepare_cached("SELECT 1 FROM runs WHERE run = ?1 AND deployment = ?2 AND stream_id = ?3")?
        .exists(params![run.to_string(), id.to_string(), at.stream_id])?;
    if !listed {
        let message = format!("it started {run} of {id}, and the list of runs does not have that");
        report.find(Kind::Projection, Some(at.stream), Some(at.seq), message);
    }
    Ok(())
}

//! The questions that are asked of a ledger: what a stream holds, what a deployment and a run left.
//!
//! Each function here runs inside one read transaction that `readers` has begun. Lists are in `list`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Params, params};
use serde::Serialize;

use super::chain;
use super::checkpoint;
use super::error::LedgerError;
use super::rows;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Application, Revision, Source, StreamId};
use crate::domain::pipeline::PipelineHash;
use crate::domain::record::{Alias, Event, Record};

/// Part of a stream, all of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The number of the stream's last record; 0 when it has none.
    pub head: u64,
    /// The records, in order.
    pub records: Vec<Record>,
    /// The JSON of the pipelines that those of them that open a deployment pin.
    pub pipelines: BTreeMap<PipelineHash, String>,
}

/// A record as it is stored, with its place in the hash chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredRecord {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// The hash of the record before it in the stream, in hex.
    pub prev: String,
    /// Its own hash, in hex.
    pub hash: String,
}

pub(super) fn load(connection: &Connection, stream: &StreamId, keep: usize) -> Result<Loaded, LedgerError> {
    let found: Option<(i64, i64, String)> = connection
        .prepare_cached("SELECT id, head_seq, head_hash FROM streams WHERE application = ?1 AND source = ?2")?
        .query_row(params![stream.application.to_string(), stream.source.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((stream_id, head, head_hash)) = found else { return Ok(Loaded::default()) };
    let end = End { stream: stream.to_string(), stream_id, head, head_hash };
    if stream.source == Source::Loadtester {
        return load_commands(connection, &end);
    }

    // A stream without any deployment is read from its beginning.
    let from: i64 = connection
        .prepare_cached(
            "SELECT coalesce(
                 (SELECT min(opened_seq) FROM (
                     SELECT min(opened_seq) AS opened_seq FROM deployments WHERE stream_id = ?1 AND live = 1
                     UNION ALL
                     SELECT * FROM (SELECT opened_seq FROM deployments WHERE stream_id = ?1
                                    ORDER BY opened_seq DESC LIMIT ?2))),
                 (SELECT ?3 + 1 WHERE EXISTS (SELECT 1 FROM deployments WHERE stream_id = ?1)),
                 1)",
        )?
        .query_row(params![stream_id, i64::try_from(keep).unwrap_or(i64::MAX), head], |row| row.get(0))?;
    end_from(connection, &end, from)
}

/// A stream's end, as its own row has it.
struct End {
    stream: String,
    stream_id: i64,
    head: i64,
    head_hash: String,
}

/// The records from `from` on: without a gap, each what was written, and the last the one that the stream ends with.
fn end_from(connection: &Connection, end: &End, from: i64) -> Result<Loaded, LedgerError> {
    let (records, walk) = records_of(
        connection,
        &end.stream,
        "SELECT seq, body, prev, hash FROM records WHERE stream_id = ?1 AND seq >= ?2 ORDER BY seq",
        params![end.stream_id, from],
    )?;
    let head = rows::number(end.head)?;
    let gap = records.windows(2).find(|pair| matches!(pair, [one, next] if next.seq != one.seq + 1));
    if let Some([one, ..]) = gap {
        return Err(LedgerError::Content(format!("record {} of {} is missing", one.seq + 1, end.stream)));
    }
    let pruned = checkpoint::of(connection, end.stream_id, &end.stream)?.unwrap_or_default().seq;
    let first = from.max(rows::to_sql(pruned).saturating_add(1));
    // Beyond its head a stream has nothing, so from there nothing need be.
    let ends_so = match walk.last() {
        Some(last) => last == (head, end.head_hash.as_str()),
        None => first > end.head,
    };
    let begins_so = records.first().is_none_or(|record| record.seq == first.unsigned_abs());
    if !(ends_so && begins_so) {
        return Err(LedgerError::Content(format!("{} does not hold its records {from} to {head}", end.stream)));
    }
    with_pipelines(connection, head, records)
}

/// The load tester's gates are set again and again, without any deployment or between two of them, and each such record
/// says how they all are: only the last one counts. Commands that are over don't matter to later ones unless these name
/// them.
fn load_commands(connection: &Connection, end: &End) -> Result<Loaded, LedgerError> {
    let from: Option<i64> = connection
        .prepare_cached(
            "SELECT min(seq) FROM (
                 SELECT min(opened_seq) AS seq FROM deployments WHERE stream_id = ?1 AND live = 1
                 UNION ALL
                 SELECT coalesce(
                     (SELECT seq FROM records WHERE stream_id = ?1 AND deployment IS NULL AND seq > newest.opened_seq
                      ORDER BY seq DESC LIMIT 1),
                     newest.opened_seq)
                 FROM (SELECT coalesce(max(opened_seq), 0) AS opened_seq FROM deployments WHERE stream_id = ?1) AS newest)",
        )?
        .query_row([end.stream_id], |row| row.get(0))?;
    end_from(connection, end, from.unwrap_or(1))
}

pub(super) fn load_deployment(
    connection: &Connection,
    id: DeploymentId,
) -> Result<Option<(StreamId, Loaded)>, LedgerError> {
    let found: Option<(String, String, i64, i64, i64)> = connection
        .prepare_cached(
            "SELECT s.source, s.application, s.head_seq, s.id, d.opened_seq
             FROM deployments d JOIN streams s ON s.id = d.stream_id WHERE d.id = ?1",
        )?
        .query_row([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .optional()?;
    let Some((source, application, head, stream_id, opened)) = found else { return Ok(None) };
    let stream = rows::stream(&source, &application)?;
    // What is being pruned is gone, although some of it is still there.
    let pruned = checkpoint::of(connection, stream_id, &stream.to_string())?.unwrap_or_default().until;
    if rows::number(opened)? <= pruned {
        return Ok(None);
    }
    let (records, _) = records_of(
        connection,
        &stream.to_string(),
        "SELECT seq, body, prev, hash FROM records WHERE deployment = ?1 ORDER BY seq",
        [id.to_string()],
    )?;
    let loaded = with_pipelines(connection, rows::number(head)?, records)?;
    Ok(Some((stream, loaded)))
}

pub(super) fn newest_of(
    connection: &Connection,
    stream: &StreamId,
    revision: &Revision,
) -> Result<Option<DeploymentId>, LedgerError> {
    let found: Option<String> = connection
        .prepare_cached(
            "SELECT d.id FROM deployments d JOIN streams s ON s.id = d.stream_id
             WHERE s.application = ?1 AND s.source = ?2 AND d.revision = ?3 ORDER BY d.opened_seq DESC LIMIT 1",
        )?
        .query_row(params![stream.application.to_string(), stream.source.as_str(), revision.as_str()], |row| row.get(0))
        .optional()?;
    found.map(|id| rows::parse("deployment id", &id)).transpose()
}

pub(super) fn known_by(
    connection: &Connection,
    stream: &StreamId,
    alias: &Alias,
) -> Result<Option<DeploymentId>, LedgerError> {
    let found: Option<String> = connection
        .prepare_cached(
            "SELECT a.deployment FROM aliases a JOIN streams s ON s.id = a.stream_id
             WHERE s.application = ?1 AND s.source = ?2 AND a.alias = ?3",
        )?
        .query_row(params![stream.application.to_string(), stream.source.as_str(), alias.to_string()], |row| row.get(0))
        .optional()?;
    found.map(|id| rows::parse("deployment id", &id)).transpose()
}

pub(super) fn records(
    connection: &Connection,
    id: DeploymentId,
    after: u64,
    limit: usize,
) -> Result<Vec<StoredRecord>, LedgerError> {
    // What is being pruned is gone, although some of it is still there.
    let mut statement = connection.prepare_cached(
        "SELECT r.seq, r.body, r.prev, r.hash FROM records r WHERE r.deployment = ?1 AND r.seq > ?2
         AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.stream_id = r.stream_id AND c.until >= r.seq)
         ORDER BY r.seq LIMIT ?3",
    )?;
    let mut found = statement.query(params![id.to_string(), rows::to_sql(after), rows::to_sql(limit as u64)])?;
    let mut records = Vec::new();
    while let Some(row) = found.next()? {
        let record = rows::record(row.get(0)?, row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?;
        records.push(StoredRecord { record, prev: row.get(2)?, hash: row.get(3)? });
    }
    Ok(records)
}

pub(super) fn find_run(connection: &Connection, run: RunId) -> Result<Option<(StreamId, DeploymentId)>, LedgerError> {
    let found: Option<(String, String, String)> = connection
        .prepare_cached(
            "SELECT s.source, s.application, r.deployment
             FROM runs r JOIN streams s ON s.id = r.stream_id WHERE r.run = ?1",
        )?
        .query_row([run.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    found
        .map(|(source, application, id)| Ok((rows::stream(&source, &application)?, rows::parse("deployment id", &id)?)))
        .transpose()
}

pub(super) fn output(connection: &Connection, run: RunId) -> Result<Option<Vec<u8>>, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT body FROM outputs WHERE run = ?1")?
        .query_row([run.to_string()], |row| row.get(0))
        .optional()?)
}

pub(super) fn live(connection: &Connection) -> Result<Vec<(StreamId, DeploymentId)>, LedgerError> {
    // By its index, which it is told to use: for the order SQLite would rather walk all deployments there are.
    let mut statement = connection.prepare_cached(
        "SELECT s.source, s.application, d.id
         FROM deployments d INDEXED BY deployments_live CROSS JOIN streams s ON s.id = d.stream_id
         WHERE d.live = 1 ORDER BY d.id",
    )?;
    let mut found = statement.query([])?;
    let mut live = Vec::new();
    while let Some(row) = found.next()? {
        let stream = rows::stream(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?)?;
        live.push((stream, rows::parse("deployment id", &row.get::<_, String>(2)?)?));
    }
    Ok(live)
}

pub(super) fn sources_of(connection: &Connection, application: &Application) -> Result<Vec<Source>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT source FROM streams WHERE application = ?1 ORDER BY source")?;
    let mut found = statement.query([application.to_string()])?;
    let mut sources = Vec::new();
    while let Some(row) = found.next()? {
        sources.push(rows::parse("source", &row.get::<_, String>(0)?)?);
    }
    Ok(sources)
}

/// Records that something is decided from, so none is taken on trust until somebody runs verify. The query gives `seq`,
/// `body`, `prev` and `hash`.
fn records_of(
    connection: &Connection,
    stream: &str,
    sql: &str,
    params: impl Params,
) -> Result<(Vec<Record>, chain::Walk), LedgerError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query(params)?;
    let mut records = Vec::new();
    let mut walk = chain::Walk::new(stream.to_owned());
    while let Some(row) = found.next()? {
        let text = |at| row.get_ref(at)?.as_str().map_err(rusqlite::Error::from);
        let (seq, body) = (row.get(0)?, text(1)?);
        walk.step(rows::number(seq)?, text(2)?, text(3)?, body).map_err(LedgerError::Content)?;
        records.push(rows::record(seq, body)?);
    }
    Ok((records, walk))
}

fn with_pipelines(connection: &Connection, head: u64, records: Vec<Record>) -> Result<Loaded, LedgerError> {
    let mut pipelines = BTreeMap::new();
    for record in &records {
        let Event::Opened { pipeline, .. } = &record.fact.event else { continue };
        if pipelines.contains_key(pipeline) {
            continue;
        }
        let json: Option<String> = connection
            .prepare_cached("SELECT json FROM pipelines WHERE hash = ?1")?
            .query_row([pipeline.to_string()], |row| row.get(0))
            .optional()?;
        let json = json.ok_or_else(|| {
            LedgerError::Content(format!("record {} pins pipeline {pipeline}, which is missing", record.seq))
        })?;
        // Scripts are run from this text, so it is not taken on trust until somebody runs verify.
        if PipelineHash::of(&json) != *pipeline {
            return Err(LedgerError::Content(format!("pipeline {pipeline} was changed")));
        }
        pipelines.insert(pipeline.clone(), json);
    }
    Ok(Loaded { head, records, pipelines })
}

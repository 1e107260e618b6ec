//! What one append holds, and how it is written inside a transaction.
//!
//! The transaction itself, and who else is in it, is `writer`'s business.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, to_sql};
use super::{chain, prune};
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::StreamId;
use crate::domain::pipeline::PipelineHash;
use crate::domain::record::{Event, Fact, Record};
use crate::domain::summary::Summary;

/// One decision's facts and what is derived from them, written all or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream that they belong to.
    pub stream: StreamId,
    /// The number of the last record that the caller saw; 0 for none.
    pub expected: u64,
    /// The facts, in order.
    pub facts: Vec<Fact>,
    /// The deployments that they changed, as they are now.
    pub summaries: Vec<Summary>,
    /// The pipelines that they pin; one that is there already stays as it is.
    pub pipelines: Vec<(PipelineHash, String)>,
    /// The runs that they start.
    pub runs: Vec<(RunId, DeploymentId)>,
    /// The outputs of the runs that they finish.
    pub outputs: Vec<(RunId, Vec<u8>)>,
}

impl Append {
    /// Nothing yet, to `stream` after record `expected`.
    pub fn new(stream: StreamId, expected: u64) -> Self {
        Self {
            stream,
            expected,
            facts: Vec::new(),
            summaries: Vec::new(),
            pipelines: Vec::new(),
            runs: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another append was first: load the stream again, decide again. Nothing was written.
    #[error("the stream has gone on to record {head}; load it again and decide again")]
    Conflict {
        /// The number of the stream's last record.
        head: u64,
    },
    /// The ledger can't be written now. After a failed commit (a broken disk) it is not known whether the records
    /// are there: load the stream before deciding anything again.
    #[error("the ledger can't be written: {0}")]
    Unavailable(String),
    /// The ledger is held as damaged, for as long as the process lives. Nothing was written.
    #[error("{0}")]
    Damaged(String),
}

/// How writing one append inside a transaction failed.
pub(super) enum Refusal {
    /// Only this append is wrong.
    Alone(AppendError),
    /// The transaction, or the file, is.
    Transaction(rusqlite::Error),
    /// What it would be linked to is not what was written.
    Damage(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{ConstraintViolation, TooBig};
        match error.sqlite_error_code() {
            Some(ConstraintViolation | TooBig) => Self::Alone(AppendError::Unavailable(super::error::explain(&error))),
            _ => Self::Transaction(error),
        }
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self::Alone(AppendError::Unavailable(why.to_owned()))
    }
}

/// Writes one append; the caller has a transaction and a savepoint open, and undoes the latter after a refusal.
pub(super) fn apply(connection: &Connection, append: Append) -> Result<Vec<Record>, Refusal> {
    // The head is read in the transaction that moves it, never remembered: after a failed commit a memory would lie.
    let name = append.stream.to_string();
    let known = head(connection, &append.stream)?;
    let (mut seq, mut hash) = known.as_ref().map_or((0, chain::START), |head| (head.seq, head.hash));
    if seq != append.expected {
        return Err(Refusal::Alone(AppendError::Conflict { head: seq }));
    }
    let stream_id = match &known {
        Some(head) => head.id,
        None => insert_stream(connection, &append.stream)?,
    };

    prune::guard(connection, stream_id, &append, seq)?;

    let mut records = Vec::with_capacity(append.facts.len());
    let mut pinned = Vec::new();
    {
        let mut insert = connection.prepare_cached(
            "INSERT INTO records (stream_id, seq, deployment, at, prev, hash, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for fact in append.facts {
            let body = serde_json::to_string(&fact).map_err(|_| Refusal::from("a fact can't be written as JSON"))?;
            let prev = hash;
            seq += 1;
            hash = chain::link(&prev, &name, seq, &body);
            insert.execute(params![
                stream_id,
                to_sql(seq),
                fact.deployment.map(|id| id.to_string()),
                fact.at.to_string(),
                hex::encode(prev),
                hex::encode(hash),
                body,
            ])?;
            if let (Some(alias), Some(id)) = (fact.event.alias(), fact.deployment) {
                connection
                    .prepare_cached(
                        "INSERT INTO aliases (stream_id, alias, deployment) VALUES (?1, ?2, ?3)
                         ON CONFLICT (stream_id, alias) DO UPDATE SET deployment = excluded.deployment",
                    )?
                    .execute(params![stream_id, alias.to_string(), id.to_string()])?;
            }
            if let Event::Opened { pipeline, .. } = &fact.event {
                pinned.push(pipeline.to_string());
            }
            records.push(Record { seq, fact });
        }
    }
    connection.prepare_cached("UPDATE streams SET head_seq = ?2, head_hash = ?3 WHERE id = ?1")?.execute(params![
        stream_id,
        to_sql(seq),
        hex::encode(hash)
    ])?;

    for (hash, json) in &append.pipelines {
        if PipelineHash::of(json) != *hash {
            return Err("a pipeline does not have the hash that it is pinned by; this is a bug".into());
        }
        connection
            .prepare_cached("INSERT INTO pipelines (hash, json) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING")?
            .execute(params![hash.to_string(), json])?;
    }
    for hash in pinned {
        connection.prepare_cached("UPDATE pipelines SET pins = pins + 1 WHERE hash = ?1")?.execute([hash])?;
    }
    for (run, deployment) in &append.runs {
        connection
            .prepare_cached(
                "INSERT INTO runs (run, deployment, stream_id) VALUES (?1, ?2, ?3) ON CONFLICT (run) DO NOTHING",
            )?
            .execute(params![run.to_string(), deployment.to_string(), stream_id])?;
    }
    for (run, body) in &append.outputs {
        connection
            .prepare_cached(
                "INSERT INTO outputs (run, body) VALUES (?1, ?2) ON CONFLICT (run) DO UPDATE SET body = excluded.body",
            )?
            .execute(params![run.to_string(), body])?;
    }
    for summary in &append.summaries {
        rows::upsert_summary(connection, stream_id, summary)?;
    }
    Ok(records)
}

struct StreamHead {
    id: i64,
    seq: u64,
    hash: [u8; 32],
}

fn head(connection: &Connection, stream: &StreamId) -> Result<Option<StreamHead>, Refusal> {
    let row: Option<(i64, i64, String)> = connection
        .prepare_cached("SELECT id, head_seq, head_hash FROM streams WHERE application = ?1 AND source = ?2")?
        .query_row(params![stream.application.to_string(), stream.source.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((id, seq, hash)) = row else { return Ok(None) };
    match (u64::try_from(seq), chain::parse(&hash)) {
        (Ok(number), Some(_)) if number > 0 && !ends_so(connection, id, seq, &hash)? => {
            Err(Refusal::Damage(format!("record {seq} of {stream} is not the one that its head names")))
        }
        (Ok(seq), Some(hash)) => Ok(Some(StreamHead { id, seq, hash })),
        _ => Err(Refusal::Damage(format!("the head of {stream} is no number and hash"))),
    }
}

/// Whether the last record, or what pruning left of it, has the hash that the head says: linked to another, the next
/// record would make the chain good again after a change.
fn ends_so(connection: &Connection, stream_id: i64, seq: i64, hash: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM records WHERE stream_id = ?1 AND seq = ?2 AND hash = ?3
             UNION ALL SELECT 1 FROM checkpoints WHERE stream_id = ?1 AND seq = ?2 AND hash = ?3",
        )?
        .exists(params![stream_id, seq, hash])
}

fn insert_stream(connection: &Connection, stream: &StreamId) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("INSERT INTO streams (source, application, head_seq, head_hash) VALUES (?1, ?2, 0, ?3)")?
        .insert(params![stream.source.as_str(), stream.application.to_string(), hex::encode(chain::START)])
}

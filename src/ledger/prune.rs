//! Pruning: whole deployments go from the front of a stream, and a checkpoint stays.
//!
//! A *cut* is a number up to which every record goes. It is found in a read ([`front`]), and condemned in the first
//! transaction that removes something of it ([`step`]), where it is checked that nothing of it was touched since. Each
//! further step takes a bounded number of rows, so that whoever waits for a commit waits for little. A crash between two
//! steps leaves a cut that the next start goes on with; what is condemned counts as gone from the first step on.
//!
//! Which deployments are old enough, and which must stay although they are, is the engine's to say.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::append::{AppendError, Refusal};
use super::checkpoint::{self, Checkpoint};
use super::error::LedgerError;
use super::rows::{self, to_sql};
use super::{Append, chain};
use crate::domain::ids::DeploymentId;
use crate::domain::record::{Event, Fact};
use crate::failpoint::{self, Point};

/// How many streams one read looks at.
const STREAMS: usize = 256;

/// So many bytes of an output are as much work as a row.
const BYTES_A_ROW: usize = 16 * 1024;

/// A stream may go on so far between the look at it and the first step. Further, and it is looked at again.
const STALE: u64 = 1000;

/// Some streams of which something may be prunable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prunable {
    /// Their keys.
    pub streams: Vec<StreamKey>,
    /// Where to go on; none after the last.
    pub next: Option<StreamKey>,
}

/// The ledger's own number of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey(i64);

impl From<i64> for StreamKey {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

/// What may go from the front of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// A cut that was begun and is not through.
    pub unfinished: bool,
    /// The stream's last record when it was looked at.
    pub head: u64,
    /// What can only go together, oldest first: of no deployment in it is a record after the next one's first.
    pub groups: Vec<Group>,
    /// Not all was looked at: perhaps there is more.
    pub more: bool,
}

/// Deployments that go together, since their records stand between each other's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The deployments.
    pub deployments: Vec<DeploymentId>,
    /// The last record that goes with them.
    pub until: u64,
}

/// One step of pruning a stream.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Of which stream.
    pub stream: StreamKey,
    /// Where a new cut is; none to go on with the one that was begun.
    pub cut: Option<Cut>,
    /// How many rows may go, roughly.
    pub rows: usize,
    /// The time.
    pub at: Timestamp,
}

/// Where a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The last record that goes.
    pub until: u64,
    /// The stream's last record when that was decided.
    pub head: u64,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Whole deployments, counted with the first record of each.
    pub deployments: u64,
    /// Records.
    pub records: u64,
    /// Outputs of runs.
    pub outputs: u64,
    /// Pipelines that nobody pins any more.
    pub pipelines: u64,
    /// Whether nothing is left of the cut.
    pub done: bool,
}

impl Pruned {
    /// Adds what another step removed.
    pub fn add(&mut self, other: Self) {
        self.deployments += other.deployments;
        self.records += other.records;
        self.outputs += other.outputs;
        self.pipelines += other.pipelines;
        self.done = other.done;
    }
}

/// The next streams of which the oldest deployment is over since before `before`, or whose cut is not through. Without
/// `before` only these.
pub(super) fn prunable(
    connection: &Connection,
    after: StreamKey,
    keep: usize,
    before: Option<Timestamp>,
) -> Result<Prunable, LedgerError> {
    let mut found = Prunable::default();
    let Some(before) = before else {
        let mut statement = connection.prepare_cached("SELECT stream_id FROM checkpoints WHERE until > seq")?;
        found.streams = statement.query_map([], |row| row.get(0).map(StreamKey))?.collect::<Result<_, _>>()?;
        return Ok(found);
    };
    let mut statement = connection.prepare_cached("SELECT id FROM streams WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let ids: Vec<i64> =
        statement.query_map(params![after.0, to_sql(STREAMS as u64)], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in &ids {
        match front(connection, StreamKey(*id), keep, before, 1) {
            Ok(front) if !front.unfinished && !front.more && front.groups.is_empty() => {}
            // One that is not what was written is told when its turn comes, and keeps no other from it.
            Ok(_) | Err(LedgerError::Content(_)) => found.streams.push(StreamKey(*id)),
            Err(error) => return Err(error),
        }
    }
    found.next = ids.last().filter(|_| ids.len() == STREAMS).copied().map(StreamKey);
    Ok(found)
}

/// What may go from the front of a stream: what is over and was not touched since `before`, and not among the newest
/// `keep`. At most `limit` deployments are looked at.
pub(super) fn front(
    connection: &Connection,
    stream: StreamKey,
    keep: usize,
    before: Timestamp,
    limit: usize,
) -> Result<Front, LedgerError> {
    let (name, head): (String, i64) = connection
        .prepare_cached("SELECT source || ':' || application, head_seq FROM streams WHERE id = ?1")?
        .query_row([stream.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let checkpoint = checkpoint::of(connection, stream.0, &name)?;
    if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.until > checkpoint.seq) {
        return Ok(Front { unfinished: true, ..Front::default() });
    }
    // The newest stay whatever their age: they are what decisions begin with, and the next record follows theirs.
    let bound: Option<i64> = connection
        .prepare_cached(
            "SELECT opened_seq FROM deployments WHERE stream_id = ?1 ORDER BY opened_seq DESC LIMIT 1 OFFSET ?2",
        )?
        .query_row(params![stream.0, to_sql(keep.max(1) as u64 - 1)], |row| row.get(0))
        .optional()?;
    let Some(bound) = bound else { return Ok(Front::default()) };

    let mut front = Front { head: rows::number(head)?, ..Front::default() };
    let mut group = Group { deployments: Vec::new(), until: 0 };
    let mut statement = connection.prepare_cached(
        "SELECT d.id, d.opened_seq, d.live, d.ended_at, d.updated_at,
             (SELECT max(r.seq) FROM records r WHERE r.deployment = d.id)
         FROM deployments d WHERE d.stream_id = ?1 AND d.opened_seq <= ?2 ORDER BY d.opened_seq",
    )?;
    let mut found = statement.query(params![stream.0, bound])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        let opened = rows::number(row.get(1)?)?;
        if !group.deployments.is_empty() && group.until < opened {
            // Facts of the stream itself go along: the opening that follows them carries what they said.
            let until = opened - 1;
            front.groups.push(Group { deployments: std::mem::take(&mut group.deployments), until });
        }
        if opened == rows::number(bound)? {
            return Ok(front);
        }
        if seen == limit {
            front.more = true;
            return Ok(front);
        }
        seen += 1;
        let time = |text: Option<String>| text.map(|text| rows::parse::<Timestamp>("time", &text)).transpose();
        let (ended, updated) = (time(row.get(3)?)?, time(row.get(4)?)?);
        let old = |at: Option<Timestamp>| at.is_some_and(|at| at < before);
        let last: Option<i64> = row.get(5)?;
        let (false, true, true, Some(last)) = (row.get(2)?, old(ended), old(updated), last) else { return Ok(front) };
        group.deployments.push(rows::parse("deployment id", &row.get::<_, String>(0)?)?);
        group.until = group.until.max(rows::number(last)?);
    }
    Ok(front)
}

/// Takes one step; the caller has a transaction and a savepoint open, and undoes the latter after a refusal.
///
/// `Conflict`: the stream has gone on, and perhaps what was to go is needed again.
pub(super) fn step(connection: &Connection, step: &Step) -> Result<Pruned, Refusal> {
    let id = step.stream.0;
    let stream: Option<(String, i64)> = connection
        .prepare_cached("SELECT source || ':' || application, head_seq FROM streams WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((name, head)) = stream else { return Err(broken("the stream that is pruned is gone")) };
    let mut last =
        checkpoint::of(connection, id, &name).map_err(|error| broken(&error.to_string()))?.unwrap_or_default();
    if let Some(cut) = step.cut {
        condemn(connection, id, cut, u64::try_from(head).unwrap_or_default())?;
        last.until = last.until.max(cut.until);
        failpoint::hit(Point::CondemnAfter);
    }

    let mut pruned = Pruned::default();
    let mut cost = 0;
    let mut statement = connection.prepare_cached(
        "SELECT seq, prev, hash, body FROM records WHERE stream_id = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
    )?;
    let mut found = statement.query(params![id, to_sql(last.seq), to_sql(last.until)])?;
    while let Some(row) = found.next()? {
        let seq: i64 = row.get(0)?;
        let (prev, hash): (String, String) = (row.get(1)?, row.get(2)?);
        let body = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
        // What was changed must not be removed with what shows it.
        let intact = chain::parse(&prev).is_some_and(|link| {
            seq == to_sql(last.seq + 1)
                && prev == last.hash
                && hex::encode(chain::link(&link, &name, last.seq + 1, body)) == hash
        });
        let fact = serde_json::from_str::<Fact>(body).ok().filter(|_| intact);
        let Some(fact) = fact else { return Err(broken(&format!("record {seq} of {name} is not what was written"))) };
        cost += 1 + dependants(connection, id, &fact, &mut pruned)?;
        pruned.records += 1;
        last = Checkpoint { seq: last.seq + 1, hash, until: last.until };
        if cost >= step.rows {
            break;
        }
    }
    connection
        .prepare_cached("DELETE FROM records WHERE stream_id = ?1 AND seq <= ?2")?
        .execute(params![id, to_sql(last.seq)])?;
    failpoint::hit(Point::RemoveAfter);
    checkpoint::put(connection, id, &name, &last, step.at)?;
    failpoint::hit(Point::CheckpointAfter);
    pruned.done = last.seq >= last.until;
    if pruned.records == 0 && !pruned.done {
        return Err(broken(&format!("record {} of {name} is missing", last.seq + 1)));
    }
    Ok(pruned)
}

/// Refuses an append about a deployment that was condemned since it was read: nobody would find it again.
pub(super) fn guard(connection: &Connection, stream_id: i64, append: &Append, head: u64) -> Result<(), Refusal> {
    let Some(oldest) = append.summaries.iter().map(|summary| summary.opened_seq).min() else { return Ok(()) };
    let checkpoint = checkpoint::of(connection, stream_id, &append.stream.to_string())
        .map_err(|error| Refusal::Damage(error.to_string()))?;
    if checkpoint.is_some_and(|checkpoint| checkpoint.until >= oldest) {
        Err(Refusal::Alone(AppendError::Conflict { head }))
    } else {
        Ok(())
    }
}

/// Whether a cut may still be made: whoever was first, an append or this, the other one sees it.
fn condemn(connection: &Connection, id: i64, cut: Cut, head: u64) -> Result<(), Refusal> {
    let conflict = || Err(Refusal::Alone(AppendError::Conflict { head }));
    // First, since what follows looks at all that came since.
    if head.saturating_sub(cut.head) > STALE {
        return conflict();
    }
    let touched = connection
        .prepare_cached(
            "SELECT 1 FROM records r JOIN deployments d ON d.id = r.deployment
             WHERE r.stream_id = ?1 AND r.seq > ?2 AND d.opened_seq <= ?3 LIMIT 1",
        )?
        .exists(params![id, to_sql(cut.head), to_sql(cut.until)])?;
    // One stays whatever was asked for: a stream never loses its newest deployment.
    let newest = connection
        .prepare_cached("SELECT 1 FROM deployments WHERE stream_id = ?1 AND opened_seq > ?2 LIMIT 1")?
        .exists(params![id, to_sql(cut.until)])?;
    if touched || !newest { conflict() } else { Ok(()) }
}

/// Removes what a record has beside it, and says how much work that was, in rows.
fn dependants(connection: &Connection, stream_id: i64, fact: &Fact, pruned: &mut Pruned) -> Result<usize, Refusal> {
    let mut cost = 0;
    if let (Some(alias), Some(id)) = (fact.event.alias(), fact.deployment) {
        // One that names a newer deployment by now is that one's.
        cost += connection
            .prepare_cached("DELETE FROM aliases WHERE stream_id = ?1 AND alias = ?2 AND deployment = ?3")?
            .execute(params![stream_id, alias.to_string(), id.to_string()])?;
    }
    match (&fact.event, fact.deployment) {
        (Event::Opened { pipeline, .. }, Some(id)) => {
            let removed = connection
                .prepare_cached("DELETE FROM deployments WHERE id = ?1 AND stream_id = ?2 AND live = 0")?
                .execute(params![id.to_string(), stream_id])?;
            if removed == 0 {
                return Err(broken(&format!("{id} is to be pruned, and is not listed, or as live")));
            }
            let pins: Option<i64> = connection
                .prepare_cached("UPDATE pipelines SET pins = pins - 1 WHERE hash = ?1 RETURNING pins")?
                .query_row([pipeline.to_string()], |row| row.get(0))
                .optional()?;
            if pins.is_some_and(|pins| pins < 0) {
                return Err(broken(&format!("the pipeline {pipeline} is pinned by fewer deployments than there are")));
            }
            if pins == Some(0) {
                connection.prepare_cached("DELETE FROM pipelines WHERE hash = ?1")?.execute([pipeline.to_string()])?;
                pruned.pipelines += 1;
                cost += 1;
            }
            pruned.deployments += 1;
            // Its row stands in six indexes.
            cost += 4;
        }
        (Event::StageStarted { run, .. }, _) => {
            cost += connection.prepare_cached("DELETE FROM runs WHERE run = ?1")?.execute([run.to_string()])?;
        }
        (Event::StageFinished { run, ending, .. }, _) if ending.output.is_some() => {
            let length: Option<i64> = connection
                .prepare_cached("DELETE FROM outputs WHERE run = ?1 RETURNING length(body)")?
                .query_row([run.to_string()], |row| row.get(0))
                .optional()?;
            if let Some(length) = length {
                pruned.outputs += 1;
                cost += 1 + usize::try_from(length).unwrap_or_default() / BYTES_A_ROW;
            }
        }
        _ => {}
    }
    Ok(cost)
}

fn broken(what: &str) -> Refusal {
    Refusal::Alone(AppendError::Unavailable(format!("{what}, so nothing of it is pruned; run stagehook ledger verify")))
}

//! The list of deployments against the records: the fold that the engine makes, compared with what it left in the list.
//!
//! A deployment is folded from its first record on and compared at its last, so that only those are held whose records
//! stand between each other's.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::content::{At, Content, lossy, says};
use super::{Kind, Report};
use crate::domain::ids::DeploymentId;
use crate::domain::names::StreamId;
use crate::domain::pipeline::Pipeline;
use crate::domain::record::{Event, Fact, Reason};
use crate::domain::state::Stream;
use crate::domain::summary::Summary;

/// The deployments of one stream that are folded.
pub(super) struct Listing<'a> {
    name: &'a str,
    /// None once a record was found broken: what it said is not known, and nothing more is compared.
    folded: Option<Stream>,
    open: BTreeMap<DeploymentId, Open>,
    /// Where pruning has cut it, or is about to.
    cut: Option<i64>,
    /// Whether a deployment begins after that.
    kept: bool,
    stream_id: i64,
}

struct Open {
    /// Whether it is to be pruned.
    condemned: bool,
    /// Its last record.
    last: u64,
    /// By what it is known, and in which record that was said last.
    names: BTreeMap<String, u64>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(stream_id: i64, name: &'a str, cut: Option<i64>) -> Self {
        let id = name.split_once(':').and_then(|(source, application)| {
            Some(StreamId { source: source.parse().ok()?, application: application.parse().ok()? })
        });
        Self { name, folded: id.map(Stream::new), open: BTreeMap::new(), cut, kept: false, stream_id }
    }

    /// A record is not what was written, or not there.
    pub(super) fn tear(&mut self) {
        self.folded = None;
        self.open.clear();
    }

    /// Takes a record in that is what was written.
    pub(super) fn take(
        &mut self,
        connection: &Connection,
        at: &At<'_>,
        fact: &Fact,
        pipeline: Option<Arc<Pipeline>>,
        content: &mut Content,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        let Some(folded) = &mut self.folded else { return Ok(()) };
        let Some(id) = fact.deployment else { return Ok(()) };
        let condemned = self.cut.is_some_and(|cut| i64::try_from(at.seq).is_ok_and(|seq| seq <= cut));
        let alias = fact.event.alias().map(|alias| alias.to_string());
        if matches!(fact.event, Event::Opened { .. }) {
            self.kept |= !condemned;
            // Without its pipeline it can't be folded: that was told.
            let Some(pipeline) = pipeline else {
                self.tear();
                return Ok(());
            };
            let last: Option<i64> = connection
                .prepare_cached("SELECT max(seq) FROM records WHERE deployment = ?1")?
                .query_row([id.to_string()], |row| row.get(0))?;
            let last = last.and_then(|last| u64::try_from(last).ok()).unwrap_or(at.seq);
            folded.open(at.seq, id, fact, pipeline);
            self.open.insert(id, Open { condemned, last, names: BTreeMap::new() });
        } else {
            folded.advance(at.seq, fact);
        }
        let Some(open) = self.open.get_mut(&id) else {
            if !condemned {
                let message = format!("it is of {id}, whose beginning is gone: pruning takes whole deployments");
                report.find(Kind::Missing, Some(self.name), Some(at.seq), message);
                self.tear();
            } else if let Some(alias) = alias {
                // Its beginning was pruned, and this is about to be.
                content.aliases +=
                    u64::from(known_as(connection, self.stream_id, &alias)?.is_some_and(|of| of == id.to_string()));
            }
            return Ok(());
        };
        if open.condemned && !condemned {
            let message = format!("it is of {id}, which is being pruned: that takes whole deployments");
            report.find(Kind::Changed, Some(self.name), Some(at.seq), message);
        }
        if let Some(alias) = alias {
            open.names.insert(alias, at.seq);
        }
        if open.last == at.seq {
            self.settle(connection, id, content, report)?;
        }
        Ok(())
    }

    /// Compares a deployment whose last record was taken in, and forgets it.
    fn settle(
        &mut self,
        connection: &Connection,
        id: DeploymentId,
        content: &mut Content,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        let (Some(folded), Some(open)) = (&mut self.folded, self.open.remove(&id)) else { return Ok(()) };
        let Some(told) = folded.get(id).map(|deployment| folded.summary(deployment)) else { return Ok(()) };
        folded.deployments.retain(|deployment| deployment.id != id);
        if open.condemned && told.live {
            let message = format!("{id} is being pruned, and is not over");
            report.find(Kind::Changed, Some(self.name), Some(told.opened_seq), message);
        }
        for difference in differences(connection, &told)? {
            let message = format!("of {id} {difference}");
            report.find(Kind::Projection, Some(self.name), Some(told.opened_seq), message);
        }
        for (alias, seq) in open.names {
            let listed = known_as(connection, self.stream_id, &alias)?;
            let own = listed.as_deref() == Some(id.to_string().as_str());
            let named = |event: &Event| event.alias().is_some_and(|told| told.to_string() == alias);
            // Whose it is by now must say so in a later record.
            let right = match &listed {
                Some(other) if !own => says(connection, other, seq, named)?,
                listed => listed.is_some(),
            };
            // A row that is wrong is told once: here.
            content.aliases += u64::from(own || listed.is_some() && !right);
            if !right {
                let message = format!("{id} is known by {alias}, and the list of names does not have that");
                report.find(Kind::Projection, None, None, message);
            }
        }
        Ok(())
    }

    /// After the last record.
    pub(super) fn end(self, report: &mut Report) {
        if self.folded.is_some() && self.cut.is_some() && !self.kept {
            let message = "pruning leaves the newest deployments, and there is none".to_owned();
            report.find(Kind::Missing, Some(self.name), None, message);
        }
    }
}

fn known_as(connection: &Connection, stream_id: i64, alias: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT deployment FROM aliases WHERE stream_id = ?1 AND alias = ?2")?
        .query_row((stream_id, alias), |row| Ok(lossy(row.get_ref(0)?)))
        .optional()
}

/// Where the row of a deployment says something else than its records. One that is not there was told.
fn differences(connection: &Connection, told: &Summary) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT application, source, revision, state, reason, opened_at, updated_at, ended_at, live
         FROM deployments WHERE id = ?1 AND opened_seq = ?2",
    )?;
    let mut found = statement.query((told.id.to_string(), crate::ledger::rows::to_sql(told.opened_seq)))?;
    let Some(row) = found.next()? else { return Ok(Vec::new()) };
    let live = u8::from(told.live).to_string();
    let expected = [
        ("application", Some(told.application.to_string())),
        ("source", Some(told.source.as_str().to_owned())),
        ("revision", told.revision.as_ref().map(|revision| revision.as_str().to_owned())),
        ("state", Some(told.state.as_str().to_owned())),
        ("reason", told.reason.map(Reason::as_str).map(str::to_owned)),
        ("opened_at", Some(told.opened_at.to_string())),
        ("updated_at", Some(told.updated_at.to_string())),
        ("ended_at", told.ended_at.map(|at| at.to_string())),
        ("live", Some(live)),
    ];
    let mut differences = Vec::new();
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
    for (column, (name, expected)) in expected.into_iter().enumerate() {
        let listed = match row.get_ref(column)? {
            rusqlite::types::ValueRef::Null => None,
            rusqlite::types::ValueRef::Integer(number) => Some(number.to_string()),
            other => Some(lossy(other)),
        };
        if listed != expected {
            differences.push(format!("the list says {name} {}, the records {}", shown(&listed), shown(&expected)));
        }
    }
    Ok(differences)
}

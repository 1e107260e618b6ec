//! What SQLite can prove of its own file: pages, indexes against their tables, references, and the counters that triggers
//! keep. Nothing here knows a record.

use rusqlite::Connection;

use super::content::lossy;
use super::{Kind, Report};
use crate::domain::summary::State;
use crate::ledger::schema;

pub(super) fn check(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    integrity(connection, report)?;
    definitions(connection, report)?;
    references(connection, report)?;
    counts(connection, report)
}

/// Not `quick_check`: that one looks at no index, and it is by indexes that live deployments are found.
fn integrity(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let line = lossy(row.get_ref(0)?);
        if line != "ok" {
            report.find(Kind::Database, None, None, format!("{}; restore a backup", line.replace('\n', ": ")));
        }
    }
    Ok(())
}

/// The tables, indexes and triggers, against those that this version makes: a trigger that was changed changes what is
/// written, an index that was, what is found.
fn definitions(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut expected = schema::expected(connection)?;
    for (name, found) in schema::definitions(connection)? {
        if expected.remove(&name).as_ref() != Some(&found) {
            report.find(Kind::Database, None, None, format!("{name} is not defined as stagehook does it"));
        }
    }
    for name in expected.keys() {
        report.find(Kind::Database, None, None, format!("{name} is not there"));
    }
    Ok(())
}

/// Rows that belong to a stream that is not there. Records are told of when the streams were walked.
fn references(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT \"table\", count(*) FROM pragma_foreign_key_check WHERE \"table\" <> 'records' GROUP BY 1 ORDER BY 1",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (table, n) = (lossy(row.get_ref(0)?), row.get::<_, i64>(1)?);
        report.find(
            Kind::Projection,
            None,
            None,
            format!("{n} of the rows of {table} belong to a stream that is not there"),
        );
    }
    Ok(())
}

/// What the metrics say of states, against the list itself.
fn counts(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT state, sum(listed), sum(counted) FROM (
             SELECT state, count(*) AS listed, 0 AS counted FROM deployments GROUP BY state
             UNION ALL SELECT state, 0, n FROM state_counts)
         GROUP BY state",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (state, listed, counted) = (lossy(row.get_ref(0)?), row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
        let known = State::ALL.iter().any(|known| known.as_str() == state);
        if listed != counted || !known {
            let message = format!("{listed} deployments are {state:?}, and the counter says {counted}");
            report.find(Kind::Projection, None, None, message);
        }
    }
    Ok(())
}

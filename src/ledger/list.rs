//! Lists of deployments, newest first, and how many there are. Every query walks an index, whatever the filter.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::error::LedgerError;
use super::rows;
use crate::domain::ids::DeploymentId;
use crate::domain::names::Application;
use crate::domain::summary::{State, Summary};

/// The most deployments on one page, whatever the caller asks for.
pub const MAX_PAGE: usize = 1000;

/// Which deployments are listed.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only this application's.
    pub application: Option<Application>,
    /// Only those in this state.
    pub state: Option<State>,
    /// How many at most: 1 to [`MAX_PAGE`]; what is outside is moved to the nearer end.
    pub limit: usize,
    /// Only those older than this one: the `next` of the page before.
    pub cursor: Option<DeploymentId>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The deployments, newest first.
    pub deployments: Vec<Summary>,
    /// The cursor of the next page; none on the last.
    pub next: Option<DeploymentId>,
}

pub(super) fn list(connection: &Connection, query: &ListQuery) -> Result<Page, LedgerError> {
    let limit = query.limit.clamp(1, MAX_PAGE);
    let mut sql = format!("SELECT {} FROM deployments WHERE 1", rows::SUMMARY);
    let mut values: Vec<Value> = Vec::new();
    if let Some(application) = &query.application {
        sql.push_str(" AND application = ?");
        values.push(application.to_string().into());
    }
    if let Some(state) = query.state {
        sql.push_str(" AND state = ?");
        values.push(state.as_str().to_owned().into());
    }
    if let Some(cursor) = query.cursor {
        sql.push_str(" AND id < ?");
        values.push(cursor.to_string().into());
    }
    // One more than is wanted tells whether there is a next page.
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", limit + 1));

    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(values))?;
    let mut deployments = Vec::new();
    while let Some(row) = found.next()? {
        deployments.push(rows::summary(row)?);
    }
    let more = deployments.len() > limit;
    deployments.truncate(limit);
    let next = deployments.last().filter(|_| more).map(|summary| summary.id);
    Ok(Page { deployments, next })
}

pub(super) fn summary(connection: &Connection, id: DeploymentId) -> Result<Option<Summary>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {} FROM deployments WHERE id = ?1", rows::SUMMARY))?
        .query_row([id.to_string()], |row| Ok(rows::summary(row)))
        .optional()?
        .transpose()
}

pub(super) fn counts(connection: &Connection) -> Result<Vec<(State, u64)>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT n FROM state_counts WHERE state = ?1")?;
    let mut counts = Vec::with_capacity(State::ALL.len());
    for state in State::ALL {
        let n: Option<i64> = statement.query_row([state.as_str()], |row| row.get(0)).optional()?;
        counts.push((state, rows::number(n.unwrap_or(0))?));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_sorts_or_scans() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        drop(crate::ledger::Ledger::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        for filter in ["", "AND application = 'a'", "AND state = 'b'", "AND application = 'a' AND state = 'b'"] {
            for cursor in ["", "AND id < 'c'"] {
                let sql =
                    format!("EXPLAIN QUERY PLAN SELECT * FROM deployments WHERE 1 {filter} {cursor} ORDER BY id DESC");
                let plan: String = connection.query_row(&sql, [], |row| row.get(3)).unwrap();
                // Without any filter the walk down the primary key is a scan by name, cut by its LIMIT.
                let sought = plan.starts_with("SEARCH") || (filter.is_empty() && cursor.is_empty());
                assert!(sought && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
            }
        }
    }
}

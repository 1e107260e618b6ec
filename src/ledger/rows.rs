//! Between rows and the domain's types. A row that stagehook can't have written is an error, never a guess.

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::{Connection, Row, params};

use super::error::LedgerError;
use crate::domain::names::{Application, Source, StreamId};
use crate::domain::record::{Fact, Reason, Record};
use crate::domain::summary::{State, Summary};

/// A number for SQLite, whose integers are signed. A record's number never comes near that end.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number from SQLite.
pub(super) fn number(number: i64) -> Result<u64, LedgerError> {
    u64::try_from(number).map_err(|_| LedgerError::Content(format!("the number {number}")))
}

/// A text from SQLite, in the type that it was written from.
pub(super) fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, LedgerError> {
    text.parse().map_err(|error| LedgerError::content(&format!("the {what} {text:?}"), &error))
}

/// A stream from the columns `source` and `application`.
pub(super) fn stream(source: &str, application: &str) -> Result<StreamId, LedgerError> {
    Ok(StreamId {
        source: parse::<Source>("source", source)?,
        application: parse::<Application>("application", application)?,
    })
}

/// A record from the columns `seq` and `body`.
pub(super) fn record(seq: i64, body: &str) -> Result<Record, LedgerError> {
    let seq = number(seq)?;
    let fact: Fact =
        serde_json::from_str(body).map_err(|error| LedgerError::content(&format!("record {seq}"), &error))?;
    Ok(Record { seq, fact })
}

/// The columns that [`summary`] reads.
pub(super) const SUMMARY: &str =
    "id, application, source, revision, state, reason, opened_at, updated_at, ended_at, opened_seq, live";

/// A summary from the columns of [`SUMMARY`].
pub(super) fn summary(row: &Row<'_>) -> Result<Summary, LedgerError> {
    let text = |at: usize| row.get::<_, String>(at);
    let maybe = |at: usize| row.get::<_, Option<String>>(at);
    Ok(Summary {
        id: parse("deployment id", &text(0)?)?,
        application: parse("application", &text(1)?)?,
        source: parse("source", &text(2)?)?,
        revision: maybe(3)?.map(|text| parse("revision", &text)).transpose()?,
        state: state(&text(4)?)?,
        reason: maybe(5)?.map(|text| reason(&text)).transpose()?,
        opened_at: parse("time", &text(6)?)?,
        updated_at: parse("time", &text(7)?)?,
        ended_at: maybe(8)?.map(|text| parse("time", &text)).transpose()?,
        opened_seq: number(row.get(9)?)?,
        live: row.get(10)?,
    })
}

/// Writes what a deployment looks like now.
pub(super) fn upsert_summary(connection: &Connection, stream_id: i64, summary: &Summary) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO deployments (id, stream_id, application, source, revision, state, reason, opened_at, updated_at,
                 ended_at, opened_seq, live)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, state = excluded.state,
                 reason = excluded.reason, updated_at = excluded.updated_at, ended_at = excluded.ended_at,
                 live = excluded.live",
        )?
        .execute(params![
            summary.id.to_string(),
            stream_id,
            summary.application.to_string(),
            summary.source.as_str(),
            summary.revision.as_ref().map(|revision| revision.as_str()),
            summary.state.as_str(),
            summary.reason.map(Reason::as_str),
            summary.opened_at.to_string(),
            summary.updated_at.to_string(),
            summary.ended_at.map(|at| at.to_string()),
            to_sql(summary.opened_seq),
            summary.live,
        ])?;
    Ok(())
}

fn state(text: &str) -> Result<State, LedgerError> {
    State::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| LedgerError::Content(format!("the state {text:?}")))
}

fn reason(text: &str) -> Result<Reason, LedgerError> {
    // As serde spells it, so that a new reason needs no second list here.
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| LedgerError::content("a reason", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_spells_reasons_as_they_are_written() {
        for known in [
            Reason::Failed,
            Reason::FailureMissed,
            Reason::SuccessMissed,
            Reason::Superseded,
            Reason::Requested,
            Reason::Cancelled,
            Reason::PostRolloutFailed,
            Reason::Closed,
        ] {
            assert_eq!(reason(known.as_str()).unwrap(), known);
        }
        assert!(reason("Whatever").is_err());
        assert!(state("Whatever").is_err());
    }
}

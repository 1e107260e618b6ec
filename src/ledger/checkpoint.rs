//! Where pruning has come to in a stream: the last record that is gone, its hash, and up to where all is condemned.
//!
//! Nothing but this row tells what may be missing, so it carries a seal, a hash of itself. One that does not fit is
//! damage: by a wrong number live deployments would be gone. Like the chain it shows what happened to the
//! file, not who did it.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::chain;
use super::error::LedgerError;
use super::rows::{self, to_sql};

/// The front of a stream; at first that of one of which nothing is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The last record that is gone.
    pub(super) seq: u64,
    /// Its hash, as text.
    pub(super) hash: String,
    /// The last record that is to go.
    pub(super) until: u64,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { seq: 0, hash: hex::encode(chain::START), until: 0 }
    }
}

/// That of a stream, which is told by its number and its name; none where nothing was ever pruned.
pub(super) fn of(connection: &Connection, stream_id: i64, stream: &str) -> Result<Option<Checkpoint>, LedgerError> {
    let found: Option<(i64, String, String, i64, String)> = connection
        .prepare_cached("SELECT seq, hash, at, until, seal FROM checkpoints WHERE stream_id = ?1")?
        .query_row([stream_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .optional()?;
    let Some((seq, hash, at, until, sealed)) = found else { return Ok(None) };
    if seal(stream, seq, &hash, &at, until) != sealed {
        return Err(LedgerError::Content(format!("the checkpoint of {stream} is not what was written")));
    }
    Ok(Some(Checkpoint { seq: rows::number(seq)?, hash, until: rows::number(until)? }))
}

/// Writes that of a stream.
pub(super) fn put(
    connection: &Connection,
    stream_id: i64,
    stream: &str,
    checkpoint: &Checkpoint,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let (seq, until, at) = (to_sql(checkpoint.seq), to_sql(checkpoint.until), at.to_string());
    let seal = seal(stream, seq, &checkpoint.hash, &at, until);
    connection
        .prepare_cached(
            "INSERT INTO checkpoints (stream_id, seq, hash, at, until, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (stream_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, at = excluded.at,
                 until = excluded.until, seal = excluded.seal",
        )?
        .execute(params![stream_id, seq, checkpoint.hash, at, until, seal])?;
    Ok(())
}

/// What the row of a stream must have as its seal.
pub(super) fn seal(stream: &str, seq: i64, hash: &str, at: &str, until: i64) -> String {
    hex::encode(chain::seal(&[stream, &seq.to_string(), hash, at, &until.to_string()]))
}

/// Seals what an older version has left, as it stands.
pub(super) fn seal_all(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT c.stream_id, s.source || ':' || s.application, c.seq, c.hash, c.at, c.until
         FROM checkpoints c CROSS JOIN streams s ON s.id = c.stream_id",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (stream, hash, at): (String, String, String) = (row.get(1)?, row.get(3)?, row.get(4)?);
        let seal = seal(&stream, row.get(2)?, &hash, &at, row.get(5)?);
        connection
            .execute("UPDATE checkpoints SET seal = ?2 WHERE stream_id = ?1", params![row.get::<_, i64>(0)?, seal])?;
    }
    Ok(())
}

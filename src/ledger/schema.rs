//! The tables and how an older file gets them: one embedded SQL file for each version, applied in order.
//!
//! No step is ever edited after a release, and there is no way back: a newer file is refused, not guessed at.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::checkpoint;
use super::error::LedgerError;
use crate::failpoint::{self, Point};

/// Step N brings a file from version N to N + 1; the version is SQLite's `user_version`.
const STEPS: &[&str] = &[
    include_str!("migrations/0001_records.sql"),
    include_str!("migrations/0002_pruning.sql"),
    include_str!("migrations/0003_seals.sql"),
];

/// From this version on checkpoints are sealed, which SQL can't do.
pub(super) const SEALED: usize = 3;

/// Brings the file to this version's tables, all steps in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error| LedgerError::open(path, &error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found = check_version(&transaction, path)?;
    for step in STEPS.iter().skip(found) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    if found < SEALED {
        checkpoint::seal_all(&transaction).map_err(failed)?;
    }
    if found < STEPS.len() {
        transaction.pragma_update(None, "user_version", known()).map_err(failed)?;
    }
    failpoint::hit(Point::MigrateBefore);
    transaction.commit().map_err(failed)?;
    failpoint::hit(Point::MigrateAfter);
    Ok(())
}

/// Refuses a file of a newer version, and a database that is no ledger.
pub(super) fn refuse_others(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    if check_version(connection, path)? == 0 {
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(|error| LedgerError::open(path, &error))?;
        if tables > 0 {
            return Err(LedgerError::Foreign { path: path.to_owned() });
        }
    }
    Ok(())
}

/// The file's version, refused where it is newer than this program knows.
pub(super) fn check_version(connection: &Connection, path: &Path) -> Result<usize, LedgerError> {
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| LedgerError::open(path, &error))?;
    match usize::try_from(found) {
        Ok(version) if version <= STEPS.len() => Ok(version),
        _ => Err(LedgerError::Version { path: path.to_owned(), found, known: known() }),
    }
}

/// Whether the file has what pruning brought. One that no service of this version has opened yet need not: it may be a
/// backup of long ago, or the one that is to be copied before the new version starts on it.
pub(super) fn is_prunable(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA user_version", [], |row| Ok(row.get::<_, i64>(0)? >= PRUNING))
}

/// The version that has columns for pruning.
const PRUNING: i64 = 2;

/// The text of each table, index and trigger by its kind and name; those that SQLite makes by itself have none.
pub(super) fn definitions(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Vec<u8>>> {
    let mut statement =
        connection.prepare("SELECT type || ' ' || name, tbl_name || ': ' || coalesce(sql, '') FROM sqlite_schema")?;
    let mut found = statement.query([])?;
    let mut definitions = BTreeMap::new();
    while let Some(row) = found.next()? {
        let bytes = |at| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_bytes().unwrap_or_default().to_vec());
        definitions.insert(String::from_utf8_lossy(&bytes(0)?).into_owned(), bytes(1)?);
    }
    Ok(definitions)
}

/// The same as a file of this one's version has it.
pub(super) fn expected(of: &Connection) -> rusqlite::Result<BTreeMap<String, Vec<u8>>> {
    let version: i64 = of.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let fresh = Connection::open_in_memory()?;
    for step in STEPS.iter().take(usize::try_from(version).unwrap_or_default()) {
        fresh.execute_batch(step)?;
    }
    definitions(&fresh)
}

fn known() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

//! Keeps the ledger's files open for as long as the service has it, and tells when their names lead elsewhere.
//!
//! SQLite goes on writing into a `-wal` that was removed without a murmur, and what it acknowledges there dies with the
//! process. The locks of the WAL live in `-shm`: beside another one, another program takes the WAL back or cuts it while
//! the service writes. So the three names are compared with what they led to when the ledger was opened.
//!
//! The comparison is right only since none of the files ever changes rightfully meanwhile. Whoever closes a database as
//! the last removes its WAL; a connection that is open all the time keeps everybody from being the last, whatever the
//! writer's own connection and the readers' do. It also holds on to a WAL that was removed, so that it can be saved.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::error::{LedgerError, explain};
use super::file::{self, Identity};

/// The connection that stays, and what the names led to.
pub(super) struct Anchor {
    path: PathBuf,
    file: Identity,
    wal: Identity,
    shm: Identity,
    connection: Connection,
}

/// A name leads elsewhere.
#[derive(Debug)]
pub(super) enum Astray {
    /// All may go on once it is put right.
    ForNow(String),
    /// Nothing may be written any more.
    ForGood(String),
}

impl Anchor {
    /// Takes hold of a ledger that is open and has its tables.
    pub(super) fn hold(path: &Path, busy: Duration) -> Result<Self, LedgerError> {
        let failed = |error: rusqlite::Error| LedgerError::open(path, &error);
        let connection = file::writer(path, busy).map_err(failed)?;
        // From its first read on it has a share of the file's lock, and both files beside it are there.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
        let of = |end: &str| {
            let path = file::beside(path, end);
            Identity::of(&path).map_err(|error| LedgerError::file(&path, "it can't be looked at", &error))
        };
        Ok(Self { path: path.to_owned(), file: of("")?, wal: of("-wal")?, shm: of("-shm")?, connection })
    }

    /// Whether the names still lead to the files that are open. What a removed WAL held is saved.
    pub(super) fn holds(&self) -> Result<(), Astray> {
        self.look_at_file()?;
        let [wal, shm] = [("-wal", self.wal), ("-shm", self.shm)].map(|(end, known)| self.is_there(end, known));
        if matches!((&wal, &shm), (Ok(true), Ok(true))) {
            return Ok(());
        }
        // The folder may have been moved away between two looks: then it is no matter of these files.
        self.look_at_file()?;
        if !wal? {
            return Err(self.save());
        }
        if shm? {
            return Ok(());
        }
        // Who came since then knows nothing of this one's locks, and may have cut or reused the WAL. By what this one
        // knows of it nothing may be copied out of it any more, not at the end either.
        let left_alone = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        debug_assert!(left_alone.is_ok(), "{left_alone:?}");
        let path = self.path.display();
        Err(Astray::ForGood(format!(
            "{path}-shm was removed or replaced while it was open; what was acknowledged is in {path} and its -wal: leave \
             both"
        )))
    }

    fn look_at_file(&self) -> Result<(), Astray> {
        let path = self.path.display();
        match Identity::of(&self.path) {
            Ok(identity) if identity == self.file => Ok(()),
            Ok(_) => {
                Err(Astray::ForNow(format!("{path} was replaced by another file while it was open; restart stagehook")))
            }
            Err(error) => Err(Astray::ForNow(format!(
                "{path}: {error}; put the file back, or stop stagehook and restore a backup"
            ))),
        }
    }

    fn is_there(&self, end: &str, known: Identity) -> Result<bool, Astray> {
        let path = file::beside(&self.path, end);
        match Identity::of(&path) {
            Ok(identity) => Ok(identity == known),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Astray::ForNow(unreadable(&path, &error))),
        }
    }

    /// Brings what the removed WAL held into the file itself, where it outlives this process. What others do with a second
    /// WAL beside it can't be known, so nothing more is written after that; and nothing before, for it would be lost.
    fn save(&self) -> Astray {
        let what = format!("{}-wal was removed or replaced while it was open", self.path.display());
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let not_yet = |why: &str| {
            Astray::ForNow(format!(
                "{what}, and what it held can't be saved into the file: {why}; stagehook tries again with each call: do \
                 not stop it before"
            ))
        };
        match self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], row) {
            // All of it is in the file, and synced. Cutting the WAL, which a reader keeps it from, is of no use here.
            Ok((held, saved)) if held >= 0 && held == saved => {
                let other = std::fs::metadata(file::beside(&self.path, "-wal")).is_ok_and(|other| other.len() > 0);
                let advice = if other { "; move the one that is there now away before the next start" } else { "" };
                Astray::ForGood(format!("{what}; what it held was saved into the file{advice}"))
            }
            Ok(_) => not_yet("others read it; end them"),
            Err(error) => not_yet(&explain(&error)),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("{} can't be looked at: {error}; make its folder readable for stagehook", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{Source, StreamId};
    use crate::domain::record::{Actor, Event, Fact};
    use crate::ledger::{Append, AppendError, Ledger, head, verify};

    fn note(after: u64) -> Append {
        let stream = StreamId { source: Source::Generic, application: "test/podinfo".parse().unwrap() };
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        let event = Event::Noted { message: "a note".to_owned() };
        let fact = Fact { at, by: Actor::stagehook(), deployment: None, event };
        Append { facts: vec![fact], ..Append::new(stream, after) }
    }

    /// The writer's connection is closed after a batch that failed, and nobody reads: whoever looks in then would be the
    /// last to close the file, and take the WAL away. Then one that was removed could not be told from that.
    #[tokio::test]
    async fn nobody_is_the_last_to_close_it_and_a_failed_batch_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let ledger = Ledger::open(&path).unwrap();
        let of = || ["-wal", "-shm"].map(|end| Identity::of(&file::beside(&path, end)).ok());
        let before = of();
        assert!(before.iter().all(Option::is_some), "{before:?}");
        ledger.append(note(0)).await.unwrap();
        let shell = || Connection::open(&path).unwrap();
        let fault = "CREATE TRIGGER fault BEFORE UPDATE ON heartbeat BEGIN SELECT RAISE(ROLLBACK, 'fault'); END";
        shell().execute_batch(fault).unwrap();
        assert!(ledger.check_writable().await.unwrap_err().contains("fault"));
        shell().execute_batch("DROP TRIGGER fault").unwrap();
        assert_eq!(of(), before, "the shell closed it as the last");
        ledger.append(note(1)).await.unwrap();

        shell().execute_batch(fault).unwrap();
        ledger.check_writable().await.unwrap_err();
        std::fs::remove_file(file::beside(&path, "-wal")).unwrap();
        let refused = ledger.append(note(2)).await.unwrap_err();
        assert!(
            matches!(&refused, AppendError::Damaged(why) if why.contains("was saved into the file")),
            "{refused:?}"
        );
        drop(ledger);
        shell().execute_batch("DROP TRIGGER fault").unwrap();
        assert_eq!(head(&path).unwrap().streams[0].seq, 2);
        assert!(verify(&path, None).unwrap().is_sound());
    }
}

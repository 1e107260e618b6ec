//! What is known of the ledger's condition: whether it is damaged, and whether the last write went well.
//!
//! Damage is held until the process ends. Where SQLite says that the file is corrupt, or a record that a decision rests on
//! is not what was written, no other page is above suspicion, the next commit might be lost in a tree that is already torn,
//! and a repaired view would hide what happened. So nothing is appended any more, for no stream; nothing is mended here.

use std::sync::{Mutex, OnceLock, PoisonError};

use rusqlite::ErrorCode;

use super::error::LedgerError;

/// Shared by the writer and whoever reads.
#[derive(Debug, Default)]
pub(super) struct Condition {
    damage: OnceLock<String>,
    fault: Mutex<Option<String>>,
}

impl Condition {
    /// An error where it is held as damaged.
    pub(super) fn sound(&self) -> Result<(), LedgerError> {
        match self.damage.get() {
            Some(why) => Err(LedgerError::Damaged(why.clone())),
            None => Ok(()),
        }
    }

    /// From here on it is held as damaged. The first reason stays.
    pub(super) fn hold(&self, why: &str) {
        if self.damage.set(why.to_owned()).is_ok() {
            tracing::error!(why, "the ledger is damaged: nothing more is recorded or started");
        }
    }

    /// How the last write went.
    pub(super) fn wrote(&self, outcome: Result<(), &str>) {
        let fault = outcome.err().map(str::to_owned);
        let mut known = self.lock();
        match (&fault, known.is_some()) {
            (Some(why), false) => tracing::error!(why, "the ledger can't be written"),
            (None, true) => tracing::info!("the ledger can be written again"),
            _ => {}
        }
        *known = fault;
    }

    /// Why the last write failed, if it did.
    pub(super) fn fault(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // An option is whole whoever panicked.
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether SQLite says that the file itself is damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

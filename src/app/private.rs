//! Whether what the service keeps is for its own user alone.
//!
//! What it makes itself is, whatever the umask: folders are 0700, files 0600. What is there already belongs to whoever
//! made it, so it is not changed, only told of.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use crate::config::settings::Settings;

/// The rights of everybody else.
const OTHERS: u32 = 0o077;

/// Makes a folder for the service's own user, where it is missing.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Says of what others may get into, and what to do.
pub(super) fn warn(settings: &Settings) {
    let ledger = &settings.ledger.path;
    let folder = ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kept = [("the ledger's folder", folder, 0o700), ("the ledger", ledger.as_path(), 0o600)];
    let kept = kept.into_iter().chain([("execution.workDir", settings.execution.work_dir.as_path(), 0o700)]);
    for (what, path, wanted) in kept {
        // What can't be looked at is told of by whoever needs it.
        let Ok(found) = std::fs::metadata(path).map(|found| found.permissions().mode() & 0o7777) else { continue };
        if found & OTHERS != 0 {
            let (path, mode) = (path.display(), format!("{found:04o}"));
            tracing::warn!(%path, mode, "{what} is open to other users of this machine; chmod {wanted:04o} {path}");
        }
    }
}

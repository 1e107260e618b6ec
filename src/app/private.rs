//! Whether what the service keeps is for its own user alone.
//!
//! What it makes itself is, whatever the umask: folders are 0700, files 0600. What is there already belongs to whoever
//! made it, so it is not changed, only told of.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

use crate::config::settings::Settings;
use crate::executor::{Confinement, WorkDir};

/// The rights of everybody else.
const OTHERS: u32 = 0o077;

/// Says of what others may get into, and what to do.
pub(super) fn warn(settings: &Settings, confinement: &Confinement) {
    let ledger = &settings.ledger.path;
    let folder = ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kept = [("the ledger's folder", folder, 0o700), ("the ledger", ledger.as_path(), 0o600)];
    let work_dir =
        ("execution.workDir", settings.execution.work_dir.as_path(), WorkDir::rights(confinement.credentials()));
    for (what, path, wanted) in kept.into_iter().chain([work_dir]) {
        // What can't be looked at is told of by whoever needs it.
        let Ok(found) = std::fs::metadata(path) else { continue };
        let (owner, rights, path) = (found.uid(), found.mode() & 0o7777, path.display());
        if rights & OTHERS & !wanted != 0 {
            let mode = format!("{rights:04o}");
            tracing::warn!(%path, mode, "{what} is open to other users of this machine; chmod {wanted:04o} {path}");
        }
        // Whoever owns it opens it when he likes.
        if owner != 0 && owner != geteuid().as_raw() {
            tracing::warn!(%path, owner, "{what} belongs to another user of this machine; chown it to the service's");
        }
    }
}

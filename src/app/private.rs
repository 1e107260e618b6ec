//! Whether what the service keeps is for its own user alone.
//!
//! What it makes itself is, whatever the umask: folders are 0700, files 0600. What is there already belongs to whoever
//! made it, so it is not changed, only told of.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use crate::config::settings::Settings;
use crate::executor::Confinement;

/// The rights of everybody else.
const OTHERS: u32 = 0o077;

/// The rights to `execution.workDir`: scripts of another user have to pass it to what is theirs, and see no more.
pub(super) fn rights(confinement: &Confinement) -> u32 {
    if confinement.credentials().is_some() { 0o711 } else { 0o700 }
}

/// Makes a folder with these rights, where it is missing.
pub(super) fn make(folder: &Path, rights: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(rights).create(folder)
}

/// Says of what others may get into, and what to do.
pub(super) fn warn(settings: &Settings, confinement: &Confinement) {
    let ledger = &settings.ledger.path;
    let folder = ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kept = [("the ledger's folder", folder, 0o700), ("the ledger", ledger.as_path(), 0o600)];
    let kept =
        kept.into_iter().chain([("execution.workDir", settings.execution.work_dir.as_path(), rights(confinement))]);
    for (what, path, wanted) in kept {
        // What can't be looked at is told of by whoever needs it.
        let Ok(found) = std::fs::metadata(path).map(|found| found.permissions().mode() & 0o7777) else { continue };
        if found & OTHERS & !wanted != 0 {
            let (path, mode) = (path.display(), format!("{found:04o}"));
            tracing::warn!(%path, mode, "{what} is open to other users of this machine; chmod {wanted:04o} {path}");
        }
    }
}

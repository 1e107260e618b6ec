//! How many connections there may be: as many as the settings say and the limit of open files leaves.

/// What the service needs for itself: the ledger and its readers, files that are watched and read, the address, logs,
/// connections to GitHub.
const OWN: u64 = 128;

/// What one running script needs: the socket and the pipe of its supervisor, the files that it is started with.
const SCRIPT: u64 = 8;

/// Fewer than these are of no use, whatever the limit.
const LEAST: usize = 16;

/// How many connections there may be, with so many files open at the most: scripts and the ledger come first.
pub(super) fn allowed(wanted: usize, scripts: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let kept = OWN.saturating_add(SCRIPT.saturating_mul(scripts as u64));
    let beside = (crate::http::descriptors(wanted) - wanted) as u64;
    let left = usize::try_from(files.saturating_sub(kept).saturating_sub(beside)).unwrap_or(usize::MAX);
    wanted.min(left.max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_the_ledger_come_first() {
        assert_eq!(allowed(4096, 8, None), 4096);
        assert_eq!(allowed(4096, 8, Some(1 << 20)), 4096);
        assert_eq!(allowed(4096, 8, Some(1024)), 1024 - 128 - 8 * 8 - 64);
        assert_eq!(allowed(4096, 100, Some(1024)), 1024 - 128 - 8 * 100 - 64);
        assert_eq!(allowed(4096, 10_000, Some(1024)), 16);
        assert_eq!(allowed(20, 8, Some(1024)), 20);
    }
}

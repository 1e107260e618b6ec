//! Deployments that nobody calls about any more: reported, never touched.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::{Engine, Inner, clock};
use crate::domain::ids::DeploymentId;

impl Engine {
    /// Looks now and then for deployments without a call for `staleAfter`.
    pub(super) fn watch_for_stale(&self) {
        let period = (self.0.settings.stale_after / 4).clamp(Duration::from_millis(100), Duration::from_secs(60));
        let inner = std::sync::Arc::downgrade(&self.0);
        // A call that was answered from the ledger left no record, so of the calls before the start
        // nothing is known.
        let began = clock::now();
        tokio::spawn(async move {
            let mut told = BTreeSet::new();
            loop {
                tokio::time::sleep(period).await;
                let Some(stale) = look(&inner, began) else { return };
                told.retain(|id| stale.contains(id));
                for id in stale {
                    if told.insert(id) {
                        tracing::warn!(
                            deployment = %id,
                            "no call about this deployment for staleAfter; if its rollout is over, `stagehook close {id}`"
                        );
                    }
                }
            }
        });
    }
}

fn look(inner: &Weak<Inner>, began: Timestamp) -> Option<BTreeSet<DeploymentId>> {
    let inner = inner.upgrade()?;
    let oldest = clock::before(clock::now(), inner.settings.stale_after);
    let stale: BTreeSet<_> = inner
        .applications
        .all()
        .iter()
        .flat_map(|entry| {
            entry.lives().iter().filter(|life| life.seen.max(began) < oldest).map(|life| life.id).collect::<Vec<_>>()
        })
        .collect();
    inner.stale.store(stale.len(), Ordering::Relaxed);
    Some(stale)
}

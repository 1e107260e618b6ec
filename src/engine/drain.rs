//! The end: running scripts get their grace, the rest is stopped and recorded as Interrupted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;
use super::runs::Live;
use crate::executor::StopKind;
use crate::failpoint::{self, Point};

/// How long the last records may take once the scripts are dead.
const RECORDING: Duration = Duration::from_secs(15);

impl Engine {
    /// Starts nothing more: from now on facts are still committed, and calls that wait for
    /// something that will not come are told so.
    pub async fn begin_drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.slots.close();
        self.wake_all().await;
    }

    /// Waits until every script has its finish record: those that do not end by themselves within
    /// `grace` are stopped and recorded as Interrupted. Waits go on in the next life.
    ///
    /// `kill_grace` is what a stopped script may take. An end that can't be recorded then, since the
    /// ledger can't be written, is left to the next start.
    pub async fn drain(&self, grace: Duration, kill_grace: Duration) {
        failpoint::hit(Point::DrainBefore);
        self.begin_drain().await;
        failpoint::hit(Point::DrainBegun);
        let mut unfinished = self.0.unfinished.subscribe();
        let done = tokio::time::timeout(grace, unfinished.wait_for(|count| *count == 0)).await.is_ok();
        if !done {
            let mut stopped = 0;
            for live in self.0.live().values() {
                if let Live::Script { stopper, .. } = live {
                    stopper.stop(StopKind::Interrupted("Stagehook was shut down".to_owned()));
                    stopped += 1;
                }
            }
            failpoint::hit(Point::DrainStopped);
            tracing::warn!(stopped, "scripts that did not end within server.shutdownGrace are stopped");
            let patience = kill_grace.saturating_add(RECORDING);
            if tokio::time::timeout(patience, unfinished.wait_for(|count| *count == 0)).await.is_err() {
                tracing::error!("some ends could not be recorded; the next start finds these scripts as Interrupted");
            }
        }
        self.wake_all().await;
        failpoint::hit(Point::DrainAfter);
    }
}

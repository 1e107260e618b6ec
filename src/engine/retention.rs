//! Retention: what is over for longer than `ledger.retain` is pruned, in small steps and with pauses.
//!
//! Here is what must stay; how a front is cut is the ledger's. Memory is not looked at: a decision about a deployment
//! that goes meanwhile conflicts, is made again, and finds none.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::load::KEEP;
use super::{Engine, Inner, clock};
use crate::failpoint::{self, Point};
use crate::ledger::{AppendError, Cut, Group, Pruned, Step, StreamKey};

/// How often it is looked for what has become old.
const PERIOD: Duration = Duration::from_secs(3600);

/// How many rows go in one step: some milliseconds of the writer's time.
const ROWS: usize = 200;

/// How many deployments are looked at and cut off at a time.
const PORTION: usize = 128;

/// How long a pause is beside the step before it. So the writer is the calls' for most of the time.
const REST: u32 = 2;

impl Engine {
    /// Prunes now and then, beginning now. Without `retain`: only what was begun before and cut short.
    pub(super) fn watch_retention(&self) {
        let inner = std::sync::Arc::downgrade(&self.0);
        let retain = self.0.settings.retain;
        tokio::spawn(async move {
            loop {
                let before = retain.map(|retain| clock::before(clock::now(), retain));
                if Pruner::new(inner.clone(), before).round().await.is_none() {
                    return;
                }
                if retain.is_none() {
                    return;
                }
                tokio::time::sleep(PERIOD).await;
            }
        });
    }
}

/// One look at all streams.
pub(super) struct Pruner {
    /// Not held between two steps: who drops the engine need not wait for this.
    inner: Weak<Inner>,
    before: Option<Timestamp>,
    total: Pruned,
}

/// Why a stream is left for the next time.
enum Stop {
    /// The service ends.
    Draining,
    /// The ledger can't be read or written, or is not as it should be.
    Ledger(String),
}

impl Pruner {
    /// What ended before `before` goes; without it, only what was begun before and cut short.
    pub(super) fn new(inner: Weak<Inner>, before: Option<Timestamp>) -> Self {
        Self { inner, before, total: Pruned::default() }
    }

    /// Looks at all streams. `None` once the service ends.
    pub(super) async fn round(mut self) -> Option<()> {
        let began = Instant::now();
        let result = self.all().await;
        let Pruned { deployments, records, outputs, pipelines, .. } = self.total;
        if records > 0 {
            let took = began.elapsed().as_secs();
            tracing::info!(
                deployments,
                records,
                outputs,
                pipelines,
                took,
                "pruned what ended longer ago than ledger.retain"
            );
        }
        match result {
            Ok(()) => Some(()),
            Err(Stop::Draining) => None,
            Err(Stop::Ledger(why)) => {
                tracing::warn!(why, "the ledger was not pruned further; it is tried again within the hour");
                Some(())
            }
        }
    }

    fn engine(&self) -> Result<Engine, Stop> {
        let engine = self.inner.upgrade().map(Engine).ok_or(Stop::Draining)?;
        if engine.is_draining() { Err(Stop::Draining) } else { Ok(engine) }
    }

    async fn all(&mut self) -> Result<(), Stop> {
        let mut after = StreamKey::default();
        let mut problem = Ok(());
        loop {
            let page = self.engine()?.0.ledger.prunable(after, KEEP, self.before).await.map_err(unreadable)?;
            for stream in page.streams {
                match self.stream(stream).await {
                    // One stream that can't be pruned must not keep the others from it.
                    Err(Stop::Ledger(why)) => problem = Err(Stop::Ledger(why)),
                    other => other?,
                }
            }
            match page.next {
                Some(next) => after = next,
                None => return problem,
            }
        }
    }

    /// Prunes one stream, portion by portion.
    async fn stream(&mut self, stream: StreamKey) -> Result<(), Stop> {
        let mut limit = PORTION;
        loop {
            // The time of the cut does not matter where one was begun: that is gone on with.
            let before = self.before.unwrap_or(Timestamp::MIN);
            let front = self.engine()?.0.ledger.front(stream, KEEP, before, limit).await.map_err(unreadable)?;
            let cut = match front.unfinished {
                true => None,
                false => match self.may_go(&front.groups).await? {
                    Some(until) => Some(Cut { until, head: front.head }),
                    // Many that stand between each other's records can only go together.
                    None if front.more && front.groups.is_empty() => {
                        limit = limit.saturating_mul(4);
                        continue;
                    }
                    None => return Ok(()),
                },
            };
            limit = PORTION;
            if !self.cut(stream, cut).await? {
                // It was called about meanwhile. It is looked at again the next time.
                return Ok(());
            }
        }
    }

    /// How far a front may go: to the first deployment that the listing calls over and that still holds something.
    async fn may_go(&self, groups: &[Group]) -> Result<Option<u64>, Stop> {
        let mut until = None;
        for group in groups {
            for id in &group.deployments {
                let found = self.engine()?.deployment(*id).await.map_err(Stop::Ledger)?;
                let Some((_, deployment)) = found else { return Ok(until) };
                // A rollout that was undone here must not go on, however old that is.
                if deployment.is_live() || deployment.undone {
                    return Ok(until);
                }
            }
            until = Some(group.until);
        }
        Ok(until)
    }

    /// Takes a cut off, step by step. False where the stream was touched before the first.
    async fn cut(&mut self, stream: StreamKey, mut cut: Option<Cut>) -> Result<bool, Stop> {
        loop {
            let began = Instant::now();
            let step = Step { stream, cut: cut.take(), rows: ROWS, at: clock::now() };
            failpoint::hit(Point::PruneBefore);
            let outcome = self.engine()?.0.ledger.prune(step).await;
            let took = began.elapsed();
            failpoint::hit(Point::PruneAfter);
            match outcome {
                Ok(pruned) => {
                    self.total.add(pruned);
                    self.engine()?.0.pruned.fetch_add(pruned.deployments, Ordering::Relaxed);
                }
                Err(AppendError::Conflict { .. }) => return Ok(false),
                Err(error) => return Err(unreadable(error)),
            }
            tokio::time::sleep(took.saturating_mul(REST)).await;
            if self.total.done {
                failpoint::hit(Point::CutAfter);
                return Ok(true);
            }
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> Stop {
    Stop::Ledger(error.to_string())
}

//! How long the calls of a pipeline may take: what every timeout is computed from.
//!
//! These are bounds, not guesses: a stage is stopped at its timeout and is dead `execution.killGrace` later. What else
//! may hold a call (a rollback that goes on, no free slot) has none, and is answered pending.

use std::time::Duration;

use crate::domain::hook::Hook;
use crate::domain::pipeline::{Pipeline, Stage, Work};

/// What a call takes beside its scripts: the way there and back, and the commits.
const OVERHEAD: Duration = Duration::from_secs(5);
/// How much longer a caller waits than it asks to be held, so that it hears `pending` and need not hang up.
const MARGIN: Duration = Duration::from_secs(15);
/// The least that is reckoned for a call, stages or not.
const LEAST: Duration = Duration::from_secs(10);

/// The times of one pipeline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times<'p> {
    pipeline: &'p Pipeline,
    kill_grace: Duration,
}

impl<'p> Times<'p> {
    pub fn of(pipeline: &'p Pipeline, kill_grace: Duration) -> Self {
        Self { pipeline, kill_grace }
    }

    /// Whether stages run on a hook.
    pub fn has(&self, hook: Hook) -> bool {
        self.pipeline.on_hook(hook).next().is_some()
    }

    /// What the stages of a hook take at most.
    pub fn forward(&self, hook: Hook) -> Duration {
        let stages = self.pipeline.on_hook(hook).map(|(_, stage)| self.stage(stage));
        stages.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// What a rollback takes at most: the end of what still runs, then all that there is to undo.
    pub fn rollback(&self) -> Duration {
        self.replayed().map(|stage| self.stage(stage)).fold(self.kill_grace, Duration::saturating_add)
    }

    /// What the report of an end takes at most: of a success the post-rollout stages run, of a failure the rollback.
    pub fn end(&self) -> Duration {
        self.forward(Hook::PostRollout).max(self.rollback())
    }

    fn replayed(&self) -> impl Iterator<Item = &'p Stage> {
        self.pipeline.stages.iter().filter(|stage| {
            let script = stage.script();
            script.is_some_and(|script| stage.hook() == Some(Hook::Rollback) || !script.on_rollback.is_empty())
        })
    }

    fn stage(&self, stage: &Stage) -> Duration {
        match &stage.work {
            Work::Script { script, .. } => script.timeout.0.saturating_add(self.kill_grace),
            Work::Wait { duration, .. } => duration.0,
            Work::External { .. } => Duration::ZERO,
        }
    }
}

/// How long a call asks to be held, for what takes so long: `?wait=`.
pub(super) fn wait(busy: Duration) -> Duration {
    busy.max(LEAST).saturating_add(OVERHEAD)
}

/// How long the caller waits then.
pub(super) fn timeout(busy: Duration) -> Duration {
    wait(busy).saturating_add(MARGIN)
}

/// Whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// As Go, Flagger's own schema and `?wait=` read it: `90s` is `1m30s`. There are no hours, since Flagger's schema wants
/// a number of minutes or seconds at the beginning.
pub(super) fn written(time: Duration) -> String {
    let seconds = seconds(time);
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, 0) => format!("{minutes}m"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_without_hours_and_never_too_short() {
        let shown = |millis| written(Duration::from_millis(millis));
        assert_eq!(shown(45_000), "45s");
        assert_eq!(shown(330_000), "5m30s");
        assert_eq!(shown(7_200_000), "120m");
        assert_eq!(shown(59_001), "1m");
        // Flagger's and humantime's way back.
        assert_eq!(humantime::parse_duration(&shown(3_930_000)).unwrap(), Duration::from_secs(3_930));
    }

    #[test]
    fn the_caller_waits_longer_than_it_asks_to_be_held() {
        let five = Duration::from_secs(310);
        assert_eq!(written(timeout(five)), "5m30s");
        assert_eq!(written(wait(five)), "5m15s");
        assert_eq!(written(timeout(Duration::ZERO)), "30s");
        assert!(timeout(Duration::MAX) == Duration::MAX, "and does not overflow");
    }
}

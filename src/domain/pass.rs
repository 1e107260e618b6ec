//! A pass: one walk over the stages of a hook. Which stage is next, and when it is over.

use std::sync::Arc;

use super::hook::Hook;
use super::ids::RunId;
use super::names::StageId;
use super::pipeline::{OnInterrupt, Repeat, Stage};
use super::record::{Outcome, Payload};
use super::state::{Deployment, Run};

/// One walk over the stages of a hook in one deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// 1, 2, …
    pub number: u32,
    /// The payload of the call that began it.
    pub payload: Arc<Payload>,
    /// Whether its call waits for no verdict, and comes once only.
    pub unattended: bool,
    /// The index in the pipeline from which it goes on.
    pub cursor: usize,
    /// The run that it waits for.
    pub running: Option<RunId>,
    /// How it ended.
    pub end: Option<PassEnd>,
    /// Whether that was given to a call.
    pub delivered: bool,
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassEnd {
    /// Every stage has succeeded.
    Approved,
    /// This stage did not.
    Rejected {
        /// The stage.
        stage: StageId,
    },
    /// Stagehook died while this stage ran; the next call begins again.
    Interrupted {
        /// The stage.
        stage: StageId,
    },
}

impl Pass {
    /// A pass that has started nothing yet.
    pub fn new(number: u32, payload: Payload, unattended: bool) -> Self {
        Self { number, payload: Arc::new(payload), unattended, cursor: 0, running: None, end: None, delivered: false }
    }
}

/// What a walk over the stages of a hook comes to next.
#[derive(Clone, Copy, Debug)]
pub enum Next<'a> {
    /// This stage is to run.
    Run(&'a Stage),
    /// This stage's kept result rejects.
    Kept(&'a Stage),
    /// All have succeeded.
    Done,
}

impl Deployment {
    /// The next thing on a hook, from an index in the pipeline on.
    ///
    /// A stage that is running is the pass's business, not this function's.
    pub fn next_on(&self, hook: Hook, from: usize) -> Next<'_> {
        for (_, stage) in self.pipeline.on_hook(hook).filter(|(index, _)| *index >= from) {
            match self.last_forward(&stage.id).map_or(Again::Run, |run| again(stage, run, self.polled)) {
                Again::Run => return Next::Run(stage),
                Again::Reject => return Next::Kept(stage),
                Again::Keep => {}
            }
        }
        Next::Done
    }

    /// How a pass ends when it has come to this index; `None` when something is left to run.
    pub fn pass_end(&self, hook: Hook, from: usize) -> Option<PassEnd> {
        match self.next_on(hook, from) {
            Next::Run(_) => None,
            Next::Kept(stage) => Some(PassEnd::Rejected { stage: stage.id.clone() }),
            Next::Done => Some(PassEnd::Approved),
        }
    }
}

enum Again {
    Run,
    Keep,
    Reject,
}

/// Whether a stage that has run runs again when its hook is called again. Not for a caller that polls: each poll is the
/// same question, whatever the stage's `repeat` says.
fn again(stage: &Stage, run: &Run, polled: bool) -> Again {
    let Some(outcome) = run.outcome() else { return Again::Keep };
    let on_interrupt = stage.script().map_or(OnInterrupt::Rerun, |script| script.on_interrupt);
    let repeat = if polled { Repeat::Once } else { stage.repeat() };
    match (outcome, repeat) {
        (Outcome::Interrupted | Outcome::Cancelled, _) if run.released => Again::Run,
        (Outcome::Interrupted, _) => match on_interrupt {
            OnInterrupt::Rerun => Again::Run,
            OnInterrupt::Hold => Again::Reject,
        },
        (Outcome::Cancelled, _) => Again::Reject,
        (Outcome::Succeeded, Repeat::Always) => Again::Run,
        (Outcome::Succeeded, Repeat::RetryFailed | Repeat::Once) => Again::Keep,
        (Outcome::Failed | Outcome::TimedOut, Repeat::RetryFailed | Repeat::Always) => Again::Run,
        (Outcome::Failed | Outcome::TimedOut, Repeat::Once) => Again::Reject,
    }
}

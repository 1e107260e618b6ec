//! The engine: commits what the core decides, then does it.
//!
//! It holds the application's lock, the slots, the waiting calls and the timers, and no truth:
//! everything in memory is a cache of the ledger or a waiter, and may be lost at any instant. It
//! knows no rule of a deployment either; those are `domain::decide`'s.

mod application;
pub mod clock;
mod drain;
mod job;
mod load;
mod recovery;
pub mod report;
mod retention;
mod runs;
mod slots;
mod stale;
#[cfg(test)]
mod tests;
mod turn;
mod turned_away;
mod turns;
mod waiters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::application::Applications;
use self::report::Reporter;
use self::runs::Live;
use self::slots::Slots;
use self::turn::Turned;
use crate::config::catalog::Catalog;
use crate::domain::call::{Answer, Call, Command, Operation, Reply, Says, WaitKey};
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::StreamId;
use crate::domain::record::{Actor, Outcome, Owner};
use crate::domain::span::Span;
use crate::domain::state::{Deployment, Stream};
use crate::executor::{Executor, OutputView};
use crate::ledger::{Ledger, LedgerError};

/// The end of a run, for whoever counts.
#[derive(Clone, Copy, Debug)]
pub struct RunEnded {
    /// Whether it was a step of a replay.
    pub is_rollback: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// What the engine is told at its start.
#[derive(Clone)]
pub struct Settings {
    /// How many scripts run at once.
    pub max_concurrent: usize,
    /// How many forward scripts may wait for a slot.
    pub queue: usize,
    /// How long after the first yes a signalled rollback waits for the caller's report.
    pub signal_timeout: Span,
    /// After how long without a call a deployment is reported as stale.
    pub stale_after: Duration,
    /// How long ago a deployment must have ended to be pruned; none: never.
    pub retain: Option<Duration>,
    /// The variables of the service's own environment that scripts inherit, with their values.
    pub inherited: Vec<(String, String)>,
    /// Told of the end of every run, once it is durable.
    pub observer: Arc<dyn Fn(RunEnded) + Send + Sync>,
    /// Who tells outcomes where callers want them told.
    pub reporter: Option<Arc<dyn Reporter>>,
    /// Who runs what is started here.
    pub owner: Owner,
}

/// What a call or a request is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// The answer.
    Answer(Answer),
    /// A person's request is taken on.
    Accepted {
        /// In one line.
        message: String,
    },
    /// There is no such thing.
    Unknown {
        /// In one line, with what to do.
        message: String,
    },
    /// It can't be done in this state.
    Conflict {
        /// In one line, with what to do.
        message: String,
    },
    /// The queue is full; nothing was started.
    Busy {
        /// In one line.
        message: String,
        /// When there may be room for this very caller.
        after: Duration,
    },
    /// The ledger can't be read or written; nothing was started.
    Unavailable {
        /// In one line.
        message: String,
    },
}

/// Numbers for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Scripts that run.
    pub running: usize,
    /// Scripts that wait for a slot.
    pub queued: usize,
    /// Calls that wait for a verdict.
    pub held_calls: usize,
    /// Deployments that are not over.
    pub live_deployments: usize,
    /// Those of them that nobody has called about for `staleAfter`.
    pub stale_deployments: usize,
    /// How many deployments were pruned since the start.
    pub pruned_deployments: u64,
}

/// The engine. A cheap handle.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    settings: Settings,
    ledger: Ledger,
    executor: Executor,
    catalog: watch::Receiver<Arc<Catalog>>,
    applications: Applications,
    slots: Slots,
    /// The scripts and waits that are alive.
    live: Mutex<BTreeMap<RunId, Live>>,
    /// The passes and replays that are in line for a slot.
    tickets: Mutex<BTreeMap<WaitKey, CancellationToken>>,
    /// The reports that are under way.
    telling: Mutex<BTreeSet<(DeploymentId, u32)>>,
    draining: AtomicBool,
    /// How many runs have no finish record yet: what a drain waits for.
    unfinished: watch::Sender<usize>,
    stale: std::sync::atomic::AtomicUsize,
    pruned: std::sync::atomic::AtomicU64,
}

impl Engine {
    /// The pipelines in force.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.catalog.borrow())
    }

    /// Takes up what the ledger holds: what was running is proven dead and Interrupted, what was
    /// rolling back goes on. Errors name what could not be read or written.
    pub async fn start(
        settings: Settings,
        ledger: Ledger,
        executor: Executor,
        catalog: watch::Receiver<Arc<Catalog>>,
    ) -> Result<Self, String> {
        let slots = Slots::new(settings.max_concurrent, settings.queue);
        let engine = Self(Arc::new(Inner {
            settings,
            ledger,
            executor,
            catalog,
            applications: Applications::default(),
            slots,
            live: Mutex::default(),
            tickets: Mutex::default(),
            telling: Mutex::default(),
            draining: AtomicBool::new(false),
            unfinished: watch::Sender::new(0),
            stale: std::sync::atomic::AtomicUsize::new(0),
            pruned: std::sync::atomic::AtomicU64::new(0),
        }));
        engine.recover().await?;
        engine.watch_for_stale();
        engine.watch_retention();
        Ok(engine)
    }

    /// One call of a source. Holds until the verdict, or at most `wait`; then it is pending.
    pub async fn call(&self, stream: StreamId, call: Call, by: Actor, wait: Option<Duration>) -> Told {
        let stream = match self.meant(stream, &call).await {
            Ok(stream) => stream,
            Err(told) => return told,
        };
        let deadline = wait.and_then(clock::deadline);
        self.submit(stream, Command::Call(call), by, deadline).await
    }

    /// A person's request about a deployment.
    pub async fn operate(&self, deployment: DeploymentId, operation: Operation, by: Actor) -> Told {
        match self.0.ledger.summary(deployment).await {
            Ok(Some(summary)) => {
                let stream = StreamId { source: summary.source, application: summary.application };
                self.submit(stream, Command::Operate { deployment, operation }, by, None).await
            }
            Ok(None) => Told::Unknown { message: format!("there is no deployment {deployment}") },
            Err(error) => Told::Unavailable { message: self.0.unread(&error) },
        }
    }

    /// Stops one script.
    pub async fn cancel_run(&self, run: RunId, by: Actor) -> Told {
        match self.0.ledger.find_run(run).await {
            Ok(Some((_, deployment))) => self.operate(deployment, Operation::CancelRun(run), by).await,
            Ok(None) => Told::Unknown { message: format!("there is no run {run}") },
            Err(error) => Told::Unavailable { message: self.0.unread(&error) },
        }
    }

    /// A deployment as the ledger has it.
    pub async fn deployment(&self, id: DeploymentId) -> Result<Option<(StreamId, Deployment)>, String> {
        let Some((stream, loaded)) = self.0.ledger.load_deployment(id).await.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let mut folded = Stream::new(stream.clone());
        load::fold(&mut folded, &loaded)?;
        Ok(folded.deployments.into_iter().find(|d| d.id == id).map(|deployment| (stream, deployment)))
    }

    /// The ledger, for reading.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// What a run that is alive prints.
    pub fn live_output(&self, run: RunId) -> Option<OutputView> {
        self.0.live().get(&run).and_then(Live::output)
    }

    /// Waits until a run that is alive here has its end in the ledger. False when it is not alive here.
    pub async fn ended(&self, run: RunId) -> bool {
        let mut unfinished = self.0.unfinished.subscribe();
        let mut alive = false;
        while self.0.live().contains_key(&run) {
            alive = true;
            // The engine holds the sender, so this can't fail while it is borrowed.
            if unfinished.changed().await.is_err() {
                break;
            }
        }
        alive
    }

    /// Whether the service is shutting down.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Numbers for the metrics.
    pub fn gauges(&self) -> Gauges {
        let (running, queued) = self.0.slots.usage();
        let (held_calls, live_deployments) = self.0.applications.count();
        let stale_deployments = self.0.stale.load(Ordering::Relaxed);
        let pruned_deployments = self.0.pruned.load(Ordering::Relaxed);
        Gauges { running, queued, held_calls, live_deployments, stale_deployments, pruned_deployments }
    }

    /// The stream that a call is decided in: a rollback may name a deployment of another source.
    async fn meant(&self, stream: StreamId, call: &Call) -> Result<StreamId, Told> {
        let Says::Undo { deployment: Some(id), .. } = call.says else { return Ok(stream) };
        match self.0.ledger.summary(id).await {
            Ok(Some(summary)) if summary.application == stream.application => {
                Ok(StreamId { source: summary.source, application: summary.application })
            }
            Ok(_) => Err(Told::Unknown { message: format!("{} has no deployment {id}", stream.application) }),
            Err(error) => Err(Told::Unavailable { message: self.0.unread(&error) }),
        }
    }

    /// Decides a command and waits for its answer.
    ///
    /// The decision runs in a task of its own: a caller that hangs up in the middle must not tear
    /// a committed fact from its action.
    async fn submit(
        &self,
        stream: StreamId,
        command: Command,
        by: Actor,
        deadline: Option<tokio::time::Instant>,
    ) -> Told {
        let engine = self.clone();
        // Its other end goes with this future: so the decision can tell whether anybody hears it.
        let (caller, _here) = oneshot::channel();
        let turn = async move { engine.turn(stream, command, by, &mut None, Vec::new(), Some(&caller)).await };
        let turned = tokio::spawn(turn).await;
        match turned {
            Ok(Ok(Turned { reply: Reply::Busy { message }, stream, .. })) => {
                Told::Busy { message, after: self.0.slots.turn_away(&stream) }
            }
            Ok(Ok(Turned { reply, waiter: None, .. })) => told(reply),
            Ok(Ok(Turned { waiter: Some(waiter), application, stream, .. })) => {
                self.held(waiter, &application, &stream, deadline).await
            }
            Ok(Err(message)) => Told::Unavailable { message },
            Err(panic) => {
                tracing::error!(%panic, "a decision came to no end");
                Told::Unavailable { message: "the decision came to no end; see the log".to_owned() }
            }
        }
    }
}

impl Inner {
    /// What is told of something that a decision needs and that can't be read. Where it can't be what was written, the
    /// ledger is held as damaged.
    fn unread(&self, error: &LedgerError) -> String {
        if let LedgerError::Content(why) = error {
            self.ledger.hold_as_damaged(why);
        }
        error.to_string()
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<RunId, Live>> {
        // Nothing panics while it holds this lock.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn telling(&self) -> MutexGuard<'_, BTreeSet<(DeploymentId, u32)>> {
        // Nothing panics while it holds this lock.
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tickets(&self) -> MutexGuard<'_, BTreeMap<WaitKey, CancellationToken>> {
        // Nothing panics while it holds this lock.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(reply: Reply) -> Told {
    match reply {
        Reply::Answer(answer) => Told::Answer(answer),
        Reply::Accepted { message } => Told::Accepted { message },
        Reply::Unknown { message } => Told::Unknown { message },
        Reply::Conflict { message } => Told::Conflict { message },
        // The core answers every call and request; a wait has a waiter beside it, and who is turned away a time.
        Reply::Nothing | Reply::Wait(_) | Reply::Busy { .. } => {
            Told::Unavailable { message: "no answer was decided".to_owned() }
        }
    }
}

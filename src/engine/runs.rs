//! Actions: scripts and timers that are alive, and the slots they wait for.

use std::collections::btree_map::Entry;
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::slots::{For, Place, Slot};
use super::{Engine, Told, clock, job};
use crate::domain::call::{Action, Command, WaitKey};
use crate::domain::ids::RunId;
use crate::domain::names::{Source, StreamId};
use crate::domain::pass::Pass;
use crate::domain::record::{Actor, Ending, Outcome};
use crate::domain::state::Stream;
use crate::executor::{OutputView, StopKind, Stopper};
use crate::failpoint::{self, Point};

/// A run that is alive here.
#[derive(Debug)]
pub enum Live {
    /// A script.
    Script {
        /// How to end it.
        stopper: Stopper,
        /// What it prints.
        output: OutputView,
    },
    /// A wait.
    Wait {
        /// Its timer.
        timer: AbortHandle,
    },
}

impl Live {
    /// What it prints.
    pub fn output(&self) -> Option<OutputView> {
        match self {
            Self::Script { output, .. } => Some(output.clone()),
            Self::Wait { .. } => None,
        }
    }
}

impl Engine {
    /// Does what was decided, now that it is durable. Never waits.
    pub(super) fn act(
        &self,
        id: &StreamId,
        stream: &Stream,
        action: Action,
        slot: &mut Option<Slot>,
        place: &mut Option<Place>,
    ) {
        let (before, after) = around(&action);
        failpoint::hit(before);
        match action {
            Action::Start(run) => self.start_script(id, stream, run, slot.take()),
            Action::Stop { run, why } => self.stop(run, StopKind::Cancelled(why)),
            Action::ArmWait { run, until } => self.arm_wait(id, run, until),
            Action::ArmSignal { deployment, at } => {
                let (engine, id) = (self.clone(), id.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(clock::until(at)).await;
                    failpoint::hit(Point::SignalOver);
                    engine.insist(id, Command::SignalTimedOut { deployment }, None, Vec::new()).await;
                });
            }
            Action::Queue { deployment, hook } => {
                let key = WaitKey::Hook(deployment, hook);
                if let Some(ticket) = self.ticket(key) {
                    let slot = self.0.slots.take(For::Forward, id, place.take());
                    self.queue(id, key, ticket, slot, Command::Granted { deployment, hook });
                }
            }
            Action::QueueReplay { deployment } => {
                let key = WaitKey::Replay(deployment);
                if let Some(ticket) = self.ticket(key) {
                    let slot = self.0.slots.take(For::Rollback, id, None);
                    self.queue(id, key, ticket, slot, Command::GrantedReplay { deployment });
                }
            }
            Action::Unblocked => {
                for source in Source::ALL {
                    let (engine, id) = (self.clone(), StreamId { source, application: id.application.clone() });
                    tokio::spawn(async move {
                        engine.insist(id, Command::Resume { at_start: false }, None, Vec::new()).await;
                    });
                }
            }
        }
        failpoint::hit(after);
    }

    /// Asks a script to end for good, or stops the timer of a wait, whose end is recorded already.
    fn stop(&self, run: RunId, kind: StopKind) {
        let mut live = self.0.live();
        match live.get(&run) {
            Some(Live::Script { stopper, .. }) => stopper.stop(kind),
            Some(Live::Wait { timer }) => {
                timer.abort();
                live.remove(&run);
                self.0.unfinished.send_modify(|_| ());
            }
            None => {}
        }
    }

    /// Commits a command, however long the ledger can't be written: what has happened can't be
    /// left out of it. Only damage ends that, since it does not go away.
    ///
    /// The slot is kept until then. So no more outputs wait for room on a disk than scripts may run at once.
    pub(super) fn insist(
        &self,
        id: StreamId,
        command: Command,
        slot: Option<Slot>,
        outputs: Vec<(RunId, Vec<u8>)>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let engine = self.clone();
        // Boxed, since a turn leads to an action and an action to a turn.
        let work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let mut slot = slot;
            let mut pause = Duration::from_millis(50);
            loop {
                let turned = engine
                    .turn(id.clone(), command.clone(), Actor::stagehook(), &mut slot, outputs.clone(), None)
                    .await;
                let Err(why) = turned else { return };
                let damaged = engine.0.ledger.sound().is_err();
                let next = if damaged { "the next start finds out" } else { "trying again" };
                tracing::error!(stream = %id, why, "the ledger can't take a record; {next}");
                // Nothing can be decided meanwhile; what comes later is kept for the next call.
                engine
                    .0
                    .applications
                    .entry(&id.application)
                    .waiters
                    .tell_all(id.source, &Told::Unavailable { message: why });
                if damaged {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        });
        work
    }

    fn start_script(&self, id: &StreamId, stream: &Stream, run: RunId, slot: Option<Slot>) {
        let Some(job) = job::of(&self.0.settings.inherited, stream, run) else {
            // Decided and committed just now, so it is there; were it not, its record must still end.
            let ending = Ending::plain(Outcome::Failed, "its stage is not in the pinned pipeline");
            self.begin();
            self.finish(id, run, ending, slot, Vec::new());
            return;
        };
        self.begin();
        let running = self.0.executor.start(job);
        self.0.live().insert(run, Live::Script { stopper: running.stopper, output: running.output });
        let (engine, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let (ending, output) = match running.done.await {
                Ok(finished) => (finished.ending, finished.output),
                Err(panic) => {
                    tracing::error!(%run, %panic, "the executor lost a run");
                    (Ending::plain(Outcome::Failed, "Stagehook lost it; see the log"), Vec::new())
                }
            };
            engine.finish(&id, run, ending, slot, output);
        });
    }

    /// Records a script's end; its output stays readable until that is durable.
    fn finish(&self, id: &StreamId, run: RunId, ending: Ending, slot: Option<Slot>, output: Vec<u8>) {
        failpoint::hit(Point::FinishBefore);
        let outputs = if output.is_empty() { Vec::new() } else { vec![(run, output)] };
        let command = Command::Finished { run, ending, waited: Vec::new() };
        let (engine, committed) = (self.clone(), self.insist(id.clone(), command, slot, outputs));
        tokio::spawn(async move {
            committed.await;
            failpoint::hit(Point::FinishAfter);
            engine.0.live().remove(&run);
            engine.0.unfinished.send_modify(|count| *count = count.saturating_sub(1));
        });
    }

    fn begin(&self) {
        self.0.unfinished.send_modify(|count| *count += 1);
    }

    fn arm_wait(&self, id: &StreamId, run: RunId, until: Timestamp) {
        let (engine, id) = (self.clone(), id.clone());
        let mut live = self.0.live();
        if live.contains_key(&run) {
            return;
        }
        let timer = tokio::spawn(async move {
            tokio::time::sleep(clock::until(until)).await;
            failpoint::hit(Point::WaitOver);
            let ending = Ending::plain(Outcome::Succeeded, "waited");
            engine.insist(id, Command::Finished { run, ending, waited: Vec::new() }, None, Vec::new()).await;
            engine.0.live().remove(&run);
            engine.0.unfinished.send_modify(|_| ());
        });
        live.insert(run, Live::Wait { timer: timer.abort_handle() });
    }

    /// A ticket for the line; nothing where one is out already.
    fn ticket(&self, key: WaitKey) -> Option<CancellationToken> {
        match self.0.tickets().entry(key) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => Some(vacant.insert(CancellationToken::new()).clone()),
        }
    }

    fn queue(
        &self,
        id: &StreamId,
        key: WaitKey,
        ticket: CancellationToken,
        slot: impl Future<Output = Option<Slot>> + Send + 'static,
        command: Command,
    ) {
        let (engine, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let Some(slot) = ticket.run_until_cancelled(slot).await else { return };
            // Given back before the turn: what the turn itself queues must find its place free. One
            // that was withdrawn at this very moment is not ours any more.
            {
                let mut tickets = engine.0.tickets();
                if ticket.is_cancelled() {
                    return;
                }
                tickets.remove(&key);
            }
            if slot.is_some() {
                failpoint::hit(Point::GrantedAfter);
                engine.insist(id, command, slot, Vec::new()).await;
            }
        });
    }

    /// Takes out of the line what a stream's deployments do not want any more: it would keep
    /// others from coming in.
    pub(super) fn leave_line(&self, stream: &Stream) {
        self.0.tickets().retain(|key, ticket| {
            let over = is_over(stream, *key);
            if over {
                ticket.cancel();
            }
            !over
        });
    }

    /// Whether somebody leaves the line of the forward scripts when a stream has come to this.
    pub(super) fn leaves_line(&self, stream: &Stream) -> bool {
        self.0.tickets().keys().any(|key| matches!(key, WaitKey::Hook(..)) && is_over(stream, *key))
    }
}

/// The places before and after an action.
fn around(action: &Action) -> (Point, Point) {
    match action {
        Action::Start(_) => (Point::StartBefore, Point::StartAfter),
        Action::Stop { .. } => (Point::StopBefore, Point::StopAfter),
        Action::ArmWait { .. } => (Point::WaitBefore, Point::WaitAfter),
        Action::ArmSignal { .. } => (Point::SignalBefore, Point::SignalAfter),
        Action::Queue { .. } => (Point::QueueBefore, Point::QueueAfter),
        Action::QueueReplay { .. } => (Point::QueueReplayBefore, Point::QueueReplayAfter),
        Action::Unblocked => (Point::UnblockedBefore, Point::UnblockedAfter),
    }
}

/// Whether a deployment of this stream is past what a ticket is for. It may have got there with
/// another one: between the grant of a slot and its decision a call that joins takes a second ticket.
fn is_over(stream: &Stream, key: WaitKey) -> bool {
    let waits = |pass: &Pass| pass.end.is_none() && pass.running.is_none();
    let wanted = match key {
        WaitKey::Hook(id, hook) => stream.get(id).map(|d| d.goes_on(hook) && d.pass(hook).is_some_and(waits)),
        WaitKey::Replay(id) => stream.get(id).map(|d| d.is_rolling_back() && d.alive().next().is_none()),
    };
    wanted == Some(false)
}

//! One turn: lock the application, decide, commit, act, wake who waited.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::application::{Entry, InUse, Streams};
use super::load::{KEEP, named};
use super::slots::{Entered, For, Place, Slot};
use super::waiters::Waiter;
use super::{Engine, RunEnded, Told, clock};
use crate::domain::answer;
use crate::domain::call::{Action, Command, Reply, WaitKey};
use crate::domain::decide::{Context, Decision, decide, settled};
use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::loadtester;
use crate::domain::names::{Source, StreamId};
use crate::domain::pipeline::Stage;
use crate::domain::record::{Actor, EndState, Event, Fact, Purpose};
use crate::domain::state::{Deployment, Stream};
use crate::failpoint::{self, Point};
use crate::ledger::{Append, AppendError};

/// So many times in a row others are not first: one process writes the ledger, and pruning comes between once.
const CONFLICTS: u32 = 16;

/// How much of a command's output is logged, in bytes; the ledger has all that was kept.
const LOGGED_OUTPUT: usize = 16 * 1024;

/// What came of a turn.
#[derive(Debug)]
pub struct Turned {
    /// What the core said.
    pub reply: Reply,
    /// The place in line, where the answer is still to come.
    pub waiter: Option<Waiter>,
    /// The application.
    pub application: InUse,
    /// The stream.
    pub stream: StreamId,
}

impl Engine {
    /// Decides one command and carries the decision out. An error means that nothing was
    /// committed and nothing done: the ledger could not be read or written.
    ///
    /// `caller` is closed when whoever asked has gone. A slot that a turn in vain was given is still the caller's.
    pub(super) async fn turn(
        &self,
        id: StreamId,
        command: Command,
        by: Actor,
        slot: &mut Option<Slot>,
        outputs: Vec<(RunId, Vec<u8>)>,
        caller: Option<&oneshot::Sender<()>>,
    ) -> Result<Turned, String> {
        let inner = &self.0;
        let entry = inner.applications.entry(&id.application);
        let mut streams = entry.streams.lock().await;
        self.withdraw(&id, &entry, &mut streams).await?;
        let waited = entry.waiters.keys();
        let (reply, delivered) =
            self.carry_out(&id, &entry, &mut streams, command, &by, slot, &outputs, &waited).await?;
        // Before anybody hears of the end that it is free for: whoever does may ask who runs, or call again.
        drop(slot.take());
        let mut unheard = self.wake(&entry, &streams, &waited);
        // A call that hung up while it stood in line for this lock, or while this was committed, was
        // given a kept result all the same. One that hangs up from here on, before its answer is
        // on the wire, can't be told from one that read it.
        let gone = caller.is_some_and(oneshot::Sender::is_closed);
        if gone {
            unheard.extend(delivered.into_iter().map(|key| (id.source, key)));
        }
        streams.in_vain.extend(unheard);
        // Still under the lock: the next call must not slip in before this is put right.
        if let Err(why) = self.withdraw(&id, &entry, &mut streams).await {
            tracing::warn!(stream = %id, why, "a result that nobody heard counts as delivered until this is recorded");
        }
        let waiter = match reply {
            // Of one that is gone the place would outlast the lock by a moment, and what ends then would
            // count as heard.
            Reply::Wait(key) if !gone => Some(entry.waiters.join(id.source, key)),
            _ => None,
        };
        if waiter.is_some() {
            // What it waits for may be there already: a replay without steps, a drain.
            self.wake(&entry, &streams, &BTreeSet::new());
        }
        // Only now: whoever waited for one that is over has been told of it.
        if let Some(stream) = streams.by_source.get_mut(&id.source) {
            stream.forget(KEEP);
        }
        drop(streams);
        Ok(Turned { reply, waiter, application: entry, stream: id })
    }

    /// Takes back what was counted as delivered and nobody heard: the next call gets it.
    async fn withdraw(&self, id: &StreamId, entry: &Entry, streams: &mut Streams) -> Result<(), String> {
        while let Some((source, key)) = streams.in_vain.first().copied() {
            let (id, by) = (StreamId { source, application: id.application.clone() }, Actor::stagehook());
            let command = Command::Unheard { key };
            self.carry_out(&id, entry, streams, command, &by, &mut None, &[], &BTreeSet::new()).await?;
            streams.in_vain.remove(&(source, key));
        }
        Ok(())
    }

    /// Decides, commits, then acts. Beside the reply: what it counted as delivered.
    #[expect(clippy::too_many_arguments, reason = "the parts of one turn, borrowed apart")]
    pub(super) async fn carry_out(
        &self,
        id: &StreamId,
        entry: &Entry,
        streams: &mut Streams,
        command: Command,
        by: &Actor,
        slot: &mut Option<Slot>,
        outputs: &[(RunId, Vec<u8>)],
        waited: &BTreeSet<(Source, WaitKey)>,
    ) -> Result<(Reply, Vec<WaitKey>), String> {
        let inner = &self.0;
        // What is in memory may be from before the damage, or not: nothing is answered from it either.
        inner.ledger.sound().map_err(|damage| damage.to_string())?;
        let mut conflicts = 0;
        let (Decision { stream, facts, actions, reply }, mut place) = loop {
            self.load(id, streams, &named(&command)).await?;
            let (decision, place) = self.decide_with_slot(id, streams, &command, by, slot, waited);
            if decision.facts.is_empty() {
                break (decision, place);
            }
            failpoint::hit(Point::DecidedAfter);
            match inner.ledger.append(self.append(id, streams, &decision, outputs)).await {
                Ok(_) => break (decision, place),
                Err(AppendError::Conflict { head }) => {
                    tracing::debug!(stream = %id, head, "another writer was first; deciding again");
                    streams.by_source.clear();
                    conflicts += 1;
                    if conflicts == CONFLICTS {
                        return Err(format!(
                            "the end of {id} in the ledger, record {head}, was another than the one decided on, {CONFLICTS} \
                             times in a row; run stagehook ledger verify"
                        ));
                    }
                }
                Err(error @ (AppendError::Unavailable(_) | AppendError::Damaged(_))) => {
                    // What is in the ledger is not known: the commit may have happened after all.
                    // And whoever would have been given a result is told that there is none.
                    streams.by_source.clear();
                    let in_vain = delivered(&decision.stream, &decision.facts);
                    streams.in_vain.extend(in_vain.into_iter().map(|key| (id.source, key)));
                    if !std::mem::replace(&mut streams.doubtful, true) {
                        self.clear_up(id);
                    }
                    return Err(error.to_string());
                }
            }
        };
        if !facts.is_empty() {
            failpoint::hit(Point::CommittedAfter);
        }
        for fact in &facts {
            self.tell(id, &stream, fact, outputs);
        }
        let delivered = delivered(&stream, &facts);
        if !facts.is_empty() {
            self.leave_line(&stream);
        }
        for action in actions {
            self.act(id, &stream, action, slot, &mut place);
        }
        if !facts.is_empty() {
            failpoint::hit(Point::ActedAfter);
        }
        self.tell_due(id, &stream);
        let called = matches!(command, Command::Call(_)).then(|| (id.source, clock::now()));
        streams.by_source.insert(id.source, stream);
        entry.note(streams, called);
        Ok((reply, delivered))
    }

    /// Tells the log, and whoever counts, of a committed fact.
    fn tell(&self, id: &StreamId, stream: &Stream, fact: &Fact, outputs: &[(RunId, Vec<u8>)]) {
        log(id, stream, fact);
        if let Event::StageFinished { run, ending, .. } = &fact.event
            && let Some(run) = stream.owner_of(*run).and_then(|deployment| deployment.run(*run))
        {
            let took = fact.at.duration_since(run.started_at).try_into().unwrap_or_default();
            let ended = RunEnded { is_rollback: run.is_rollback(), outcome: ending.outcome, took };
            (self.0.settings.observer)(ended);
        }
        log_output(id, stream, fact, outputs);
    }

    /// Waits for an answer, at most until the deadline.
    pub(super) async fn held(
        &self,
        mut waiter: Waiter,
        entry: &Entry,
        id: &StreamId,
        deadline: Option<Instant>,
    ) -> Told {
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = &mut waiter.answer => return answer.unwrap_or_else(|_| gone()),
            () = late => {}
        }
        // Under the lock no decision is under way: either the answer is there, counted as
        // delivered, or it comes later and is kept for the next call.
        let streams = entry.streams.lock().await;
        if let Ok(told) = waiter.answer.try_recv() {
            return told;
        }
        let key = waiter.key;
        drop(waiter);
        streams.by_source.get(&id.source).and_then(|stream| pending(stream, key)).unwrap_or_else(gone)
    }

    /// Decides, with a slot where one is wanted and free, else with a place in line.
    ///
    /// The place is taken here and not once the decision is durable: of a burst of calls each would
    /// find room in the line while the others are being committed.
    fn decide_with_slot(
        &self,
        id: &StreamId,
        streams: &Streams,
        command: &Command,
        by: &Actor,
        slot: &mut Option<Slot>,
        waited: &BTreeSet<(Source, WaitKey)>,
    ) -> (Decision, Option<Place>) {
        let slots = &self.0.slots;
        let decide = |slot, full| self.decide(id, streams, command, by, slot, full, waited);
        if ends_forward_run(id, streams, command) && slots.rollback_waits() {
            // What follows in its pass gets in line behind the rollback, whosever that is.
            *slot = None;
        }
        let decision = decide(slot.is_some(), false);
        if slot.is_some() {
            return (decision, None);
        }
        let entered = match self.wanted(&decision) {
            None => return (decision, None),
            Some(For::Forward) => slots.enter(id),
            Some(For::Rollback) => match slots.try_take() {
                Some(slot) => Entered::Slot(slot),
                None => return (decision, None),
            },
        };
        match entered {
            // With a slot that is free its script starts in this very commit.
            Entered::Slot(free) => {
                *slot = Some(free);
                (decide(true, false), None)
            }
            Entered::Place(place) => (decision, Some(place)),
            // The one before it, which this very decision ends, makes room.
            Entered::Full if self.leaves_line(&decision.stream) => (decision, None),
            // What can't be refused gets in line nevertheless.
            Entered::Full => (decide(false, true), None),
        }
    }

    /// For what a decision wants a slot. A place in line is wanted by those only who have none.
    fn wanted(&self, decision: &Decision) -> Option<For> {
        let tickets = self.0.tickets();
        let wanted = decision.actions.iter().filter_map(|action| match *action {
            Action::Queue { deployment, hook } => {
                (!tickets.contains_key(&WaitKey::Hook(deployment, hook))).then_some(For::Forward)
            }
            Action::QueueReplay { .. } => Some(For::Rollback),
            _ => None,
        });
        // One turn has one slot, and a rollback's is never refused.
        wanted.max_by_key(|purpose| *purpose == For::Rollback)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one turn, borrowed apart")]
    fn decide(
        &self,
        id: &StreamId,
        streams: &Streams,
        command: &Command,
        by: &Actor,
        slot: bool,
        queue_full: bool,
        keys: &BTreeSet<(Source, WaitKey)>,
    ) -> Decision {
        let inner = &self.0;
        let now = clock::now();
        let mut command = command.clone();
        if let Command::Finished { waited, .. } = &mut command {
            *waited = keys.iter().map(|(_, key)| *key).collect();
        }
        // A command of the load tester is no rollout: it holds nobody, and nobody who speaks of a rollout means it.
        let rollouts = |source: Source| source != id.source && source != Source::Loadtester;
        let others = || streams.by_source.iter().filter(|(source, _)| rollouts(**source)).map(|(_, stream)| stream);
        let selected = inner.catalog.borrow().select(id.source, &id.application);
        let empty;
        let stream = match streams.by_source.get(&id.source) {
            Some(stream) => stream,
            None => {
                empty = Stream::new(id.clone());
                &empty
            }
        };
        decide(
            stream,
            command,
            Context {
                now,
                by: by.clone(),
                owner: inner.settings.owner.clone(),
                mint: &mut clock::mint(now),
                slot,
                queue_full,
                draining: inner.draining.load(Ordering::Acquire),
                pipeline: selected.map(|selected| (selected.hash.clone(), Arc::clone(&selected.pipeline))),
                rolling_back_elsewhere: others()
                    .flat_map(|stream| &stream.deployments)
                    .find(|d| d.is_rolling_back())
                    .map(|d| d.id),
                elsewhere: others().filter_map(|s| s.current().map(|current| (s.id.source, current.id))).collect(),
                signal_timeout: inner.settings.signal_timeout,
            },
        )
    }

    fn append(&self, id: &StreamId, before: &Streams, decision: &Decision, outputs: &[(RunId, Vec<u8>)]) -> Append {
        let touched: BTreeSet<DeploymentId> = decision.facts.iter().filter_map(|fact| fact.deployment).collect();
        let touched = || touched.iter().filter_map(|id| decision.stream.get(*id));
        let opened = |fact: &&Fact| matches!(fact.event, Event::Opened { .. });
        let pipelines = decision
            .facts
            .iter()
            .filter(opened)
            .filter_map(|fact| decision.stream.get(fact.deployment?))
            .map(|deployment| deployment.pipeline.pinned())
            .collect();
        let runs = decision
            .facts
            .iter()
            .filter_map(|fact| match &fact.event {
                Event::StageStarted { run, .. } => Some((*run, fact.deployment?)),
                _ => None,
            })
            .collect();
        Append {
            stream: id.clone(),
            expected: before.by_source.get(&id.source).map_or(0, |stream| stream.head),
            facts: decision.facts.clone(),
            summaries: touched().map(|deployment| decision.stream.summary(deployment)).collect(),
            pipelines,
            runs,
            outputs: outputs.to_vec(),
        }
    }

    /// Answers the calls whose wait is over. Returns what nobody was left to hear.
    fn wake(&self, entry: &Entry, streams: &Streams, waited: &BTreeSet<(Source, WaitKey)>) -> Vec<(Source, WaitKey)> {
        let draining = self.is_draining();
        let mut unheard = Vec::new();
        for (source, key) in entry.waiters.keys().union(waited).copied() {
            let Some(stream) = streams.by_source.get(&source) else { continue };
            if let Some(answer) = settled(stream, key) {
                failpoint::hit(Point::WakeBefore);
                if !entry.waiters.tell(key, &Told::Answer(answer)) {
                    unheard.push((source, key));
                }
                failpoint::hit(Point::WakeAfter);
            } else if draining && is_idle(stream, key) {
                // Nothing will come before the end of the service: say so rather than hang.
                if let Some(Told::Answer(mut answer)) = pending(stream, key) {
                    answer.message.push_str(if is_taken_up(stream, key) {
                        "; Stagehook is shutting down and takes it up when it starts again"
                    } else {
                        "; Stagehook is shutting down; call again"
                    });
                    entry.waiters.tell(key, &Told::Answer(answer));
                }
            }
        }
        unheard
    }

    /// Answers the calls that wait for nothing that is alive, as the service is shutting down.
    pub(super) async fn wake_all(&self) {
        for entry in self.0.applications.all() {
            let streams = entry.streams.lock().await;
            self.wake(&entry, &streams, &BTreeSet::new());
        }
    }
}

/// What facts count as delivered: given to the call that is answered, or to those that wait.
fn delivered(stream: &Stream, facts: &[Fact]) -> Vec<WaitKey> {
    let key = |fact: &Fact| match (fact.deployment?, &fact.event) {
        (id, Event::Delivered { hook: Hook::Rollback }) => Some(WaitKey::Replay(id)),
        (id, Event::Delivered { hook }) => Some(WaitKey::Hook(id, *hook)),
        (id, Event::StageFinished { run, awaited: true, .. }) => Some(match stream.get(id)?.run(*run)?.purpose {
            Purpose::Forward { hook, .. } => WaitKey::Hook(id, hook),
            Purpose::Rollback { .. } => WaitKey::Replay(id),
        }),
        _ => None,
    };
    facts.iter().filter_map(key).collect()
}

/// Whether a script has ended that was no step of a replay.
fn ends_forward_run(id: &StreamId, streams: &Streams, command: &Command) -> bool {
    let Command::Finished { run, .. } = command else { return false };
    let owner = streams.by_source.get(&id.source).and_then(|stream| stream.owner_of(*run));
    owner.and_then(|deployment| deployment.run(*run)).is_some_and(|run| !run.is_rollback())
}

fn pending(stream: &Stream, key: WaitKey) -> Option<Told> {
    let answer = match key {
        WaitKey::Hook(id, hook) => answer::still_pending(stream.get(id)?, hook),
        WaitKey::Replay(id) => answer::still_replaying(stream.get(id)?),
    };
    Some(Told::Answer(answer))
}

fn is_idle(stream: &Stream, key: WaitKey) -> bool {
    let (WaitKey::Hook(id, _) | WaitKey::Replay(id)) = key;
    // A wait outlives the service; a script gets its grace.
    stream.get(id).is_none_or(|deployment| deployment.alive().all(|run| run.until.is_some()))
}

/// Whether the next start goes on with it by itself: recovery looks at live deployments only, and
/// leaves a rollout in progress to the next call.
fn is_taken_up(stream: &Stream, key: WaitKey) -> bool {
    match key {
        WaitKey::Replay(_) => true,
        WaitKey::Hook(id, hook) => {
            let deployment = stream.get(id);
            let unattended = deployment.and_then(|d| d.pass(hook)).is_some_and(|pass| pass.unattended);
            unattended || hook == Hook::PostRollout && deployment.is_some_and(Deployment::post_rollout_due)
        }
    }
}

fn gone() -> Told {
    Told::Unavailable { message: "the verdict can't be told now; call again".to_owned() }
}

/// What a command of the load tester printed, where its call wants that in the log.
fn log_output(id: &StreamId, stream: &Stream, fact: &Fact, outputs: &[(RunId, Vec<u8>)]) {
    let (Source::Loadtester, Event::StageFinished { run, .. }) = (id.source, &fact.event) else { return };
    let pass = stream.owner_of(*run).and_then(|deployment| deployment.pass(loadtester::HOOK));
    let Some((_, output)) = outputs.iter().find(|(of, _)| of == run) else { return };
    if pass.is_some_and(|pass| loadtester::wants_log(&pass.payload)) {
        let output = String::from_utf8_lossy(output.get(..LOGGED_OUTPUT).unwrap_or(output));
        // With its line breaks escaped: what a command prints can't pass for a line of the log.
        tracing::info!(%run, application = %id.application, ?output, "command printed");
    }
}

/// One line for each committed fact.
fn log(id: &StreamId, stream: &Stream, fact: &Fact) {
    let deployment = fact.deployment.map(|d| d.to_string()).unwrap_or_default();
    let (source, application, by) = (id.source, &id.application, &fact.by.0);
    match &fact.event {
        Event::Opened { hook, revision, .. } => {
            let revision = revision.as_ref().map_or("", |revision| revision.as_str());
            tracing::info!(%deployment, %application, %source, by, %hook, revision, "deployment opened");
        }
        Event::Called { hook, pass, .. } => {
            tracing::info!(%deployment, %application, %source, by, %hook, pass, "hook called");
        }
        Event::StageStarted { run, stage, .. } => {
            tracing::info!(%deployment, %application, %source, %run, %stage, "stage started");
        }
        Event::StageFinished { run, ending, awaited } => {
            let stage = stream.owner_of(*run).and_then(|d| d.run(*run)).map_or("", |run| run.stage.as_str());
            let (outcome, why) = (ending.outcome.as_str(), &ending.message);
            tracing::info!(%deployment, %application, %source, %run, stage, outcome, why, awaited, "stage finished");
        }
        Event::GateSet { gate, open, .. } => {
            tracing::info!(%application, %source, by, gate = gate.as_str(), open, "gate set");
        }
        Event::RollbackRequested { reason } => {
            tracing::info!(%deployment, %application, %source, by, reason = reason.as_str(), "rollback requested");
        }
        Event::RollbackStarted { reason, replay, .. } => {
            tracing::info!(%deployment, %application, %source, by, reason = reason.as_str(), replay, "rollback started");
        }
        Event::Ended { state, reason, skipped } => {
            let reason = reason.map_or("", |reason| reason.as_str());
            tracing::info!(%deployment, %application, %source, state = state.as_str(), reason, "deployment ended");
            let ended = fact.deployment.and_then(|id| stream.get(id));
            for skip in skipped.iter().filter(|_| *state == EndState::Succeeded) {
                let (stage, reason) = (&skip.stage, &skip.reason);
                let hook = ended.and_then(|ended| ended.pipeline.stage(stage)).and_then(Stage::hook);
                // A hook that was called is wired; what kept the stage back is in the reason.
                if hook.is_some_and(|hook| ended.is_some_and(|ended| ended.pass(hook).is_none())) {
                    tracing::warn!(
                        %deployment, %application, %source, %stage, reason,
                        "a stage was skipped; wire a webhook for its hook at the caller"
                    );
                } else {
                    tracing::warn!(%deployment, %application, %source, %stage, reason, "a stage was skipped");
                }
            }
        }
        event => tracing::debug!(%deployment, %application, %source, by, ?event, "noted"),
    }
}

//! A small world in memory around the core: it commits facts as records, folds them again from
//! their JSON, and keeps what the engine would: the queue for slots, the calls that wait, the timers.
//!
//! It deliberately performs nothing by itself: a test grants slots, ends runs and fires timers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use stagehook::domain::call::{Action, Answer, Call, Command, Operation, Reply, Says, Tells, Verdict, WaitKey};
use stagehook::domain::decide::{Context, Decision, decide, settled};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::{DeploymentId, Mint, RunId};
use stagehook::domain::names::{Revision, Source, StreamId};
use stagehook::domain::pipeline::{Pipeline, PipelineHash};
use stagehook::domain::record::{About, Actor, Ending, Event, Outcome, Owner, Payload, Record};
use stagehook::domain::span::Span;
use stagehook::domain::state::{Deployment, Run, Stream};
use stagehook::domain::summary::State;

/// What waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queued {
    Replay(DeploymentId),
    Pass(DeploymentId, Hook),
}

pub struct World {
    pub stream: Stream,
    pub records: Vec<String>,
    pub pins: BTreeMap<PipelineHash, Arc<Pipeline>>,
    pub pipeline: Option<Arc<Pipeline>>,
    pub now: Timestamp,
    pub boot: u32,
    pub queue: BTreeSet<Queued>,
    pub waiting: BTreeSet<WaitKey>,
    pub waits: BTreeMap<RunId, Timestamp>,
    pub signals: BTreeMap<DeploymentId, Timestamp>,
    pub queue_full: bool,
    pub draining: bool,
    /// Whether this process has ever begun to drain: then what was held back waits for the next.
    pub drained: bool,
    pub elsewhere: Option<DeploymentId>,
    /// The facts and actions of the last decision.
    pub facts: Vec<Event>,
    pub actions: Vec<Action>,
    random: u128,
}

impl World {
    pub fn new(source: Source, pipeline: Pipeline) -> Self {
        let id = StreamId { source, application: "test/podinfo".parse().unwrap() };
        Self {
            stream: Stream::new(id),
            records: Vec::new(),
            pins: BTreeMap::new(),
            pipeline: Some(Arc::new(pipeline)),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            boot: 1,
            queue: BTreeSet::new(),
            waiting: BTreeSet::new(),
            waits: BTreeMap::new(),
            signals: BTreeMap::new(),
            queue_full: false,
            draining: false,
            drained: false,
            elsewhere: None,
            facts: Vec::new(),
            actions: Vec::new(),
            random: 0,
        }
    }

    pub fn flagger(pipeline: Pipeline) -> Self {
        Self::new(Source::Flagger, pipeline)
    }

    pub fn generic(pipeline: Pipeline) -> Self {
        Self::new(Source::Generic, pipeline)
    }

    fn decision(&mut self, command: Command, slot: bool) -> Decision {
        let mut mint = Mint::new(self.now, self.random);
        let pipeline = self.pipeline.as_ref().map(|p| {
            let known = self.pins.iter().find(|(_, pinned)| Arc::ptr_eq(pinned, p)).map(|(hash, _)| hash.clone());
            (known.unwrap_or_else(|| p.pinned().0), p.clone())
        });
        let context = Context {
            now: self.now,
            by: Actor("test".to_owned()),
            owner: Owner { instance: "here".to_owned(), boot: self.boot.to_string() },
            mint: &mut mint,
            slot,
            queue_full: self.queue_full,
            draining: self.draining,
            pipeline,
            rolling_back_elsewhere: self.elsewhere,
            elsewhere: Vec::new(),
            signal_timeout: Span::from_secs(120),
        };
        decide(&self.stream, command, context)
    }

    /// Decides, commits, folds from the records, and takes the actions down. True: the slot was used.
    pub fn step(&mut self, command: Command, slot: bool) -> Reply {
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        if let Some(pipeline) = &self.pipeline
            && !self.pins.values().any(|pinned| Arc::ptr_eq(pinned, pipeline))
        {
            self.pins.insert(pipeline.pinned().0, pipeline.clone());
        }
        let again = self.decision(command.clone(), slot);
        let decision = self.decision(command, slot);
        assert_eq!(
            (&again.facts, &again.actions, &again.reply),
            (&decision.facts, &decision.actions, &decision.reply),
            "the same arguments give another decision"
        );
        self.random += 100;
        for fact in &decision.facts {
            let seq = self.records.len() as u64 + 1;
            let json = serde_json::to_string(&Record { seq, fact: fact.clone() }).unwrap();
            fold(&mut self.stream, &json, &self.pins);
            self.records.push(json);
        }
        assert_same(&self.stream, &decision.stream);
        self.facts = decision.facts.into_iter().map(|fact| fact.event).collect();
        self.actions = decision.actions;
        for action in &self.actions {
            self.check(action);
            match action {
                Action::Queue { deployment, hook } => _ = self.queue.insert(Queued::Pass(*deployment, *hook)),
                Action::QueueReplay { deployment } => _ = self.queue.insert(Queued::Replay(*deployment)),
                Action::ArmWait { run, until } => _ = self.waits.insert(*run, *until),
                Action::ArmSignal { deployment, at } => _ = self.signals.insert(*deployment, *at),
                Action::Start(_) | Action::Stop { .. } | Action::Unblocked => {}
            }
        }
        if let Reply::Wait(key) = &decision.reply
            && settled(&self.stream, *key).is_none()
        {
            self.waiting.insert(*key);
        }
        self.answer_waiting();
        decision.reply
    }

    fn check(&self, action: &Action) {
        match action {
            // A wait has ended with the decision; only its timer is left.
            Action::Stop { run, .. } if self.find_run(*run).is_some_and(|r| r.until.is_some()) => {}
            Action::Start(run) | Action::ArmWait { run, .. } | Action::Stop { run, .. } => {
                assert!(self.find_run(*run).is_some_and(|r| r.end.is_none()), "{action:?} before its record");
            }
            _ => {}
        }
    }

    /// Calls whose key is settled have their answer.
    fn answer_waiting(&mut self) {
        let stream = &self.stream;
        self.waiting.retain(|key| settled(stream, *key).is_none());
    }

    pub fn find_run(&self, run: RunId) -> Option<&Arc<Run>> {
        self.stream.deployments.iter().find_map(|d| d.run(run))
    }

    /// Folds all records again, from their text.
    pub fn refold(&mut self) {
        let mut fresh = Stream::new(self.stream.id.clone());
        for json in &self.records {
            fold(&mut fresh, json, &self.pins);
        }
        assert_same(&fresh, &self.stream);
        self.stream = fresh;
    }

    /// The service dies and starts again: memory is gone, scripts of the old process are dead.
    pub fn crash(&mut self) {
        self.die();
        for run in self.dead() {
            self.end_run(run, Outcome::Interrupted);
        }
        self.step(Command::Resume { at_start: true }, false);
        self.unblock();
    }

    pub fn die(&mut self) {
        self.boot += 1;
        (self.queue, self.waiting) = (BTreeSet::new(), BTreeSet::new());
        (self.waits, self.signals) = (BTreeMap::new(), BTreeMap::new());
        (self.draining, self.queue_full) = (false, false);
        self.refold();
    }

    /// Scripts whose owner is dead; a WAIT has no process.
    pub fn dead(&self) -> Vec<RunId> {
        let boot = self.boot.to_string();
        self.alive().filter(|run| run.owner.boot != boot && run.until.is_none()).map(|run| run.id).collect()
    }

    pub fn alive(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.stream.deployments.iter().flat_map(Deployment::alive)
    }

    /// Ends a run; its slot goes to what is next.
    pub fn end_run(&mut self, run: RunId, outcome: Outcome) {
        let waited = self.waiting.iter().copied().collect();
        let slot = self.find_run(run).is_some_and(|run| run.until.is_none()) && outcome != Outcome::Interrupted;
        self.waits.remove(&run);
        self.step(Command::Finished { run, ending: ending(outcome), waited }, slot);
    }

    /// Sends what `Unblocked` asks for, as often as it takes.
    pub fn unblock(&mut self) {
        while self.actions.contains(&Action::Unblocked) {
            self.step(Command::Resume { at_start: false }, false);
        }
    }

    pub fn grant(&mut self, queued: Queued) {
        self.queue.remove(&queued);
        let command = match queued {
            Queued::Replay(deployment) => Command::GrantedReplay { deployment },
            Queued::Pass(deployment, hook) => Command::Granted { deployment, hook },
        };
        self.step(command, true);
    }
}

/// The words that scenarios are written in.
impl World {
    pub fn call(&mut self, hook: Hook, says: Says) -> Reply {
        let payload = Payload { body: serde_json::json!({"hook": hook}), metadata: BTreeMap::new() };
        // Only generic callers ask for that, of whichever source's deployments.
        let undo = matches!(says, Says::Undo { .. });
        let source = if undo { Source::Generic } else { self.stream.id.source };
        self.tell(Call::new(source, hook, says, payload, About::default()))
    }

    pub fn tell(&mut self, call: Call) -> Reply {
        let reply = self.step(Command::Call(call), false);
        self.unblock();
        reply
    }

    pub fn forward(&mut self, hook: Hook, revision: &str) -> Reply {
        self.call(hook, Says::Forward { revision: rev(revision) })
    }

    pub fn succeeded(&mut self, revision: &str) -> Reply {
        self.call(Hook::PostRollout, Says::Succeeded { revision: rev(revision) })
    }

    pub fn failed(&mut self, revision: &str) -> Reply {
        self.call(Hook::PostRollout, Says::Failed { revision: rev(revision) })
    }

    pub fn question(&mut self, revision: &str) -> bool {
        verdict(&self.call(Hook::Rollback, Says::Question { revision: rev(revision) })) == Verdict::Approved
    }

    pub fn undo(&mut self, revision: &str) -> Reply {
        self.call(Hook::Rollback, Says::Undo { deployment: None, revision: rev(revision) })
    }

    pub fn restart_event(&mut self) -> Reply {
        let message = "New revision detected! Restarting analysis for podinfo.test".to_owned();
        self.call(Hook::Rollback, Says::Event { message, tells: Tells::Restart })
    }

    pub fn start_event(&mut self) -> Reply {
        let message = "New revision detected! Scaling up podinfo.test".to_owned();
        self.call(Hook::Rollback, Says::Event { message, tells: Tells::Start })
    }

    pub fn operate(&mut self, deployment: DeploymentId, operation: Operation) -> Reply {
        let reply = self.step(Command::Operate { deployment, operation }, false);
        self.unblock();
        reply
    }

    /// Grants every slot that is asked for, rollbacks first.
    pub fn grant_all(&mut self) {
        while let Some(queued) = self.queue.iter().next().copied() {
            self.grant(queued);
        }
    }

    /// Ends the living run of a stage, after giving out the slots.
    pub fn ends(&mut self, stage: &str, outcome: Outcome) {
        self.grant_all();
        let run = self.alive().find(|run| run.stage.as_str() == stage).map(|run| run.id);
        let run = run.unwrap_or_else(|| panic!("{stage} is not running, but {:?}", self.running()));
        self.end_run(run, outcome);
        self.unblock();
        self.grant_all();
    }

    pub fn succeeds(&mut self, stage: &str) {
        self.ends(stage, Outcome::Succeeded);
    }

    pub fn fails(&mut self, stage: &str) {
        self.ends(stage, Outcome::Failed);
    }

    /// A whole pass or replay in which everything that starts succeeds; the stages, in order.
    pub fn all_succeed(&mut self) -> Vec<String> {
        let mut ran = Vec::new();
        self.grant_all();
        loop {
            let next = self.alive().next().map(|run| (run.id, run.stage.to_string()));
            let Some((run, stage)) = next else { break };
            ran.push(stage);
            self.end_run(run, Outcome::Succeeded);
            self.unblock();
            self.grant_all();
        }
        ran
    }

    pub fn running(&self) -> Vec<String> {
        self.alive().map(|run| run.stage.to_string()).collect()
    }

    /// Every rollback run so far, in the order of their start.
    pub fn undone_stages(&self, id: DeploymentId) -> Vec<String> {
        let runs = &self.stream.get(id).unwrap().runs;
        runs.iter().filter(|run| run.is_rollback()).map(|run| run.stage.to_string()).collect()
    }

    pub fn current(&self) -> &Deployment {
        self.stream.current().unwrap()
    }

    pub fn id(&self) -> DeploymentId {
        self.current().id
    }

    pub fn state(&self) -> State {
        self.current().state()
    }

    pub fn state_of(&self, id: DeploymentId) -> State {
        self.stream.get(id).unwrap().state()
    }

    pub fn answer(&self, reply: &Reply) -> Answer {
        match reply {
            Reply::Answer(answer) => answer.clone(),
            Reply::Wait(key) => settled(&self.stream, *key).unwrap_or_else(|| panic!("{key:?} is not settled")),
            other => panic!("no answer but {other:?}"),
        }
    }

    pub fn waits(&self, reply: &Reply) -> bool {
        matches!(reply, Reply::Wait(key) if settled(&self.stream, *key).is_none())
    }

    pub fn verdict(&self, reply: &Reply) -> Verdict {
        self.answer(reply).verdict
    }

    /// A gate passed from call to answer, with all its scripts succeeding.
    pub fn pass(&mut self, hook: Hook, revision: &str) {
        let reply = self.forward(hook, revision);
        self.all_succeed();
        assert_eq!(self.verdict(&reply), Verdict::Approved, "{hook} of {revision}");
    }
}

fn fold(stream: &mut Stream, json: &str, pins: &BTreeMap<PipelineHash, Arc<Pipeline>>) {
    let record: Record = serde_json::from_str(json).unwrap();
    stream.apply(&record, &|hash| pins.get(hash).cloned()).unwrap();
}

/// Whether two folds agree in everything that can be seen of them.
fn assert_same(a: &Stream, b: &Stream) {
    assert_eq!((a.head, a.question_asked, a.deployments.len()), (b.head, b.question_asked, b.deployments.len()));
    for (a, b) in a.deployments.iter().zip(&b.deployments) {
        assert_eq!((a.id, a.opened_seq, a.opened_at, a.updated_at), (b.id, b.opened_seq, b.opened_at, b.updated_at));
        assert_eq!((a.opened_hook, &a.opened_by, &a.about), (b.opened_hook, &b.opened_by, &b.about));
        assert_eq!((&a.revision, &a.under, &a.pipeline_hash), (&b.revision, &b.under, &b.pipeline_hash));
        assert!(Arc::ptr_eq(&a.pipeline, &b.pipeline));
        assert_eq!((&a.standing, &a.request, &a.replay), (&b.standing, &b.request, &b.replay));
        assert_eq!(
            (a.promoted, a.start_noted, a.restart_noted, a.undone, a.end_seen, a.opening, a.polled),
            (b.promoted, b.start_noted, b.restart_noted, b.undone, b.end_seen, b.opening, b.polled)
        );
        assert_eq!(a.passes, b.passes);
        assert_eq!(a.runs, b.runs);
        assert_eq!((&a.rollout, &a.keys, &a.reports), (&b.rollout, &b.keys, &b.reports));
    }
}

pub fn ending(outcome: Outcome) -> Ending {
    let mut ending = Ending::plain(outcome, format!("as told: {}", outcome.as_str()));
    if outcome == Outcome::Failed {
        (ending.exit_code, ending.last_line) = (Some(3), "no such table".to_owned());
    }
    ending
}

/// `""` is a call without a revision.
pub fn rev(text: &str) -> Option<Revision> {
    (!text.is_empty()).then(|| Revision::new(text).unwrap())
}

pub fn verdict(reply: &Reply) -> Verdict {
    match reply {
        Reply::Answer(answer) => answer.verdict,
        other => panic!("no answer but {other:?}"),
    }
}

//! Random histories, played on the core and on the model: after each step both must agree, and
//! what must never happen has not happened.
//!
//! `STAGEHOOK_HISTORIES` raises the number of histories.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;
use stagehook::domain::call::{Action, Before, Call, Command, Operation, Reply, Says, Subject, Tells, WaitKey};
use stagehook::domain::decide::settled;
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::pass::PassEnd;
use stagehook::domain::pipeline::{OnFailure, OnSupersede, Pipeline, Repeat, RollbackOnFailure, RollbackOrder};
use stagehook::domain::record::{About, EndState, Event, Outcome, Payload, Purpose};
use stagehook::domain::state::Standing;

use crate::model::{Around, Expect, MDep, Model, Phase};
use crate::pipelines::{external, held, pipeline, repeating, script, wait, without_undo};
use crate::world::{Queued, World, ending, rev};

#[derive(Clone, Debug)]
enum Move {
    Call(Hook, Says),
    UndoNamed(Index),
    Finish(Index, Outcome),
    Grant(Index),
    HangUp,
    Operate(Index, Operation),
    CancelRun(Index),
    Timer(Index),
    Load { queue_full: bool, draining: bool },
    Elsewhere,
    Crash,
}

fn revision() -> impl Strategy<Value = Option<stagehook::domain::names::Revision>> {
    prop_oneof![1 => Just(rev("")), 4 => Just(rev("a")), 2 => Just(rev("b")), 1 => Just(rev("c"))]
}

fn forward_hook() -> impl Strategy<Value = Hook> {
    prop_oneof![
        Just(Hook::ConfirmRollout),
        Just(Hook::PreRollout),
        Just(Hook::Rollout),
        Just(Hook::ConfirmTrafficIncrease),
        Just(Hook::ConfirmPromotion),
        // Not post-rollout: whoever calls that tells of an end.
    ]
}

fn a_move() -> impl Strategy<Value = Move> {
    let before = prop_oneof![Just(Before::Failed), Just(Before::Succeeded), Just(Before::ByChecksum)];
    let outcome = prop_oneof![
        6 => Just(Outcome::Succeeded),
        3 => Just(Outcome::Failed),
        1 => Just(Outcome::TimedOut),
        1 => Just(Outcome::Cancelled),
        1 => Just(Outcome::Interrupted),
    ];
    let operation = prop_oneof![
        2 => any::<bool>().prop_map(|now| Operation::Rollback { now }),
        1 => Just(Operation::Cancel),
        1 => Just(Operation::Close),
        2 => Just(Operation::Release),
    ];
    let says = |hook: Hook| move |says: Says| Move::Call(hook, says);
    prop_oneof![
        2 => (revision(), before).prop_map(|(under, before)| Says::Opening { under, before }).prop_map(says(Hook::ConfirmRollout)),
        8 => (forward_hook(), revision()).prop_map(|(hook, revision)| Move::Call(hook, Says::Forward { revision })),
        2 => revision().prop_map(|revision| Says::Succeeded { revision }).prop_map(says(Hook::PostRollout)),
        2 => revision().prop_map(|revision| Says::Failed { revision }).prop_map(says(Hook::PostRollout)),
        2 => revision().prop_map(|revision| Says::Question { revision }).prop_map(says(Hook::Rollback)),
        1 => revision().prop_map(|revision| Says::Undo { deployment: None, revision }).prop_map(says(Hook::Rollback)),
        1 => any::<Index>().prop_map(Move::UndoNamed),
        1 => prop::sample::select(&[Tells::Start, Tells::Restart, Tells::Other][..])
            .prop_map(|tells| Says::Event { message: "told".to_owned(), tells }).prop_map(says(Hook::Rollback)),
        12 => (any::<Index>(), outcome).prop_map(|(run, outcome)| Move::Finish(run, outcome)),
        14 => any::<Index>().prop_map(Move::Grant),
        1 => Just(Move::HangUp),
        2 => (any::<Index>(), operation).prop_map(|(of, operation)| Move::Operate(of, operation)),
        1 => any::<Index>().prop_map(Move::CancelRun),
        2 => any::<Index>().prop_map(Move::Timer),
        1 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(queue_full, draining)| Move::Load { queue_full, draining }),
        1 => Just(Move::Elsewhere),
        1 => Just(Move::Crash),
    ]
}

fn a_pipeline() -> impl Strategy<Value = Pipeline> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(keep, rollback, reverse, stop, post)| {
            let mut stages = vec![
                script("ask", Hook::ConfirmRollout),
                external("canary", "K8S_CANARY_ROLLOUT"),
                script("migrate", Hook::PreRollout),
                repeating(Repeat::Once, script("seed", Hook::PreRollout)),
                repeating(Repeat::Always, script("step", Hook::Rollout)),
                wait("settle", Hook::Rollout),
                without_undo(script("load", Hook::ConfirmTrafficIncrease)),
                held(script("check", Hook::ConfirmPromotion)),
                script("undo-all", Hook::Rollback),
            ];
            if post {
                stages.push(script("tell", Hook::PostRollout));
                stages.push(held(script("clean", Hook::PostRollout)));
            }
            let mut pipeline = pipeline(stages);
            pipeline.on_supersede = if keep { OnSupersede::Keep } else { OnSupersede::Rollback };
            pipeline.on_failure = if rollback { OnFailure::Rollback } else { OnFailure::Wait };
            pipeline.rollback.order = if reverse { RollbackOrder::Reverse } else { RollbackOrder::Pipeline };
            pipeline.rollback.on_failure = if stop { RollbackOnFailure::Stop } else { RollbackOnFailure::Continue };
            pipeline
        },
    )
}

struct Game {
    world: World,
    model: Model,
    /// Between the death of a process and the end of the next one's recovery.
    starting: bool,
}

impl Game {
    fn around(&self) -> Around {
        let World { queue_full, draining, elsewhere, .. } = self.world;
        Around { queue_full, draining, elsewhere: elsewhere.is_some() }
    }

    /// One command on the core, then what it started on the model, after `model` has taken its part.
    fn both(&mut self, command: Command, slot: bool, model: &mut dyn FnMut(&mut Model, Around) -> Option<Expect>) {
        let shown = format!("{command:?}");
        let reply = self.world.step(command, slot);
        let events = self.world.facts.clone();
        let deployments = &self.world.stream.deployments;
        let known = self.model.deps.len();
        self.model.ids = deployments.iter().skip(known).map(|d| d.id).collect();
        let around = self.around();
        let expect = model(&mut self.model, around);
        assert!(self.model.ids.is_empty(), "{shown} opened a deployment, and the contract opens none");
        for event in &events {
            if let Event::StageStarted { run, stage, purpose, .. } = event {
                let of = self.world.stream.owner_of(*run).unwrap().id;
                let replay = match purpose {
                    Purpose::Rollback { replay } => Some(*replay),
                    Purpose::Forward { .. } => None,
                };
                self.model.started(of, *run, stage, replay, around);
            }
        }
        if let Some(expect) = expect {
            self.same_reply(&shown, &reply, &expect);
        }
        self.same_state(&shown);
        if self.world.actions.contains(&Action::Unblocked) {
            self.both(Command::Resume { at_start: false }, false, &mut |_, _| None);
        }
    }

    fn same_reply(&self, shown: &str, reply: &Reply, expect: &Expect) {
        let told = match reply {
            Reply::Answer(answer) => match answer.subject {
                Subject::Gate => Expect::Gate(answer.verdict),
                Subject::Replay => Expect::Replay(answer.verdict),
                Subject::Question => Expect::Question(answer.verdict == stagehook::domain::call::Verdict::Approved),
                Subject::Note => Expect::Note,
            },
            Reply::Wait(key) => Expect::Wait(*key),
            Reply::Unknown { .. } => Expect::Unknown,
            Reply::Busy { .. } => Expect::Busy,
            Reply::Accepted { .. } => Expect::Accepted,
            Reply::Conflict { .. } => Expect::Conflict,
            Reply::Nothing => panic!("{shown} got no answer"),
        };
        assert_eq!(&told, expect, "{shown}");
    }

    fn same_state(&self, shown: &str) {
        let stream = &self.world.stream;
        assert_eq!(stream.deployments.len(), self.model.deps.len(), "{shown}");
        assert_eq!(stream.question_asked, self.model.asked, "{shown}");
        let last = stream.deployments.len().saturating_sub(1);
        for (at, (d, m)) in stream.deployments.iter().zip(&self.model.deps).enumerate() {
            let phase = match &d.standing {
                Standing::Progressing if d.promoted => Phase::Promoted,
                Standing::Progressing => Phase::Open,
                Standing::RollingBack { reason } => Phase::Rolling(*reason),
                Standing::Ended(end) => Phase::Over(end.state, end.reason),
            };
            assert_eq!(phase, m.phase, "{shown}: {} {:?}", d.id, d.revision);
            assert_eq!((&d.revision, d.undone, d.promoted), (&m.revision, m.undone, m.promoted), "{shown}: {}", d.id);
            assert_eq!(d.request.as_ref().map(|r| r.reason), m.requested, "{shown}: {}", d.id);
            assert!(!d.is_open() || at == last, "{shown}: {} is open and not the last", d.id);
            let runs: Vec<_> = d.runs.iter().map(|r| (r.id, r.outcome())).collect();
            let model: Vec<_> = m.runs.iter().map(|r| (r.id, r.outcome)).collect();
            assert_eq!(runs, model, "{shown}");
            for hook in m.walks.keys().copied() {
                let key = WaitKey::Hook(d.id, hook);
                assert_eq!(settled(stream, key).map(|a| a.verdict), self.model.settled(key), "{shown}: {key:?}");
            }
            let key = WaitKey::Replay(d.id);
            assert_eq!(settled(stream, key).map(|a| a.verdict), self.model.settled(key), "{shown}: {key:?}");
            if let Phase::Over(EndState::RolledBack, _) = m.phase {
                undone_once(m);
            }
        }
        // Whatever only a slot holds back is in line for one, so that no call waits for ever.
        let unblocked = self.world.actions.contains(&Action::Unblocked);
        if !self.world.draining && !unblocked && !self.starting {
            for key in self.model.due(self.around()) {
                let queued = match key {
                    WaitKey::Hook(id, hook) => Queued::Pass(id, hook),
                    WaitKey::Replay(id) => Queued::Replay(id),
                };
                let at_next_call = self.world.boot > 1 && matches!(queued, Queued::Pass(..));
                let drained = self.world.drained;
                assert!(
                    self.world.queue.contains(&queued) || at_next_call || drained,
                    "{shown}: nothing will ever go on with {key:?}"
                );
            }
        }
        let alive = self.world.alive().next().is_some() || !self.world.queue.is_empty();
        let held_back = self.world.elsewhere.is_some() || self.world.drained || self.starting || unblocked;
        let waiting = self.world.waiting.is_empty();
        assert!(waiting || alive || held_back, "{shown}: calls wait for ever: {:?}", self.world.waiting);
    }

    fn play(&mut self, step: &Move) {
        match step {
            Move::Call(hook, says) => self.call(*hook, says),
            Move::UndoNamed(of) => {
                if let Some(id) = self.pick(of) {
                    self.call(Hook::Rollback, &Says::Undo { deployment: Some(id), revision: None });
                }
            }
            Move::Finish(which, outcome) => {
                let alive: Vec<_> = self.world.alive().filter(|r| r.until.is_none()).map(|r| r.id).collect();
                if !alive.is_empty() {
                    // Without a drain only what was never started after a commit in doubt is
                    // interrupted, and then the engine resumes as at a start.
                    self.starting = *outcome == Outcome::Interrupted && !self.world.draining;
                    self.finish(*which.get(&alive), *outcome);
                    if std::mem::take(&mut self.starting) {
                        self.both(Command::Resume { at_start: true }, false, &mut |model, _| {
                            model.start();
                            None
                        });
                    }
                }
            }
            Move::Grant(which) => {
                let queue: Vec<_> = self.world.queue.iter().copied().collect();
                if !queue.is_empty() {
                    self.grant(*which.get(&queue));
                }
            }
            Move::HangUp => self.world.waiting.clear(),
            Move::Operate(of, operation) => {
                if let Some(id) = self.pick(of) {
                    self.operate(id, *operation);
                }
            }
            Move::CancelRun(which) => {
                let alive: Vec<_> = self.world.alive().map(|r| r.id).collect();
                if !alive.is_empty() {
                    let run = *which.get(&alive);
                    let id = self.world.stream.owner_of(run).unwrap().id;
                    self.operate(id, Operation::CancelRun(run));
                    self.finish(run, Outcome::Cancelled);
                }
            }
            Move::Timer(which) => {
                let waits: Vec<_> = self.world.waits.keys().copied().collect();
                let signals: Vec<_> = self.world.signals.keys().copied().collect();
                if !waits.is_empty() {
                    self.finish(*which.get(&waits), Outcome::Succeeded);
                } else if !signals.is_empty() {
                    let deployment = *which.get(&signals);
                    self.world.signals.remove(&deployment);
                    self.both(Command::SignalTimedOut { deployment }, false, &mut |model, _| {
                        model.signal_timed_out(deployment);
                        None
                    });
                }
            }
            Move::Load { queue_full, draining } => {
                // A drain ends with the process.
                self.world.queue_full = *queue_full;
                self.world.draining |= *draining;
                self.world.drained |= *draining;
            }
            Move::Elsewhere => {
                self.world.elsewhere = match self.world.elsewhere {
                    Some(_) => None,
                    None => self.world.stream.current().map(|d| d.id),
                };
                if self.world.elsewhere.is_none() {
                    self.both(Command::Resume { at_start: false }, false, &mut |_, _| None);
                }
            }
            Move::Crash => self.crash(),
        }
    }

    fn pick(&self, index: &Index) -> Option<stagehook::domain::ids::DeploymentId> {
        let all: Vec<_> = self.world.stream.deployments.iter().rev().take(3).map(|d| d.id).collect();
        (!all.is_empty()).then(|| *index.get(&all))
    }

    fn call(&mut self, hook: Hook, says: &Says) {
        let payload = Payload { body: serde_json::Value::Null, metadata: BTreeMap::new() };
        let undo = matches!(says, Says::Undo { .. });
        let source = if undo { Source::Generic } else { self.world.stream.id.source };
        let call = Call::new(source, hook, says.clone(), payload, About::default());
        self.both(Command::Call(call), false, &mut |model, around| Some(model.call(hook, says, around)));
    }

    fn operate(&mut self, deployment: stagehook::domain::ids::DeploymentId, operation: Operation) {
        self.both(Command::Operate { deployment, operation }, false, &mut |model, _| {
            Some(model.operate(deployment, operation))
        });
    }

    fn finish(&mut self, run: stagehook::domain::ids::RunId, outcome: Outcome) {
        let waited: Vec<_> = self.world.waiting.iter().copied().collect();
        self.world.waits.remove(&run);
        let script = self.world.find_run(run).is_some_and(|r| r.until.is_none());
        let command = Command::Finished { run, ending: ending(outcome), waited: waited.clone() };
        self.both(command, script, &mut |model, _| {
            model.finished(run, outcome, &waited);
            None
        });
    }

    fn grant(&mut self, queued: Queued) {
        self.world.queue.remove(&queued);
        let command = match queued {
            Queued::Replay(deployment) => Command::GrantedReplay { deployment },
            Queued::Pass(deployment, hook) => Command::Granted { deployment, hook },
        };
        self.both(command, true, &mut |_, _| None);
    }

    fn crash(&mut self) {
        self.world.die();
        self.starting = true;
        for run in self.world.dead() {
            self.finish(run, Outcome::Interrupted);
        }
        self.starting = false;
        self.both(Command::Resume { at_start: true }, false, &mut |model, _| {
            model.start();
            None
        });
        self.world.drained = false;
    }

    /// Lets everything come to its end, before and after a last crash: then no call waits any
    /// more, and nothing is left over.
    fn settle(&mut self) {
        self.world.queue_full = false;
        self.world.elsewhere = None;
        self.both(Command::Resume { at_start: false }, false, &mut |_, _| None);
        if !self.world.drained {
            self.run_dry(false);
        }
        self.crash();
        self.run_dry(true);
    }

    /// `last`: nothing is left for a further start to take up.
    fn run_dry(&mut self, last: bool) {
        for _ in 0..300 {
            let alive = self.world.alive().next().map(|r| r.id);
            let queued = self.world.queue.iter().next().copied();
            match (alive, queued) {
                (Some(run), _) => self.finish(run, Outcome::Succeeded),
                (None, Some(queued)) => self.grant(queued),
                (None, None) => break,
            }
        }
        assert!(self.world.waiting.is_empty(), "{:?}", self.world.waiting);
        for d in &self.world.stream.deployments {
            assert!(!d.is_rolling_back() && d.alive().next().is_none(), "{} is stuck: {:?}", d.id, d.standing);
            let cut = d.pass(Hook::PostRollout).is_some_and(|p| matches!(p.end, Some(PassEnd::Interrupted { .. })));
            assert!(d.end().is_some() || d.is_open() || cut && !last, "{} has succeeded and does not end", d.id);
        }
    }
}

/// Every executed stage with an `onRollback` was undone exactly once, and no other stage was.
fn undone_once(d: &MDep) {
    let mut due = d.steps();
    due.sort();
    let good = |r: &&crate::model::MRun| r.rollback.is_some() && r.outcome == Some(Outcome::Succeeded);
    let mut done: Vec<_> = d.runs.iter().filter(good).map(|r| r.stage.clone()).collect();
    done.sort();
    assert_eq!(done, due);
    assert!(d.runs.iter().filter(|r| r.rollback.is_some()).all(|r| due.contains(&r.stage)));
}

/// A stage whose success is kept never runs again.
fn kept_successes(model: &Model) {
    for d in &model.deps {
        for stage in d.pipeline.stages.iter().filter(|s| s.repeat() != Repeat::Always) {
            let runs: Vec<_> = d.runs.iter().filter(|r| r.stage == stage.id && r.rollback.is_none()).collect();
            let first = runs.iter().position(|r| r.outcome == Some(Outcome::Succeeded));
            assert!(first.is_none_or(|at| at + 1 == runs.len()), "{} ran again after its success", stage.id);
        }
    }
}

fn play(source: Source, pipeline: Pipeline, moves: &[Move]) {
    let world = World::new(source, pipeline);
    let model = Model::new(source, Arc::clone(world.pipeline.as_ref().unwrap()));
    let mut game = Game { world, model, starting: false };
    for step in moves {
        game.play(step);
    }
    game.settle();
    kept_successes(&game.model);
}

/// How many histories are played: `STAGEHOOK_HISTORIES`, or enough for every day.
pub fn config() -> Config {
    let cases = std::env::var("STAGEHOOK_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(2500);
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn flagger_histories_agree_with_the_model(pipeline in a_pipeline(), moves in prop::collection::vec(a_move(), 1..70)) {
        play(Source::Flagger, pipeline, &moves);
    }

    #[test]
    fn generic_histories_agree_with_the_model(pipeline in a_pipeline(), moves in prop::collection::vec(a_move(), 1..70)) {
        play(Source::Generic, pipeline, &moves);
    }
}

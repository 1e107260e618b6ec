//! Random histories of callers that name their rollouts and calls, that don't wait, and that want reports: what holds
//! whatever they say, in whatever order, with crashes in between.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::Config;
use stagehook::domain::call::{Call, CallKey, Command, Operation, ReportTo, Says, WaitKey};
use stagehook::domain::decide::settled;
use stagehook::domain::hook::Hook;
use stagehook::domain::names::{RolloutId, Source};
use stagehook::domain::pipeline::{OnFailure, Pipeline, Repeat};
use stagehook::domain::record::{About, EndState, Event, Outcome, Payload};

use crate::pipelines::{held, pipeline, repeating, script, wait};
use crate::world::{World, rev};

#[derive(Clone, Debug)]
enum Move {
    Call { hook: Hook, says: u8, rollout: u8, revision: u8, key: u8, flags: u8 },
    Repeat,
    End(Outcome),
    Grant,
    Operate(u8),
    Report,
    Crash,
    Drain,
}

fn moves() -> impl Strategy<Value = Move> {
    let hook = prop::sample::select(vec![Hook::PreRollout, Hook::Rollout, Hook::PostRollout]);
    let outcome =
        prop::sample::select(vec![Outcome::Succeeded, Outcome::Succeeded, Outcome::Failed, Outcome::TimedOut]);
    prop_oneof![
        8 => (hook, 0..6_u8, 0..4_u8, 0..3_u8, 0..6_u8, 0..4_u8).prop_map(|(hook, says, rollout, revision, key, flags)| {
            Move::Call { hook, says, rollout, revision, key, flags }
        }),
        3 => Just(Move::Repeat),
        6 => outcome.prop_map(Move::End),
        4 => Just(Move::Grant),
        1 => (0..4_u8).prop_map(Move::Operate),
        2 => Just(Move::Report),
        1 => Just(Move::Crash),
        1 => Just(Move::Drain),
    ]
}

fn stages(variant: u8) -> Pipeline {
    let mut pipeline = pipeline(vec![
        script("a", Hook::PreRollout),
        held(script("b", Hook::PreRollout)),
        repeating(Repeat::Always, script("c", Hook::Rollout)),
        wait("d", Hook::Rollout),
        repeating(Repeat::Once, script("e", Hook::PostRollout)),
        script("f", Hook::Rollback),
    ]);
    pipeline.on_failure = if variant == 1 { OnFailure::Rollback } else { OnFailure::Wait };
    pipeline
}

struct History {
    world: World,
    last: Option<Call>,
    /// Calls that were answered under a key, and after which the service never went down.
    answered: BTreeSet<(Hook, String)>,
}

impl History {
    fn make(&mut self, step: &Move) {
        match step {
            Move::Call { hook, says, rollout, revision, key, flags } => {
                let named = rev(["", "r1", "r2"][usize::from(*revision)]);
                let (hook, says) = match says {
                    0 | 1 => (*hook, Says::Forward { revision: named }),
                    2 => (Hook::PostRollout, Says::Succeeded { revision: named }),
                    3 => (Hook::PostRollout, Says::Reconciled { revision: named }),
                    4 => (Hook::Rollback, Says::Failed { revision: named }),
                    _ => (Hook::Rollback, Says::Reverted { to: named }),
                };
                let source = self.world.stream.id.source;
                let mut call = Call::new(source, hook, says, Payload::default(), About::default());
                call.rollout = (*rollout > 0).then(|| RolloutId::new(format!("o{rollout}")).unwrap());
                call.key = (*key > 0).then(|| CallKey { id: format!("k{key}"), stamp: (*key > 4).then_some(7) });
                call.unattended = flags & 1 == 1;
                call.report = (flags & 2 == 2).then(|| ReportTo(serde_json::json!(key)));
                self.tell(call);
            }
            Move::Repeat => {
                if let Some(call) = self.last.clone() {
                    self.tell(call);
                }
            }
            Move::End(outcome) => {
                // A script if there is one, else a wait.
                let mut alive: Vec<_> =
                    self.world.alive().map(|r| (r.until.is_some(), r.id, r.stop.is_some())).collect();
                alive.sort_by_key(|(waits, ..)| *waits);
                if let Some((waits, run, stopped)) = alive.first().copied() {
                    let outcome = match (waits, stopped) {
                        (true, _) => Outcome::Succeeded,
                        (false, true) => Outcome::Cancelled,
                        (false, false) => *outcome,
                    };
                    self.world.end_run(run, outcome);
                    self.world.unblock();
                }
            }
            Move::Grant => {
                if self.world.alive().filter(|run| run.until.is_none()).count() < 2
                    && let Some(queued) = self.world.queue.first().copied()
                {
                    self.world.grant(queued);
                }
            }
            Move::Operate(what) => {
                let Some(id) = self.world.stream.current().map(|d| d.id) else { return };
                let operation = match what {
                    0 => Operation::Rollback { now: true },
                    1 => Operation::Cancel,
                    2 => Operation::Close,
                    _ => Operation::Release,
                };
                self.world.operate(id, operation);
            }
            Move::Report => {
                // One place is told of one outcome after the other.
                while let Some(due) = self.world.stream.due_reports().first().cloned() {
                    let command = Command::Reported { deployment: due.deployment, report: due.number, problem: None };
                    self.world.step(command, false);
                    assert!(!self.world.stream.due_reports().contains(&due), "what was told is told");
                }
            }
            Move::Crash => {
                self.answered.clear();
                self.world.crash();
            }
            Move::Drain => {
                self.world.draining = true;
                self.answered.clear();
            }
        }
        self.check();
    }

    fn tell(&mut self, call: Call) {
        let known = call.key.as_ref().map(|key| (call.hook, key.id.clone()));
        let repeated = known.as_ref().is_some_and(|known| self.answered.contains(known));
        let before = self.world.stream.deployments.len();
        let reply = self.world.tell(call.clone());
        if repeated {
            let started = |event: &Event| matches!(event, Event::Called { .. } | Event::Opened { .. });
            assert!(!self.world.facts.iter().any(started), "{call:?} ran again: {:?}", self.world.facts);
            assert_eq!(self.world.stream.deployments.len(), before);
        }
        if call.unattended {
            assert!(!matches!(reply, stagehook::domain::call::Reply::Busy { .. }), "{call:?}");
        }
        let stored = |(hook, key): &(Hook, String)| {
            let all = &self.world.stream.deployments;
            // What a cut left to be begun again is no answer.
            let whole = |d: &stagehook::domain::state::Deployment| {
                d.runs.iter().all(|run| run.outcome() != Some(Outcome::Interrupted))
                    && !d.runs.iter().any(|r| r.released)
            };
            all.iter().any(|d| whole(d) && d.keys.iter().any(|(of, known)| of == hook && known.id == *key))
        };
        // A refusal (the key is another call's) answers nothing.
        let refused = matches!(reply, stagehook::domain::call::Reply::Conflict { .. });
        if let Some(known) = known.filter(stored).filter(|_| !refused) {
            self.answered.insert(known);
        }
        self.last = Some(call);
    }

    fn check(&self) {
        let all = &self.world.stream.deployments;
        assert!(all.iter().filter(|d| d.is_open()).count() <= 1, "one rollout goes on at a time");
        for d in all {
            let forward = d.alive().any(|run| !run.is_rollback() && run.stop.is_none() && run.until.is_none());
            assert!(!(d.is_rolling_back() && forward), "a script goes on beside its rollback");
            assert!(!(d.alive().any(|run| run.is_rollback()) && d.alive().any(|run| !run.is_rollback())));
            if d.end().is_some_and(|end| end.state == EndState::RolledBack) {
                let undone = |run: &&std::sync::Arc<stagehook::domain::state::Run>| {
                    let stage = d.pipeline.stage(&run.stage).unwrap();
                    stage.script().is_none_or(|script| script.on_rollback.is_empty())
                        || d.last_rollback(&run.stage).is_some_and(|run| run.outcome() == Some(Outcome::Succeeded))
                };
                let forward = d.runs.iter().filter(|run| !run.is_rollback());
                assert!(forward.clone().all(|run| undone(&run)), "{:?} is RolledBack", d.id);
            }
        }
    }

    /// Lets everything come to its end, with everybody gone, after a last start of the service.
    fn settle(&mut self) {
        self.world.crash();
        for _ in 0..200 {
            self.world.grant_all();
            let Some(run) = self.world.alive().next().map(|run| run.id) else { break };
            self.world.end_run(run, Outcome::Succeeded);
            self.world.unblock();
        }
        assert!(self.world.running().is_empty(), "something runs for ever");
        for d in &self.world.stream.deployments {
            assert!(!d.is_rolling_back(), "{:?} rolls back for ever", d.id);
            for (hook, pass) in d.passes.iter().filter(|(hook, pass)| pass.unattended && d.goes_on(*hook)) {
                let held = d.runs.iter().any(|run| run.outcome() == Some(Outcome::Interrupted));
                assert!(pass.end.is_some() || held, "{hook} of {:?} was forgotten: {pass:?}", d.id);
            }
            for report in d.reports.iter().filter(|report| !report.is_over() && report.known.is_none()) {
                let key = if report.replay { WaitKey::Replay(d.id) } else { WaitKey::Hook(d.id, report.hook) };
                let pass = d.pass(report.hook);
                // Of a caller that asks again, what was cut waits for that.
                let comes_again = pass.is_some_and(|pass| !pass.unattended);
                assert!(comes_again || settled(&self.world.stream, key).is_some(), "{report:?} will never be told");
            }
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: crate::histories::config().cases / 4, ..crate::histories::config() })]

    #[test]
    fn whatever_callers_say(
        source in prop::sample::select(vec![Source::Github, Source::Argocd, Source::ArgoRollouts, Source::Flux, Source::Generic]),
        variant in 0..2_u8,
        steps in prop::collection::vec(moves(), 1..60),
    ) {
        let mut history = History {
            world: World::new(source, stages(variant)),
            last: None,
            answered: BTreeSet::new(),
        };
        for step in &steps {
            history.make(step);
        }
        history.settle();
    }
}

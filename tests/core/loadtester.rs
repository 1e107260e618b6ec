//! The load tester's gates and commands.

use stagehook::domain::call::{Action, Call, Command, Operation, Reply, Says, Verdict, WaitKey};
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::{DeploymentId, RunId};
use stagehook::domain::loadtester::{Gate, Gates, HOOK, Task, TaskKind};
use stagehook::domain::names::{RolloutId, Source};
use stagehook::domain::record::{About, Event, Outcome, Payload, Reason, Record};
use stagehook::domain::span::Span;
use stagehook::domain::state::Stream;
use stagehook::domain::summary::State;

use super::world::{Queued, World};

fn world() -> World {
    let mut world = World::new(Source::Loadtester, super::pipelines::pipeline(Vec::new()));
    world.pipeline = None;
    world
}

fn call(hook: Hook, says: Says) -> Call {
    Call::new(Source::Loadtester, hook, says, Payload::default(), About::default())
}

fn gate(world: &mut World, gate: Gate, set: Option<bool>) -> bool {
    let reply = world.step(Command::Call(call(Hook::ConfirmRollout, Says::LoadGate { gate, set })), false);
    let Reply::Answer(answer) = reply else { panic!("{reply:?}") };
    assert_eq!(answer.deployment, None);
    answer.verdict == Verdict::Approved
}

fn task(kind: TaskKind, command: &str) -> Task {
    let task = Task::new(kind, command, std::iter::empty(), "/", Span::from_secs(3600)).unwrap();
    assert_eq!(task.held, kind != TaskKind::Cmd);
    task
}

/// A call with a command, for the canary at a checksum.
fn ask(world: &mut World, kind: TaskKind, command: &str, checksum: &str, slot: bool) -> Reply {
    let mut task = task(kind, command);
    // Of one content the world holds one pipeline.
    task.pipeline = world.pins.entry(task.hash.clone()).or_insert(task.pipeline).clone();
    let rollout = Some(RolloutId::new(checksum).unwrap());
    world.step(Command::Call(Call { rollout, ..call(HOOK, Says::Task(task)) }), slot)
}

/// The deployment that a held call waits for.
fn waits(reply: &Reply) -> DeploymentId {
    match reply {
        Reply::Wait(WaitKey::Hook(id, hook)) if *hook == HOOK => *id,
        other => panic!("{other:?}"),
    }
}

/// The deployment that a call in the background began or joined.
fn noted(reply: &Reply) -> DeploymentId {
    match reply {
        Reply::Answer(answer) if answer.verdict == Verdict::Approved => answer.deployment.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn pending(reply: &Reply) -> String {
    match reply {
        Reply::Answer(answer) if answer.verdict == Verdict::Pending => answer.message.clone(),
        other => panic!("{other:?}"),
    }
}

fn started(world: &World) -> Vec<RunId> {
    let start = |action: &Action| match action {
        Action::Start(run) => Some(*run),
        _ => None,
    };
    world.actions.iter().filter_map(start).collect()
}

fn begun(world: &mut World, kind: TaskKind, command: &str) -> (DeploymentId, RunId) {
    let reply = ask(world, kind, command, "7d7b", true);
    let id = if kind.is_held() { waits(&reply) } else { noted(&reply) };
    let [run] = started(world)[..] else { panic!("{:?}", world.actions) };
    (id, run)
}

fn state(world: &World, id: DeploymentId) -> (State, Option<Reason>) {
    let deployment = world.stream.get(id).unwrap();
    (deployment.state(), world.stream.summary(deployment).reason)
}

#[test]
fn gates_are_closed_until_opened_and_each_is_its_own() {
    let mut world = world();
    for which in [Gate::Gate, Gate::Rollback] {
        assert!(!gate(&mut world, which, None));
    }
    assert!(world.records.is_empty(), "asking records nothing");
    gate(&mut world, Gate::Gate, Some(true));
    let [Event::GateSet { gate: Gate::Gate, open: true, .. }] = world.facts[..] else { panic!("{:?}", world.facts) };
    assert!(gate(&mut world, Gate::Gate, None));
    assert!(!gate(&mut world, Gate::Rollback, None));
    gate(&mut world, Gate::Gate, Some(true));
    assert!(world.facts.is_empty(), "what is set already is not recorded: {:?}", world.facts);
    gate(&mut world, Gate::Rollback, Some(true));
    gate(&mut world, Gate::Gate, Some(false));
    world.refold();
    assert!(!gate(&mut world, Gate::Gate, None));
    assert!(gate(&mut world, Gate::Rollback, None));
    assert_eq!(world.records.len(), 3);
}

#[test]
fn a_gate_is_known_to_a_fold_that_begins_at_any_deployment_or_gate() {
    let mut world = world();
    gate(&mut world, Gate::Gate, Some(true));
    begun(&mut world, TaskKind::Cmd, "true");
    gate(&mut world, Gate::Rollback, Some(true));
    let from = |text: &str| {
        let at = world.records.iter().rposition(|json| json.contains(text)).unwrap();
        let mut stream = Stream::new(world.stream.id.clone());
        for json in &world.records[at..] {
            let record: Record = serde_json::from_str(json).unwrap();
            stream.apply(&record, &|hash| world.pins.get(hash).cloned()).unwrap();
        }
        stream.gates
    };
    assert_eq!(from("\"opened\""), Gates { gate: true, rollback: true });
    assert_eq!(from("\"gateSet\""), Gates { gate: true, rollback: true });
}

#[test]
fn a_command_is_recorded_before_it_starts_and_ends_its_deployment() {
    for (outcome, expected) in [
        (Outcome::Succeeded, (State::Succeeded, None)),
        (Outcome::Failed, (State::RolledBack, Some(Reason::StageFailed))),
        (Outcome::TimedOut, (State::RolledBack, Some(Reason::StageFailed))),
        (Outcome::Cancelled, (State::RolledBack, Some(Reason::Cancelled))),
        (Outcome::Interrupted, (State::Abandoned, Some(Reason::Interrupted))),
    ] {
        for kind in [TaskKind::Cmd, TaskKind::Bash] {
            let mut world = world();
            let (id, run) = begun(&mut world, kind, "true");
            assert!(matches!(
                world.facts[..],
                [Event::Opened { .. }, Event::Called { .. }, Event::StageStarted { .. }]
            ));
            world.end_run(run, outcome);
            assert_eq!(state(&world, id), expected, "{kind} {outcome:?}");
            assert!(!world.stream.get(id).unwrap().is_live());
            world.refold();
        }
    }
}

#[test]
fn the_same_command_is_joined_and_never_runs_twice() {
    let mut world = world();
    let (id, run) = begun(&mut world, TaskKind::Bash, "smoke");
    assert_eq!(waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", true)), id);
    assert!(world.facts.is_empty() && world.actions.is_empty());
    world.end_run(run, Outcome::Succeeded);
    // Somebody heard it: the next call is a new one.
    let next = waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", true));
    assert_ne!(next, id);

    let (id, run) = begun(&mut world, TaskKind::Cmd, "load");
    assert_eq!(noted(&ask(&mut world, TaskKind::Cmd, "load", "57d6", true)), id);
    assert!(world.facts.is_empty() && world.actions.is_empty());
    world.end_run(run, Outcome::Failed);
    assert_ne!(noted(&ask(&mut world, TaskKind::Cmd, "load", "7d7b", true)), id, "a load test's result is nobody's");
}

#[test]
fn what_runs_for_another_revision_gives_no_verdict() {
    let mut world = world();
    let (id, run) = begun(&mut world, TaskKind::Bash, "smoke");
    let why = pending(&ask(&mut world, TaskKind::Bash, "smoke", "57d6", true));
    assert!(why.contains("for another revision") && why.contains(&id.to_string()), "{why}");
    assert!(world.actions.is_empty());
    world.waiting.clear();
    world.end_run(run, Outcome::Succeeded);
    // Nor is the result that nobody has heard for it.
    assert_ne!(waits(&ask(&mut world, TaskKind::Bash, "smoke", "57d6", true)), id);
    assert_eq!(started(&world).len(), 1);
}

#[test]
fn a_result_that_nobody_heard_is_kept_for_a_while() {
    for (outcome, verdict) in [(Outcome::Succeeded, Verdict::Approved), (Outcome::Failed, Verdict::Rejected)] {
        let mut world = world();
        let (id, run) = begun(&mut world, TaskKind::Bash, "smoke");
        world.waiting.clear();
        world.end_run(run, outcome);
        let reply = ask(&mut world, TaskKind::Bash, "smoke", "7d7b", true);
        let Reply::Answer(answer) = reply else { panic!("{reply:?}") };
        assert_eq!((answer.verdict, answer.deployment), (verdict, Some(id)));
        assert_eq!(answer.stages[0].run, Some(run));
        assert!(started(&world).is_empty());
        // Once.
        assert_ne!(waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", true)), id);
    }
    let mut world = world();
    let (id, run) = begun(&mut world, TaskKind::Bash, "smoke");
    world.waiting.clear();
    world.end_run(run, Outcome::Succeeded);
    world.now = world.now.checked_add(jiff::SignedDuration::from_mins(11)).unwrap();
    assert_ne!(waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", true)), id, "it is old");
}

#[test]
fn one_that_was_cut_or_cancelled_has_no_result() {
    for outcome in [Outcome::Interrupted, Outcome::Cancelled] {
        let mut world = world();
        let (id, run) = begun(&mut world, TaskKind::Bash, "smoke");
        world.waiting.clear();
        world.end_run(run, outcome);
        assert_ne!(waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", true)), id, "{outcome:?}");
    }
}

#[test]
fn different_commands_neither_block_nor_supersede() {
    let mut world = world();
    let (one, first) = begun(&mut world, TaskKind::Cmd, "a");
    let (two, second) = begun(&mut world, TaskKind::Bash, "b");
    let (three, _) = begun(&mut world, TaskKind::Bash, "a");
    world.end_run(second, Outcome::Failed);
    assert_eq!(state(&world, two).0, State::RolledBack);
    for id in [one, three] {
        assert_eq!(state(&world, id).0, State::Progressing);
    }
    world.end_run(first, Outcome::Succeeded);
    assert_eq!(state(&world, one).0, State::Succeeded);
}

#[test]
fn without_a_slot_it_waits_in_line_or_is_refused() {
    let mut world = world();
    let id = waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", false));
    assert_eq!(world.queue.iter().copied().collect::<Vec<_>>(), [Queued::Pass(id, HOOK)]);
    world.queue_full = true;
    let before = world.records.len();
    for kind in [TaskKind::Bash, TaskKind::Cmd] {
        let reply = ask(&mut world, kind, "other", "7d7b", false);
        assert!(matches!(reply, Reply::Busy { .. }), "{reply:?}");
    }
    assert_eq!(world.records.len(), before, "nothing is recorded");
    assert_eq!(waits(&ask(&mut world, TaskKind::Bash, "smoke", "7d7b", false)), id, "a join needs no place");
    world.queue_full = false;
    world.step(Command::Granted { deployment: id, hook: HOOK }, true);
    assert_eq!(started(&world).len(), 1);
}

#[test]
fn a_rollback_elsewhere_holds_it() {
    let mut world = world();
    let other = { stagehook::domain::ids::Mint::new(world.now, 7).deployment() };
    world.elsewhere = Some(other);
    let id = noted(&ask(&mut world, TaskKind::Cmd, "load", "7d7b", true));
    assert!(world.actions.is_empty(), "{:?}", world.actions);
    world.elsewhere = None;
    world.step(Command::Resume { at_start: false }, true);
    assert_eq!(started(&world).len(), 1);
    assert_eq!(state(&world, id).0, State::Progressing);
}

#[test]
fn a_drain_starts_nothing_and_says_so() {
    let mut world = world();
    world.draining = true;
    for kind in [TaskKind::Bash, TaskKind::Cmd] {
        assert!(pending(&ask(&mut world, kind, "load", "7d7b", true)).contains("shutting down"));
        assert!(world.records.is_empty());
    }
    gate(&mut world, Gate::Gate, Some(true));
    assert_eq!(world.records.len(), 1, "a gate is set all the same");
}

#[test]
fn a_crash_ends_what_ran_and_begins_what_was_accepted() {
    let mut world = world();
    let (ran, _) = begun(&mut world, TaskKind::Cmd, "a");
    let accepted = noted(&ask(&mut world, TaskKind::Cmd, "b", "7d7b", false));
    world.crash();
    assert_eq!(state(&world, ran), (State::Abandoned, Some(Reason::Interrupted)));
    assert_eq!(state(&world, accepted).0, State::Progressing);
    assert!(
        world.queue.contains(&Queued::Pass(accepted, HOOK)),
        "it was accepted, and has not begun: {:?}",
        world.queue
    );
    assert!(!world.queue.iter().any(|queued| matches!(queued, Queued::Pass(id, _) if *id == ran)));
    assert_ne!(noted(&ask(&mut world, TaskKind::Cmd, "a", "7d7b", true)), ran, "the next call is a new one");
}

#[test]
fn a_person_cancels_it_and_the_same_waits_until_it_is_dead() {
    let mut world = world();
    let (id, run) = begun(&mut world, TaskKind::Cmd, "load");
    world.step(Command::Operate { deployment: id, operation: Operation::Cancel }, false);
    assert!(world.actions.iter().any(|action| matches!(action, Action::Stop { run: of, .. } if *of == run)));
    let why = pending(&ask(&mut world, TaskKind::Cmd, "load", "7d7b", true));
    assert!(why.contains("is being stopped"), "{why}");
    world.end_run(run, Outcome::Cancelled);
    assert_eq!(state(&world, id), (State::RolledBack, Some(Reason::Cancelled)));
    assert_ne!(noted(&ask(&mut world, TaskKind::Cmd, "load", "7d7b", true)), id);

    let (id, run) = begun(&mut world, TaskKind::Bash, "smoke");
    world.step(Command::Operate { deployment: id, operation: Operation::Close }, false);
    world.end_run(run, Outcome::Cancelled);
    assert_eq!(state(&world, id), (State::Abandoned, Some(Reason::Closed)));
}

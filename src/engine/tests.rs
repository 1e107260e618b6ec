//! Moments that can't be brought about from outside: a commit in doubt, another writer in between. No script runs
//! here: what stages have done is written into the ledger beside the engine.

mod kept;
mod retention;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use super::load::fold;
use super::{Engine, Settings, Told, clock};
use crate::config::catalog::Catalog;
use crate::domain::call::{Call, Command, Operation, Reply, Says, Tells, Verdict, WaitKey};
use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Revision, Source, StreamId};
use crate::domain::pipeline::Pipeline;
use crate::domain::record::{About, Actor, EndState, Ending, Event, Fact, Outcome, Owner, Payload, Purpose, Reason};
use crate::domain::sample;
use crate::domain::span::Span;
use crate::domain::state::Stream;
use crate::executor::{self, Executor};
use crate::ledger::{Append, Ledger};

/// An engine on a ledger of its own, with nothing in it.
struct Lab {
    engine: Engine,
    folder: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { engine: start(folder.path(), settings()).await, folder }
    }

    /// The whole stream, as the ledger has it.
    async fn stream(&self) -> Stream {
        let loaded = self.engine.ledger().load(&stream(), usize::MAX).await.unwrap();
        let mut stream = Stream::new(stream());
        fold(&mut stream, &loaded).unwrap();
        stream
    }

    /// Writes facts about one deployment past the engine.
    async fn write(&self, id: DeploymentId, events: impl IntoIterator<Item = Event>) {
        let mut stream = self.stream().await;
        let mut append = Append::new(stream.id.clone(), stream.head);
        let (hash, json) = pipeline().pinned();
        append.pipelines.push((hash, json));
        for event in events {
            let fact = Fact { at: clock::now(), by: Actor::stagehook(), deployment: Some(id), event };
            match &fact.event {
                Event::Opened { .. } => stream.open(stream.head + 1, id, &fact, Arc::new(pipeline())),
                _ => stream.advance(stream.head + 1, &fact),
            }
            if let Event::StageStarted { run, .. } = &fact.event {
                append.runs.push((*run, id));
            }
            append.facts.push(fact);
        }
        append.summaries.push(stream.summary(stream.get(id).unwrap()));
        self.engine.ledger().append(append).await.unwrap();
    }

    async fn call(&self, hook: Hook, says: Says) -> Told {
        let call = Call::new(Source::Generic, hook, says, Payload::default(), About::default());
        self.engine.call(stream(), call, Actor("generic".into()), None).await
    }
}

fn settings() -> Settings {
    Settings {
        max_concurrent: 1,
        queue: 1,
        signal_timeout: Span::from_secs(120),
        stale_after: Duration::from_secs(3600),
        retain: None,
        inherited: Vec::new(),
        observer: Arc::new(|_| {}),
        reporter: None,
        owner: owner(),
    }
}

async fn start(folder: &Path, settings: Settings) -> Engine {
    start_with(folder, settings, Catalog::default(), "/proc/self/exe").await
}

async fn start_with(folder: &Path, settings: Settings, catalog: Catalog, supervisor: &str) -> Engine {
    let ledger = Ledger::open_waiting(&folder.join("ledger.db"), Duration::from_millis(20)).unwrap();
    let executor = Executor::new(
        executor::Settings {
            supervisor: supervisor.into(),
            work_dir: folder.join("work").into(),
            kill_grace: Duration::from_secs(1),
            output_limit: 1000,
            confinement: executor::Confinement::default(),
        },
        Arc::new(clock::now),
    );
    let (_, catalog) = watch::channel(Arc::new(catalog));
    Engine::start(settings, ledger, executor, catalog).await.unwrap()
}

fn stream() -> StreamId {
    StreamId { source: Source::Generic, application: "test/podinfo".parse().unwrap() }
}

fn owner() -> Owner {
    Owner { instance: "test".into(), boot: "1".into() }
}

fn revision(number: u64) -> Option<Revision> {
    Some(format!("v{number}").parse().unwrap())
}

fn pipeline() -> Pipeline {
    sample::pipeline(vec![sample::failing_script("migrate", Hook::PreRollout)])
}

fn opened(number: u64) -> Event {
    let (pipeline, _) = pipeline().pinned();
    let (hook, about) = (Hook::PreRollout, About::default());
    Event::Opened {
        hook,
        revision: revision(number),
        rollout: None,
        under: None,
        opening: None,
        pipeline,
        about,
        question_asked: false,
        gates: Default::default(),
    }
}

fn ended(state: EndState) -> Event {
    Event::Ended { state, reason: None, skipped: Vec::new() }
}

fn started(run: RunId) -> [Event; 2] {
    let hook = Hook::PreRollout;
    let (stage, purpose) = ("migrate".parse().unwrap(), Purpose::Forward { hook, pass: 1 });
    [
        Event::Called { hook, pass: 1, payload: Payload::default(), about: About::default(), unattended: false },
        Event::StageStarted { run, stage, purpose, until: None, owner: owner() },
    ]
}

#[tokio::test]
async fn a_delivery_whose_commit_was_in_doubt_is_withdrawn_before_the_next_call() {
    let lab = Lab::new().await;
    let mut mint = clock::mint(clock::now());
    let (id, run) = (mint.deployment(), mint.run());
    lab.write(id, [opened(1)].into_iter().chain(started(run))).await;
    let key = WaitKey::Hook(id, Hook::PreRollout);
    let entry = lab.engine.0.applications.entry(&stream().application);
    let waiter = entry.waiters.join(Source::Generic, key);
    let ending = Ending::plain(Outcome::Failed, "exit code 3");

    // Under the lock, so that nothing is decided between the error and what had happened in truth.
    let mut streams = entry.streams.lock().await;
    let shell = Connection::open(lab.folder.path().join("ledger.db")).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    // In memory, and in doubt already: so nobody else is sent to look, and it is the call that comes first.
    let (by, nobody) = (Actor::stagehook(), BTreeSet::new());
    let look = Command::Resume { at_start: false };
    lab.engine.carry_out(&stream(), &entry, &mut streams, look, &by, &mut None, &[], &nobody).await.unwrap();
    streams.doubtful = true;
    let command = Command::Finished { run, ending: ending.clone(), waited: Vec::new() };
    let waited = entry.waiters.keys();
    let carried = lab.engine.carry_out(&stream(), &entry, &mut streams, command, &by, &mut None, &[], &waited).await;
    assert!(carried.unwrap_err().contains("can't be written"));
    assert_eq!(streams.in_vain, BTreeSet::from([(Source::Generic, key)]));
    shell.execute_batch("ROLLBACK").unwrap();
    lab.write(id, [Event::StageFinished { run, ending, awaited: true }]).await;
    drop(waiter);
    drop(streams);

    let told = lab.call(Hook::PreRollout, Says::Forward { revision: revision(1) }).await;
    let Told::Answer(answer) = told else { panic!("{told:?}") };
    assert_eq!((answer.verdict, answer.stages[0].run), (Verdict::Rejected, Some(run)));
    let stream = lab.stream().await;
    assert_eq!(stream.get(id).unwrap().runs.len(), 1);
    assert!(stream.get(id).unwrap().pass(Hook::PreRollout).unwrap().delivered);
}

#[tokio::test]
async fn what_another_writer_wrote_is_read_before_an_old_deployment_is_looked_at() {
    let lab = Lab::new().await;
    for number in 0..12 {
        let events = [opened(number), Event::RolloutSucceeded, ended(EndState::Succeeded)];
        lab.write(clock::mint(clock::now()).deployment(), events).await;
    }
    let note = || Says::Event { message: "noted".into(), tells: Tells::Other };
    let first = clock::mint(clock::now()).deployment();
    lab.write(first, [opened(20)]).await;
    // Keeps the application in memory.
    let _entry = lab.engine.0.applications.entry(&stream().application);
    let told = lab.call(Hook::Rollout, note()).await;
    assert!(matches!(&told, Told::Answer(answer) if answer.deployment == Some(first)), "{told:?}");
    let newest = clock::mint(clock::now()).deployment();
    lab.write(first, [ended(EndState::Abandoned)]).await;
    lab.write(newest, [opened(21)]).await;
    // Answered without a record, so no conflict would tell that memory is old.
    let told = lab.call(Hook::Rollback, Says::Undo { deployment: None, revision: revision(99) }).await;
    assert!(matches!(told, Told::Unknown { .. }), "{told:?}");
    let told = lab.call(Hook::PostRollout, Says::Failed { revision: revision(0) }).await;
    assert!(matches!(&told, Told::Answer(answer) if answer.message.contains("has already Succeeded")), "{told:?}");
    let told = lab.call(Hook::Rollout, note()).await;
    assert!(matches!(&told, Told::Answer(answer) if answer.deployment == Some(newest)), "{told:?}");
    assert_eq!(lab.stream().await.deployments.len(), 14);
}

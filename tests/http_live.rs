//! A script, over HTTP: a call is held, another joins it, its output is followed, and its failure is the answer.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stagehook::config::catalog::Catalog;
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::DeploymentId;
use stagehook::domain::names::{Source, StreamId};
use stagehook::domain::pipeline::{
    EnvValue, OnFailure, OnInterrupt, OnSupersede, Pipeline, Repeat, RollbackPolicy, Script, Stage, Work,
};
use stagehook::domain::record::{About, Actor, Event, Fact, Owner, Record};
use stagehook::domain::span::Span;
use stagehook::domain::state::Stream;
use stagehook::engine::{self, Engine};
use stagehook::executor::{self, Confinement, Executor};
use stagehook::http::{Metrics, Settings, State, serve};
use stagehook::ledger::{Append, Ledger};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

const DEPLOYMENT: &str = "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV";
const BODY: &str = r#"{"name": "podinfo", "namespace": "test", "checksum": "7d7b"}"#;

/// Counts its starts, prints, waits for a word on a pipe, prints again and fails.
const SCRIPT: &str = r#"echo started >> "$FOLDER/starts"; echo one; read word < "$FOLDER/pipe"; echo "$word"; exit 3"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_call_joins_the_script_of_the_first_and_its_output_can_be_followed() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let engine = engine(folder.path()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let state = State::new(engine, Settings::default(), Arc::new(Metrics::default()), true);
    let server = tokio::spawn(serve(listener, state, async move {
        let _ = stopped.await;
    }));

    // A caller that gives up at once.
    let pending = post(address, "/hooks/flagger/pre-rollout?wait=0s").await;
    assert!(pending.starts_with("HTTP/1.1 503 "), "{pending}");
    let run = loop {
        let shown = exchange(address, "GET", &format!("/api/v1/deployments/{DEPLOYMENT}"), "").await;
        let shown: serde_json::Value = serde_json::from_str(shown.split_once("\r\n\r\n").unwrap().1).unwrap();
        if let Some(run) = shown["runs"][0]["id"].as_str() {
            break run.to_owned();
        }
    };

    // Somebody watches.
    let mut watcher = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET /api/v1/runs/{run}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    watcher.write_all(request.as_bytes()).await.unwrap();
    let mut watcher = BufReader::new(watcher).lines();
    while watcher.next_line().await.unwrap().unwrap() != "data: one" {}

    // The caller comes again, and joins.
    let again = tokio::spawn(post(address, "/hooks/flagger/pre-rollout"));
    while !exchange(address, "GET", "/metrics", "").await.contains("\nstagehook_held_calls 1\n") {}
    tokio::task::spawn_blocking(move || std::fs::write(pipe, "no such table\n")).await.unwrap().unwrap();
    let rejected = again.await.unwrap();
    assert!(rejected.starts_with("HTTP/1.1 501 "), "{rejected}");
    assert!(rejected.contains("stage migrate failed (exit code 3): no such table"), "{rejected}");

    let mut rest = String::new();
    while let Some(line) = watcher.next_line().await.unwrap() {
        rest.push_str(&line);
        rest.push('\n');
    }
    assert!(rest.contains("data: no such table\n"), "{rest}");
    assert!(rest.contains("event: end\ndata: {") && rest.contains(r#""state":"Failed""#), "{rest}");
    let stored = exchange(address, "GET", &format!("/api/v1/runs/{run}/logs"), "").await;
    assert!(stored.ends_with("\r\n\r\none\nno such table\n"), "{stored}");
    assert_eq!(std::fs::read_to_string(folder.path().join("starts")).unwrap(), "started\n");
    stop.send(()).unwrap();
    server.await.unwrap();
}

async fn post(address: SocketAddr, path: &'static str) -> String {
    exchange(address, "POST", path, BODY).await
}

async fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn engine(folder: &Path) -> Engine {
    let ledger = Ledger::open(&folder.join("ledger.db")).unwrap();
    open_deployment(&ledger, folder).await;
    let executor = executor::Settings {
        supervisor: env!("CARGO_BIN_EXE_stagehook").into(),
        work_dir: folder.join("work").into(),
        kill_grace: Duration::from_secs(1),
        output_limit: 1000,
        confinement: Confinement::default(),
    };
    let settings = engine::Settings {
        max_concurrent: 1,
        queue: 1,
        signal_timeout: Span::from_secs(120),
        stale_after: Duration::from_secs(3600),
        retain: None,
        inherited: std::env::var("PATH").map(|path| ("PATH".to_owned(), path)).into_iter().collect(),
        observer: Arc::new(|_| {}),
        reporter: None,
        owner: Owner { instance: "test".into(), boot: "1".into() },
    };
    let (_, catalog) = watch::channel(Arc::new(Catalog::default()));
    Engine::start(settings, ledger, Executor::new(executor, Arc::new(engine::clock::now)), catalog).await.unwrap()
}

/// What a first call with a pipeline would have left: the deployment, with the pipeline pinned.
async fn open_deployment(ledger: &Ledger, folder: &Path) {
    let folder = folder.to_str().unwrap().to_owned();
    let script = Script {
        shell: vec!["/bin/sh".into(), "-c".into()],
        run: vec![SCRIPT.into()],
        on_rollback: Vec::new(),
        env: BTreeMap::from([("FOLDER".into(), EnvValue::Plain(folder.clone()))]),
        timeout: Span::from_secs(60),
        retries: 0,
        repeat: Repeat::RetryFailed,
        on_interrupt: OnInterrupt::Rerun,
    };
    let pipeline = Pipeline {
        name: "podinfo".into(),
        file: "podinfo.yaml".into(),
        directory: folder,
        labels: BTreeMap::new(),
        rollback: RollbackPolicy::default(),
        on_supersede: OnSupersede::Rollback,
        on_failure: OnFailure::Wait,
        stages: vec![Stage { id: "migrate".parse().unwrap(), work: Work::Script { hook: Hook::PreRollout, script } }],
    };
    let (hash, json) = pipeline.pinned();
    let id: DeploymentId = DEPLOYMENT.parse().unwrap();
    let event = Event::Opened {
        hook: Hook::PreRollout,
        revision: Some("7d7b".parse().unwrap()),
        rollout: None,
        under: None,
        opening: None,
        pipeline: hash.clone(),
        about: About::default(),
        question_asked: false,
        gates: Default::default(),
    };
    let fact = Fact { at: engine::clock::now(), by: Actor("flagger".into()), deployment: Some(id), event };
    let stream = StreamId { source: Source::Flagger, application: "test/podinfo".parse().unwrap() };
    let pipeline = Arc::new(pipeline);
    let mut folded = Stream::new(stream.clone());
    folded.apply(&Record { seq: 1, fact: fact.clone() }, &|_| Some(Arc::clone(&pipeline))).unwrap();
    let mut append = Append::new(stream, 0);
    append.summaries.push(folded.summary(folded.get(id).unwrap()));
    append.facts.push(fact);
    append.pipelines.push((hash, json));
    ledger.append(append).await.unwrap();
}

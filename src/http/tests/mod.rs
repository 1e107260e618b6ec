//! The routes over a real engine and a real ledger, by requests made of raw bytes. No script runs here: what stages
//! have done is written into the ledger first.

mod api;
mod github;
mod hooks;
mod hostile;
mod loadtester;
mod status;
mod wire;

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::Request;
use http_body_util::BodyExt;
use tokio::sync::{Notify, watch};
use tower::ServiceExt;
use tracing_subscriber::fmt::MakeWriter;

use super::router::router;
use super::{Metrics, Settings, State};
use crate::config::catalog::Catalog;
use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{StageId, StreamId};
use crate::domain::pipeline::{Pipeline, Repeat, Stage, Work};
use crate::domain::record::{About, Actor, Ending, Event, Fact, Outcome, Owner, Payload, Purpose, Record};
use crate::domain::sample;
use crate::domain::span::Span;
use crate::domain::state::Stream;
use crate::engine::{self, Engine};
use crate::executor::{self, Executor};
use crate::ledger::{Append, Ledger};

/// The deployment that is in every ledger here: Flagger's, of test/podinfo at 7d7b, open.
const DEPLOYMENT: &str = "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV";
/// Its one run: the stage `migrate` of pre-rollout, which failed while nobody waited.
const RUN: &str = "run_01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// A service on a ledger of its own.
struct Site {
    state: State,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        Self::with(Settings::default(), true).await
    }

    async fn with(settings: Settings, loopback: bool) -> Self {
        Self::of(settings, loopback, Catalog::default()).await
    }

    async fn of(settings: Settings, loopback: bool, catalog: Catalog) -> Self {
        install_log();
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.db")).unwrap();
        seed(&ledger).await;
        let owner = Owner { instance: "test".into(), boot: "1".into() };
        let executor = Executor::new(
            executor::Settings {
                supervisor: "/proc/self/exe".into(),
                work_dir: folder.path().join("work").into(),
                kill_grace: Duration::from_secs(1),
                output_limit: 1000,
                confinement: executor::Confinement::default(),
            },
            Arc::new(engine::clock::now),
        );
        let settings_of_engine = engine::Settings {
            max_concurrent: 1,
            queue: 1,
            signal_timeout: Span::from_secs(120),
            stale_after: Duration::from_secs(3600),
            retain: None,
            inherited: Vec::new(),
            observer: Arc::new(|_| {}),
            reporter: None,
            owner,
        };
        let (_, catalog) = watch::channel(Arc::new(catalog));
        let engine = Engine::start(settings_of_engine, ledger, executor, catalog).await.unwrap();
        Self { state: State::new(engine, settings, Arc::new(Metrics::default()), loopback), _folder: folder }
    }

    async fn send(&self, request: Request<Body>) -> Answered {
        let response: Response = router(self.state.clone()).oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answered { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Answered {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answered {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    /// How many records the stream of the seeded deployment has.
    async fn head(&self) -> u64 {
        self.state.engine.ledger().load(&stream(), 0).await.unwrap().head
    }
}

/// A response, read to its end.
#[derive(Debug)]
struct Answered {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The detail of a problem, which must be a proper one.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], status);
        assert!(document["type"].is_string() && document["title"].is_string(), "{document}");
        document["detail"].as_str().unwrap().to_owned()
    }
}

fn stream() -> StreamId {
    StreamId { source: crate::domain::names::Source::Flagger, application: "test/podinfo".parse().unwrap() }
}

fn id() -> DeploymentId {
    DEPLOYMENT.parse().unwrap()
}

fn run() -> RunId {
    RUN.parse().unwrap()
}

fn pipeline() -> Pipeline {
    let wait = Work::Wait { hook: Hook::Rollout, duration: Span::from_secs(3600), repeat: Repeat::RetryFailed };
    sample::pipeline(vec![
        sample::failing_script("migrate", Hook::PreRollout),
        Stage { id: stage("settle"), work: wait },
        Stage { id: stage("canary"), work: Work::External { name: "K8S_CANARY_ROLLOUT".into() } },
    ])
}

fn stage(id: &str) -> StageId {
    id.parse().unwrap()
}

async fn seed(ledger: &Ledger) {
    let pipeline = pipeline();
    let (hash, json) = pipeline.pinned();
    let ending = Ending {
        exit_code: Some(3),
        last_line: "no such table".into(),
        ..Ending::plain(Outcome::Failed, "exit code 3")
    };
    let events = [
        Event::Opened {
            hook: Hook::PreRollout,
            revision: Some("7d7b".parse().unwrap()),
            rollout: None,
            under: None,
            opening: None,
            pipeline: hash.clone(),
            about: About::default(),
            question_asked: false,
            gates: Default::default(),
        },
        Event::Called {
            hook: Hook::PreRollout,
            pass: 1,
            payload: Payload::default(),
            about: About::default(),
            unattended: false,
        },
        Event::StageStarted {
            run: run(),
            stage: stage("migrate"),
            purpose: Purpose::Forward { hook: Hook::PreRollout, pass: 1 },
            until: None,
            owner: Owner { instance: "test".into(), boot: "0".into() },
        },
        Event::StageFinished { run: run(), ending, awaited: false },
    ];
    let mut append = Append::new(stream(), 0);
    let mut folded = Stream::new(stream());
    let pipeline = Arc::new(pipeline);
    for (seq, event) in (1..).zip(events) {
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let fact = Fact { at, by: Actor("flagger".into()), deployment: Some(id()), event };
        folded.apply(&Record { seq, fact: fact.clone() }, &|_| Some(Arc::clone(&pipeline))).unwrap();
        append.facts.push(fact);
    }
    append.summaries.push(folded.summary(folded.get(id()).unwrap()));
    append.pipelines.push((hash, json));
    append.runs.push((run(), id()));
    append.outputs.push((run(), b"creating\r\nno such table\n".to_vec()));
    ledger.append(append).await.unwrap();
}

thread_local! {
    /// Where this thread's lines go.
    static LISTENER: RefCell<Option<Logged>> = const { RefCell::new(None) };
}

/// Installs the one subscriber of all tests, before any of them logs. A subscriber for each test would race: whether a
/// line is wanted at all is remembered for the whole process when it is first said, by whichever thread that is.
fn install_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().json().with_writer(Here).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Ends the listening of its thread.
struct Listening;

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENER.set(None);
    }
}

/// Writes to whoever listens on this thread.
struct Here;

impl MakeWriter<'_> for Here {
    type Writer = Box<dyn Write>;

    fn make_writer(&self) -> Self::Writer {
        match LISTENER.with_borrow(Clone::clone) {
            Some(logged) => Box::new(logged),
            None => Box::new(io::sink()),
        }
    }
}

/// What is logged on this thread while its listening lives.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>, Arc<Notify>);

impl Logged {
    fn here() -> (Self, Listening) {
        install_log();
        let logged = Self::default();
        LISTENER.set(Some(logged.clone()));
        (logged, Listening)
    }

    /// The fields of the lines of this module.
    fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines
            .filter(|line| line["target"].as_str().unwrap().contains("::http"))
            .map(|line| line["fields"].clone())
            .collect()
    }
}

impl Logged {
    /// The first line with this message, waited for.
    async fn line(&self, message: &str) -> serde_json::Value {
        loop {
            let said = |line: &serde_json::Value| line["message"].as_str().is_some_and(|text| text.contains(message));
            if let Some(line) = self.lines().into_iter().find(said) {
                return line;
            }
            self.1.notified().await;
        }
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.notify_one();
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

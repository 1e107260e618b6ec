//! What a ledger with many deployments costs beside an empty one, measured in one run so that the ratios mean something.
//!
//! Three shapes of `STAGEHOOK_BENCH_DEPLOYMENTS` deployments (20,000 unless set; 1,000,000 need 6 GB of disk and half an hour):
//! all in one stream, in a thousand streams, each in a stream of its own. Of each and of an empty ledger a process of its own tells how
//! long the start takes, the first call, a call, each list of the API, the counts of the metrics, and its memory. Then
//! it is pruned while calls go on, for a minute at most, and verified.
//!
//! It is no test: no number here makes a build fail. What makes one fail is `src/ledger/work.rs`.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't be set up has nothing to say")]

#[path = "../src/ledger/filler.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod filler;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use stagehook::config::catalog::Catalog;
use stagehook::config::pipeline::Defaults;
use stagehook::domain::call::{Call, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::{Source, StreamId};
use stagehook::domain::record::{About, Actor, EndState, Event, Owner, Payload};
use stagehook::domain::span::Span;
use stagehook::domain::summary::State;
use stagehook::engine::{self, Engine, Told, clock};
use stagehook::executor::{self, Executor};
use stagehook::ledger::{Ledger, ListQuery, verify};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use filler::Filler;

/// A stage on another hook than the calls', so that no script is measured.
const PIPELINE: &str = "\
apiVersion: stagehook.dev/v1
kind: Pipeline
metadata: {name: bench}
spec:
  selector: {namespace: bench}
  stages:
    - {id: nothing, name: SCRIPT_RUN, hook: post-rollout, with: {run: ':'}}
";

/// For how long calls go on beside pruning, if that takes so long.
const PRUNING: Duration = Duration::from_secs(60);

/// How many records the longest deployment has.
const LONG: usize = 100_000;

fn main() -> ExitCode {
    // The executor starts this program again as the supervisor, as it does with the service.
    if let Some(code) = executor::supervisor::main_if_asked() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = Runtime::new().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "--measure", folder] => runtime.block_on(measure(Path::new(folder))),
        [_, "--prune", folder] => runtime.block_on(prune(Path::new(folder))),
        [_, "--verify", folder] => {
            let began = Instant::now();
            let report = verify(&Path::new(folder).join("ledger.db"), None).unwrap();
            assert!(report.is_sound(), "{:?}", report.findings.first());
            println!("verify {} {} {}", began.elapsed().as_nanos(), memory("VmHWM"), report.records);
        }
        _ => compare(&runtime),
    }
    ExitCode::SUCCESS
}

fn compare(runtime: &Runtime) {
    let count = std::env::var("STAGEHOOK_BENCH_DEPLOYMENTS").map_or(20_000, |text| text.parse().unwrap());
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let empty = place(root.path(), "empty");
    drop(Ledger::open(&empty.join("ledger.db")).unwrap());
    let base = ask("--measure", &empty);
    for (shape, streams) in [("one stream", 1), ("1000 streams", 1000), ("a stream each", count)] {
        let folder = place(root.path(), shape);
        let began = Instant::now();
        runtime.block_on(fill(&folder, count, streams));
        let size = std::fs::metadata(folder.join("ledger.db")).unwrap().len() >> 20;
        println!("\n{count} deployments, {shape}: filled in {:.0?}, {size} MiB", began.elapsed());
        show(&ask("--measure", &folder), &base);
        tell("--verify", &folder);
        tell("--prune", &folder);
        tell("--verify", &folder);
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let folder = place(root.path(), "long");
    runtime.block_on(fill_one(&folder, LONG));
    println!("\none deployment of {LONG} records, not over:");
    show(&ask("--measure", &folder), &base);
}

fn show(measured: &[(String, u64)], base: &[(String, u64)]) {
    for (name, value) in measured {
        let of_empty = base.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value);
        let times = *value as f64 / of_empty as f64;
        println!("  {name:36} {} against {}, {times:.2} times", shown(name, *value), shown(name, of_empty));
    }
}

fn place(root: &Path, name: &str) -> PathBuf {
    let folder = root.join(name.replace(' ', "-"));
    std::fs::create_dir_all(folder.join("pipelines")).unwrap();
    std::fs::write(folder.join("pipelines/bench.yaml"), PIPELINE).unwrap();
    folder
}

fn shown(name: &str, value: u64) -> String {
    if name.starts_with("memory") {
        format!("{:.1} MiB", value as f64 / 1024.0)
    } else {
        format!("{:.3} ms", value as f64 / 1e6)
    }
}

/// Runs a process of its own, with a cache and a memory of its own.
fn tell(mode: &str, folder: &Path) {
    let output = Command::new("/proc/self/exe").arg(mode).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    print!("  {}", String::from_utf8_lossy(&output.stdout));
}

fn ask(mode: &str, folder: &Path) -> Vec<(String, u64)> {
    let output = Command::new("/proc/self/exe").arg(mode).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    text.lines().filter_map(pair).collect()
}

async fn fill(folder: &Path, count: usize, streams: usize) {
    let ledger = Ledger::open(&folder.join("ledger.db")).unwrap();
    // Ended long ago, one after the other.
    let at = clock::now() - SignedDuration::from_hours(24 * 2000);
    let each = count / streams;
    let mut waiting = Vec::new();
    for n in 0..streams {
        let mut filler = Filler::new(stream(&format!("app-{n}")), n as u64 + 1, at);
        for nth in 0..each {
            let state = if nth % 10 == 9 { EndState::RolledBack } else { EndState::Succeeded };
            filler.whole(&format!("v{nth}"), state);
            if nth % 500 == 499 || nth + 1 == each {
                waiting.push(ledger.append(filler.append()));
                filler.forget(8);
            }
            if waiting.len() >= 256 {
                for append in waiting.drain(..) {
                    append.await.unwrap();
                }
            }
        }
    }
    for append in waiting {
        append.await.unwrap();
    }
}

/// A failure that is told of for weeks.
async fn fill_one(folder: &Path, records: usize) {
    let ledger = Ledger::open(&folder.join("ledger.db")).unwrap();
    let mut filler = Filler::new(stream("app-0"), 1, clock::now() - SignedDuration::from_hours(24 * 60));
    let id = filler.open(Some("v1".parse().unwrap()), None);
    for _ in 0..records {
        filler.fact(Some(id), Event::Noted { message: "health check failed after 3m: timeout waiting for it".into() });
    }
    ledger.append(filler.append()).await.unwrap();
}

fn stream(name: &str) -> StreamId {
    StreamId { source: Source::Generic, application: format!("bench/{name}").parse().unwrap() }
}

async fn measure(folder: &Path) {
    let began = Instant::now();
    let engine = engine(folder, None).await;
    println!("start {}", began.elapsed().as_nanos());
    // What a service needs once to work at all is not the ledger's: one call for that, of a stream of its own.
    let began = Instant::now();
    call(&engine, "app-0").await;
    println!("first call, of a known stream {}", began.elapsed().as_nanos());
    let mut median = Median::default();
    for n in 0..200 {
        median.add(call(&engine, &format!("new-{n}")).await);
    }
    println!("call, of a new stream {}", median.get());
    let mut median = Median::default();
    for _ in 0..200 {
        median.add(call(&engine, "app-0").await);
    }
    println!("call, of a known stream {}", median.get());
    let application = Some(stream("app-0").application);
    for (name, application, state) in [
        ("list", None, None),
        ("list of an application", application.clone(), None),
        ("list of Succeeded", None, Some(State::Succeeded)),
        ("list of RolledBack", None, Some(State::RolledBack)),
        ("list of Abandoned", None, Some(State::Abandoned)),
        ("list of an application's RolledBack", application, Some(State::RolledBack)),
    ] {
        let query = ListQuery { application, state, limit: 50, cursor: None };
        let mut median = Median::default();
        for _ in 0..50 {
            let began = Instant::now();
            engine.ledger().list(&query).await.unwrap();
            median.add(began.elapsed());
        }
        println!("{name} {}", median.get());
    }
    let mut median = Median::default();
    for _ in 0..50 {
        let began = Instant::now();
        engine.ledger().counts().await.unwrap();
        median.add(began.elapsed());
    }
    println!("counts for the metrics {}", median.get());
    println!("memory, KiB {}", memory("VmRSS"));
}

/// Calls at a steady pace, without and with pruning beside them.
async fn prune(folder: &Path) {
    let alone = engine(folder, None).await;
    let mut quiet = Median::default();
    for n in 0..500 {
        quiet.add(call(&alone, &format!("quiet-{n}")).await);
    }
    drop(alone);
    let engine = engine(folder, Some(Duration::from_secs(24 * 60 * 60))).await;
    let began = Instant::now();
    let (mut busy, mut pruned, mut n, mut last) = (Median::default(), 0, 0, began);
    // A step that waits for the disk is followed by a pause that is as long as twice that.
    while last.elapsed() < Duration::from_secs(10) && began.elapsed() < PRUNING {
        busy.add(call(&engine, &format!("busy-{n}")).await);
        n += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = engine.gauges().pruned_deployments;
        if now != pruned {
            (pruned, last) = (now, Instant::now());
        }
    }
    println!(
        "pruned {pruned} in {:.1?}; a call takes {:.2?} (99 %: {:.2?}, longest {:.2?}) beside it, {:.2?} ({:.2?}, {:.2?}) alone",
        last - began,
        Duration::from_nanos(busy.get()),
        Duration::from_nanos(busy.at(0.99)),
        Duration::from_nanos(busy.at(1.0)),
        Duration::from_nanos(quiet.get()),
        Duration::from_nanos(quiet.at(0.99)),
        Duration::from_nanos(quiet.at(1.0)),
    );
}

/// A gate that is approved without a script: read, decided, committed, answered.
async fn call(engine: &Engine, name: &str) -> Duration {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let says = Says::Forward { revision: Some(format!("r{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()) };
    let call = Call::new(Source::Generic, Hook::Rollout, says, Payload::default(), About::default());
    let began = Instant::now();
    let told = engine.call(stream(name), call, Actor("bench".into()), None).await;
    assert!(matches!(&told, Told::Answer(answer) if answer.verdict == Verdict::Approved), "{told:?}");
    began.elapsed()
}

async fn engine(folder: &Path, retain: Option<Duration>) -> Engine {
    let (catalog, _) =
        Catalog::load(&folder.join("pipelines"), &Defaults { timeout: Span::from_secs(60), reserved: Vec::new() })
            .unwrap();
    let executor = executor::Settings {
        supervisor: PathBuf::from("/proc/self/exe"),
        work_dir: folder.join("work").into(),
        kill_grace: Duration::from_secs(1),
        output_limit: 1 << 20,
        confinement: executor::Confinement::default(),
    };
    // Without its sender the engine keeps the catalog that it was given.
    let (_, catalog) = watch::channel(Arc::new(catalog));
    let settings = engine::Settings {
        max_concurrent: 8,
        queue: 64,
        signal_timeout: Span::from_secs(120),
        stale_after: Duration::from_secs(24 * 60 * 60),
        retain,
        inherited: Vec::new(),
        observer: Arc::new(|_| {}),
        reporter: None,
        owner: Owner { instance: "bench".into(), boot: "bench".into() },
    };
    // The engine before may still be closing it.
    let ledger = Ledger::open(&folder.join("ledger.db")).unwrap();
    Engine::start(settings, ledger, Executor::new(executor, Arc::new(clock::now)), catalog).await.unwrap()
}

/// A line of this process's status, in KiB.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[derive(Default)]
struct Median(Vec<u64>);

impl Median {
    fn add(&mut self, took: Duration) {
        self.0.push(u64::try_from(took.as_nanos()).unwrap());
    }

    fn get(&mut self) -> u64 {
        self.at(0.5)
    }

    fn at(&mut self, part: f64) -> u64 {
        self.0.sort_unstable();
        self.0[((self.0.len() - 1) as f64 * part) as usize]
    }
}

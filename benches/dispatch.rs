//! What a dispatch costs beside the bare process that it starts, measured in one run so that the ratio means something.
//!
//! - `bare`: spawn and reap `/bin/sh -c :`, nothing else
//! - `executor`: the same command under its supervisor, with its environment, files, output and proof of death
//! - `engine`: a call that opens a deployment, is committed to a ledger on disk (four records, each durable before what
//!   follows it), runs the command and is answered
//!
//! It is no test: no number here makes a build fail. The ratios are printed as the last line.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't be set up has nothing to say")]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use stagehook::config::catalog::Catalog;
use stagehook::config::pipeline::Defaults;
use stagehook::domain::call::{Call, Says, Verdict};
use stagehook::domain::hook::Hook;
use stagehook::domain::names::{Source, StreamId};
use stagehook::domain::record::{About, Actor, Outcome, Owner, Payload};
use stagehook::domain::span::Span;
use stagehook::engine::{self, Engine, Told, clock};
use stagehook::executor::{self, Executor, Job};
use stagehook::ledger::Ledger;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const PIPELINE: &str = "\
apiVersion: stagehook.dev/v1
kind: Pipeline
metadata: {name: bench}
spec:
  selector: {namespace: bench}
  stages:
    - id: nothing
      name: SCRIPT_RUN
      hook: rollout
      with: {run: ':'}
";

fn main() -> ExitCode {
    // The executor starts this program again as the supervisor, as it does with the service.
    if let Some(code) = executor::supervisor::main_if_asked() {
        return code;
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let executor = executor(folder.path());
    let engine = runtime.block_on(engine(folder.path(), executor.clone()));

    let bare = measure(&mut criterion, "bare", spawn_and_reap);
    let run = measure(&mut criterion, "executor", || runtime.block_on(run(&executor)));
    let call = measure(&mut criterion, "engine", || runtime.block_on(call(&engine)));
    criterion.final_summary();
    // A filter or a listing may have left some out.
    if let (Some(bare), Some(run), Some(call)) = (bare, run, call) {
        println!(
            "dispatch: bare {:.2} ms; through the executor {:.2} ms, {:.1} times; through engine, ledger and executor \
             {:.2} ms, {:.1} times",
            bare * 1e3,
            run * 1e3,
            run / bare,
            call * 1e3,
            call / bare
        );
    }
    ExitCode::SUCCESS
}

/// Measures a routine; gives its mean in seconds, of the samples after the warm-up.
fn measure(criterion: &mut Criterion, name: &str, mut routine: impl FnMut()) -> Option<f64> {
    let samples = RefCell::new(Vec::new());
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            (0..iterations).for_each(|_| routine());
            let taken = start.elapsed();
            samples.borrow_mut().push(taken.as_secs_f64() / iterations as f64);
            taken
        });
    });
    let samples = samples.into_inner();
    let counted = samples.get(samples.len().saturating_sub(20)..)?;
    (!counted.is_empty()).then(|| counted.iter().sum::<f64>() / counted.len() as f64)
}

fn spawn_and_reap() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", ":"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
}

async fn run(executor: &Executor) {
    let job = Job {
        run: clock::mint(clock::now()).run(),
        shell: vec!["/bin/sh".into(), "-c".into()],
        commands: vec![":".into()],
        env: Vec::new(),
        not_told: Vec::new(),
        directory: "/".into(),
        timeout: Duration::from_secs(60),
        retries: 0,
        event: serde_json::Value::Null,
        outputs_of_earlier: serde_json::Value::Null,
        secret_values: Vec::new(),
    };
    let finished = executor.start(job).done.await.unwrap();
    assert_eq!(finished.ending.outcome, Outcome::Succeeded, "{}", finished.ending.message);
}

/// A call about an application of its own, so that no stream grows with the number of iterations.
async fn call(engine: &Engine) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("bench/app-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let stream = StreamId { source: Source::Generic, application: name.parse().unwrap() };
    let says = Says::Forward { revision: Some("v1".parse().unwrap()) };
    let call = Call::new(Source::Generic, Hook::Rollout, says, Payload::default(), About::default());
    let told = engine.call(stream, call, Actor("bench".into()), None).await;
    assert!(matches!(&told, Told::Answer(answer) if answer.verdict == Verdict::Approved), "{told:?}");
}

fn executor(folder: &Path) -> Executor {
    let settings = executor::Settings {
        supervisor: PathBuf::from("/proc/self/exe"),
        work_dir: folder.join("work").into(),
        kill_grace: Duration::from_secs(1),
        output_limit: 1 << 20,
        confinement: executor::Confinement::default(),
    };
    Executor::new(settings, Arc::new(clock::now))
}

async fn engine(folder: &Path, executor: Executor) -> Engine {
    let pipelines = folder.join("pipelines");
    std::fs::create_dir(&pipelines).unwrap();
    std::fs::write(pipelines.join("bench.yaml"), PIPELINE).unwrap();
    let (catalog, _) =
        Catalog::load(&pipelines, &Defaults { timeout: Span::from_secs(60), reserved: Vec::new() }).unwrap();
    // Without its sender the engine keeps the catalog that it was given.
    let (_, catalog) = watch::channel(Arc::new(catalog));
    let settings = engine::Settings {
        max_concurrent: 8,
        queue: 64,
        signal_timeout: Span::from_secs(120),
        stale_after: Duration::from_secs(24 * 60 * 60),
        retain: None,
        inherited: Vec::new(),
        observer: Arc::new(|_| {}),
        reporter: None,
        owner: Owner { instance: "bench".into(), boot: "bench".into() },
    };
    let ledger = Ledger::open(&folder.join("ledger.db")).unwrap();
    Engine::start(settings, ledger, executor, catalog).await.unwrap()
}

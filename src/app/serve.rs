//! `stagehook serve`: from the settings to the last answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connections;
use super::rotation::{InForce, Rotation};
use super::{logging, private, reporting};
use crate::config::reload::Reloader;
use crate::config::secret::Environment;
use crate::config::settings::{self, Secrets, Settings};
use crate::config::tls::Tls;
use crate::domain::names::Source;
use crate::domain::record::Owner;
use crate::engine::{self, Engine, clock};
use crate::executor::{self, Confinement, Executor, Places, WorkDir};
use crate::http::{self, Metrics};
use crate::ledger::Ledger;
use crate::source::loadtester::Commands;
use crate::source::render::Statuses;

/// The exit code of a service that did not start: what its settings name can't be used. (1 is an answer, and a
/// service that did not start has given none.)
const REFUSED: u8 = 2;

/// How long, at the very end, a thread may take that still works on files.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// Why the service did not start.
struct Refused(String);

/// Serves until SIGTERM or SIGINT. Exit code 0 after a drain; 2 where it did not start: settings or pipelines at
/// fault, a ledger in use, an address taken.
pub fn serve(config: Option<&Path>, environment: &Environment) -> ExitCode {
    let result = prepare(config, environment).and_then(|prepared| {
        logging::install(&prepared.settings.log);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Refused(format!("error: the runtime can't be started: {error}")))?;
        let outcome = runtime.block_on(run(prepared, config, environment));
        // What hangs in a file system, or removes a great deal, is not waited for: the next start takes it up.
        runtime.shutdown_timeout(LEFT_BEHIND);
        outcome
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused(why)) => {
            use std::io::Write as _;
            // Before there is a log, or in place of one: a person has to read this. Nobody can be
            // told when even this can't be written.
            let _ = writeln!(std::io::stderr(), "{why}");
            REFUSED.into()
        }
    }
}

/// All that was read before anything is started.
struct Prepared {
    settings: Settings,
    secrets: Secrets,
    tls: Option<Arc<rustls::ServerConfig>>,
    reloader: Reloader,
}

fn prepare(config: Option<&Path>, environment: &Environment) -> Result<Prepared, Refused> {
    let refused = |lines: Vec<String>| Refused(lines.join("\n"));
    let settings = Settings::load(config, environment)
        .map_err(|faults| refused(faults.iter().map(ToString::to_string).collect()))?;
    let secrets = settings
        .resolve(environment)
        .map_err(|errors| refused(errors.iter().map(|error| format!("error: {error}")).collect()))?;
    let tls = settings.server.tls.as_ref().map(Tls::load).transpose();
    let tls = tls.map_err(|error| Refused(format!("error: {error}")))?;
    let reloader = Reloader::open(&settings.pipelines, settings.pipeline_defaults())
        .map_err(|faults| refused(faults.iter().map(ToString::to_string).collect()))?;
    Ok(Prepared { settings, secrets, tls, reloader })
}

async fn run(prepared: Prepared, config: Option<&Path>, environment: &Environment) -> Result<(), Refused> {
    let Prepared { mut settings, secrets, tls, reloader } = prepared;
    let unavailable = |why: String| Refused(format!("error: {why}"));
    fit_connections(&mut settings).map_err(unavailable)?;
    // From the first moment on: a signal must not end the service without its drain.
    let mut signals = Signals::listen().map_err(|error| unavailable(format!("signals can't be handled: {error}")))?;
    // Before the recovery, which may take its time: what changes meanwhile must not wait for the next change.
    let reloader = Arc::new(reloader);
    follow(&reloader);
    let reporter = reporting::reporter(&settings, &secrets).map_err(unavailable)?;
    let (rotation, in_force) = Rotation::new(config, environment, &settings, &secrets, tls, reporter.clone());
    for diagnostic in reloader.status().diagnostics {
        tracing::warn!("{diagnostic}");
    }
    let ledger = Ledger::open(&settings.ledger.path).map_err(|error| unavailable(error.to_string()))?;
    // Before the engine, which takes up rollbacks: a service that can't be reached must not begin a script. Callers
    // that are faster than the recovery wait in the backlog. After the ledger, whose lock names the likelier cause.
    let listener = listen(settings.server.listen).await.map_err(unavailable)?;
    let address = listener.local_addr().map_err(|error| unavailable(error.to_string()))?;
    let metrics = Arc::new(Metrics::default());
    let (confinement, work_dir) = confinement(&settings, config)?;
    let mut engine_settings = engine_settings(&settings, environment, &metrics, &confinement);
    private::warn(&settings, &confinement);
    let executor = executor(&settings, confinement, work_dir).map_err(unavailable)?;
    engine_settings.reporter = reporter.map(|reporter| Arc::new(reporter) as _);
    // A script of the last life that can't be killed holds up the start for as long as it lives, and a great deal in
    // its folder for as long as that takes to remove, but neither holds up who stops the service. What the start may have begun by then is cut as by a crash: the next start knows what to do.
    let engine = tokio::select! {
        engine = Engine::start(engine_settings, ledger, executor, reloader.subscribe()) => engine.map_err(|why| {
            unavailable(format!("what the ledger {} holds can't be taken up: {why}", settings.ledger.path.display()))
        })?,
        () = signals.stop() => {
            tracing::info!("stopped before it had started: what the last life of the service left is as it was");
            return Ok(());
        }
    };
    watch_reloads(&reloader, &metrics);
    let http_settings = http_settings(&settings, &secrets, in_force);
    let scheme = if http_settings.tls.is_some() { "https" } else { "http" };
    let state = http::State::new(engine.clone(), http_settings, metrics, is_loopback(address));
    tracing::info!(%address, scheme, version = env!("CARGO_PKG_VERSION"), pipelines = reloader.current().len(), "listening");
    let (grace, kill_grace) = (settings.server.shutdown_grace.0, settings.execution.kill_grace.0);
    http::serve(listener, state, async {
        while let Asked::Reload = signals.next().await {
            let (reloader, rotation) = (Arc::clone(&reloader), Arc::clone(&rotation));
            // Reading files blocks. A panic in it is logged by the runtime; what was in force stays.
            let _ = tokio::task::spawn_blocking(move || {
                rotation.reload();
                reloader.reload()
            })
            .await;
        }
        tracing::info!("shutting down: nothing more is started");
        engine.drain(grace, kill_grace).await;
    })
    .await;
    tracing::info!("stopped");
    Ok(())
}

/// Makes room for connections, or takes as many as there is room for.
fn fit_connections(settings: &mut Settings) -> Result<(), String> {
    let files =
        executor::raise_open_files().map_err(|error| format!("the limit of open files can't be raised: {error}"))?;
    let wanted = settings.server.limits.max_connections;
    let allowed = connections::allowed(wanted, settings.execution.max_concurrent, files);
    if allowed < wanted {
        tracing::warn!(
            wanted,
            allowed,
            open_files = files,
            "server.maxConnections is lowered to what the limit of open files leaves beside scripts and the ledger; raise \
             the hard limit (LimitNOFILE=, ulimit -Hn), or set server.maxConnections"
        );
        settings.server.limits.max_connections = allowed;
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            format!("server.listen {address} is in use by another program; stop that one, or set another address")
        }
        ErrorKind::AddrNotAvailable => {
            format!("server.listen {address} is no address of this machine; 0.0.0.0 is every address that it has")
        }
        _ => format!("server.listen {address} can't be listened on: {error}"),
    })
}

/// Whom scripts run as, under which limits, and where their files are: checked before the first of them is taken up.
fn confinement(settings: &Settings, config: Option<&Path>) -> Result<(Confinement, WorkDir), Refused> {
    let refused = |faults: Vec<String>| {
        Refused(faults.iter().map(|fault| format!("error: {fault}")).collect::<Vec<_>>().join("\n"))
    };
    let execution = &settings.execution;
    let run_as = execution.run_as.as_ref().map(|run_as| (run_as.user.as_str(), run_as.group.as_deref()));
    let confinement = Confinement::find(run_as, execution.limits.entries()).map_err(|fault| refused(vec![fault]))?;
    confinement.is_permitted().map_err(refused)?;
    let places = Places {
        work_dir: &execution.work_dir,
        pipelines: &settings.pipelines,
        ledger: &settings.ledger.path,
        settings: config,
        secrets: &settings.secret_files(),
    };
    // Before anything is made in a folder that others can write to, and after: somebody may have been faster.
    confinement.has_its_places(places).map_err(refused)?;
    let work_dir = WorkDir::take(&execution.work_dir, &confinement)
        .map_err(|why| refused(vec![format!("{why} (this one's ledger is {})", settings.ledger.path.display())]))?;
    confinement.has_its_places(places).map_err(refused)?;
    Ok((confinement, work_dir))
}

fn executor(settings: &Settings, confinement: Confinement, work_dir: WorkDir) -> Result<Executor, String> {
    executor::become_subreaper().map_err(|error| format!("the service can't become a subreaper: {error}"))?;
    let execution = &settings.execution;
    let settings = executor::Settings {
        // Right even when the file was replaced by a newer version meanwhile.
        supervisor: "/proc/self/exe".into(),
        work_dir,
        kill_grace: execution.kill_grace.0,
        output_limit: usize::try_from(execution.output_limit).unwrap_or(usize::MAX),
        confinement,
    };
    Ok(Executor::new(settings, Arc::new(clock::now)))
}

fn engine_settings(
    settings: &Settings,
    environment: &Environment,
    metrics: &Arc<Metrics>,
    confinement: &Confinement,
) -> engine::Settings {
    let metrics = Arc::clone(metrics);
    let execution = &settings.execution;
    // Who it is, is told of the script's user, and not of the service's.
    let told = confinement.variables();
    let inherited = execution.inherit_env.iter().filter(|name| !told.iter().any(|(other, _)| other == name));
    let inherited = inherited.filter_map(|name| Some((name.clone(), environment.get(name)?.clone())));
    let told = told.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
    let inherited = inherited.chain(told).collect();
    engine::Settings {
        max_concurrent: execution.max_concurrent,
        queue: execution.queue,
        signal_timeout: settings.rollback.signal_timeout,
        stale_after: settings.stale_after.0,
        retain: settings.ledger.retain.map(|retain| retain.0),
        inherited,
        observer: Arc::new(move |ended| metrics.run_ended(ended.is_rollback, ended.outcome, ended.took)),
        reporter: None,
        owner: Owner { instance: instance(), boot: clock::mint(clock::now()).run().to_string() },
    }
}

fn instance() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn http_settings(settings: &Settings, secrets: &Secrets, in_force: InForce) -> http::Settings {
    let source = |(source, settings): (&Source, &settings::SourceSettings)| {
        let settings = http::SourceSettings {
            enabled: settings.enabled,
            respond_within: settings.respond_within.map(|span| span.0),
            max_body: usize::try_from(settings.max_body).unwrap_or(usize::MAX),
            statuses: Statuses { rejected: status(settings.rejected), pending: status(settings.pending) },
        };
        (*source, settings)
    };
    let sources = settings.sources.iter().map(source).collect();
    let limits = &settings.server.limits;
    let public_url = settings.server.public_url.clone();
    let github_reports = secrets.github_api.is_some();
    let commands = Commands {
        allow: settings.load_tester.allow.clone(),
        timeout: settings.load_tester.timeout,
        // Where the load tester runs them, too: where the service was started.
        directory: std::env::current_dir().map_or_else(|_| "/".to_owned(), |path| path.to_string_lossy().into_owned()),
    };
    http::Settings {
        sources,
        access: in_force.access,
        tls: in_force.tls,
        public_url,
        github_reports,
        commands,
        header_timeout: limits.header_timeout.0,
        body_timeout: limits.body_timeout.0,
        idle_timeout: limits.idle_timeout.0,
        write_timeout: limits.write_timeout.0,
        max_header: usize::try_from(limits.max_header).unwrap_or(usize::MAX),
        max_connections: limits.max_connections,
        ..http::Settings::default()
    }
}

/// A status that the settings have checked.
fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Loads the pipelines anew whenever their files change.
fn follow(reloader: &Arc<Reloader>) {
    let changes = reloader.watch();
    tokio::spawn(Arc::clone(reloader).follow(changes));
}

fn watch_reloads(reloader: &Reloader, metrics: &Arc<Metrics>) {
    let (mut status, metrics) = (reloader.subscribe_status(), Arc::clone(metrics));
    tokio::spawn(async move {
        loop {
            metrics.pipelines_reloaded(status.borrow_and_update().ok);
            if status.changed().await.is_err() {
                return;
            }
        }
    });
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

enum Asked {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the wish to stop alone; one to reload stays where it is.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

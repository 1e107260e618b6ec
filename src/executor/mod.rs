//! Runs one script to its proven end: process tree, timeout, attempts, output, masking.
//!
//! `run` walks the attempts and makes the [`Ending`]; `command` runs one command under a [`supervisor`],
//! which is this program again and proves that nothing of the command is left; `orphans` is for
//! supervisors that were killed themselves, and `tag` is what it knows their processes by. Both look through `proc`, which never
//! takes what it can't see for dead; `sight` shows at the start that nothing is hidden, `children` knows who is a child all the
//! same. `prepare`, `run_dir` and
//! [`environment`] are what a script finds when it starts (`work_dir` is where, `removal` takes away what it made of that),
//! `confinement` (`identity`, `places`, `limits`) what it may, `output`, `buffer`, `mask`, `last_line` and `outputs` what is kept
//! of it. Deliberately knows no ledger, no deployment and no rule about either.

mod buffer;
mod children;
mod command;
mod confinement;
pub mod environment;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
mod last_line;
mod limits;
mod mask;
mod open_files;
mod orphans;
mod output;
mod outputs;
mod places;
mod prepare;
mod proc;
mod removal;
mod run;
mod run_dir;
mod sight;
mod signal_name;
mod stop;
pub mod supervisor;
mod tag;
mod wire;
mod work_dir;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::buffer::{Piece, cut_line};
pub use self::confinement::Confinement;
pub use self::open_files::raise_open_files;
pub use self::orphans::{Leftover, become_subreaper, reap_adopted};
pub use self::output::OutputView;
use self::output::Recorder;
pub use self::places::Places;
use self::stop::Stops;
pub use self::stop::{StopKind, Stopper};
pub use self::work_dir::WorkDir;
use crate::domain::ids::RunId;
use crate::domain::pipeline::EnvValue;
use crate::domain::record::Ending;

/// The variable that marks every process of a run, its supervisor included. Beside it each carries a `tag`.
pub const MARKER: &str = "STAGEHOOK_RUN_ID";

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How every script is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This program, to be started as the supervisor. `/proc/self/exe` stays right when the file
    /// is replaced by a newer version.
    pub supervisor: PathBuf,
    /// Where the private folders of running scripts are.
    pub work_dir: WorkDir,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// The most that is kept of a run's output, in bytes.
    pub output_limit: usize,
    /// Whom scripts run as, and under which limits.
    pub confinement: Confinement,
}

/// One run, complete.
#[derive(Clone)]
pub struct Job {
    /// The run.
    pub run: RunId,
    /// The program and its leading arguments; a command's text is the last one.
    pub shell: Vec<String>,
    /// What runs: in order, stopping at the first that fails.
    pub commands: Vec<String>,
    /// The environment, complete; later entries win.
    pub env: Vec<(String, EnvValue)>,
    /// The variables that `env` has to do without, since a caller's text is too long for them.
    pub not_told: Vec<String>,
    /// The working directory; where it is gone, the nearest folder above it.
    pub directory: String,
    /// For all attempts together.
    pub timeout: Duration,
    /// How many attempts follow one that failed.
    pub retries: u32,
    /// The call's payload, for `STAGEHOOK_EVENT_FILE`.
    pub event: serde_json::Value,
    /// The outputs of the earlier stages, for `STAGEHOOK_OUTPUTS`.
    pub outputs_of_earlier: serde_json::Value,
    /// More to mask than what the environment refers to.
    pub secret_values: Vec<String>,
}

/// A run that goes on, whether or not anybody holds this.
#[derive(Debug)]
pub struct Running {
    /// Stops it.
    pub stopper: Stopper,
    /// Its output, live.
    pub output: OutputView,
    /// Its end; it comes when everything that it started is proven dead.
    pub done: JoinHandle<Finished>,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How.
    pub ending: Ending,
    /// The kept text of its output, as it is to be stored.
    pub output: Vec<u8>,
}

/// Runs scripts. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    settings: Arc<Settings>,
    clock: Clock,
}

impl Executor {
    /// An executor; nothing runs yet.
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self { settings: Arc::new(settings), clock }
    }

    /// Starts a run, in a task of its own on the current tokio runtime.
    pub fn start(&self, job: Job) -> Running {
        let (recorder, output) = Recorder::new(self.settings.output_limit);
        // A timeout beyond the clock's range is none.
        let (stops, stopper) = Stops::new(Instant::now().checked_add(job.timeout));
        let done = tokio::spawn(run::run(Arc::clone(&self.settings), Arc::clone(&self.clock), job, stops, recorder));
        Running { stopper, output, done }
    }

    /// Recovery: finds every process of these runs, kills them, and waits until none is left.
    /// Tells what it found; a run without a process is not in the answer. It is no error that they can't be looked for: it is
    /// told in the log, and looked again until that works.
    pub async fn prove_dead(&self, runs: &[RunId]) -> Vec<Leftover> {
        let user = self.settings.confinement.credentials().map(|credentials| credentials.uid);
        // What `runAs`, or the service's own user, was when they were started may be something else today.
        let settings = Arc::clone(&self.settings);
        let before = runs.iter().filter_map(|run| run_dir::owner(settings.work_dir.path(), *run));
        orphans::prove_dead(runs, user.into_iter().chain(before)).await
    }

    /// Removes what runs of an earlier life of the service left in the work folder. To be called
    /// once, at the start, after [`Executor::prove_dead`]. That takes as long as there is much, on a thread of its own,
    /// which goes on when nobody waits any more.
    pub async fn clean_work_dir(&self) -> io::Result<()> {
        let settings = Arc::clone(&self.settings);
        tokio::task::spawn_blocking(move || run_dir::clean(settings.work_dir.path())).await?
    }
}

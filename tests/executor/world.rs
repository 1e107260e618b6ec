//! A folder with an executor in it, and questions about processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, test_kill_process};
use serde_json::json;
use stagehook::domain::ids::{Mint, RunId};
use stagehook::executor::{Executor, Finished, Job, OutputView, Running, Settings};
use tempfile::TempDir;

/// A folder with an executor that works in it.
pub struct World {
    pub folder: TempDir,
    pub executor: Executor,
}

pub const SUPERVISOR: &str = env!("CARGO_BIN_EXE_stagehook");

pub fn executor_in(folder: &Path, kill_grace: Duration) -> Executor {
    let settings = Settings {
        supervisor: SUPERVISOR.into(),
        work_dir: folder.join("work").into(),
        kill_grace,
        output_limit: 64 * 1024,
        confinement: stagehook::executor::Confinement::default(),
    };
    Executor::new(settings, Arc::new(|| Timestamp::UNIX_EPOCH))
}

impl World {
    pub fn new() -> Self {
        Self::with_grace(Duration::from_millis(300))
    }

    pub fn with_grace(kill_grace: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let executor = executor_in(folder.path(), kill_grace);
        Self { folder, executor }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn job(&self, script: &str) -> Job {
        job(self.folder.path(), &[script])
    }

    pub fn start(&self, script: &str) -> Running {
        self.executor.start(self.job(script))
    }

    pub async fn run(&self, script: &str) -> Finished {
        self.finish(self.job(script)).await
    }

    pub async fn finish(&self, job: Job) -> Finished {
        let finished = self.executor.start(job).done.await.unwrap();
        // Nothing of a run is left on the disk either.
        let left: Vec<_> = std::fs::read_dir(self.path("work")).map(Iterator::collect).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
        finished
    }

    /// The processes that wrote their numbers into a file.
    pub fn pids(&self, file: &str) -> Vec<Pid> {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        text.split_whitespace().map(|word| Pid::from_raw(word.parse().unwrap()).unwrap()).collect()
    }

    pub fn assert_dead(&self, file: &str, count: usize) {
        let pids = self.pids(file);
        assert_eq!(pids.len(), count, "{pids:?}");
        for pid in pids {
            assert!(test_kill_process(pid).is_err(), "{pid:?} is alive");
        }
    }
}

pub fn run_id() -> RunId {
    Mint::new(Timestamp::UNIX_EPOCH, u128::from_le_bytes(random())).run()
}

pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub fn job(folder: &Path, commands: &[&str]) -> Job {
    Job {
        run: run_id(),
        shell: vec!["/bin/sh".into(), "-c".into()],
        commands: commands.iter().map(|&text| text.to_owned()).collect(),
        env: vec![],
        directory: folder.to_str().unwrap().into(),
        timeout: Duration::from_secs(60),
        retries: 0,
        event: json!({"phase": "Failed"}),
        not_told: Vec::new(),
        outputs_of_earlier: json!({"build": {"image": "a:1"}}),
        secret_values: vec![],
    }
}

pub fn text(finished: &Finished) -> String {
    String::from_utf8_lossy(&finished.output).into_owned()
}

/// Waits until the script has printed this.
pub async fn printed(output: &mut OutputView, text: &str) {
    while !String::from_utf8_lossy(&output.snapshot()).contains(text) {
        assert!(!output.ended(), "ended without {text:?}: {}", String::from_utf8_lossy(&output.snapshot()));
        output.changed().await;
    }
}

/// Gone, or a zombie.
pub fn is_dead(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

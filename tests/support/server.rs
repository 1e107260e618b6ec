//! One life of the server: its process, its address, its log.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::watch;

use super::poll::within;

/// The program under test: the one that was built for the tests, or another, so that the release is put to the test.
pub fn binary() -> String {
    std::env::var("STAGEHOOK_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_stagehook").to_owned())
}

/// A server that is running, or was.
pub struct Server {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
    log: Arc<Mutex<Vec<String>>>,
    lines: watch::Receiver<usize>,
    pub address: String,
}

impl Server {
    /// Waits until it listens; false where it ends before.
    pub async fn listens(&mut self) -> bool {
        let mut lines = self.lines.clone();
        let line = within("the server listens or ends", async {
            loop {
                lines.borrow_and_update();
                let found = self.log_with("listening").into_iter().next();
                if found.is_some() || lines.changed().await.is_err() {
                    return found.or_else(|| self.log_with("listening").into_iter().next());
                }
            }
        });
        let address = |line: String| {
            let in_text = || line.split_once("address=")?.1.split(' ').next().map(str::to_owned);
            Some(field(&line, "address").or_else(in_text).unwrap_or_else(|| panic!("no address in {line}")))
        };
        self.address = line.await.and_then(address).unwrap_or_default();
        !self.address.is_empty()
    }

    /// Starts the server, below a launcher if there is one, and waits for nothing.
    pub fn spawn(launcher: &[&str], config: &Path, folder: &Path, variables: &[(String, String)]) -> Self {
        let binary = binary();
        let mut words = launcher.iter().copied().chain([binary.as_str(), "serve"]);
        // There is always one: the server itself.
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .arg("--config")
            .arg(config)
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("E2E_DIR", folder)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (told, lines) = watch::channel(0);
        let (exited, exit) = watch::channel(None);
        let seen = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                seen.lock().unwrap().push(line);
                told.send_modify(|count| *count += 1);
            }
        });
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            exited.send_replace(Some(status));
        });
        Self { pid, exit, log, lines, address: String::new() }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Everything that it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The lines of the log that hold a text.
    pub fn log_with(&self, text: &str) -> Vec<String> {
        self.log().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// Waits for a log line that holds a text.
    pub async fn logged(&self, text: &str) -> String {
        self.logged_times(text, 1).await
    }

    /// Waits for the n-th log line that holds a text.
    pub async fn logged_times(&self, text: &str, times: usize) -> String {
        let mut lines = self.lines.clone();
        let wait = async {
            loop {
                lines.borrow_and_update();
                if let Some(line) = self.log_with(text).into_iter().nth(times - 1) {
                    return line;
                }
                if lines.changed().await.is_err() {
                    match self.log_with(text).into_iter().nth(times - 1) {
                        Some(line) => return line,
                        None => panic!("the server is gone and never logged {text:?}:\n{}", self.log().join("\n")),
                    }
                }
            }
        };
        within(&format!("{text:?} is logged"), wait).await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if self.exit.borrow().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for the end of the process.
    pub async fn exited(&self) -> ExitStatus {
        within("the server exits", self.ended()).await
    }

    /// Waits for the end of the process, however long it lives.
    pub async fn ended(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some).await.unwrap().unwrap()
    }

    /// Ends it the hard way, and does not return before it is gone.
    pub fn kill_and_wait(&self) {
        self.signal(Signal::KILL);
        let deadline = std::time::Instant::now() + super::poll::DEADLINE;
        while self.exit.borrow().is_none() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill_and_wait();
    }
}

/// A field of a JSON log line, at its top or under `fields`.
pub fn field(line: &str, name: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let value = line.get(name).or_else(|| line.get("fields")?.get(name))?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

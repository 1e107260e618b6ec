//! A folder with settings, pipelines and a ledger, and the server that works in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Client;
use super::poll::poll_until;
use super::server::Server;
use super::{Gate, journal, processes};

/// What the scripts of the tests run. A script notes its start, stops at its gate if there is one, fails if it is
/// told to, and notes its end. As long as it lives a file says so; it reports what lives beside it and must not: a
/// rollback beside a forward script of its deployment, or a stage beside itself.
const LIBRARY: &str = r#"
key=$STAGEHOOK_STAGE
[ "$SR_IS_ROLLBACK" = true ] && key=undo.$STAGEHOOK_STAGE
who="$key $SR_DEPLOYMENT_ID $STAGEHOOK_RUN_ID $STAGEHOOK_REVISION"
[ -e "$E2E_DIR/stubborn.$key" ] && trap '' TERM
echo "start $who" >> "$E2E_DIR/journal"
case $key in undo.*) kind=undo ;; *) kind=forward ;; esac
for other in "$E2E_DIR"/alive.*."$SR_DEPLOYMENT_ID"; do
  [ -s "$other" ] && read -r pid run its_kind its_key < "$other" || continue
  [ "$kind" = "$its_kind" ] && [ "$key" != "$its_key" ] && continue
  if tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qx "STAGEHOOK_RUN_ID=$run"; then
    echo "$who started beside $its_key ($run, process $pid)" >> "$E2E_DIR/violations"
  fi
done
alive=$E2E_DIR/alive.$STAGEHOOK_RUN_ID.$SR_DEPLOYMENT_ID
echo "$$ $STAGEHOOK_RUN_ID $kind $key" > "$alive"
if [ -e "$E2E_DIR/hang.$key" ]; then
  : > "$E2E_DIR/hangs.$key"
  exec sleep 60
fi
[ -e "$E2E_DIR/long.$key" ] && sleep 0.5
while [ -e "$E2E_DIR/hold.$key" ]; do sleep 0.01; done
if [ -p "$E2E_DIR/$key.in" ]; then
  echo $$ > "$E2E_DIR/$key.in"
  read -r _ < "$E2E_DIR/$key.out" || exit 99
fi
[ -e "$E2E_DIR/slow.$key" ] && sleep 0.04
if [ -e "$E2E_DIR/fail.$key" ]; then
  echo "$key says no"
  : > "$alive"
  exit 3
fi
echo "end $who" >> "$E2E_DIR/journal"
: > "$alive"
"#;

/// A server and everything that it touches.
pub struct World {
    folder: TempDir,
    settings: Value,
    /// What is in the server's environment, from its next start on.
    pub variables: Vec<(String, String)>,
    server: Option<Server>,
    launcher: &'static [&'static str],
    /// Where the server is, or was last: shared with callers that outlive one life of it.
    address: Arc<Mutex<String>>,
    /// Set by a test that leaves scripts behind on purpose.
    pub leaves_scripts: bool,
}

impl World {
    /// A folder with settings and no pipeline; nothing runs yet.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("stagehook-e2e-").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pipelines")).unwrap();
        std::fs::write(folder.path().join("library.sh"), LIBRARY).unwrap();
        let database = folder.path().join("data/stagehook.db");
        let settings = json!({
            "server": {"listen": "127.0.0.1:0"},
            "ledger": {"url": format!("sqlite://{}", database.display())},
            "pipelines": folder.path().join("pipelines"),
            "execution": {"inheritEnv": ["PATH", "E2E_DIR"], "killGrace": "300ms"},
            "log": {"format": "json"},
        });
        Self {
            folder,
            settings,
            variables: Vec::new(),
            server: None,
            launcher: &[],
            address: Arc::default(),
            leaves_scripts: false,
        }
    }

    /// The same with a setting, by its JSON pointer: `/server/shutdownGrace`.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.settings;
        for key in pointer.trim_start_matches('/').split('/') {
            if at.is_null() {
                *at = json!({});
            }
            at = &mut at[key];
        }
        *at = value;
        self
    }

    /// The same with a variable in the server's environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, each server started by another program.
    pub fn launched_by(mut self, launcher: &'static [&'static str]) -> Self {
        self.launcher = launcher;
        self
    }

    /// The same with a pipeline file.
    pub fn pipeline(self, file: &str, content: &Value) -> Self {
        self.write_pipeline(file, &content.to_string());
        self
    }

    /// The same, started.
    pub async fn started(mut self) -> Self {
        self.start().await;
        self
    }

    /// A started world with one pipeline for `test/podinfo`.
    pub async fn with_stages(stages: &[Value]) -> Self {
        Self::new().pipeline("podinfo.yaml", &super::pipelines::pipeline(stages)).started().await
    }

    pub async fn start(&mut self) {
        assert!(self.try_start().await, "it does not listen:\n{}", self.server().log().join("\n"));
    }

    /// Starts it; false where it ended before it listened.
    pub async fn try_start(&mut self) -> bool {
        self.spawn();
        let Some(server) = &mut self.server else { return false };
        let listens = server.listens().await;
        self.address.lock().unwrap().clone_from(&server.address);
        listens
    }

    /// Where the server is, also after a restart.
    pub fn address(&self) -> Arc<Mutex<String>> {
        self.address.clone()
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        let config = self.write_settings();
        self.server = Some(Server::spawn(self.launcher, &config, self.path(), &self.variables));
    }

    /// The settings' file, as the next start has it.
    pub fn write_settings(&self) -> PathBuf {
        let config = self.path().join("stagehook.yaml");
        std::fs::write(&config, self.settings.to_string()).unwrap();
        config
    }

    /// Keeps the ledger from being written until it is dropped: a decision that is made meanwhile stays in its
    /// commit, and holds its application's lock.
    pub fn hold_the_ledger(&self) -> rusqlite::Connection {
        let other = rusqlite::Connection::open(self.path().join("data/stagehook.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(&self.server().address)
    }

    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// Writes a pipeline file as a careful person does: at once.
    pub fn write_pipeline(&self, file: &str, content: &str) {
        let aside = self.path().join(format!("{file}.new"));
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(aside, self.path().join("pipelines").join(file)).unwrap();
    }

    pub fn remove_pipeline(&self, file: &str) {
        std::fs::remove_file(self.path().join("pipelines").join(file)).unwrap();
    }

    /// Puts a gate into the way of a script.
    pub fn gate(&self, key: &str) -> Gate {
        Gate::new(self.path(), key)
    }

    /// Makes a script fail from now on.
    pub fn fail(&self, key: &str) {
        self.write(&format!("fail.{key}"), "");
    }

    /// Makes a script succeed again.
    pub fn mend(&self, key: &str) {
        std::fs::remove_file(self.path().join(format!("fail.{key}"))).unwrap();
    }

    /// Makes a script ignore SIGTERM.
    pub fn make_stubborn(&self, key: &str) {
        self.write(&format!("stubborn.{key}"), "");
    }

    /// The keys of the scripts that started, in order.
    pub fn starts(&self) -> Vec<String> {
        journal::starts(self.path())
    }

    pub fn journal(&self) -> Vec<journal::Line> {
        journal::read(self.path())
    }

    /// Kills the server and waits until it and all its scripts are gone, as a supervisor of services would find it.
    pub async fn kill(&mut self) {
        let server = self.server.take().unwrap();
        server.signal(Signal::KILL);
        server.exited().await;
    }

    /// Kills the server and starts it again on the same ledger.
    pub async fn crash(&mut self) {
        self.kill().await;
        self.start().await;
    }

    /// Ends the server as it should end, and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Ends the server as it should end.
    pub async fn stop(&mut self) {
        let server = self.server.take().unwrap();
        server.signal(Signal::TERM);
        let status = server.exited().await;
        assert_eq!(status.code(), Some(0), "{}", server.log().join("\n"));
        let left = processes::of(self.path());
        assert!(left.is_empty(), "left behind after a drain: {left:?}");
    }

    /// Waits until a deployment is in a state, and gives it.
    pub async fn reaches(&self, deployment: &str, state: &str) -> Value {
        let client = self.client();
        poll_until(&format!("{deployment} is {state}"), || async {
            let found = client.deployment(deployment).await;
            (found["state"] == state).then_some(found)
        })
        .await
    }

    /// Runs the program's other commands.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(super::server::binary());
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("STAGEHOOK_CONFIG", self.path().join("stagehook.yaml"));
        if let Some(server) = &self.server {
            command.env("STAGEHOOK_SERVER", format!("http://{}", server.address));
        }
        command.output().unwrap()
    }

    /// Proves the ledger.
    #[track_caller]
    pub fn verify(&self) {
        let report = stagehook::ledger::verify(&self.path().join("data/stagehook.db"), None).unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if let Some(server) = self.server.take() {
            if failed {
                eprintln!("--- the server's log\n{}", server.log().join("\n"));
                eprintln!("--- the journal\n{}", self.read("journal"));
            }
            server.kill_and_wait();
        }
        // A supervisor kills its script when the server is gone; that takes it a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < deadline && !processes::of(self.path()).is_empty() {
            std::thread::yield_now();
        }
        let left = processes::kill_all_of(self.path());
        assert!(failed || self.leaves_scripts || left.is_empty(), "left behind: {left:?}");
    }
}

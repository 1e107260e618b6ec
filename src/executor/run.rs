//! One run: its attempts, each with its commands in order, and the ending that they make.
//!
//! Deliberately without processes of its own: `command` runs one and proves it dead.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::command::{self, CommandEnd};
use super::limits;
use super::output::Recorder;
use super::outputs::{self, Outputs};
use super::prepare::{self, Resolved};
use super::run_dir::RunDir;
use super::signal_name::signal_name;
use super::stop::{Cause, StopKind, Stops};
use super::wire::{Exit, Order, Report};
use super::{Clock, Finished, Job, MARKER, Settings};
use crate::domain::pipeline::EnvValue;
use crate::domain::record::{Attempt, Ending, Outcome};
use crate::domain::span::Span;
use crate::failpoint::{self, Point};

/// The longest value of `STAGEHOOK_OUTPUTS`: a variable may have 128 KiB on Linux, with its name.
const LONGEST_OUTPUTS: usize = 128 * 1024 - 64;

/// How many variables that a caller's text is too long for are named in a run's output.
const NAMES: usize = 16;

/// Runs a job to its end. It can't fail: whatever goes wrong is an ending.
pub async fn run(settings: Arc<Settings>, clock: Clock, job: Job, mut stops: Stops, mut output: Recorder) -> Finished {
    let mut ending = match attempts(&settings, &clock, job, &mut stops, &mut output).await {
        Ok(ending) => ending,
        Err(message) => {
            output.note(&format!("[stagehook] {message}"));
            Ending::plain(Outcome::Failed, message)
        }
    };
    let (text, digest, last_line) = output.finish();
    ending.output = Some(digest);
    ending.last_line = last_line;
    Finished { ending, output: text }
}

async fn attempts(
    settings: &Settings,
    clock: &Clock,
    job: Job,
    stops: &mut Stops,
    output: &mut Recorder,
) -> Result<Ending, String> {
    let job = Arc::new(job);
    let resolved = blocking({
        let job = Arc::clone(&job);
        move || prepare::resolve(&job.env, &job.secret_values)
    })
    .await?;
    output.mask(&resolved.secrets);
    let (outputs_of_earlier, left_out) = outputs_variable(&job);
    let mut walk = Walk { settings, clock, job, resolved, outputs_of_earlier, stops, output };
    if let Some(note) = left_out {
        walk.output.note(&format!("[stagehook] {note}"));
    }
    if !walk.job.not_told.is_empty() {
        let (told, more) = walk.job.not_told.split_at(walk.job.not_told.len().min(NAMES));
        let names = told.join(", ");
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        walk.output
            .note(&format!("[stagehook] what the caller sent is too long for {names}{more}; the event file has it"));
    }
    let mut all = Vec::new();
    let mut last = Ending::plain(Outcome::Failed, "");
    for number in 1..=walk.job.retries.saturating_add(1) {
        if let Some(cause) = walk.stops.now() {
            // Between two attempts, or before the first: nothing is alive.
            let (outcome, message) = walk.stopped(&cause);
            return Ok(Ending { outcome, message, attempts: all, ..last });
        }
        if number > 1 {
            walk.output.note(&format!("--- attempt {number} ---"));
        }
        walk.output.begin_attempt();
        let (attempt, outcome, outputs) = walk.attempt(number).await;
        last = Ending {
            outcome,
            exit_code: attempt.exit_code,
            signal: attempt.signal,
            message: attempt.message.clone(),
            last_line: String::new(),
            attempts: Vec::new(),
            output: None,
            outputs,
        };
        all.push(attempt);
        if outcome != Outcome::Failed {
            break;
        }
    }
    Ok(Ending { attempts: all, ..last })
}

struct Walk<'a> {
    settings: &'a Settings,
    clock: &'a Clock,
    job: Arc<Job>,
    resolved: Resolved,
    outputs_of_earlier: String,
    stops: &'a mut Stops,
    output: &'a mut Recorder,
}

/// How one command, and with it an attempt, ended.
struct Step {
    outcome: Outcome,
    exit: Option<Exit>,
    message: String,
}

impl Walk<'_> {
    async fn attempt(&mut self, number: u32) -> (Attempt, Outcome, BTreeMap<String, String>) {
        let started_at = (self.clock)();
        let (step, outputs) = match self.folder(number).await {
            Ok((dir, outputs_file)) => {
                let env = self.environment(number, &dir, &outputs_file);
                let step = self.commands(&env).await;
                (step, self.outputs(dir, outputs_file).await)
            }
            Err(message) => {
                self.output.note(&format!("[stagehook] {message}"));
                (Step { outcome: Outcome::Failed, exit: None, message }, BTreeMap::new())
            }
        };
        let finished_at = (self.clock)();
        let (exit_code, signal) = match step.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let message = self.resolved.secrets.mask_text(&step.message);
        (Attempt { started_at, finished_at, exit_code, signal, message }, step.outcome, outputs)
    }

    /// The attempt's folder, made anew, and the outputs file in it.
    async fn folder(&self, number: u32) -> Result<(RunDir, PathBuf), String> {
        let (job, work_dir) = (Arc::clone(&self.job), self.settings.work_dir.clone());
        let owner = self.settings.confinement.credentials().cloned();
        blocking(move || {
            failpoint::hit(Point::DirBefore);
            let made = RunDir::create(&work_dir, job.run, number, &job.event, owner.as_ref());
            failpoint::hit(Point::DirAfter);
            let dir = made.map_err(|error| {
                format!("the run's folder in {} could not be made: {error}", work_dir.path().display())
            })?;
            let outputs_file = dir.outputs();
            Ok((dir, outputs_file))
        })
        .await
    }

    /// What the attempt left in its outputs file. Its folder goes with that.
    async fn outputs(&mut self, dir: RunDir, outputs_file: PathBuf) -> BTreeMap<String, String> {
        let secrets = self.resolved.secrets.clone();
        let read = blocking(move || {
            let mut outputs = outputs::read(&outputs_file, &secrets);
            outputs.notes.extend(dir.remove().err());
            Ok(outputs)
        });
        let Outputs { values, notes } =
            read.await.unwrap_or_else(|why| Outputs { values: BTreeMap::new(), notes: vec![why] });
        for note in &notes {
            self.output.note(&format!("[stagehook] {note}"));
        }
        values
    }

    /// The commands in order, up to the first that does not succeed.
    async fn commands(&mut self, env: &[(Vec<u8>, Vec<u8>)]) -> Step {
        let job = Arc::clone(&self.job);
        let count = job.commands.len();
        let mut step = Step { outcome: Outcome::Succeeded, exit: None, message: "nothing to run".to_owned() };
        for (index, text) in job.commands.iter().enumerate() {
            if let Some(cause) = self.stops.now() {
                let (outcome, message) = self.stopped(&cause);
                return Step { outcome, message, ..step };
            }
            step = self.command(text, env).await;
            if step.outcome != Outcome::Succeeded {
                if step.exit.is_none() {
                    // Nothing else in the output tells why there is so little of it.
                    self.output.note(&format!("[stagehook] {}", step.message));
                }
                if count > 1 {
                    step.message.push_str(&format!(" (command {} of {count})", index + 1));
                }
                break;
            }
        }
        step
    }

    async fn command(&mut self, text: &str, env: &[(Vec<u8>, Vec<u8>)]) -> Step {
        let failed = |message: String| Step { outcome: Outcome::Failed, exit: None, message };
        let mut argv: Vec<Vec<u8>> = self.job.shell.iter().map(|part| part.clone().into_bytes()).collect();
        argv.push(text.as_bytes().to_vec());
        if argv.iter().any(|part| part.contains(&0)) {
            return failed("the script has a NUL byte, which no program's argument can hold".to_owned());
        }
        let wanted = Path::new(&self.job.directory);
        // Where a mount hangs, so does who looks: not on a thread that others need.
        let job = Arc::clone(&self.job);
        let directory = match blocking(move || Ok(prepare::nearest_directory(Path::new(&job.directory)))).await {
            Ok(directory) => directory,
            Err(why) => return failed(why),
        };
        if directory != wanted {
            self.output.note(&format!(
                "[stagehook] the working directory {} is gone; running in {}",
                wanted.display(),
                directory.display()
            ));
        }
        let order = Order {
            argv,
            env: env.to_vec(),
            directory: directory.into_os_string().into_encoded_bytes(),
            kill_grace: self.settings.kill_grace,
            credentials: self.settings.confinement.credentials().cloned(),
            limits: self.settings.confinement.limits().iter().map(|(limited, value)| (*limited, *value)).collect(),
        };
        let end = command::run(&self.settings.supervisor, self.job.run, &order, self.stops, self.output).await;
        match end {
            Ok(end) => self.judge(&order, end),
            Err(error) => failed(format!("the script's supervisor could not be run: {error}")),
        }
    }

    fn judge(&self, order: &Order, end: CommandEnd) -> Step {
        match (end.report, end.cause) {
            (Some(Report::NotStarted { errno }), _) => {
                Step { outcome: Outcome::Failed, exit: None, message: prepare::why_not_started(order, errno) }
            }
            // Stopped while it ran; had it ended before, its own end would be the truth.
            (Some(Report::Ended { exit, stopped: true, suspended, .. }), Some(cause)) => {
                let (outcome, mut message) = self.stopped(&cause);
                message.push_str(&match suspended {
                    0 => String::new(),
                    1 => "; 1 of its processes had been stopped by a signal (as SIGSTOP)".to_owned(),
                    n => format!("; {n} of its processes had been stopped by a signal (as SIGSTOP)"),
                });
                Step { outcome, exit: Some(exit), message }
            }
            // Its exit code is not its own: a trap that cleans up and exits 0 has not done what it was started for.
            (Some(Report::Ended { exit, stopped: true, .. }), None) => {
                let end = told(exit);
                let message = format!(
                    "its supervisor was told from outside to stop, by a signal, and stopped the script ({end})"
                );
                Step { outcome: Outcome::Failed, exit: Some(exit), message }
            }
            (Some(Report::Ended { exit, stopped: false, left_behind, .. }), _) => {
                let outcome = if exit == Exit::Code(0) { Outcome::Succeeded } else { Outcome::Failed };
                let mut message = told(exit);
                message.push_str(&self.limit_hit(exit));
                message.push_str(&match left_behind {
                    0 => String::new(),
                    1 => "; 1 process left behind was killed".to_owned(),
                    n => format!("; {n} processes left behind were killed"),
                });
                Step { outcome, exit: Some(exit), message }
            }
            (None, Some(cause)) => {
                let (outcome, message) = self.stopped(&cause);
                Step { outcome, exit: None, message }
            }
            (None, None) => {
                let message = format!(
                    "the script's supervisor was killed from outside (perhaps memory ran out); {} of the script's processes were \
                     then killed",
                    end.cleared
                );
                Step { outcome: Outcome::Failed, exit: None, message }
            }
        }
    }

    /// Which limit ended it, as far as that shows. A shell tells with 128 and the number that a signal ended what it ran.
    fn limit_hit(&self, exit: Exit) -> String {
        let told = match exit {
            Exit::Signal(signal) => limits::hit(self.settings.confinement.limits(), signal),
            Exit::Code(code) => limits::hit(self.settings.confinement.limits(), code - 128)
                .map(|hit| format!("as after{}, {hit}", signal_name(code - 128))),
        };
        told.map(|told| format!(": {told}")).unwrap_or_default()
    }

    fn stopped(&self, cause: &Cause) -> (Outcome, String) {
        let (outcome, message) = match cause {
            Cause::Timeout => (Outcome::TimedOut, format!("timed out after {}", Span(self.job.timeout))),
            Cause::Asked(StopKind::Cancelled(why)) => (Outcome::Cancelled, format!("cancelled: {why}")),
            Cause::Asked(StopKind::Interrupted(why)) => (Outcome::Interrupted, format!("interrupted: {why}")),
        };
        (outcome, self.resolved.secrets.mask_text(&message))
    }

    /// What the executor knows, then the job's own, which wins, then the marker, which nobody overrules.
    fn environment(&self, attempt: u32, dir: &RunDir, outputs_file: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
        let path = |path: PathBuf| path.into_os_string().into_encoded_bytes();
        let mut env: BTreeMap<String, Vec<u8>> = BTreeMap::from([
            ("STAGEHOOK_ATTEMPT".to_owned(), attempt.to_string().into_bytes()),
            ("STAGEHOOK_EVENT_FILE".to_owned(), path(dir.event())),
            ("STAGEHOOK_OUTPUT".to_owned(), path(outputs_file.to_path_buf())),
            ("STAGEHOOK_OUTPUTS".to_owned(), self.outputs_of_earlier.clone().into_bytes()),
        ]);
        env.extend(self.resolved.env.clone());
        env.insert(MARKER.to_owned(), self.job.run.to_string().into_bytes());
        env.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect()
    }
}

/// How a script ended, in words.
fn told(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}{}", signal_name(signal)),
    }
}

/// `STAGEHOOK_OUTPUTS`, and what is to be said where not all of it fits into a variable: scripts that left much must
/// not keep later ones, and those that undo them, from running. The stage's own stay longest.
fn outputs_variable(job: &Job) -> (String, Option<String>) {
    let mut text = job.outputs_of_earlier.to_string();
    let serde_json::Value::Object(stages) = &job.outputs_of_earlier else { return (text, None) };
    let mut stages = stages.clone();
    let own = job.env.iter().rev().find_map(|(name, value)| match value {
        EnvValue::Plain(stage) if name == "STAGEHOOK_STAGE" => Some(stage.as_str()),
        _ => None,
    });
    let mut left_out = Vec::new();
    while text.len() > LONGEST_OUTPUTS {
        let largest =
            stages.iter().max_by_key(|(stage, outputs)| (Some(stage.as_str()) != own, outputs.to_string().len()));
        let Some(stage) = largest.map(|(stage, _)| stage.clone()) else { break };
        stages.remove(&stage);
        left_out.push(stage);
        text = serde_json::Value::Object(stages.clone()).to_string();
    }
    let note = (!left_out.is_empty()).then(|| {
        format!(
            "STAGEHOOK_OUTPUTS is without the outputs of {}: together they would be longer than a variable can be",
            left_out.join(", ")
        )
    });
    (text, note)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| io::Error::other(error).to_string())?
}

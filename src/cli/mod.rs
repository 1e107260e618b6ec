//! The command line: the client commands over the API, and the offline ones over the files themselves.
//!
//! It is deliberately not the service: `serve` is only read here and handed up to `app` as
//! [`Invocation::Serve`]. It shares no code with `http` either; what both know is the API's documented JSON.
//!
//! In it: `args` (what can be typed), `client` (HTTP), `target` (which server, from arguments or settings), `trust` (HTTPS),
//! `deployments`, `show`, `logs`, `send`, `health` (client commands), `check`, `plan`, `webhooks`, `ledger`, `backup` (offline commands),
//! `local` (all that is read of settings and pipelines), `view` (the API's JSON), `text` (tables, times, escaping), `out` (standard output), `failure` (exit codes).

mod args;
mod backup;
mod check;
mod client;
mod deployments;
mod failure;
mod health;
mod ledger;
mod local;
mod logs;
mod out;
mod plan;
mod send;
mod show;
mod target;
mod text;
mod trust;
mod view;
mod webhooks;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jiff::Timestamp;

use args::{Args, Command, LedgerCommand};
use failure::Failure;
use out::Out;

/// What the program was asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the service.
    Serve {
        /// `--config` or `STAGEHOOK_CONFIG`.
        config: Option<PathBuf>,
    },
    /// Anything else: for [`run`].
    Task(Task),
}

/// A command that ends by itself.
#[derive(Debug)]
pub struct Task {
    config: Option<PathBuf>,
    command: Box<Command>,
}

/// What a command knows of the world around it.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The wall clock, for "3m ago" alone.
    pub now: fn() -> Timestamp,
    /// The environment variables; those that are not UTF-8 are left out.
    pub variables: BTreeMap<String, String>,
    /// Whether standard output is a terminal.
    pub terminal: bool,
}

impl Environment {
    /// A variable; an empty one counts as not set.
    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Reads the arguments, the program's own name first. Help and usage errors are printed here; the error is the
/// exit code to leave with.
pub fn parse<I>(arguments: I, environment: &Environment) -> Result<Invocation, ExitCode>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let args = Args::try_parse_from(arguments).map_err(|error| {
        // Nobody is left to tell that the terminal is gone.
        let _ = error.print();
        if error.use_stderr() { failure::USAGE.into() } else { ExitCode::SUCCESS }
    })?;
    let config = args.config.or_else(|| environment.variable("STAGEHOOK_CONFIG").map(PathBuf::from));
    Ok(match args.command {
        Command::Serve => Invocation::Serve { config },
        command => Invocation::Task(Task { config, command: Box::new(command) }),
    })
}

/// Runs a command to its end. Reasons go to standard error, one line each.
pub fn run(task: Task, environment: &Environment) -> ExitCode {
    let mut out = Out::stdout(environment.terminal);
    let result = dispatch(task, environment, &mut out).and_then(|()| out.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was shown before the failure belongs before it; a second fault adds nothing.
            let _ = out.flush();
            if let Some(reason) = failure.reason() {
                out::complain(&reason);
            }
            failure.code().into()
        }
    }
}

fn dispatch(task: Task, environment: &Environment, out: &mut Out) -> Result<(), Failure> {
    let config = task.config.as_deref();
    let target = |server| target::Target::new(server, config, environment);
    match *task.command {
        // `parse` has handed it up already.
        Command::Serve => Err(Failure::Usage("serve is not a task".into())),
        Command::Check(args) => check::check(&args, config, environment, out),
        Command::Schema => check::schema(out),
        Command::Plan(args) => plan::plan(&args, config, environment, out),
        Command::Webhooks(args) => webhooks::webhooks(&args, config, environment, out),
        Command::Ledger(LedgerCommand::Verify(args)) => ledger::verify(&args, config, environment, out),
        Command::Ledger(LedgerCommand::Head(args)) => ledger::head(&args, config, environment, out),
        Command::Ledger(LedgerCommand::Backup(args)) => block_on(backup::backup(&args, config, environment, out)),
        Command::Send(args) => block_on(send::send(&args, &target(&args.server)?, out)),
        Command::Deployments(args) => block_on(deployments::list(&args, &target(&args.server)?, environment, out)),
        Command::Show(args) => block_on(show::show(&args, &target(&args.server)?, environment, out)),
        Command::Logs(args) => block_on(logs::logs(&args, &target(&args.server)?, out)),
        Command::Rollback(args) => {
            let target = target(&args.change.server)?;
            block_on(deployments::change(&args.change, "rollback", args.now, &target, out))
        }
        Command::Cancel(args) => block_on(deployments::cancel(&args, &target(&args.server)?, out)),
        Command::Close(args) => block_on(deployments::change(&args, "close", false, &target(&args.server)?, out)),
        Command::Release(args) => block_on(deployments::change(&args, "release", false, &target(&args.server)?, out)),
        Command::Health(args) => block_on(health::health(&args, &target(&args.server)?, out)),
    }
}

fn block_on(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("the program can't start its runtime: {error}")))?;
    let outcome = runtime.block_on(future);
    // A backup that was broken off is not waited for; nothing else leaves work behind.
    runtime.shutdown_background();
    outcome
}

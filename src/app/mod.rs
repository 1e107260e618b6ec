//! The program: arguments → settings → ledger → engine → server → drain, in a straight line.
//!
//! Whatever can be decided elsewhere is; here the parts are only put together.

mod access;
mod connections;
mod logging;
mod private;
mod reporting;
mod rotation;
mod serve;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use crate::cli::{self, Environment, Invocation};
use crate::engine::clock;

/// Runs the program with the process's own arguments and environment.
pub fn main() -> ExitCode {
    let environment = Environment {
        now: clock::now,
        variables: crate::config::environment(),
        terminal: std::io::stdout().is_terminal(),
    };
    match cli::parse(std::env::args_os(), &environment) {
        Ok(Invocation::Serve { config }) => serve::serve(config.as_deref(), &environment.variables),
        Ok(Invocation::Task(task)) => cli::run(task, &environment),
        Err(code) => code,
    }
}

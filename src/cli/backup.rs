//! `ledger backup`: a proven copy of the ledger, with or without a service running on it.

use std::path::Path;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::ledger::{self, BackupError, Hold};

use super::Environment;
use super::args::{BackupArgs, Output};
use super::failure::Failure;
use super::local;
use super::out::Out;
use super::text::{count, escape};

/// Copies it. Broken off by a signal, it leaves nothing behind.
pub(super) async fn backup(
    args: &BackupArgs,
    config: Option<&Path>,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let source = local::ledger(config, environment)?;
    let watch = |kind| signal(kind).map_err(|error| Failure::Usage(format!("signals can't be handled: {error}")));
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let (from, to, replace) = (source.clone(), args.file.clone(), args.force);
    let hold = Hold::default();
    let held = hold.clone();
    let mut work = tokio::task::spawn_blocking(move || ledger::backup(&from, &to, replace, &held));
    let outcome = tokio::select! {
        outcome = &mut work => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        // The thread that copies is not waited for: it may be in the middle of proving gigabytes. It ends with the process.
        None if hold.break_off() => {
            return Err(Failure::No(format!("broken off; {} was not written", args.file.display())));
        }
        // It has its name, and the rest is short.
        None => work.await,
    };
    let outcome = outcome.map_err(|error| Failure::Usage(format!("the backup came to no end: {error}")))?;
    let made = match outcome {
        Ok(made) => made,
        Err(error @ BackupError::Unsound(_)) => {
            if let BackupError::Unsound(report) = &error {
                for finding in &report.findings {
                    out.line(escape(&finding.to_string()))?;
                }
            }
            return Err(Failure::No(error.to_string()));
        }
        Err(error) => return Err(Failure::Usage(error.to_string())),
    };
    let report = &made.report;
    if args.output == Output::Json {
        return out.json(&json!({
            "file": args.file.display().to_string(),
            "bytes": made.bytes,
            "streams": report.streams,
            "records": report.records,
            "pipelines": report.pipelines,
            "outputs": report.outputs,
            "head": made.head,
        }));
    }
    out.line(format!(
        "{}: {} in {}, {}, {}; sound ({} bytes, of {})",
        args.file.display(),
        count(report.records, "record"),
        count(report.streams, "stream"),
        count(report.pipelines, "pipeline"),
        count(report.outputs, "output"),
        made.bytes,
        source.display()
    ))?;
    out.line(format!("digest {}", made.head.digest))
}

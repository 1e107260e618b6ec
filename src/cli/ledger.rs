//! `ledger verify` and `ledger head`: proofs over the file itself, with or without a service running on it.

use std::path::Path;

use crate::ledger::{self, Head, VerifyError};

use super::Environment;
use super::args::{HeadArgs, Output, VerifyArgs};
use super::failure::Failure;
use super::local;
use super::out::Out;
use super::text::{Table, count, escape};

/// Checks every record against its hash; a finding is exit code 1.
pub(super) fn verify(
    args: &VerifyArgs,
    config: Option<&Path>,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let path = local::ledger(config, environment)?;
    let against = args.against.as_deref().map(earlier).transpose()?;
    let report = ledger::verify(&path, against.as_ref()).map_err(|error| unusable(&error))?;
    if args.output == Output::Json {
        out.json(&report)?;
    } else {
        for finding in &report.findings {
            out.line(escape(&finding.to_string()))?;
        }
        if let [first, ..] = report.not_compared.as_slice() {
            let streams = count(report.not_compared.len() as u64, "stream");
            out.line(escape(&format!(
                "not compared with the earlier head, whose record was pruned since: {streams} ({first}{})",
                if report.not_compared.len() > 1 { ", …" } else { "" }
            )))?;
        }
        let found = if report.is_sound() { "sound".to_owned() } else { count(report.findings.len() as u64, "finding") };
        out.line(format!(
            "{found}: {} in {}, {}, {} ({})",
            count(report.records, "record"),
            count(report.streams, "stream"),
            count(report.pipelines, "pipeline"),
            count(report.outputs, "output"),
            path.display()
        ))?;
    }
    if report.is_sound() { Ok(()) } else { Err(Failure::Said) }
}

/// Prints where every stream ends.
pub(super) fn head(
    args: &HeadArgs,
    config: Option<&Path>,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let path = local::ledger(config, environment)?;
    let head = ledger::head(&path).map_err(|error| unusable(&error))?;
    if args.output == Output::Json {
        return out.json(&head);
    }
    let mut table = Table::new(&["STREAM", "RECORDS", "HASH"]);
    for stream in &head.streams {
        table.row([&stream.stream, &stream.seq.to_string(), &stream.hash]);
    }
    table.lines(0).into_iter().try_for_each(|line| out.line(line))?;
    out.line(format!("digest {}", head.digest))
}

fn earlier(path: &Path) -> Result<Head, Failure> {
    let refused = |why: String| Failure::Usage(format!("{} is no earlier `ledger head`: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let head: Head = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    if head.is_whole() { Ok(head) } else { Err(refused("it was changed or cut".into())) }
}

fn unusable(error: &VerifyError) -> Failure {
    Failure::Usage(error.to_string())
}

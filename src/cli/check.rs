//! `check` and `schema`: what is wrong with the settings and the pipelines, and what an editor can know of it before.

use std::path::Path;

use serde_json::json;

use crate::config;
use crate::config::diagnostic::Diagnostic;

use super::Environment;
use super::args::{CheckArgs, Output};
use super::failure::Failure;
use super::local::{self, Checked};
use super::out::Out;
use super::text;

/// Prints every diagnostic; an error among them is exit code 2.
pub(super) fn check(
    args: &CheckArgs,
    config: Option<&Path>,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let checked = local::check(config, environment);
    let errors = checked.errors();
    match args.output {
        Output::Text => print(&checked, errors, out)?,
        Output::Json => out.json(&json!({
            "diagnostics": checked.diagnostics.iter().map(as_json).collect::<Vec<_>>(),
            "pipelines": checked.pipelines,
            "errors": errors,
            "warnings": checked.diagnostics.len() - errors,
        }))?,
    }
    if errors > 0 { Err(Failure::UsageSaid) } else { Ok(()) }
}

fn print(checked: &Checked, errors: usize, out: &mut Out) -> Result<(), Failure> {
    for diagnostic in &checked.diagnostics {
        out.line(text::escape_lines(&diagnostic.to_string()))?;
    }
    let warnings = checked.diagnostics.len() - errors;
    out.line(format!(
        "{}, {}, {}",
        text::count(checked.pipelines as u64, "pipeline"),
        text::count(errors as u64, "error"),
        text::count(warnings as u64, "warning")
    ))
}

/// What has no place is null, and never a line 0.
fn as_json(diagnostic: &Diagnostic) -> serde_json::Value {
    let placed = diagnostic.line > 0;
    json!({
        "severity": diagnostic.severity.as_str(),
        "file": (!diagnostic.file.is_empty()).then_some(&diagnostic.file),
        "line": placed.then_some(diagnostic.line),
        "column": placed.then_some(diagnostic.column),
        "message": diagnostic.message,
        "hint": diagnostic.hint,
    })
}

/// Prints the JSON Schema of pipeline files.
pub(super) fn schema(out: &mut Out) -> Result<(), Failure> {
    out.json(&config::schema::schema())
}

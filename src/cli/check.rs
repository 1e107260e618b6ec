//! `check` and `schema`: what is wrong with the settings and the pipelines, and what an editor can know of it before.

use std::path::Path;

use crate::config;

use super::Environment;
use super::failure::Failure;
use super::local;
use super::out::Out;
use super::text;

/// Prints every diagnostic; an error among them is exit code 2.
pub(super) fn check(config: Option<&Path>, environment: &Environment, out: &mut Out) -> Result<(), Failure> {
    let checked = local::check(config, environment);
    for diagnostic in &checked.diagnostics {
        out.line(text::escape_lines(diagnostic))?;
    }
    let warnings = checked.diagnostics.len() - checked.errors;
    out.line(format!(
        "{}, {}, {}",
        text::count(checked.pipelines as u64, "pipeline"),
        text::count(checked.errors as u64, "error"),
        text::count(warnings as u64, "warning")
    ))?;
    if checked.errors > 0 { Err(Failure::UsageSaid) } else { Ok(()) }
}

/// Prints the JSON Schema of pipeline files.
pub(super) fn schema(out: &mut Out) -> Result<(), Failure> {
    out.json(&config::schema::schema())
}

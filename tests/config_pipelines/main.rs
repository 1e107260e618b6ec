//! Pipeline files as people write them, and every fault with its place.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in the helpers of tests, too, a surprise is a failure")]

mod catalog;
mod faults;
mod github;
mod reading;

use stagehook::config::catalog::Catalog;
use stagehook::config::diagnostic::Diagnostic;
use stagehook::config::pipeline::Defaults;
use stagehook::domain::pipeline::Pipeline;
use stagehook::domain::span::Span;
use tempfile::TempDir;

const DEFAULTS: Defaults = Defaults { timeout: Span::from_secs(3600), reserved: Vec::new() };

/// A directory with these files; it goes away with the value.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(text: &str) -> Result<(Catalog, Vec<Diagnostic>), Vec<Diagnostic>> {
    Catalog::load(folder(&[("a.yaml", text.as_bytes())]).path(), &DEFAULTS)
}

fn one(text: &str) -> Pipeline {
    let (catalog, warnings) = load(text).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(warnings, [], "{text}");
    catalog.pipelines().next().unwrap().pipeline.as_ref().clone()
}

/// `line:column message; hint` of every fault.
fn faults(text: &str) -> Vec<String> {
    shown(&load(text).expect_err(text))
}

fn shown(faults: &[Diagnostic]) -> Vec<String> {
    let line = |fault: &Diagnostic| {
        let hint = fault.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", fault.line, fault.column, fault.message)
    };
    faults.iter().map(line).collect()
}

/// A native file whose stages begin in line 6.
fn native(stages: &str) -> String {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: a}}\nspec:\n  selector: {{name: a}}\n  stages:\n{stages}"
    )
}

/// A native file with one SCRIPT_RUN stage on a hook; what is `with` begins in line 11, column 9.
fn script(hook: &str, with: &str) -> String {
    native(&format!("    - id: s\n      name: SCRIPT_RUN\n      hook: {hook}\n      with:\n{with}"))
}

/// A PipeCD file whose stages begin in line 7.
fn pipecd(stages: &str) -> String {
    format!("apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  name: a\n  pipeline:\n    stages:\n{stages}")
}

fn only_script(pipeline: &Pipeline) -> &stagehook::domain::pipeline::Script {
    pipeline.stages[0].script().unwrap()
}

/// A file and all of its faults.
fn expect(text: &str, expected: &[&str]) {
    let found = faults(text);
    let matches = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(matches, "{text}\nfound {found:#?}\nexpected {expected:#?}");
}

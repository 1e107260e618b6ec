//! Pipelines that follow their files.
#![expect(clippy::unwrap_used, reason = "in the helpers of tests, too, a surprise is a failure")]

use std::path::Path;
use std::sync::Arc;

use stagehook::config::pipeline::Defaults;
use stagehook::config::reload::{Reloader, watch};
use stagehook::domain::names::Source;
use stagehook::domain::span::Span;
use tempfile::TempDir;

const DEFAULTS: Defaults = Defaults { timeout: Span::from_secs(3600) };

fn pipeline(name: &str) -> String {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec: {{selector: {{}}, stages: []}}\n"
    )
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), pipeline("one")).unwrap();
    folder
}

fn in_force(reloader: &Reloader) -> String {
    let application = "test/podinfo".parse().unwrap();
    reloader.current().select(Source::Generic, &application).unwrap().pipeline.name.clone()
}

#[test]
fn a_bad_reload_changes_nothing_and_a_good_one_repairs_it() {
    let folder = folder();
    let reloader = Reloader::open(folder.path(), DEFAULTS).unwrap();
    let file = folder.path().join("a.yaml");
    let catalogs = reloader.subscribe();

    std::fs::write(&file, "apiVersion: wrong\n").unwrap();
    assert!(!reloader.reload());
    assert_eq!(in_force(&reloader), "one");
    assert!(!catalogs.has_changed().unwrap());
    let status = reloader.status();
    assert_eq!((status.ok, status.succeeded, status.failed, status.diagnostics.len()), (false, 1, 1, 1));

    std::fs::write(&file, pipeline("two")).unwrap();
    assert!(reloader.reload());
    assert_eq!(in_force(&reloader), "two");
    let status = reloader.status();
    assert_eq!((status.ok, status.succeeded, status.failed, status.diagnostics.len()), (true, 2, 1, 0));
}

#[test]
fn the_first_load_must_be_good() {
    let folder = folder();
    std::fs::write(folder.path().join("b.yaml"), "apiVersion: wrong\n").unwrap();
    assert_eq!(Reloader::open(folder.path(), DEFAULTS).unwrap_err().len(), 1);
}

/// Follows a directory, makes a change and waits until the pipeline `two` is in force.
async fn follows(directory: &Path, change: impl FnOnce()) -> Arc<Reloader> {
    let reloader = Arc::new(Reloader::open(directory, DEFAULTS).unwrap());
    assert_eq!(in_force(&reloader), "one");
    let mut status = reloader.subscribe_status();
    let following = tokio::spawn(Arc::clone(&reloader).follow(watch(directory).unwrap()));
    change();
    status.wait_for(|status| status.succeeded > 1).await.unwrap();
    assert_eq!(in_force(&reloader), "two");
    following.abort();
    reloader
}

#[tokio::test]
async fn a_changed_file_is_seen() {
    let folder = folder();
    follows(folder.path(), || std::fs::write(folder.path().join("a.yaml"), pipeline("two")).unwrap()).await;
}

/// As the kubelet does: `a.yaml` → `..data/a.yaml`, `..data` → `..one`, and the latter is replaced in one step.
#[tokio::test]
async fn a_swapped_config_map_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        std::fs::create_dir(at(&format!("..{name}"))).unwrap();
        std::fs::write(at(&format!("..{name}/a.yaml")), pipeline(name)).unwrap();
    }
    std::os::unix::fs::symlink("..one", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let reloader = follows(folder.path(), || {
        std::os::unix::fs::symlink("..two", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    })
    .await;
    let selected = reloader.current().pipelines().next().unwrap().pipeline.clone();
    assert_eq!(Path::new(&selected.directory), folder.path(), "scripts run beside the link, not in what it leads to");
}

//! Pipelines that follow their files.
#![expect(clippy::unwrap_used, reason = "in the helpers of tests, too, a surprise is a failure")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stagehook::config::pipeline::Defaults;
use stagehook::config::reload::Reloader;
use stagehook::domain::names::Source;
use stagehook::domain::span::Span;
use tempfile::TempDir;

const DEFAULTS: Defaults = Defaults { timeout: Span::from_secs(3600), reserved: Vec::new() };

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

/// Not for ever: a change that is not seen is a failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until a pipeline is in force.
async fn reaches(reloader: &Reloader, name: &str) {
    let mut status = reloader.subscribe_status();
    let reached = status.wait_for(|_| in_force(reloader) == name);
    let reached = tokio::time::timeout(DEADLINE, reached).await;
    assert!(reached.is_ok_and(|status| status.is_ok()), "{name:?} is not in force but {:?}", in_force(reloader));
}

/// Follows a directory, makes a change and waits until the pipeline `two` is in force.
async fn follows(directory: &Path, change: impl FnOnce()) -> Arc<Reloader> {
    let reloader = Arc::new(Reloader::open(directory, DEFAULTS).unwrap());
    assert_eq!(in_force(&reloader), "one");
    let following = tokio::spawn(Arc::clone(&reloader).follow(reloader.watch()));
    change();
    reaches(&reloader, "two").await;
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
    symlink("..one", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let reloader = follows(folder.path(), || {
        symlink("..two", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    })
    .await;
    let selected = reloader.current().pipelines().next().unwrap().pipeline.clone();
    assert_eq!(Path::new(&selected.directory), folder.path(), "scripts run beside the link, not in what it leads to");
}

/// Three directories, each with a pipeline of its own name.
fn revisions() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two", "three"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("a.yaml"), pipeline(name)).unwrap();
    }
    folder
}

/// As git-sync does: `link` → `one`, and the link is replaced in one step; again and again.
#[tokio::test]
async fn a_replaced_link_to_the_directory_is_seen_each_time() {
    let folder = revisions();
    let at = |name: &str| folder.path().join(name);
    let point = |name: &str| {
        symlink(name, at("next")).unwrap();
        std::fs::rename(at("next"), at("link")).unwrap();
    };
    point("one");
    let reloader = Arc::new(Reloader::open(at("link"), DEFAULTS).unwrap());
    tokio::spawn(Arc::clone(&reloader).follow(reloader.watch()));
    for name in ["two", "three", "one"] {
        point(name);
        reaches(&reloader, name).await;
    }
    std::fs::write(at("one/a.yaml"), pipeline("edited")).unwrap();
    reaches(&reloader, "edited").await;
}

#[tokio::test]
async fn a_link_above_the_directory_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        std::fs::create_dir_all(at(&format!("{name}/config/pipelines"))).unwrap();
        std::fs::write(at(&format!("{name}/config/pipelines/a.yaml")), pipeline(name)).unwrap();
    }
    symlink("one", at("link")).unwrap();
    follows(&at("link/config/pipelines"), || {
        symlink(at("two"), at("next")).unwrap();
        std::fs::rename(at("next"), at("link")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_replaced_directory_is_seen_each_time() {
    let folder = revisions();
    let at = |name: &str| folder.path().join(name);
    std::fs::rename(at("one"), at("p")).unwrap();
    let reloader = Arc::new(Reloader::open(at("p"), DEFAULTS).unwrap());
    tokio::spawn(Arc::clone(&reloader).follow(reloader.watch()));
    for name in ["two", "three"] {
        std::fs::rename(at("p"), at(&format!("before-{name}"))).unwrap();
        std::fs::rename(at(name), at("p")).unwrap();
        reaches(&reloader, name).await;
    }
    // Gone for so long that a reload finds nothing there.
    let mut status = reloader.subscribe_status();
    std::fs::rename(at("p"), at("gone")).unwrap();
    tokio::time::timeout(DEADLINE, status.wait_for(|status| !status.ok)).await.unwrap().unwrap();
    assert_eq!(in_force(&reloader), "three");
    std::fs::rename(at("before-three"), at("p")).unwrap();
    reaches(&reloader, "two").await;
}

#[tokio::test]
async fn a_file_behind_a_link_is_followed_to_where_it_is() {
    let folder = revisions();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("p")).unwrap();
    symlink("../one/a.yaml", at("p/a.yaml")).unwrap();
    follows(&at("p"), || std::fs::write(at("one/a.yaml"), pipeline("two")).unwrap()).await;
}

/// A reload that was asked for (SIGHUP) sets the watches anew as well: a folder further up that is renamed is not seen.
#[tokio::test]
async fn after_a_reload_by_hand_the_files_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        std::fs::create_dir_all(at(&format!("{name}/config/pipelines"))).unwrap();
        std::fs::write(at(&format!("{name}/config/pipelines/a.yaml")), pipeline(name)).unwrap();
    }
    let directory = at("one/config/pipelines");
    let reloader = Arc::new(Reloader::open(&directory, DEFAULTS).unwrap());
    tokio::spawn(Arc::clone(&reloader).follow(reloader.watch()));
    std::fs::rename(at("one"), at("before")).unwrap();
    std::fs::rename(at("two"), at("one")).unwrap();
    assert!(reloader.reload());
    assert_eq!(in_force(&reloader), "two");
    std::fs::write(directory.join("a.yaml"), pipeline("edited")).unwrap();
    reaches(&reloader, "edited").await;
}

//! What has to be watched so that no change of pipelines and secrets is missed, and the watching of it.
//!
//! A watch is on a directory as it is now, and not on its name. So the names are watched as well: the folders in which
//! the watched directory or file, every link on the way to it, and every file behind a link stand. There only these names
//! count, whatever else happens beside them. After a change all of it is worked out anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;
/// How often a directory may be replaced while its watches are set, before what is there is taken.
const MAX_ROUNDS: usize = 4;

/// An editor or a ConfigMap changes several names at once: what happens within this time is one change.
const QUIET: Duration = Duration::from_millis(200);
/// A directory that never rests is read at least this often.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is watched, and what it is called in messages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// The pipeline files of a directory.
    Pipelines(&'a Path),
    /// Files that hold secrets and certificates.
    Secrets(&'a [PathBuf]),
}

impl Target<'_> {
    fn plan(self) -> Plan {
        match self {
            Self::Pipelines(directory) => Plan::of(directory, &super::catalog::files(directory).unwrap_or_default()),
            Self::Secrets(files) => Plan::of_files(files),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Pipelines(_) => "pipelines",
            Self::Secrets(_) => "secrets",
        }
    }
}

/// Watches that are set anew after each change, since that may have replaced what they were on.
#[derive(Debug)]
pub(super) struct Watch {
    changed: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// No watch yet, and the changes that it will tell of.
    pub fn new() -> (Self, Changes) {
        // One seat: a change that is waiting to be seen stands for all that follow.
        let (changed, changes) = mpsc::channel(1);
        (Self { changed, watcher: None }, Changes(changes))
    }

    /// Watches what is there now; the watches before are kept where none can be had. Blocks for a moment.
    pub fn set(&mut self, target: Target<'_>) {
        if let Some(watcher) = watch(target, &self.changed) {
            self.watcher = Some(watcher);
        }
    }
}

/// The changes of what is watched, as they happen.
#[derive(Debug)]
pub struct Changes(mpsc::Receiver<()>);

impl Changes {
    /// Waits for a change, and until the files rest. None when nothing is watched any more.
    pub async fn next(&mut self) -> Option<()> {
        self.0.recv().await?;
        let rest = async { while let Ok(Some(())) = timeout(QUIET, self.0.recv()).await {} };
        // Too restless to wait for: what is there now is read, and what comes later is a change of its own.
        _ = timeout(PATIENCE, rest).await;
        Some(())
    }
}

/// The folders to watch, by their real paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan(BTreeMap<PathBuf, Folder>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Folder {
    /// The names that count.
    names: BTreeSet<OsString>,
    /// Whether every name does.
    all: bool,
    /// Which directory it was, as far as it can be told.
    identity: Option<(u64, u64)>,
}

impl Plan {
    /// The plan for a directory and the files in it.
    fn of(directory: &Path, files: &[PathBuf]) -> Self {
        let mut plan = Self::default();
        let Ok(directory) = std::path::absolute(directory) else { return plan };
        if let Some(real) = plan.trace(&directory) {
            plan.folder(&real).all = true;
            for file in files {
                let Some(name) = file.file_name() else { continue };
                if fs::symlink_metadata(real.join(name)).is_ok_and(|file| file.is_symlink()) {
                    plan.trace(&real.join(name));
                }
            }
        }
        plan
    }

    /// The plan for single files.
    fn of_files(files: &[PathBuf]) -> Self {
        let mut plan = Self::default();
        for file in files.iter().filter_map(|file| std::path::absolute(file).ok()) {
            plan.trace(&file);
        }
        plan
    }

    fn folder(&mut self, path: &Path) -> &mut Folder {
        self.0.entry(path.to_path_buf()).or_insert_with(|| {
            let identity = fs::metadata(path).ok().map(|folder| (folder.dev(), folder.ino()));
            Folder { identity, ..Folder::default() }
        })
    }

    /// Follows an absolute path, and notes each link on the way, and its end. Its real path, where there is one; else
    /// the first name that is missing is noted, since with it all may be there.
    fn trace(&mut self, path: &Path) -> Option<PathBuf> {
        let mut links = 0;
        let mut here = PathBuf::from("/");
        let mut ahead = steps(path);
        while let Some(step) = ahead.pop() {
            let name = match step {
                Step::Root => {
                    here = PathBuf::from("/");
                    continue;
                }
                Step::Up => {
                    here.pop();
                    continue;
                }
                Step::Down(name) => name,
            };
            let next = here.join(&name);
            let found = fs::symlink_metadata(&next);
            let is_link = found.as_ref().is_ok_and(fs::Metadata::is_symlink);
            if is_link || found.is_err() || ahead.is_empty() {
                self.folder(&here).names.insert(name);
            }
            if is_link {
                links += 1;
                let target = fs::read_link(&next).ok().filter(|_| links <= MAX_LINKS)?;
                ahead.extend(steps(&target));
            } else {
                found.ok()?;
                here = next;
            }
        }
        Some(here)
    }

    /// Whether an event is about something that counts.
    fn concerns(&self, event: &Event) -> bool {
        let counts = |path: &PathBuf| {
            let named = path.parent().zip(path.file_name()).is_some_and(|(parent, name)| {
                self.0.get(parent).is_some_and(|folder| folder.all || folder.names.contains(name))
            });
            // The folder itself: it was moved, or is gone.
            named || self.0.contains_key(path)
        };
        // Without a path, events were lost, and it may have been any.
        event.paths.is_empty() || event.paths.iter().any(counts)
    }
}

enum Step {
    Root,
    Up,
    Down(OsString),
}

/// The steps of a path, the first last.
fn steps(path: &Path) -> Vec<Step> {
    let steps = path.components().rev().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

/// Watches the target and all that leads to it, until the watcher is dropped. None where nothing can be watched.
/// Whatever can't be is told in a warning: a change of it is not seen.
fn watch(target: Target<'_>, changed: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let mut current = target.plan();
    for round in 1.. {
        let watcher = set(&current, target.name(), changed);
        let after = target.plan();
        // Replaced in between: the watch could be on what is gone.
        if after == current || round == MAX_ROUNDS {
            return watcher.map_err(|error| warn(None, target.name(), &error)).ok();
        }
        current = after;
    }
    None
}

fn set(plan: &Plan, what: &'static str, changed: &mpsc::Sender<()>) -> Result<RecommendedWatcher, notify::Error> {
    let (counting, changed) = (plan.clone(), changed.clone());
    let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| match event {
        Ok(event) if !changes_something(event.kind) || !counting.concerns(&event) => {}
        // A change that is waiting to be seen stands for all that follow.
        Ok(_) => _ = changed.try_send(()),
        Err(error) => {
            tracing::warn!(%error, "the {what} are not watched well: a changed file may need a SIGHUP");
            _ = changed.try_send(());
        }
    })?;
    for path in plan.0.keys() {
        if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
            warn(Some(path), what, &error);
        }
    }
    Ok(watcher)
}

fn warn(path: Option<&Path>, what: &str, error: &notify::Error) {
    let path = path.map(|path| path.display().to_string());
    tracing::warn!(path, %error, "a change of {what} there can't be seen; SIGHUP still reloads them");
}

/// A reload opens and reads the files itself: were that a change, it would never end.
fn changes_something(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn reading_is_no_change() {
        assert!(!changes_something(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!changes_something(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(changes_something(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(changes_something(EventKind::Remove(notify::event::RemoveKind::File)));
    }

    #[test]
    fn a_secret_that_kubernetes_mounts_is_watched_where_it_is_exchanged() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/token"), "").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/token", root.join("token")).unwrap();
        let plan = Plan::of_files(&[root.join("token")]);
        let event = |path: &str| Event::new(EventKind::Any).add_path(root.join(path));
        assert!(
            plan.concerns(&event("..data")) && plan.concerns(&event("token")) && plan.concerns(&event("..1/token"))
        );
        assert!(!plan.concerns(&event("..data_tmp")) && !plan.concerns(&event("other")));
    }

    #[test]
    fn every_link_on_the_way_is_watched_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("real/p")).unwrap();
        fs::create_dir(root.join("files")).unwrap();
        fs::write(root.join("files/x"), "").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("../../files/x", root.join("real/p/a.yaml")).unwrap();
        let plan = Plan::of(&root.join("link/p"), &[root.join("link/p/a.yaml")]);
        let watched: Vec<_> = plan
            .0
            .iter()
            .map(|(path, folder)| {
                (path.strip_prefix(&root).unwrap(), folder.all, folder.names.iter().collect::<Vec<_>>())
            })
            .map(|(path, all, names)| format!("{} {all} {names:?}", path.display()))
            .collect();
        assert_eq!(
            watched,
            [r#" false ["link"]"#, r#"files false ["x"]"#, r#"real false ["p"]"#, r#"real/p true ["a.yaml"]"#]
        );

        let event = |path: &str| Event::new(EventKind::Any).add_path(root.join(path));
        assert!(plan.concerns(&event("link")) && plan.concerns(&event("real/p/new.yaml")));
        assert!(plan.concerns(&event("files/x")) && plan.concerns(&event("real/p")));
        assert!(!plan.concerns(&event("other")) && !plan.concerns(&event("files/y")));
        assert!(plan.concerns(&Event::new(EventKind::Other)), "events were lost");
    }

    #[test]
    fn a_name_that_is_missing_is_waited_for_and_a_loop_ends() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let names = |path: &str| {
            let plan = Plan::of(&root.join(path), &[]);
            plan.0.get(&root).map(|folder| folder.names.iter().cloned().collect::<Vec<_>>())
        };
        assert_eq!(names("gone/p"), Some(vec!["gone".into()]));
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(names("a/p"), Some(vec!["a".into(), "b".into()]));
    }
}

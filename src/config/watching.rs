//! What has to be watched so that no change of the pipelines is missed, and the watching of it.
//!
//! A watch is on a directory as it is now, and not on its name. So the names are watched as well: the folders in which
//! the pipelines' directory, every link on the way to it, and every file behind a link stand. There only these names
//! count, whatever else happens beside them. After a change all of it is worked out anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;
/// How often a directory may be replaced while its watches are set, before what is there is taken.
const MAX_ROUNDS: usize = 4;

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

/// Watches the directory and all that leads to it and its files, until it is dropped. None where nothing can be
/// watched. Whatever can't be is told in a warning: a change of it is not seen.
pub(super) fn watch(directory: &Path, changed: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let plan = || Plan::of(directory, &super::catalog::files(directory).unwrap_or_default());
    let mut current = plan();
    for round in 1.. {
        let watcher = set(&current, changed);
        let after = plan();
        // Replaced in between: the watch could be on what is gone.
        if after == current || round == MAX_ROUNDS {
            return watcher.map_err(|error| warn(directory, &error)).ok();
        }
        current = after;
    }
    None
}

fn set(plan: &Plan, changed: &mpsc::Sender<()>) -> Result<RecommendedWatcher, notify::Error> {
    let (counting, changed) = (plan.clone(), changed.clone());
    let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| match event {
        Ok(event) if !changes_something(event.kind) || !counting.concerns(&event) => {}
        // A change that is waiting to be seen stands for all that follow.
        Ok(_) => _ = changed.try_send(()),
        Err(error) => {
            tracing::warn!(%error, "the pipelines are not watched well: a changed file may need a SIGHUP");
            _ = changed.try_send(());
        }
    })?;
    for path in plan.0.keys() {
        if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
            warn(path, &error);
        }
    }
    Ok(watcher)
}

fn warn(path: &Path, error: &notify::Error) {
    tracing::warn!(
        path = %path.display(), %error,
        "it can't be watched, so a change of pipelines there is not seen; SIGHUP still reloads them"
    );
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

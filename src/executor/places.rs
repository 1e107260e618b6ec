//! Whether scripts of another user come where they have to, and can change nothing that the service relies on.
//!
//! Looked at once, at the start: what somebody opens later is not noticed. Whoever can write a folder, or owns it and so
//! can make it writable, puts what he likes in the place of what stands in it; so every folder on the way counts, and
//! those that links lead through as well.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, access, open};

use super::identity::Identity;

/// Where a script has to come, and what it must not change or reach.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// `execution.workDir`.
    pub work_dir: &'a Path,
    /// `pipelines`.
    pub pipelines: &'a Path,
    /// The ledger's file.
    pub ledger: &'a Path,
    /// The file of the settings, where there is one.
    pub settings: Option<&'a Path>,
    /// The files of the settings' own secrets.
    pub secrets: &'a [PathBuf],
}

/// More links than the kernel follows either.
const MOST_LINKS: usize = 40;
const STICKY: u32 = 0o1000;

/// What is wrong with them for this user; each is a line for people.
pub fn faults(user: &Identity, places: Places<'_>) -> Vec<String> {
    // As the service, which sees more; then what the user may is asked as the user.
    let ways = ways(places);
    let look = || {
        let mut faults = Vec::new();
        // What is not there yet the service makes, such that it can be entered; but not in the ledger's own folder.
        let private = places.ledger.parent().is_some_and(|own| absolute(places.work_dir).starts_with(absolute(own)));
        if private || places.work_dir.exists() {
            faults.extend(unreachable(user, "execution.workDir", places.work_dir).err());
        } else if let Some(above) = places.work_dir.ancestors().find(|path| path.exists()) {
            faults.extend(unreachable(user, "execution.workDir", above).err());
        }
        faults.extend(unreachable(user, "pipelines", places.pipelines).err());
        faults.extend(can_reach_the_ledger(user, places.ledger));
        let mut told = BTreeSet::new();
        for (setting, place, steps) in &ways {
            for step in steps {
                // One folder is on the way to many.
                if let Some(how) = step.is_at_the_mercy_of(user.credentials().uid)
                    && told.insert(&step.path)
                {
                    faults.push(step.fault(user, how, setting, place));
                }
            }
        }
        faults
    };
    // Users are per thread in Linux: this one ends as whom it has become.
    let found = std::thread::scope(|scope| {
        let thread = scope.spawn(|| user.credentials().assume().map(|()| look()));
        thread.join().unwrap_or_else(|_| Ok(vec!["the check of execution.runAs panicked".to_owned()]))
    });
    found.unwrap_or_else(|error| {
        vec![format!("execution.runAs {}: the service can't become that user: {error}", user.written())]
    })
}

/// Everything that nobody else may change, with its setting and the way to it.
fn ways(places: Places<'_>) -> Vec<(&'static str, PathBuf, Vec<Step>)> {
    let folder = |path: &Path| path.parent().map_or_else(|| path.to_owned(), Path::to_owned);
    let mut all = vec![
        ("execution.workDir", places.work_dir.to_owned()),
        ("pipelines", places.pipelines.to_owned()),
        // The file itself is told of as one that can be reached.
        ("ledger.url", folder(&absolute(places.ledger))),
    ];
    // What can't be listed is told of by whoever loads it.
    let files = fs::read_dir(places.pipelines).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_pipeline = |file: &PathBuf| file.extension().is_some_and(|end| end == "yaml" || end == "yml");
    all.extend(files.filter(is_pipeline).map(|file| ("pipelines", file)));
    all.extend(places.settings.map(|file| ("the settings", file.to_owned())));
    all.extend(places.secrets.iter().map(|file| ("a secret of the settings", file.clone())));
    all.into_iter()
        .map(|(setting, place)| {
            let steps = way(&place);
            (setting, place, steps)
        })
        .collect()
}

/// What one comes through on the way to a place, or is the place itself.
struct Step {
    path: PathBuf,
    found: Metadata,
    next: Next,
}

/// What stands in a folder on the way.
enum Next {
    /// Nothing yet, or nothing that can be looked at.
    Nothing,
    /// Something of this user.
    Of(u32),
    /// The folder is the place itself.
    End,
}

/// From the root to a place, without a link that is not looked into; as far as that is there.
fn way(place: &Path) -> Vec<Step> {
    let mut at = PathBuf::from("/");
    let mut rest = names(&absolute(place));
    let mut steps = Vec::new();
    let mut links = 0;
    let mut add = |path: &Path, next| {
        // Nobody can do anything in what can't be looked at even by the service.
        let Ok(found) = fs::symlink_metadata(path) else { return };
        steps.push(Step { path: path.to_owned(), found, next });
    };
    while let Some(name) = rest.pop() {
        if name == ".." {
            // There is no link in it, so this is what the kernel would come to.
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let Ok(found) = fs::symlink_metadata(&next) else {
            add(&at, Next::Nothing);
            return steps;
        };
        add(&at, Next::Of(found.uid()));
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        let Some(target) = fs::read_link(&next).ok().filter(|_| links <= MOST_LINKS) else { return steps };
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
    add(&at, Next::End);
    steps
}

/// The names in a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    let mut names: Vec<_> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

impl Step {
    /// How that user, whom this thread has become, could put something else in the place of what is next.
    fn is_at_the_mercy_of(&self, uid: u32) -> Option<&'static str> {
        if self.found.uid() == uid {
            return Some("owns");
        }
        // In a folder as /tmp only its owner takes a thing away. (The place itself must not have strange things in it.)
        let kept = self.found.mode() & STICKY != 0
            && match self.next {
                Next::Nothing => true,
                Next::Of(owner) => owner != uid,
                Next::End => false,
            };
        let rights = if self.found.is_dir() { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
        (!kept && access(&self.path, rights).is_ok()).then_some("can write")
    }

    fn fault(&self, user: &Identity, how: &str, setting: &str, place: &Path) -> String {
        let whose = match self.next {
            Next::End if self.path == place => format!("it is {setting}"),
            Next::End => format!("it is {setting}, as {}", place.display()),
            Next::Nothing | Next::Of(_) => format!("it is on the way to {setting} {}", place.display()),
        };
        let path = self.path.display();
        format!(
            "execution.runAs {}: that user {how} {path} (mode {:o}, of user {}), and {whose}: its scripts could put something \
             else in its place, and so do what the service may; chown it to the service's user and chmod go-w {path}, or \
             keep that elsewhere",
            user.written(),
            self.found.mode() & 0o7777,
            self.found.uid()
        )
    }
}

fn unreachable(user: &Identity, setting: &str, path: &Path) -> Result<(), String> {
    let path = absolute(path);
    let mut all: Vec<_> = path.ancestors().collect();
    all.reverse();
    for folder in all {
        // The folder itself must be entered to be found in itself.
        let Err(error) = open(folder.join("."), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
        let rights = fs::metadata(folder).map_or_else(
            |_| String::new(),
            |metadata| format!(" (mode {:o}, of user {})", metadata.mode() & 0o7777, metadata.uid()),
        );
        let advice = if setting == "pipelines" {
            "scripts run there: let that user enter it (chmod o+x), or set pipelines to another directory"
        } else {
            "set execution.workDir to a directory elsewhere, such as /run/stagehook, not in the ledger's own"
        };
        return Err(format!(
            "execution.runAs {}: that user can't enter {}{rights}: {error}; it is on the way to {setting} {}: {advice}",
            user.written(),
            folder.display(),
            path.display()
        ));
    }
    Ok(())
}

/// Never by opening it: that would take SQLite's locks away.
fn can_reach_the_ledger(user: &Identity, ledger: &Path) -> Option<String> {
    let folder = ledger.parent().unwrap_or(Path::new("."));
    let can = |path: &Path, rights| access(path, rights).is_ok();
    let exposed = if can(ledger, Access::READ_OK) || can(ledger, Access::WRITE_OK) {
        ledger
    } else if can(folder, Access::WRITE_OK | Access::EXEC_OK) {
        folder
    } else {
        return None;
    };
    Some(format!(
        "execution.runAs {}: that user can reach {}, so its scripts could read or change the ledger: chmod 700 {}",
        user.written(),
        exposed.display(),
        folder.display()
    ))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_on_the_way_are_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        fs::create_dir_all(real.join("c/d")).unwrap();
        std::os::unix::fs::symlink("../c", real.join("a/link")).unwrap();
        std::os::unix::fs::symlink(real.join("a/b/../link"), real.join("first")).unwrap();
        let passed: Vec<_> = way(&real.join("first/d/not-yet")).into_iter().map(|step| step.path).collect();
        for wanted in [real.clone(), real.join("a"), real.join("c"), real.join("c/d")] {
            assert!(passed.contains(&wanted), "{}: {passed:?}", wanted.display());
        }
        assert_eq!(passed.last(), Some(&real.join("c/d")));
        // One that leads to itself ends.
        std::os::unix::fs::symlink("circle", real.join("circle")).unwrap();
        assert!(way(&real.join("circle/x")).len() < 200);
    }
}

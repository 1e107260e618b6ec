//! One application in memory: its lock, the streams that were folded, the calls that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::waiters::Waiters;
use crate::domain::call::WaitKey;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Application, Source};
use crate::domain::state::Stream;

/// The applications that something happens to. One without a live deployment or a waiting call
/// is forgotten: the ledger has it.
#[derive(Debug, Default)]
pub struct Applications(Arc<Map>);

type Map = Mutex<HashMap<Application, Known>>;

/// An entry, and by how many it is in use.
#[derive(Debug, Default)]
struct Known {
    users: usize,
    entry: Arc<Entry>,
}

/// An application in use. With the last one dropped it is forgotten, unless something still
/// happens to it; whoever has one can't be left with an entry that is no longer in the map.
#[derive(Debug)]
pub struct InUse {
    application: Application,
    map: Arc<Map>,
    entry: Arc<Entry>,
}

/// One application.
#[derive(Debug, Default)]
pub struct Entry {
    /// Decisions are made under this lock, one after the other; nobody waits for a verdict under it.
    pub streams: tokio::sync::Mutex<Streams>,
    /// The calls that wait.
    pub waiters: Waiters,
    /// Its live deployments, as the last decision left them: for whoever must not take the lock.
    lives: Mutex<Vec<Life>>,
}

/// The folded streams of an application, by source; empty when they are to be loaded.
#[derive(Debug, Default)]
pub struct Streams {
    /// By source.
    pub by_source: BTreeMap<Source, Stream>,
    /// A commit failed: whether it happened after all is not known, so actions may have been left
    /// undone.
    pub doubtful: bool,
    /// What counts as delivered in the ledger, or would if a commit in doubt happened, although nobody
    /// heard it: to be withdrawn before anything else is decided, else the next call begins anew.
    pub in_vain: BTreeSet<(Source, WaitKey)>,
}

/// One live deployment.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Which.
    pub id: DeploymentId,
    /// When it was last called about, or last changed.
    pub seen: Timestamp,
}

impl Applications {
    /// The entry of an application.
    pub fn entry(&self, application: &Application) -> InUse {
        self.in_use(application, self.lock().entry(application.clone()).or_default())
    }

    /// Every entry.
    pub fn all(&self) -> Vec<InUse> {
        self.lock().iter_mut().map(|(application, known)| self.in_use(application, known)).collect()
    }

    fn in_use(&self, application: &Application, known: &mut Known) -> InUse {
        known.users += 1;
        InUse { application: application.clone(), map: Arc::clone(&self.0), entry: Arc::clone(&known.entry) }
    }

    /// How many calls wait, and how many deployments are live.
    pub fn count(&self) -> (usize, usize) {
        let map = self.lock();
        map.values().fold((0, 0), |(held, live), Known { entry, .. }| {
            (held + entry.waiters.count(), live + entry.lives().len())
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Application, Known>> {
        lock(&self.0)
    }
}

fn lock(map: &Map) -> MutexGuard<'_, HashMap<Application, Known>> {
    // Nothing panics while it holds this lock.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for InUse {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut map = lock(&self.map);
        // Counted under the map's lock: of two that are dropped at once one is the last.
        let Some(known) = map.get_mut(&self.application) else { return };
        known.users = known.users.saturating_sub(1);
        if known.users == 0 && known.entry.is_idle() {
            map.remove(&self.application);
        }
    }
}

impl Entry {
    /// Whether nothing happens to it: then the ledger has all of it. To be asked by nobody who decides.
    fn is_idle(&self) -> bool {
        self.streams.try_lock().is_ok_and(|streams| !streams.doubtful && streams.in_vain.is_empty())
            && self.lives().is_empty()
            && self.waiters.count() == 0
    }

    /// The live deployments.
    pub fn lives(&self) -> MutexGuard<'_, Vec<Life>> {
        // Nothing panics while it holds this lock.
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which deployments are live after a decision. `called`: a call was about them.
    pub fn note(&self, streams: &Streams, called: Option<(Source, Timestamp)>) {
        let mut lives = self.lives();
        let old = std::mem::take(&mut *lives);
        for (source, stream) in &streams.by_source {
            for deployment in stream.deployments.iter().filter(|d| d.is_busy()) {
                let before = old.iter().find(|life| life.id == deployment.id).map(|life| life.seen);
                let current = stream.current().is_some_and(|current| current.id == deployment.id);
                let now = called.filter(|(of, _)| of == source && current).map(|(_, now)| now);
                let seen = before.into_iter().chain(now).fold(deployment.updated_at, Ord::max);
                lives.push(Life { id: deployment.id, seen });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_forgotten_with_the_last_who_uses_it_and_not_before() {
        let applications = Applications::default();
        let name = "test/podinfo".parse().unwrap();
        let (one, two) = (applications.entry(&name), applications.entry(&name));
        drop(one);
        assert_eq!(applications.all().len(), 1);
        drop(two);
        assert_eq!(applications.all().len(), 0);
    }

    #[test]
    fn one_in_doubt_is_kept() {
        let applications = Applications::default();
        let entry = applications.entry(&"test/podinfo".parse().unwrap());
        entry.streams.try_lock().unwrap().doubtful = true;
        drop(entry);
        assert_eq!(applications.all().len(), 1);
    }
}

//! The calls that wait for a verdict. Memory only: a caller whose connection died calls again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Told;
use crate::domain::call::WaitKey;
use crate::domain::names::Source;

/// The waiting calls of one application.
#[derive(Clone, Debug, Default)]
pub struct Waiters(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    source: Source,
    key: WaitKey,
    sender: oneshot::Sender<Told>,
}

/// One waiting call. Dropping it, as when the caller hangs up, leaves the line.
#[derive(Debug)]
pub struct Waiter {
    id: u64,
    waiters: Waiters,
    /// What is waited for.
    pub key: WaitKey,
    /// Where the answer comes.
    pub answer: oneshot::Receiver<Told>,
}

impl Waiters {
    /// Gets in line.
    pub fn join(&self, source: Source, key: WaitKey) -> Waiter {
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.waiting.insert(id, Waiting { source, key, sender });
        Waiter { id, waiters: self.clone(), key, answer }
    }

    /// What is waited for, by source.
    pub fn keys(&self) -> BTreeSet<(Source, WaitKey)> {
        self.lock().waiting.values().map(|waiting| (waiting.source, waiting.key)).collect()
    }

    /// Answers everybody who waits for a key; whether anybody was still there to hear it.
    pub fn tell(&self, key: WaitKey, told: &Told) -> bool {
        let mut state = self.lock();
        let ids: Vec<_> = state.waiting.iter().filter(|(_, w)| w.key == key).map(|(id, _)| *id).collect();
        let mut heard = false;
        for id in ids {
            if let Some(waiting) = state.waiting.remove(&id) {
                heard |= waiting.sender.send(told.clone()).is_ok();
            }
        }
        heard
    }

    /// Answers everybody who waits for anything that a source has called for.
    pub fn tell_all(&self, source: Source, told: &Told) {
        let keys = self.keys();
        for (_, key) in keys.into_iter().filter(|(of, _)| *of == source) {
            self.tell(key, told);
        }
    }

    /// How many calls wait.
    pub fn count(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.lock().waiting.remove(&self.id);
    }
}

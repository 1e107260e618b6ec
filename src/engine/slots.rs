//! Slots: the permission to run one script.
//!
//! A rollback takes its slot before every forward script and is never refused one; forward
//! scripts wait in order. Not a semaphore: those know one queue only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All slots there are. A cheap handle.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    total: usize,
    queue: usize,
    closed: bool,
    rollbacks: VecDeque<oneshot::Sender<Slot>>,
    forward: VecDeque<oneshot::Sender<Slot>>,
}

/// One slot; dropping it hands it to the next in line.
#[derive(Debug)]
pub struct Slot(Option<Arc<Mutex<State>>>);

/// What a slot is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A step of a replay: before everybody else.
    Rollback,
    /// A stage of a hook.
    Forward,
}

impl Slots {
    /// `total` slots, and a queue in which `queue` forward scripts may wait.
    pub fn new(total: usize, queue: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: total,
            total,
            queue,
            closed: false,
            rollbacks: VecDeque::new(),
            forward: VecDeque::new(),
        })))
    }

    /// A slot at once, where one is free and nobody waits.
    pub fn try_take(&self) -> Option<Slot> {
        let mut state = lock(&self.0);
        if state.closed || state.free == 0 {
            return None;
        }
        state.free -= 1;
        Some(Slot(Some(Arc::clone(&self.0))))
    }

    /// A slot when it is this one's turn; `None` once the service is shutting down.
    pub async fn take(&self, purpose: For) -> Option<Slot> {
        if let Some(slot) = self.try_take() {
            return Some(slot);
        }
        let receiver = {
            let mut state = lock(&self.0);
            if state.closed {
                return None;
            }
            // One may have become free since: nobody else would hand it over.
            if state.free > 0 {
                state.free -= 1;
                return Some(Slot(Some(Arc::clone(&self.0))));
            }
            let (sender, receiver) = oneshot::channel();
            match purpose {
                For::Rollback => state.rollbacks.push_back(sender),
                For::Forward => state.forward.push_back(sender),
            }
            receiver
        };
        receiver.await.ok()
    }

    /// Whether a further forward script has to be refused.
    pub fn is_full(&self) -> bool {
        let state = lock(&self.0);
        state.free == 0 && state.forward.len() >= state.queue
    }

    /// Hands out no more slots; whoever waits is told.
    pub fn close(&self) {
        let waiting = {
            let mut state = lock(&self.0);
            state.closed = true;
            (std::mem::take(&mut state.rollbacks), std::mem::take(&mut state.forward))
        };
        drop(waiting);
    }

    /// How many are taken, and how many wait.
    pub fn usage(&self) -> (usize, usize) {
        let state = lock(&self.0);
        (state.total - state.free, state.rollbacks.len() + state.forward.len())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut state = lock(&shared);
        while !state.closed {
            let Some(next) = state.rollbacks.pop_front().or_else(|| state.forward.pop_front()) else { break };
            match next.send(Slot(Some(Arc::clone(&shared)))) {
                Ok(()) => return,
                // Nobody takes it any more. Emptied, it does not hand itself on inside this lock.
                Err(mut refused) => refused.0 = None,
            }
        }
        state.free += 1;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while it holds this lock; if it did, the numbers would still be whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rollbacks_come_first_and_nobody_is_forgotten() {
        let slots = Slots::new(1, 1);
        let first = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
        assert!(!slots.is_full());
        let forward = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(For::Forward).await }
        });
        while slots.usage().1 < 1 {
            tokio::task::yield_now().await;
        }
        assert!(slots.is_full());
        let rollback = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(For::Rollback).await }
        });
        while slots.usage().1 < 2 {
            tokio::task::yield_now().await;
        }
        drop(first);
        let second = rollback.await.unwrap().unwrap();
        assert!(!forward.is_finished());
        drop(second);
        assert!(forward.await.unwrap().is_some());
        assert_eq!(slots.usage(), (0, 0));
    }

    #[tokio::test]
    async fn one_who_gave_up_is_passed_over() {
        let slots = Slots::new(1, 8);
        let first = slots.try_take().unwrap();
        let given_up = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(For::Forward).await }
        });
        while slots.usage().1 < 1 {
            tokio::task::yield_now().await;
        }
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        drop(first);
        assert!(slots.try_take().is_some());
    }

    #[tokio::test]
    async fn closing_tells_those_who_wait() {
        let slots = Slots::new(1, 8);
        let first = slots.try_take().unwrap();
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take(For::Rollback).await }
        });
        while slots.usage().1 < 1 {
            tokio::task::yield_now().await;
        }
        slots.close();
        assert!(waiting.await.unwrap().is_none());
        drop(first);
        assert!(slots.try_take().is_none());
    }
}

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
    /// Places in the line of the forward scripts that are kept for decisions under way.
    claimed: usize,
    closed: bool,
    rollbacks: VecDeque<oneshot::Sender<Slot>>,
    forward: VecDeque<oneshot::Sender<Slot>>,
}

/// One slot; dropping it hands it to the next in line.
#[derive(Debug)]
pub struct Slot(Option<Arc<Mutex<State>>>);

/// A place in the line of the forward scripts, kept while what needs it is committed; dropping it
/// gives it up.
#[derive(Debug)]
pub struct Place(Option<Arc<Mutex<State>>>);

/// What a forward script gets that comes to the slots.
#[derive(Debug)]
pub enum Entered {
    /// One is free.
    Slot(Slot),
    /// None is free, but there is room in the line.
    Place(Place),
    /// It has to be refused, where it may be.
    Full,
}

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
            claimed: 0,
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

    /// A slot at once, or else a place in the line of the forward scripts: one look, so that of all
    /// who come together no more get in than the line holds.
    pub fn enter(&self) -> Entered {
        let mut state = lock(&self.0);
        if !state.closed && state.free > 0 {
            state.free -= 1;
            return Entered::Slot(Slot(Some(Arc::clone(&self.0))));
        }
        // Nobody is refused for load by a line that is closed: it is no line any more. Nor by those
        // who have gone out of it.
        if state.forward.len() + state.claimed >= state.queue {
            state.forward.retain(|waiting| !waiting.is_closed());
        }
        if !state.closed && state.forward.len() + state.claimed >= state.queue {
            return Entered::Full;
        }
        state.claimed += 1;
        Entered::Place(Place(Some(Arc::clone(&self.0))))
    }

    /// A slot when it is this one's turn; `None` once the service is shutting down.
    ///
    /// It is in line when this returns, in its place if it has one, not only once the future is polled.
    pub fn take(&self, purpose: For, place: Option<Place>) -> impl Future<Output = Option<Slot>> + Send + use<> {
        let taken = self.line_up(purpose, place);
        async move {
            match taken {
                Ok(slot) => slot,
                Err(receiver) => receiver.await.ok(),
            }
        }
    }

    fn line_up(&self, purpose: For, place: Option<Place>) -> Result<Option<Slot>, oneshot::Receiver<Slot>> {
        let mut state = lock(&self.0);
        if let Some(mut place) = place
            && place.0.take().is_some()
        {
            state.claimed -= 1;
        }
        if state.closed {
            return Ok(None);
        }
        if state.free > 0 {
            state.free -= 1;
            return Ok(Some(Slot(Some(Arc::clone(&self.0)))));
        }
        let (sender, receiver) = oneshot::channel();
        match purpose {
            For::Rollback => state.rollbacks.push_back(sender),
            For::Forward => state.forward.push_back(sender),
        }
        Err(receiver)
    }

    /// Whether a rollback waits for a slot.
    pub fn rollback_waits(&self) -> bool {
        lock(&self.0).rollbacks.iter().any(|waiting| !waiting.is_closed())
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
        let waiting = state.rollbacks.iter().chain(&state.forward).filter(|waiting| !waiting.is_closed()).count();
        (state.total - state.free, waiting)
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

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            lock(&shared).claimed -= 1;
        }
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
        let forward = slots.take(For::Forward, None);
        assert!(!slots.rollback_waits());
        let rollback = slots.take(For::Rollback, None);
        assert!(slots.rollback_waits());
        assert_eq!(slots.usage(), (1, 2));
        drop(first);
        let second = rollback.await.unwrap();
        assert_eq!(slots.usage(), (1, 1));
        drop(second);
        assert!(forward.await.is_some());
        assert_eq!(slots.usage(), (0, 0));
    }

    #[tokio::test]
    async fn a_place_is_in_line_from_the_decision_on() {
        let slots = Slots::new(1, 2);
        let Entered::Slot(first) = slots.enter() else { panic!("one is free") };
        let Entered::Place(place) = slots.enter() else { panic!("there is room") };
        let Entered::Place(given_up) = slots.enter() else { panic!("there is room") };
        assert!(matches!(slots.enter(), Entered::Full));
        drop(given_up);
        let Entered::Place(second) = slots.enter() else { panic!("there is room again") };
        let waiting = slots.take(For::Forward, Some(place));
        assert!(matches!(slots.enter(), Entered::Full));
        // What can't be refused gets in line all the same.
        let further = slots.take(For::Forward, None);
        drop(first);
        let slot = waiting.await.unwrap();
        assert!(matches!(slots.enter(), Entered::Full));
        drop((further, slot));
        // It was passed over, as it waits no more.
        let Entered::Slot(slot) = slots.enter() else { panic!("one is free") };
        drop(second);
        assert!(matches!(slots.enter(), Entered::Place(_)));
        drop(slot);
        assert_eq!(slots.usage(), (0, 0));
    }

    #[tokio::test]
    async fn a_line_of_no_length_takes_nobody() {
        let slots = Slots::new(1, 0);
        let Entered::Slot(_slot) = slots.enter() else { panic!("one is free") };
        assert!(matches!(slots.enter(), Entered::Full));
    }

    #[tokio::test]
    async fn one_who_gave_up_is_passed_over() {
        let slots = Slots::new(1, 8);
        let first = slots.try_take().unwrap();
        drop(slots.take(For::Forward, None));
        drop(first);
        assert!(slots.try_take().is_some());
    }

    #[tokio::test]
    async fn closing_tells_those_who_wait() {
        let slots = Slots::new(1, 0);
        let first = slots.try_take().unwrap();
        let waiting = slots.take(For::Rollback, None);
        slots.close();
        assert!(waiting.await.is_none());
        let Entered::Place(place) = slots.enter() else { panic!("nobody is refused for load now") };
        assert!(slots.take(For::Forward, Some(place)).await.is_none());
        drop(first);
        assert!(slots.try_take().is_none());
    }
}

//! Slots: the permission to run one script.
//!
//! A rollback takes its slot before every forward script and is never refused one; forward
//! scripts wait in order, the applications by turns. Not a semaphore: those know one queue only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::turned_away::TurnedAway;
use super::turns::Turns;
use crate::domain::names::{Application, StreamId};

/// The least and the most that one who is turned away is told to wait. What is true now may not be in a minute.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);

/// How long a slot is taken for, until one was given back: so the first are told to come again in a few seconds.
const UNKNOWN: Duration = Duration::from_secs(5);

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
    forward: Turns<oneshot::Sender<Slot>>,
    turned_away: TurnedAway,
    /// For how long a slot is taken, the last ones above all.
    taken_for: Option<Duration>,
}

/// One slot; dropping it hands it to the next in line.
#[derive(Debug)]
pub struct Slot {
    /// None: it was not taken by whom it was handed to.
    shared: Option<Arc<Mutex<State>>>,
    since: Instant,
}

/// A place in the line of the forward scripts, kept while what needs it is committed; dropping it
/// gives it up.
#[derive(Debug)]
pub struct Place(Option<(Arc<Mutex<State>>, Application)>);

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
            closed: false,
            rollbacks: VecDeque::new(),
            forward: Turns::default(),
            turned_away: TurnedAway::default(),
            taken_for: None,
        })))
    }

    fn slot(&self) -> Slot {
        Slot { shared: Some(Arc::clone(&self.0)), since: Instant::now() }
    }

    /// A slot at once, where one is free and nobody waits.
    pub fn try_take(&self) -> Option<Slot> {
        let mut state = lock(&self.0);
        if state.closed || state.free == 0 {
            return None;
        }
        state.free -= 1;
        Some(self.slot())
    }

    /// A slot at once, or else a place in the line of the forward scripts: one look, so that of all
    /// who come together no more get in than the line holds.
    ///
    /// While the line is short it takes everybody. In its second half there are places for those alone before whom
    /// nobody was turned away, or fewer than there are places: else it would be luck, for whoever comes when, to get in.
    /// One application takes half of it at the most.
    pub fn enter(&self, who: &StreamId) -> Entered {
        let mut state = lock(&self.0);
        if !state.closed && state.free > 0 {
            state.free -= 1;
            state.turned_away.forget(who);
            return Entered::Slot(self.slot());
        }
        // Nobody is refused for load by a line that is closed: it is no line any more.
        if !state.closed && !state.has_room(who) {
            return Entered::Full;
        }
        state.turned_away.forget(who);
        state.forward.claim(&who.application);
        Entered::Place(Place(Some((Arc::clone(&self.0), who.application.clone()))))
    }

    /// Notes that one was turned away. Returns when it had best come again: when the line may have a place for it and
    /// for all who came before.
    pub fn turn_away(&self, who: &StreamId) -> Duration {
        let mut state = lock(&self.0);
        let now = Instant::now();
        let before = u32::try_from(state.turned_away.before(who, now)).unwrap_or(u32::MAX);
        let total = u32::try_from(state.total).unwrap_or(u32::MAX).max(1);
        let taken_for = state.taken_for.unwrap_or(UNKNOWN * total);
        let after = (taken_for.saturating_mul(before.saturating_add(1)) / total).clamp(LEAST, MOST);
        state.turned_away.note(who, after, now);
        after
    }

    /// A slot when it is this one's turn; `None` once the service is shutting down.
    ///
    /// It is in line when this returns, in its place if it has one, not only once the future is polled.
    pub fn take(
        &self,
        purpose: For,
        who: &StreamId,
        place: Option<Place>,
    ) -> impl Future<Output = Option<Slot>> + Send + use<> {
        let taken = self.line_up(purpose, &who.application, place);
        async move {
            match taken {
                Ok(slot) => slot,
                Err(receiver) => receiver.await.ok(),
            }
        }
    }

    fn line_up(
        &self,
        purpose: For,
        application: &Application,
        place: Option<Place>,
    ) -> Result<Option<Slot>, oneshot::Receiver<Slot>> {
        let mut state = lock(&self.0);
        if let Some(mut place) = place
            && let Some((_, of)) = place.0.take()
        {
            state.forward.give_up(&of);
        }
        if state.closed {
            return Ok(None);
        }
        if state.free > 0 {
            state.free -= 1;
            return Ok(Some(self.slot()));
        }
        let (sender, receiver) = oneshot::channel();
        match purpose {
            For::Rollback => state.rollbacks.push_back(sender),
            For::Forward => state.forward.push(application, sender),
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
            state.turned_away.clear();
            (std::mem::take(&mut state.rollbacks), state.forward.drain())
        };
        drop(waiting);
    }

    /// What is kept in the line, of rollbacks, of forward scripts by application, and of who was turned away.
    #[cfg(test)]
    pub fn kept(&self) -> (usize, [usize; 2], [usize; 2]) {
        let state = lock(&self.0);
        (state.rollbacks.len(), state.forward.kept(), state.turned_away.kept())
    }

    /// How many are taken, and how many wait.
    pub fn usage(&self) -> (usize, usize) {
        let state = lock(&self.0);
        let waiting = state.rollbacks.iter().chain(state.forward.iter()).filter(|waiting| !waiting.is_closed()).count();
        (state.total - state.free, waiting)
    }
}

impl State {
    /// Whether the line has a place for this one.
    fn has_room(&mut self, who: &StreamId) -> bool {
        // Half of it, too, is what one application may have.
        let half = self.queue.div_ceil(2);
        if self.forward.taken(half) >= half {
            // Nobody is kept out by those who have gone out of it.
            self.forward.retain(|waiting| !waiting.is_closed());
        }
        let waiting = self.forward.taken(half);
        let room = self.queue.saturating_sub(waiting);
        self.forward.taken_by(&who.application) < half
            && (waiting < half || self.turned_away.before(who, Instant::now()) < room)
    }

    /// Learns from a slot that is given back. What was long ago counts for little.
    fn learn(&mut self, taken_for: Duration) {
        self.taken_for =
            Some(self.taken_for.map_or(taken_for, |mean| mean.saturating_mul(7).saturating_add(taken_for) / 8));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = lock(&shared);
        let now = Instant::now();
        state.learn(now - self.since);
        while !state.closed {
            let Some(next) = state.rollbacks.pop_front().or_else(|| state.forward.pop()) else { break };
            match next.send(Slot { shared: Some(Arc::clone(&shared)), since: now }) {
                Ok(()) => return,
                // Nobody takes it any more. Emptied, it does not hand itself on inside this lock.
                Err(mut refused) => refused.shared = None,
            }
        }
        state.free += 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((shared, of)) = self.0.take() {
            lock(&shared).forward.give_up(&of);
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
    use crate::domain::names::Source;

    fn who(number: usize) -> StreamId {
        StreamId { source: Source::Flagger, application: format!("test/app-{number}").parse().unwrap() }
    }

    #[tokio::test]
    async fn rollbacks_come_first_and_nobody_is_forgotten() {
        let slots = Slots::new(1, 1);
        let first = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
        let forward = slots.take(For::Forward, &who(0), None);
        assert!(!slots.rollback_waits());
        let rollback = slots.take(For::Rollback, &who(0), None);
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
        // Of which one application has half.
        let slots = Slots::new(1, 4);
        let Entered::Slot(first) = slots.enter(&who(0)) else { panic!("one is free") };
        let Entered::Place(place) = slots.enter(&who(0)) else { panic!("there is room") };
        let Entered::Place(given_up) = slots.enter(&who(0)) else { panic!("there is room") };
        assert!(matches!(slots.enter(&who(0)), Entered::Full));
        drop(given_up);
        let Entered::Place(second) = slots.enter(&who(0)) else { panic!("there is room again") };
        let waiting = slots.take(For::Forward, &who(0), Some(place));
        assert!(matches!(slots.enter(&who(0)), Entered::Full));
        // What can't be refused gets in line all the same.
        let further = slots.take(For::Forward, &who(0), None);
        drop(first);
        let slot = waiting.await.unwrap();
        assert!(matches!(slots.enter(&who(0)), Entered::Full));
        drop((further, slot));
        // It was passed over, as it waits no more.
        let Entered::Slot(slot) = slots.enter(&who(0)) else { panic!("one is free") };
        drop(second);
        assert!(matches!(slots.enter(&who(0)), Entered::Place(_)));
        drop(slot);
        assert_eq!(slots.usage(), (0, 0));
    }

    #[tokio::test]
    async fn a_line_of_no_length_takes_nobody() {
        let slots = Slots::new(1, 0);
        let Entered::Slot(_slot) = slots.enter(&who(0)) else { panic!("one is free") };
        assert!(matches!(slots.enter(&who(0)), Entered::Full));
    }

    #[tokio::test]
    async fn one_who_gave_up_is_passed_over() {
        let slots = Slots::new(1, 8);
        let first = slots.try_take().unwrap();
        drop(slots.take(For::Forward, &who(0), None));
        drop(first);
        assert!(slots.try_take().is_some());
    }

    #[tokio::test]
    async fn closing_tells_those_who_wait() {
        let slots = Slots::new(1, 0);
        let first = slots.try_take().unwrap();
        let waiting = slots.take(For::Rollback, &who(0), None);
        slots.close();
        assert!(waiting.await.is_none());
        let Entered::Place(place) = slots.enter(&who(0)) else { panic!("nobody is refused for load now") };
        assert!(slots.take(For::Forward, &who(0), Some(place)).await.is_none());
        drop(first);
        assert!(slots.try_take().is_none());
    }

    #[tokio::test]
    async fn who_was_turned_away_first_gets_in_first() {
        let slots = Slots::new(1, 4);
        let Entered::Slot(slot) = slots.enter(&who(0)) else { panic!("one is free") };
        let mut line: Vec<_> = (1..=4).map(|number| slots.enter(&who(number))).collect();
        for number in 5..=8 {
            assert!(matches!(slots.enter(&who(number)), Entered::Full));
            slots.turn_away(&who(number));
        }
        line.pop();
        // One place, and whoever comes at the right moment does not get it.
        for number in [9, 8, 6] {
            assert!(matches!(slots.enter(&who(number)), Entered::Full), "{number}");
        }
        line.push(slots.enter(&who(5)));
        assert!(matches!(line.last(), Some(Entered::Place(_))));
        line.truncate(2);
        // Two places: for the next two, in whichever order they come.
        assert!(matches!(slots.enter(&who(8)), Entered::Full));
        line.push(slots.enter(&who(7)));
        line.push(slots.enter(&who(6)));
        assert!(matches!(line[2..], [Entered::Place(_), Entered::Place(_)]));
        drop(slot);
    }

    #[tokio::test]
    async fn who_does_not_come_again_keeps_nobody_out_of_a_short_line() {
        let slots = Slots::new(1, 4);
        let Entered::Slot(slot) = slots.enter(&who(0)) else { panic!("one is free") };
        let mut line: Vec<_> = (1..=4).map(|number| slots.enter(&who(number))).collect();
        for number in 100..200 {
            slots.turn_away(&who(number));
        }
        line.truncate(2);
        assert!(matches!(slots.enter(&who(9)), Entered::Full));
        line.truncate(1);
        assert!(matches!(slots.enter(&who(9)), Entered::Place(_)));
        drop(slot);
        assert!(matches!(slots.enter(&who(9)), Entered::Slot(_)));
    }

    #[test]
    fn when_to_come_again_is_when_there_may_be_room() {
        let slots = Slots::new(2, 0);
        // Nothing is known of the scripts yet.
        assert_eq!(slots.turn_away(&who(0)), UNKNOWN);
        (0..50).for_each(|_| lock(&slots.0).learn(Duration::from_secs(8)));
        // A place every four seconds. Whoever asks again is not further behind for that.
        let told = |number| slots.turn_away(&who(number)).as_secs_f64().round();
        let _first = told(0);
        assert_eq!([1, 2, 3, 2, 1].map(told), [8.0, 12.0, 16.0, 12.0, 8.0]);
        (4..40).for_each(|number| _ = slots.turn_away(&who(number)));
        assert_eq!(told(40), MOST.as_secs_f64());
    }

    #[tokio::test]
    async fn a_flood_about_one_application_leaves_the_others_their_places_and_their_turn() {
        let slots = Slots::new(1, 64);
        let (flooder, other) = (who(0), who(1));
        let Entered::Slot(first) = slots.enter(&flooder) else { panic!("one is free") };
        let mut flood = Vec::new();
        while flood.len() < 64
            && let Entered::Place(place) = slots.enter(&flooder)
        {
            flood.push(slots.line_up(For::Forward, &flooder.application, Some(place)).unwrap_err());
        }
        slots.turn_away(&flooder);
        assert_eq!(flood.len(), 32);
        // What can't be refused, and is far more than the line holds.
        flood.extend((0..1000).map(|_| slots.line_up(For::Forward, &flooder.application, None).unwrap_err()));
        let Entered::Place(place) = slots.enter(&other) else { panic!("there is room for another") };
        let waiting = slots.take(For::Forward, &other, Some(place));
        // It waits for one script of the other application, and not for all of them.
        drop(first);
        let one = flood.remove(0).await.unwrap();
        drop(one);
        let turn = tokio::time::timeout(Duration::from_secs(10), waiting);
        let slot = turn.await.expect("the turn of another comes after one script").unwrap();
        assert!(flood.iter_mut().all(|waiting| waiting.try_recv().is_err()), "it was not their turn");
        drop(slot);
        assert!(flood.remove(0).await.is_ok());
    }
}

//! How many connections there are, and which of them goes when another one comes.
//!
//! Nobody is turned away by those who only sit there: with every seat taken, the one that has been without a whole
//! request for longest is given up. A limit for each address would be wrong: behind a proxy all callers have one.
//! What a connection is used for is not known here.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The seats beyond the limit: for probes, and to say that all others are taken.
pub const RESERVE: usize = 32;

/// The most that were told to go and are not gone yet.
const LEAVING: usize = 32;

/// How often the log says that connections are given up.
const SAID: Duration = Duration::from_secs(60);

/// The most descriptors that so many connections may take for a moment.
pub const fn descriptors(connections: usize) -> usize {
    connections + RESERVE + LEAVING
}

/// All seats. A cheap handle.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    state: Mutex<State>,
    gone: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    taken: HashMap<u64, Taken>,
    /// Those that may be given up, and since when.
    idle: BTreeSet<(Instant, u64)>,
    leaving: usize,
    said: Option<Instant>,
}

#[derive(Debug)]
struct Taken {
    told: CancellationToken,
    idle: Option<Instant>,
    leaving: bool,
}

/// One connection's; dropping it leaves it.
#[derive(Debug)]
pub struct Seat {
    id: u64,
    seats: Seats,
    /// Cancelled when it is given up.
    pub told: CancellationToken,
    /// Whether it is one of the reserve: for probes alone.
    pub is_reserve: bool,
}

impl Seats {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, state: Mutex::default(), gone: Notify::new() }))
    }

    /// A seat, if need be one that somebody else is told to leave. None where all are in use by whole requests.
    pub fn take(&self, told: CancellationToken, now: Instant) -> Option<Seat> {
        let mut state = self.lock();
        if state.staying() >= self.0.limit
            && let Some((_, id)) = state.idle.pop_first()
        {
            state.leaving += 1;
            if let Some(taken) = state.taken.get_mut(&id) {
                (taken.idle, taken.leaving) = (None, true);
                taken.told.cancel();
            }
            if state.said.is_none_or(|said| now.duration_since(said) >= SAID) {
                state.said = Some(now);
                tracing::warn!(
                    limit = self.0.limit,
                    "all connections are taken; those that have no request for longest are closed to make room; raise \
                     server.maxConnections if they are not idle for nothing"
                );
            }
        }
        let is_reserve = state.staying() >= self.0.limit;
        if state.staying() >= self.0.limit + RESERVE {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.taken.insert(id, Taken { told: told.clone(), idle: Some(now), leaving: false });
        state.idle.insert((now, id));
        drop(state);
        Some(Seat { id, seats: self.clone(), told, is_reserve })
    }

    /// Waits until those who were told to go are gone, but for a few: their descriptors count until then.
    pub async fn settled(&self) {
        loop {
            let gone = self.0.gone.notified();
            if self.lock().leaving < LEAVING {
                return;
            }
            gone.await;
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().taken.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn staying(&self) -> usize {
        self.taken.len() - self.leaving
    }
}

impl Seat {
    /// From when on it has been without a whole request; none: it is in use, and stays.
    pub fn idle(&self, since: Option<Instant>) {
        let mut state = self.seats.lock();
        let Some(taken) = state.taken.get_mut(&self.id) else { return };
        if taken.leaving || taken.idle == since {
            return;
        }
        let before = std::mem::replace(&mut taken.idle, since);
        if let Some(before) = before {
            state.idle.remove(&(before, self.id));
        }
        if let Some(since) = since {
            state.idle.insert((since, self.id));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.seats.lock();
        if let Some(Taken { idle, leaving, .. }) = state.taken.remove(&self.id) {
            if let Some(since) = idle {
                state.idle.remove(&(since, self.id));
            }
            state.leaving -= usize::from(leaving);
        }
        drop(state);
        self.seats.0.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(seats: &Seats, now: Instant) -> Option<Seat> {
        seats.take(CancellationToken::new(), now)
    }

    #[tokio::test]
    async fn the_longest_idle_goes_and_who_has_a_request_stays() {
        let seats = Seats::new(3);
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let (first, second, third) =
            (take(&seats, now).unwrap(), take(&seats, at(1)).unwrap(), take(&seats, at(2)).unwrap());
        first.idle(None);
        second.idle(Some(at(5)));
        let fourth = take(&seats, at(6)).unwrap();
        assert!(third.told.is_cancelled() && !fourth.is_reserve);
        assert!(!first.told.is_cancelled() && !second.told.is_cancelled());
        // What it does on its way out changes nothing.
        third.idle(None);
        third.idle(Some(at(0)));
        drop(third);
        first.idle(Some(at(4)));
        let fifth = take(&seats, at(7)).unwrap();
        assert!(first.told.is_cancelled() && !second.told.is_cancelled() && !fifth.is_reserve);
    }

    #[tokio::test]
    async fn with_all_in_use_there_is_a_reserve_and_then_nothing() {
        let seats = Seats::new(1);
        let now = Instant::now();
        let used = take(&seats, now).unwrap();
        used.idle(None);
        let reserve: Vec<_> = (0..RESERVE).map(|_| take(&seats, now).unwrap()).collect();
        assert!(reserve[0].is_reserve);
        // One of the reserve that only sits there makes room as well.
        assert!(reserve.iter().filter(|seat| seat.told.is_cancelled()).count() == RESERVE - 1);
        drop(reserve);
        let reserve: Vec<_> = (0..RESERVE)
            .map(|_| {
                let seat = take(&seats, now).unwrap();
                seat.idle(None);
                seat
            })
            .collect();
        assert!(take(&seats, now).is_none());
        drop(used);
        assert!(take(&seats, now).unwrap().is_reserve, "the limit counts, and not who came when");
        drop(reserve);
        assert!(!take(&seats, now).unwrap().is_reserve);
        assert_eq!(seats.taken(), 0);
    }

    #[tokio::test]
    async fn it_waits_for_those_who_were_told_to_go() {
        let seats = Seats::new(LEAVING);
        let now = Instant::now();
        let mut told: Vec<_> = (0..LEAVING).map(|_| take(&seats, now).unwrap()).collect();
        let _new: Vec<_> = (0..LEAVING).map(|_| take(&seats, now).unwrap()).collect();
        assert!(told.iter().all(|seat| seat.told.is_cancelled()));
        let mut settled = Box::pin(seats.settled());
        assert!(futures_util::poll!(settled.as_mut()).is_pending());
        told.pop();
        settled.await;
    }
}

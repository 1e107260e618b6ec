//! Who was turned away by a full line, in the order in which they first came.
//!
//! Callers come again when they like: Flagger at its next tick, others when `Retry-After` says. Without a memory of
//! them whoever comes at the right moment gets the place that has just come free, and one whose ticks fall behind those
//! of many others may be turned away for as long as these have work. So it is known who came before whom. Whoever does
//! not come again is forgotten after a while, and keeps nobody out meanwhile: see [`Slots::enter`](super::slots::Slots::enter).
//!
//! Memory only: after a restart everybody is new.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::StreamId;

/// How many are remembered. Whoever comes when there are so many is told to come again, and is new then.
const MOST: usize = 4096;

/// For how long beyond the time that it was told to come again one is remembered: Flagger looks at a canary every few
/// seconds to minutes.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often those who did not come again are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Those who are expected to come again.
#[derive(Debug, Default)]
pub struct TurnedAway {
    next: u64,
    numbers: HashMap<StreamId, u64>,
    in_order: BTreeMap<u64, (StreamId, Instant)>,
    swept: Option<Instant>,
}

impl TurnedAway {
    /// How many who are still expected came before this one.
    pub fn before(&mut self, who: &StreamId, now: Instant) -> usize {
        self.sweep(now);
        match self.numbers.get(who) {
            Some(number) => self.in_order.range(..number).count(),
            None => self.in_order.len(),
        }
    }

    /// Remembers that one was told to come again after so long. Who was turned away before keeps its number.
    pub fn note(&mut self, who: &StreamId, after: Duration, now: Instant) {
        let until = now + after + PATIENCE;
        if let Some(number) = self.numbers.get(who) {
            if let Some((_, known)) = self.in_order.get_mut(number) {
                *known = until;
            }
        } else if self.in_order.len() < MOST {
            self.numbers.insert(who.clone(), self.next);
            self.in_order.insert(self.next, (who.clone(), until));
            self.next += 1;
        }
    }

    /// One has got in.
    pub fn forget(&mut self, who: &StreamId) {
        if let Some(number) = self.numbers.remove(who) {
            self.in_order.remove(&number);
        }
    }

    /// Nobody is turned away any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many are remembered, by either way to look for them.
    #[cfg(test)]
    pub fn kept(&self) -> [usize; 2] {
        [self.numbers.len(), self.in_order.len()]
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + SWEEP) {
            return;
        }
        self.swept = Some(now);
        let numbers = &mut self.numbers;
        self.in_order.retain(|_, (who, until)| {
            let expected = now < *until;
            if !expected {
                numbers.remove(who);
            }
            expected
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::Source;

    fn who(number: usize) -> StreamId {
        StreamId { source: Source::Flagger, application: format!("test/app-{number}").parse().unwrap() }
    }

    #[test]
    fn the_order_is_that_of_the_first_time() {
        let (mut away, now) = (TurnedAway::default(), Instant::now());
        for number in [0, 1, 2, 0, 1] {
            away.note(&who(number), Duration::from_secs(1), now);
        }
        assert_eq!([0, 1, 2, 3].map(|number| away.before(&who(number), now)), [0, 1, 2, 3]);
        away.forget(&who(0));
        assert_eq!([0, 1, 2, 3].map(|number| away.before(&who(number), now)), [2, 0, 1, 2]);
    }

    #[test]
    fn who_does_not_come_again_is_forgotten() {
        let (mut away, now) = (TurnedAway::default(), Instant::now());
        away.note(&who(0), Duration::from_secs(10), now);
        away.note(&who(1), Duration::from_secs(30), now);
        let later = now + PATIENCE + Duration::from_secs(20);
        assert_eq!(away.before(&who(2), later), 1);
        assert_eq!(away.before(&who(1), later), 0);
        assert_eq!(away.numbers.len(), 1);
    }

    #[test]
    fn memory_has_a_bound() {
        let (mut away, now) = (TurnedAway::default(), Instant::now());
        for number in 0..MOST + 10 {
            away.note(&who(number), Duration::ZERO, now);
        }
        assert_eq!((away.numbers.len(), away.in_order.len()), (MOST, MOST));
    }
}

//! A line in which the applications take turns, each with its own in order: whoever sends most waits longest, and a flood
//! about one application is one step ahead of another's script, not a thousand.
//!
//! How long the line may be, and who is refused, is not decided here.

use std::collections::{HashMap, VecDeque};

use crate::domain::names::Application;

/// The line.
#[derive(Debug)]
pub struct Turns<T> {
    of: HashMap<Application, Own<T>>,
    /// Each application that has somebody in line, once.
    order: VecDeque<Application>,
}

/// What of one application is in line.
#[derive(Debug)]
struct Own<T> {
    /// Places that are kept for decisions under way.
    claimed: usize,
    waiting: VecDeque<T>,
}

impl<T> Own<T> {
    fn places(&self) -> usize {
        self.claimed + self.waiting.len()
    }
}

impl<T> Default for Own<T> {
    fn default() -> Self {
        Self { claimed: 0, waiting: VecDeque::new() }
    }
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { of: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// How many places are taken, of each application so many at the most: what it has beyond that, since it can't be
    /// refused, takes none from others.
    pub fn taken(&self, share: usize) -> usize {
        self.of.values().map(|own| own.places().min(share)).sum()
    }

    /// How many places an application has.
    pub fn taken_by(&self, application: &Application) -> usize {
        self.of.get(application).map_or(0, Own::places)
    }

    /// Keeps a place.
    pub fn claim(&mut self, application: &Application) {
        self.of.entry(application.clone()).or_default().claimed += 1;
    }

    /// Gives a place up that was kept.
    pub fn give_up(&mut self, application: &Application) {
        let Some(own) = self.of.get_mut(application) else { return };
        own.claimed = own.claimed.saturating_sub(1);
        if own.places() == 0 {
            self.of.remove(application);
        }
    }

    /// Gets in line.
    pub fn push(&mut self, application: &Application, who: T) {
        let own = self.of.entry(application.clone()).or_default();
        own.waiting.push_back(who);
        if own.waiting.len() == 1 {
            self.order.push_back(application.clone());
        }
    }

    /// The next: the first of the application whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let application = self.order.pop_front()?;
            let Some(own) = self.of.get_mut(&application) else { continue };
            let next = own.waiting.pop_front();
            if !own.waiting.is_empty() {
                self.order.push_back(application);
            } else if own.places() == 0 {
                self.of.remove(&application);
            }
            if next.is_some() {
                return next;
            }
        }
    }

    /// Takes those out who do not wait any more.
    pub fn retain(&mut self, waits: impl Fn(&T) -> bool) {
        self.of.retain(|_, own| {
            own.waiting.retain(&waits);
            own.places() > 0
        });
        let of = &self.of;
        self.order.retain(|application| of.get(application).is_some_and(|own| !own.waiting.is_empty()));
    }

    /// Of how many applications something is kept, and how many have a turn to come.
    #[cfg(test)]
    pub fn kept(&self) -> [usize; 2] {
        [self.of.len(), self.order.len()]
    }

    /// All who wait.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.of.values().flat_map(|own| &own.waiting)
    }

    /// Takes all out who wait; the places that are kept stay so.
    pub fn drain(&mut self) -> Vec<T> {
        self.order.clear();
        self.of.values_mut().flat_map(|own| std::mem::take(&mut own.waiting)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> Application {
        format!("test/{name}").parse().unwrap()
    }

    #[test]
    fn applications_take_turns_and_each_keeps_its_order() {
        let mut line = Turns::default();
        for (of, who) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            line.push(&app(of), who);
        }
        assert_eq!(line.taken(100), 6);
        assert_eq!(line.taken(2), 5);
        line.retain(|who| *who != 5);
        let order: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(order, [1, 4, 2, 6, 3]);
        assert!(line.of.is_empty() && line.order.is_empty());
    }

    #[test]
    fn nothing_is_left_of_a_place_that_was_given_up() {
        let mut line = Turns::default();
        line.claim(&app("a"));
        line.push(&app("a"), 1);
        assert_eq!((line.taken_by(&app("a")), line.taken_by(&app("b"))), (2, 0));
        assert_eq!(line.pop(), Some(1));
        assert_eq!(line.taken_by(&app("a")), 1);
        line.give_up(&app("a"));
        assert!(line.of.is_empty());
        line.push(&app("a"), 2);
        line.claim(&app("a"));
        assert_eq!(line.drain(), [2]);
        line.give_up(&app("a"));
        assert!(line.of.is_empty() && line.pop().is_none());
    }
}

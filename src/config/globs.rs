//! Whether two globs have a text in common.
//!
//! What globset matches with is a regular expression, and so is what is compared here: nobody has to know twice what
//! braces, classes and `**` mean. Both are walked at once, byte by byte, through every pair of states that some text
//! leads to.

use std::collections::HashSet;

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;

use crate::domain::glob::Glob;

/// The most states of one glob: a name has 253 bytes, and a useful glob fewer.
const MAX_STATES: usize = 4096;
/// The most pairs of states that are looked at.
const MAX_PAIRS: usize = 1 << 18;

/// What a glob matches, to be compared. It is made once for a glob, since each is compared with many.
#[derive(Clone, Debug)]
pub(super) struct Automaton(Option<NFA>);

impl Automaton {
    /// The automaton of a glob.
    pub fn of(glob: &Glob) -> Self {
        // As globset has it.
        let syntax = syntax::Config::new().utf8(false).dot_matches_new_line(true);
        let config = NFA::config().utf8(false).nfa_size_limit(Some(1 << 20));
        let nfa = NFA::compiler().syntax(syntax).configure(config).build(glob.regex());
        Self(nfa.ok().filter(|nfa| nfa.states().len() <= MAX_STATES))
    }

    /// Whether some text matches both; yes as well where that would take too long to find out.
    pub fn meets(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => walk(a, b),
            _ => true,
        }
    }
}

fn walk(a: &NFA, b: &NFA) -> bool {
    let start = (a.start_anchored(), b.start_anchored());
    let mut seen = HashSet::from([start]);
    let mut open = vec![start];
    while let Some((x, y)) = open.pop() {
        if seen.len() > MAX_PAIRS {
            return true;
        }
        let mut next = Vec::new();
        match (free(a, x), free(b, y)) {
            (Some(xs), _) => next.extend(xs.into_iter().map(|x| (x, y))),
            (None, Some(ys)) => next.extend(ys.into_iter().map(|y| (x, y))),
            (None, None) => match (a.state(x), b.state(y)) {
                (State::Match { .. }, State::Match { .. }) => return true,
                (x, y) => common(x, y, &mut next),
            },
        }
        open.extend(next.into_iter().filter(|pair| seen.insert(*pair)));
    }
    false
}

/// Where a state leads to without a byte; none where it takes one, or is the end.
fn free(nfa: &NFA, id: StateID) -> Option<Vec<StateID>> {
    match nfa.state(id) {
        State::Union { alternates } => Some(alternates.to_vec()),
        State::BinaryUnion { alt1, alt2 } => Some(vec![*alt1, *alt2]),
        // The only looks of a glob are `^` at its begin and `$` at its end, and both walks begin and end there.
        State::Look { next, .. } | State::Capture { next, .. } => Some(vec![*next]),
        State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Fail | State::Match { .. } => None,
    }
}

/// Where both get with the same byte.
fn common(x: &State, y: &State, next: &mut Vec<(StateID, StateID)>) {
    let ys = ranges(y);
    for (from, to, x) in ranges(x) {
        let both = ys.iter().filter(|(begin, end, _)| from <= *end && *begin <= to);
        next.extend(both.map(|(_, _, y)| (x, *y)));
    }
}

/// The bytes that a state takes, and where each leads to.
fn ranges(state: &State) -> Vec<(u8, u8, StateID)> {
    match state {
        State::ByteRange { trans } => vec![(trans.start, trans.end, trans.next)],
        State::Sparse(sparse) => sparse.transitions.iter().map(|t| (t.start, t.end, t.next)).collect(),
        State::Dense(dense) => {
            // Each byte has its place, and one that is not taken leads to zero.
            let taken = (0..=u8::MAX).zip(dense.transitions.iter()).filter(|(_, next)| **next != StateID::ZERO);
            taken.map(|(byte, next)| (byte, byte, *next)).collect()
        }
        _ => Vec::new(),
    }
}

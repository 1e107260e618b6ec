//! Which applications a pipeline is for, and which of two pipelines is meant more.
//!
//! The fields are compared in the order name, namespace, cluster, source. In each, a literal beats a glob, a glob
//! with a longer literal beginning beats one with a shorter, and any glob beats a field that is absent (or `*`).
//! The first field that differs decides. Two selectors of the same rank that could both match one application are
//! a tie, which is refused at load: no order of files decides what runs.

use crate::domain::glob::Glob;
use crate::domain::names::{Application, Name, Namespace, Source};

use super::diagnostic::{Diagnostic, nearest};
use super::fields::{Fields, text};
use super::globs::Automaton;

/// The fields of a selector.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    pub name: Pattern,
    pub namespace: Pattern,
    pub cluster: Pattern,
    source: Pattern,
}

/// How specific a selector is; more is greater.
pub(super) type Rank = [(u8, usize); 4];

impl Selector {
    /// A selector of one name in any namespace.
    pub fn named(name: &Name) -> Self {
        let any = Pattern::Any;
        Self { name: Pattern::Literal(name.to_string()), namespace: any.clone(), cluster: any.clone(), source: any }
    }

    /// The fields of a file.
    pub fn read(fields: &mut Fields<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        let namespace = Pattern::read(fields, "namespace", faults);
        let name = Pattern::read(fields, "name", faults);
        let cluster = Pattern::read(fields, "cluster", faults);
        let source = Pattern::read(fields, "source", faults);
        if let (Pattern::Literal(name), Some(node)) = (&source, fields.get("source"))
            && name.parse::<Source>().is_err()
        {
            let known = Source::ALL.map(Source::as_str);
            let fault = Diagnostic::error(&node.at, format!("the source {name:?} is not known"));
            faults.push(fault.hint(match nearest(name, known) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("known are {}", known.join(", ")),
            }));
        }
        Self { name, namespace, cluster, source }
    }

    /// Whether an application is selected.
    pub fn matches(&self, source: Source, application: &Application) -> bool {
        self.is_for(application) && self.is_told_by(source)
    }

    /// Whether an application is selected, whoever tells of it.
    pub fn is_for(&self, application: &Application) -> bool {
        self.name.matches(Some(application.name.as_str()))
            && self.namespace.matches(Some(application.namespace.as_str()))
            && self.cluster.matches(application.cluster.as_ref().map(|cluster| cluster.as_str()))
    }

    /// Whether a source is selected.
    pub fn is_told_by(&self, source: Source) -> bool {
        self.source.matches(Some(source.as_str()))
    }

    /// Whether it could select something of a source in a namespace.
    pub fn covers(&self, source: Source, namespace: &Namespace) -> bool {
        self.namespace.matches(Some(namespace.as_str())) && self.is_told_by(source)
    }

    /// How specific it is.
    pub fn rank(&self) -> Rank {
        [self.name.rank(), self.namespace.rank(), self.cluster.rank(), self.source.rank()]
    }

    /// Whether neither of two is more specific, while one application could be selected by both. In doubt it could.
    pub fn ties(&self, other: &Self) -> bool {
        self.rank() == other.rank()
            && self.name.meets(&other.name)
            && self.namespace.meets(&other.namespace)
            && self.cluster.meets(&other.cluster)
            && self.source.meets(&other.source)
    }
}

/// One field of a selector.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Any,
    Literal(String),
    Glob { prefix: String, glob: Glob, automaton: Automaton },
}

/// What makes a text a glob.
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

impl Pattern {
    /// The one text that it matches, where it is one.
    pub fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            Self::Any | Self::Glob { .. } => None,
        }
    }

    fn read(fields: &mut Fields<'_>, name: &'static str, faults: &mut Vec<Diagnostic>) -> Self {
        let Some(node) = fields.get(name) else { return Self::Any };
        let Some(text) = text(node, name, faults) else { return Self::Any };
        if text.is_empty() {
            faults.push(Diagnostic::error(&node.at, format!("{name} is empty")).hint("leave it out to select any"));
            return Self::Any;
        }
        Self::new(text).unwrap_or_else(|error| {
            faults.push(Diagnostic::error(&node.at, format!("{name} is no glob: {error}")));
            Self::Any
        })
    }

    pub fn new(text: &str) -> Result<Self, String> {
        if text.chars().all(|c| c == '*') {
            return Ok(Self::Any);
        }
        let Some(first) = text.find(SPECIAL) else { return Ok(Self::Literal(text.to_owned())) };
        let glob = Glob::new(text)?;
        let prefix = text.get(..first).unwrap_or_default();
        let automaton = Automaton::of(&glob);
        Ok(Self::Glob { prefix: prefix.to_owned(), glob, automaton })
    }

    pub fn matches(&self, text: Option<&str>) -> bool {
        match (self, text) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::Literal(literal), Some(text)) => literal == text,
            (Self::Glob { glob, .. }, Some(text)) => glob.matches(text),
        }
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Glob { prefix, .. } => (1, prefix.len()),
            Self::Literal(_) => (2, 0),
        }
    }

    /// Whether one text could match both; in doubt yes.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(a), Self::Literal(b)) => a == b,
            (Self::Glob { automaton: a, .. }, Self::Glob { automaton: b, .. }) => a.meets(b),
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Literal(literal), Self::Glob { glob, .. }) | (Self::Glob { glob, .. }, Self::Literal(literal)) => {
                glob.matches(literal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn a_star_goes_over_slashes_and_alone_it_is_nothing() {
        assert!(pattern("octo*").matches(Some("octo/app")));
        assert!(matches!(pattern("*"), Pattern::Any));
        assert!(pattern("*").matches(None) && !pattern("a*").matches(None));
    }

    #[test]
    fn a_literal_beats_a_glob_and_a_longer_beginning_a_shorter() {
        let ranks: Vec<_> = ["*", "*a", "po*", "podi*", "x"].map(|text| pattern(text).rank()).to_vec();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }

    fn meet(a: &str, b: &str) -> bool {
        let (a, b) = (pattern(a), pattern(b));
        assert_eq!(a.meets(&b), b.meets(&a));
        a.meets(&b)
    }

    #[test]
    fn globs_meet_where_one_text_matches_both() {
        for (a, b) in [
            ("a*b", "a*b"),
            ("a*", "a*b"),
            ("a[xy]", "a?"),
            ("{a,b{c,d*}}", "*dd"),
            ("*-{dev,stage}", "*-{prod,stage}"),
            ("[!a]*", "[ab]*"),
            ("octo/*", "*/app"),
            ("**/app", "app*"),
            ("a**", "*/b"),
            ("\\**", "[*]x"),
            ("\u{e9}*", "??"),
        ] {
            assert!(meet(a, b), "{a} {b}");
        }
    }

    #[test]
    fn globs_that_no_text_matches_both_do_not_meet() {
        for (a, b) in [
            ("a*x", "a*y"),
            ("ab*", "ac*"),
            ("a", "b"),
            ("{api,web}", "{db,cache}"),
            ("[ab]*", "[cd]*"),
            ("[!ab]", "[ab]"),
            ("a?", "a???"),
            ("*-{dev,stage}", "*-{prod,live}"),
            ("{a,b{c,d}}", "{b,c,bcd}"),
            ("a/**/b", "a?b*c"),
            ("\\**", "[ab]*"),
        ] {
            assert!(!meet(a, b), "{a} {b}");
        }
    }

    #[test]
    fn what_would_take_too_long_could_meet() {
        let long = |last: char| format!("{}{last}", "*a?[bc]".repeat(1000));
        let begun = std::time::Instant::now();
        assert!(meet(&long('x'), &long('y')));
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    }

    fn glob() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[ab/]{1,2}",
            Just("?".to_owned()),
            Just("*".to_owned()),
            Just("**".to_owned()),
            "\\[!?[ab/]{1,2}\\]",
        ];
        let flat = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
        let braces = prop::collection::vec(flat.clone(), 1..4).prop_map(|parts| format!("{{{}}}", parts.join(",")));
        prop::collection::vec(prop_oneof![flat, braces], 1..3).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// Tried with every text of up to five of the letters that the globs are made of.
        #[test]
        fn globs_meet_whenever_a_text_matches_both(a in glob(), b in glob()) {
            let (a, b) = (pattern(&a), pattern(&b));
            let mut texts = vec![String::new()];
            let mut begin = 0;
            for _ in 0..5 {
                let end = texts.len();
                for at in begin..end {
                    for letter in ['a', 'b', '/', 'c'] {
                        texts.push(format!("{}{letter}", texts[at]));
                    }
                }
                begin = end;
            }
            if let Some(text) = texts.iter().find(|text| a.matches(Some(text)) && b.matches(Some(text))) {
                prop_assert!(a.meets(&b), "{text:?}");
            }
        }
    }
}

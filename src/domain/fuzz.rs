//! What must hold of every command of the load tester, whatever pattern allows it.
//!
//! Each function is the body of a fuzz target; see `crate::fuzz`.

use super::allow::{CommandPattern, MAX_COMMAND};

/// Between a pattern and a command.
const SEPARATOR: &str = "\n=>\n";
/// What may stand in place of a `*` at all; written down once more, so that a slip in the rule itself shows.
const PLAIN: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:=@%+";

/// `commands`: a pattern of the allow-list, `=>` on a line, a command.
pub fn commands(data: &[u8]) {
    let Some((pattern, command)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once(SEPARATOR)) else {
        return;
    };
    if let Ok(any) = CommandPattern::new(pattern, true) {
        any.fits(command);
    }
    let outer = |c| matches!(c, ' ' | '\t' | '\n');
    let command = command.trim_matches(outer);
    let written: String =
        command.chars().flat_map(|c| ['\\', c].into_iter().skip(usize::from(!"*\\".contains(c)))).collect();
    if let Ok(own) = CommandPattern::new(&written, false) {
        assert_eq!(own.fits(command), command.len() <= MAX_COMMAND, "a command fits itself: {command:?}");
    }
    let pattern = pattern.trim_matches(outer);
    let Ok(rule) = CommandPattern::new(pattern, false) else { return };
    if !rule.fits(command) {
        return;
    }
    let parts = parts(pattern);
    let literal = |c: &Part| match c {
        Part::Literal(c) => Some(*c),
        Part::Star | Part::Stars => None,
    };
    let written: Vec<char> = parts.iter().filter_map(literal).collect();
    // Of all that means anything to a shell, the caller adds nothing, takes nothing away and moves nothing.
    let meaning = |c: &char| !PLAIN.contains(*c);
    assert!(
        written.iter().copied().filter(meaning).eq(command.chars().filter(meaning)),
        "{command:?} has other characters that mean something than {pattern:?}"
    );
    let words = parts.split(|part| matches!(part, Part::Literal(c) if meaning(c)));
    for (word, told) in words.zip(command.split(|c| meaning(&c))) {
        let own: Vec<char> = word.iter().filter_map(literal).collect();
        let count = |c: char| (own.iter().filter(|own| **own == c).count(), told.matches(c).count());
        let (wrote, has) = count('/');
        assert!(has == wrote || word.contains(&Part::Stars), "{told:?} has a / that {pattern:?} has not");
        if told.starts_with(['-', '+', '@']) {
            assert!(own.first() == told.chars().next().as_ref(), "{told:?} is an option that {pattern:?} has not");
        }
        let own: String = own.into_iter().collect();
        assert!(!told.contains("..") || own.contains(".."), "{told:?} climbs, and {pattern:?} does not");
    }
    let first = pattern.split_whitespace().find(|word| !word.contains('='));
    assert!(
        !parts.iter().any(|part| literal(part).is_none())
            || first.is_some_and(|word| !word.contains('*') || word.contains('\\')),
        "the caller chooses what runs: {pattern:?}"
    );
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Literal(char),
    Star,
    Stars,
}

/// A pattern, character by character.
fn parts(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '\\' if matches!(chars.peek(), Some('*' | '\\')) => Part::Literal(chars.next().unwrap_or(c)),
            '*' if chars.next_if_eq(&'*').is_some() => Part::Stars,
            '*' => Part::Star,
            c => Part::Literal(c),
        });
    }
    parts
}

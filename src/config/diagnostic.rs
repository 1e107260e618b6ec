//! What is wrong with a file or a variable, where, and what to write instead.
//!
//! This is text for people, rendered like a compiler's. It is not an error type to match on:
//! whoever gets a diagnostic shows it.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

/// The longest line that is quoted in full, in characters.
const SNIPPET: usize = 160;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It is refused.
    Error,
    /// It is accepted, but probably not meant.
    Warning,
}

impl Severity {
    /// As it is written in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One fault of a file or of a variable.
///
/// Displays as `file:line:column: error: message; hint`, with the line quoted below. It ends
/// without a line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file as it was named, or the variable; empty where it is neither.
    pub file: String,
    /// The line, from 1; 0 where the fault has no place in a file.
    pub line: usize,
    /// The column in characters, from 1; 0 where the fault has no place in a file.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line itself.
    pub snippet: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(at: &Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: at.origin.name.clone(),
            line: at.line,
            column: at.column,
            message: message.into(),
            hint: None,
            snippet: at.quote(),
        }
    }

    /// A warning at a place.
    pub fn warning(at: &Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(at, message) }
    }

    /// An error about a whole file (or directory, or variable).
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            message: message.into(),
            hint: None,
            snippet: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name may have any character, and this is one line of a log.
        self.file.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).try_for_each(|c| f.write_char(c))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let separator = if self.file.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}: {}", self.severity.as_str(), self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        if let Some(snippet) = &self.snippet {
            let number = self.line.to_string();
            let caret = self.column.saturating_sub(1).min(SNIPPET);
            write!(f, "\n {number} | {snippet}\n {:1$} | {2:3$}^", "", number.len(), "", caret)?;
        }
        Ok(())
    }
}

/// Where a text came from: a file with its content, or a variable.
#[derive(Debug)]
pub struct Origin {
    /// The file as it was named, or the variable.
    pub name: String,
    /// Its content, for quoting; empty for a variable.
    pub text: String,
    /// What relative paths in it are relative to; empty for the working directory.
    pub base: PathBuf,
}

impl Origin {
    /// A line of its content, by its number from 1.
    pub(super) fn line(&self, number: usize) -> Option<&str> {
        lines(self.text.strip_suffix('\n').unwrap_or(&self.text)).nth(number.checked_sub(1)?)
    }
}

/// The lines of a text, of which the parser of YAML counts one more for a carriage return alone.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// A place in a file, or a variable.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file or the variable.
    pub origin: Arc<Origin>,
    /// From 1; 0 for the whole.
    pub line: usize,
    /// In characters, from 1; 0 for the whole.
    pub column: usize,
}

impl Place {
    /// The whole of an origin.
    pub fn whole(origin: &Arc<Origin>) -> Self {
        Self { origin: Arc::clone(origin), line: 0, column: 0 }
    }

    /// The place of a byte in the origin's text.
    pub fn of_byte(origin: &Arc<Origin>, byte: usize) -> Self {
        let before = origin.text.get(..byte).unwrap_or(&origin.text);
        // With what stands there, so that a line that has just begun counts.
        let upto = format!("{before}.");
        let (line, last) = (1..).zip(lines(&upto)).last().unwrap_or((1, "."));
        Self { origin: Arc::clone(origin), line, column: last.chars().count() }
    }

    fn quote(&self) -> Option<String> {
        let line = self.origin.line(self.line)?;
        // A control character (an escape sequence, a tab that moves the caret) must not reach a terminal.
        let clean: String = line.chars().take(SNIPPET).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(if line.chars().nth(SNIPPET).is_some() { format!("{clean}…") } else { clean })
    }
}

/// Reads a part whose lines may hold a secret by mistake: none of its faults quotes its line.
pub(super) fn unquoted<T>(faults: &mut Vec<Diagnostic>, read: impl FnOnce(&mut Vec<Diagnostic>) -> T) -> T {
    let before = faults.len();
    let value = read(faults);
    faults.iter_mut().skip(before).for_each(|fault| fault.snippet = None);
    value
}

/// The known word that somebody who wrote `word` probably meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(word);
    let allowed = 1 + folded.len() / 4;
    known
        .into_iter()
        .map(|candidate| (distance(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case, dashes and underscores are the differences that people overlook.
fn fold(word: &str) -> Vec<char> {
    word.chars().take(64).filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// How many letters must be changed, added, removed or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: [Vec<usize>; 3] = [Vec::new(), Vec::new(), (0..=b.len()).collect()];
    for (i, x) in a.iter().enumerate() {
        rows.rotate_left(1);
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[1][j] + usize::from(x != y)).min(rows[1][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                best = best.min(rows[0][j - 1] + 1);
            }
            row.push(best);
        }
        rows[2] = row;
    }
    rows[2][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Arc<Origin> {
        Arc::new(Origin { name: "a.yaml".into(), text: text.into(), base: PathBuf::new() })
    }

    #[test]
    fn renders_the_place_the_hint_and_the_line() {
        let origin = origin("a: 1\n  timout: 5m\n");
        let place = Place::of_byte(&origin, 7);
        let shown = Diagnostic::error(&place, "unknown key \"timout\"").hint("did you mean \"timeout\"?").to_string();
        assert_eq!(
            shown,
            "a.yaml:2:3: error: unknown key \"timout\"; did you mean \"timeout\"?\n 2 |   timout: 5m\n   |   ^"
        );
    }

    #[test]
    fn a_quoted_line_holds_no_control_characters_and_is_cut() {
        let origin = origin(&format!("\u{1b}[31m\t{}", "x".repeat(500)));
        let shown = Diagnostic::warning(&Place::of_byte(&origin, 0), "odd").to_string();
        assert!(!shown.contains('\u{1b}') && !shown.contains('\t'), "{shown:?}");
        assert!(shown.contains('…') && shown.len() < 400, "{shown}");
    }

    #[test]
    fn a_carriage_return_ends_a_line_alone_or_before_another_end() {
        let origin = origin("a\r\nb\rcd\n\r\n");
        let at = |byte| {
            let place = Place::of_byte(&origin, byte);
            (place.line, place.column)
        };
        assert_eq!([0, 1, 3, 5, 6, 8].map(at), [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2), (4, 1)]);
        let found = [1, 2, 3, 4, 5].map(|number| origin.line(number));
        assert_eq!(found, [Some("a"), Some("b"), Some("cd"), Some(""), None]);
        assert_eq!(Diagnostic::error(&Place::of_byte(&origin, 5), "odd").snippet.as_deref(), Some("cd"));
    }

    #[test]
    fn a_name_with_a_line_break_is_shown_on_one_line() {
        assert_eq!(Diagnostic::of_file("A\nB", "odd").to_string(), "A\u{fffd}B: error: odd");
    }

    #[test]
    fn columns_count_characters() {
        let origin = origin("äöü: x");
        assert_eq!(Place::of_byte(&origin, 8).column, 6);
    }

    #[test]
    fn nearest_forgives_a_slip_and_not_another_word() {
        let known = ["timeout", "retries", "onRollback", "run"];
        assert_eq!(nearest("timout", known), Some("timeout"));
        assert_eq!(nearest("tiemout", known), Some("timeout"));
        assert_eq!(nearest("on_rollback", known), Some("onRollback"));
        assert_eq!(nearest("image", known), None);
        assert_eq!(nearest("", known), None);
    }
}

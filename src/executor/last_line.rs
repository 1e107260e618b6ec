//! The last line that a script printed, for a message of one line.
//!
//! Deliberately apart from what is kept of the output: the last line counts even if it is longer than
//! all that is kept.

use crate::domain::printable::misleads;

/// The longest last line, in characters.
pub(super) const LONGEST: usize = 200;
/// What is kept of a line: enough for the characters, and for what is stripped of them.
const KEPT: usize = 8 * LONGEST;

/// Watches a stream for its last line that is not empty.
#[derive(Debug, Default)]
pub struct LastLine {
    complete: String,
    current: Vec<u8>,
}

impl LastLine {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        // Asked so, it is quick: a gigabyte without a line is looked through for one.
        let has_lines = bytes.contains(&b'\n') || bytes.contains(&b'\r');
        let Some(first) = has_lines.then(|| bytes.iter().position(ends_line)).flatten() else {
            self.extend(bytes);
            return;
        };
        self.extend(&bytes[..first]);
        let rest = &bytes[first + 1..];
        let (lines, begun) = match rest.iter().rposition(ends_line) {
            Some(last) => (&rest[..last], &rest[last + 1..]),
            None => (&rest[..0], rest),
        };
        let latest = last_readable(lines).unwrap_or_else(|| readable(&self.current));
        if !latest.is_empty() {
            self.complete = latest;
        }
        self.current.clear();
        self.extend(begun);
    }

    /// The line.
    pub fn get(&self) -> String {
        let current = readable(&self.current);
        if current.is_empty() { self.complete.clone() } else { current }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = KEPT - self.current.len();
        self.current.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A carriage return begins the line anew: the last state of a progress bar is its line.
fn ends_line(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// The last of these lines in which there is anything to read. From the end: of a thousand short lines one is looked at.
fn last_readable(mut lines: &[u8]) -> Option<String> {
    while let Some(last) = lines.iter().rposition(|byte| *byte > b' ') {
        let begin = lines[..last].iter().rposition(ends_line).map_or(0, |end| end + 1);
        let line = &lines[begin..=last];
        let line = readable(&line[..line.len().min(KEPT)]);
        if !line.is_empty() {
            return Some(line);
        }
        lines = &lines[..begin];
    }
    None
}

/// What a person may read of a line: without what is for a terminal.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut rest = text.as_ref();
    let mut out = String::new();
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\u{1b}' => after_escape(after),
            '\u{9b}' => after_control(after),
            _ => after,
        };
        if c == '\t' {
            out.push(' ');
        } else if !misleads(c) {
            out.push(c);
        }
    }
    out.trim().chars().take(LONGEST).collect()
}

/// What follows a sequence that tells a terminal something, from behind its escape on.
fn after_escape(rest: &str) -> &str {
    match rest.chars().next() {
        // A colour.
        Some('[') => after_control(&rest[1..]),
        // A title or a link, with a text and an end. Without its end it is no such thing, and what follows is text.
        Some(']' | 'P' | 'X' | '^' | '_') => match rest.find(['\u{7}', '\u{1b}', '\u{9c}']) {
            Some(end) => rest[end..].strip_prefix("\u{1b}\\").unwrap_or(&rest[end..]),
            None => &rest[1..],
        },
        // A set of characters (`ESC ( B`).
        Some(' '..='/') => {
            let set = rest.trim_start_matches(|c| matches!(c, ' '..='/'));
            set.strip_prefix(|c| matches!(c, '0'..='~')).unwrap_or(set)
        }
        Some('0'..='~') => &rest[1..],
        Some(_) | None => rest,
    }
}

/// What follows a control sequence, from behind its introducer on.
fn after_control(rest: &str) -> &str {
    let end = rest.trim_start_matches(|c| matches!(c, ' '..='?'));
    end.strip_prefix(|c| matches!(c, '@'..='~')).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(chunks: &[&[u8]]) -> String {
        let mut line = LastLine::default();
        for chunk in chunks {
            line.push(chunk);
        }
        line.get()
    }

    #[test]
    fn is_the_last_that_is_not_empty() {
        assert_eq!(last(&[b"one\ntwo\n\n  \n"]), "two");
        assert_eq!(last(&[b"one\ntw", b"o"]), "two");
        assert_eq!(last(&[b""]), "");
        assert_eq!(last(&[b"10%\r20%\r"]), "20%");
        assert_eq!(last(&[b"one\r\ntwo\r\n\r\n"]), "two");
        assert_eq!(last(&[b"on", b"e\n \n\t\n", b"\n"]), "one");
    }

    #[test]
    fn chunks_make_no_difference() {
        let text = b"one\ntwo\x1b[0m\r\n\n three\rfour\n  \n\x1b(B\n";
        for size in 1..=text.len() {
            assert_eq!(last(&text.chunks(size).collect::<Vec<_>>()), "four", "in pieces of {size}");
        }
    }

    #[test]
    fn nothing_is_left_of_what_a_terminal_would_obey() {
        assert_eq!(last(&[b"\x1b[1;31mred\x1b(B\x1b[m"]), "red");
        assert_eq!(last(&[b"\x1b]0;title\x07a \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"]), "a link");
        assert_eq!(last(&[b"\x1b]no end: a reason"]), "no end: a reason");
        assert_eq!(last(&["\u{9b}2Ja\u{202e}b\u{200b}\u{2028}c\u{feff}".as_bytes()]), "abc");
        assert_eq!(last(&[b"\x1b7\x1b8\x1bc\x1b"]), "");
        assert_eq!(last(&["\u{1b}(é".as_bytes()]), "é");
        assert_eq!(last(&[b"a\x1b[31"]), "a");
    }

    #[test]
    fn is_short_and_readable() {
        assert_eq!(last(&[b"\x1b[31mred\x1b[0m\x07 \xff"]), "red \u{fffd}");
        assert_eq!(last(&["é".repeat(1000).as_bytes()]).chars().count(), 200);
        assert_eq!(last(&[&vec![0; 100_000]]), "");
    }
}

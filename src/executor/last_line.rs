//! The last line that a script printed, for a message of one line.
//!
//! Deliberately apart from what is kept of the output: the last line counts even if it is longer than
//! all that is kept.

/// The longest last line, in characters.
const LONGEST: usize = 200;
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
        // A carriage return begins the line anew: the last state of a progress bar is its line.
        let mut lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
        if let Some(first) = lines.next() {
            self.extend(first);
        }
        for line in lines {
            self.end_line();
            self.extend(line);
        }
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

    fn end_line(&mut self) {
        if !self.current.is_empty() {
            let line = readable(&self.current);
            if !line.is_empty() {
                self.complete = line;
            }
            self.current.clear();
        }
    }
}

fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            // A terminal's colour: up to its final letter.
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else if c == '\t' {
            out.push(' ');
        } else if !c.is_control() {
            out.push(c);
        }
    }
    out.trim().chars().take(LONGEST).collect()
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
    }

    #[test]
    fn is_short_and_readable() {
        assert_eq!(last(&[b"\x1b[31mred\x1b[0m\x07 \xff"]), "red \u{fffd}");
        assert_eq!(last(&["é".repeat(1000).as_bytes()]).chars().count(), 200);
        assert_eq!(last(&[&vec![0; 100_000]]), "");
    }
}

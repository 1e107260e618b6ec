//! Text for people: tables, times, and nothing in them that a terminal would obey.

use jiff::Timestamp;

use crate::domain::printable::misleads;

/// A text in one line, with everything that steers a terminal written out.
pub(super) fn escape(text: &str) -> String {
    escape_but(text, |_| false)
}

/// The same for text of several lines: line breaks and tabs stay.
pub(super) fn escape_lines(text: &str) -> String {
    escape_but(text, |c| matches!(c, '\n' | '\t'))
}

/// The same for a JSON document, which stays the same document: such characters stand in its strings alone. The
/// format itself escapes no more of them than the first 32.
pub(super) fn escape_json(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && misleads(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn escape_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !keep(c) && misleads(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// `2026-05-01T10:00:00Z (3m ago)`, in UTC and to the second.
pub(super) fn time(at: Timestamp, now: Timestamp) -> String {
    let second = Timestamp::from_second(at.as_second()).unwrap_or(at);
    format!("{second} ({})", ago(at, now))
}

/// `3m ago`.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(at.as_second());
    let long = match seconds.unsigned_abs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    };
    if seconds < 0 { format!("in {long}") } else { format!("{long} ago") }
}

/// How long something took: `84ms`, `2.4s`, `3m12s`.
pub(super) fn duration(millis: i64) -> String {
    match millis {
        ..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{}.{}s", millis / 1_000, millis % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{}s", millis / 60_000, millis % 60_000 / 1_000),
        _ => format!("{}h{}m", millis / 3_600_000, millis % 3_600_000 / 60_000),
    }
}

/// `1 record`, `2 records`.
pub(super) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cell = |cell: C| if cell.as_ref().is_empty() { "-".to_owned() } else { escape(cell.as_ref()) };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Whether there is no row but the heading.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Its lines, indented by `indent` spaces.
    pub fn lines(&self, indent: usize) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            format!("{:indent$}{}", "", line.trim_end())
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_from_the_server_steers_the_terminal() {
        assert_eq!(escape("a\u{1b}[2Jb\r\n\tc\u{202e}\u{9b}"), "a\\u{1b}[2Jb\\r\\n\\tc\\u{202e}\\u{9b}");
        assert_eq!(escape_lines("a\n\tb\r"), "a\n\tb\\r");
        assert_eq!(escape("größe 測試"), "größe 測試");
    }

    #[test]
    fn json_steers_no_terminal_and_says_the_same() {
        let value = serde_json::json!({"a": "\u{9b}2J\u{1b}[0m\u{7f}\u{202e}\u{2028}\u{e0041}ä\n"});
        let document = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escape_json(&document);
        assert!(escaped.chars().all(|c| c == '\n' || !misleads(c)), "{escaped:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn columns_are_aligned_and_empty_cells_shown() {
        let mut table = Table::new(&["ID", "STATE"]);
        table.row(["dep_1", ""]);
        table.row(["größer_1", "Succeeded"]);
        assert_eq!(table.lines(1), [" ID        STATE", " dep_1     -", " größer_1  Succeeded"]);
    }

    #[test]
    fn times_say_how_long_ago() {
        let now = at("2026-05-01T10:00:00Z");
        assert_eq!(time(at("2026-05-01T09:57:00.123Z"), now), "2026-05-01T09:57:00Z (3m ago)");
        assert_eq!(ago(at("2026-05-01T09:59:59Z"), now), "1s ago");
        assert_eq!(ago(at("2026-04-30T09:00:00Z"), now), "25h ago");
        assert_eq!(ago(at("2026-04-01T09:00:00Z"), now), "30d ago");
        assert_eq!(ago(at("2026-05-01T10:00:05Z"), now), "in 5s");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([84, 2_450, 192_000, 3_900_000].map(duration), ["84ms", "2.4s", "3m12s", "1h5m"]);
    }
}

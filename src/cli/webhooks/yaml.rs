//! Text as YAML. What is printed is written by hand, for the sake of its comments; what comes from a file or the
//! command line goes through here.

use crate::cli::text::{escape, escape_json};

/// A text as a value: plain where nobody could take it for anything else, in double quotes otherwise.
pub(super) fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if plain { text.to_owned() } else { quoted(text) }
}

/// A text in double quotes. JSON's escapes are YAML's as well; what JSON leaves as it is and YAML does not want
/// printed is escaped here.
pub(super) fn quoted(text: &str) -> String {
    let json = escape_json(&serde_json::Value::from(text).to_string());
    json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").replace('\u{feff}', "\\ufeff")
}

/// A text in a comment: on one line, whatever it holds.
pub(super) fn comment(text: &str) -> String {
    escape(text)
}

/// A block of lines, moved to the right.
pub(super) fn indented(block: &str, by: usize) -> String {
    let lines = block.lines().map(|line| if line.is_empty() { String::new() } else { format!("{:by$}{line}", "") });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_as_itself() {
        for original in [
            "podinfo",
            "test",
            "yes",
            "no",
            "null",
            "1.10",
            "0x1f",
            "~",
            "octo/app",
            "<name>",
            "a: b",
            "#x",
            "*x",
            "&x",
            "'\"\\",
            "{{.x}}",
            "äöü",
            "\u{85}\u{2028}\u{feff}\u{7f}",
            "-",
            "- a",
            "a\tb\nc",
            "off",
            "1e3",
        ] {
            for written in [text(original), quoted(original)] {
                let back: serde_json::Value = serde_saphyr::from_str(&format!("x: {written}\n")).unwrap();
                assert_eq!(back["x"], original, "{written}");
            }
        }
    }
}

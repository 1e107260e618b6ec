//! Which characters may stand in a line of text that people read.
//!
//! Pure. What is done with the others is for whoever prints: leave them out, or write them out.

/// Whether a character steers what shows it, breaks its line, or shows as nothing: controls, marks that make a line
/// read other than it is, separators of lines, and characters without a width. (The two joiners stay: words of some
/// languages, and pictures, are spelt with them.)
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_language_mislead_nobody() {
        assert!("größe 測試 می\u{200c}خواهم 👩\u{200d}🚀 e\u{301}".chars().all(|c| !misleads(c)));
    }

    #[test]
    fn what_steers_reorders_or_hides_does() {
        let text =
            "\u{1b}\u{7f}\u{9b}\0\r\n\u{61c}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{feff}\u{e0041}";
        assert!(text.chars().all(misleads));
    }
}

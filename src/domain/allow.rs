//! Which commands a caller of the load tester may have run: the one place where payload text reaches a shell.
//!
//! A rule fits a command as a whole, from its first character to its last, never by a beginning: `hey` and what
//! follows a `;` are one text. What stands in a pattern is compared letter by letter. Its `*` stands for a part of one
//! word that means nothing to a shell, so that no caller can put a second command, a redirection, an option or another
//! argument in its place; nor a `/`, unless it is written `**`: in `http://*.test/` that would end the host before
//! `.test`. Without a rule nothing runs.
//!
//! Whether a caller may speak for a namespace at all is decided before, by its credential.

use super::glob::Glob;
use super::loadtester::TaskKind;
use super::names::Namespace;

/// The longest command that is looked at, in bytes: no longer text can be given to a program as one argument.
pub const MAX_COMMAND: usize = 128 * 1024 - 1;

/// What may run: any command that fits one of the rules. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow(pub Vec<Rule>);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// In which namespaces.
    pub namespaces: Vec<Glob>,
    /// What kinds of commands.
    pub types: Vec<TaskKind>,
    /// Which ones.
    pub commands: Vec<CommandPattern>,
}

impl Allow {
    /// Whether a command may run for a canary of this namespace.
    pub fn permits(&self, namespace: &Namespace, kind: TaskKind, command: &str) -> bool {
        self.0.iter().any(|rule| {
            rule.types.contains(&kind)
                && rule.namespaces.iter().any(|glob| glob.matches(namespace.as_str()))
                && rule.commands.iter().any(|pattern| pattern.fits(command))
        })
    }
}

/// What a command must be, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandPattern {
    parts: Vec<Part>,
    /// `*` stands for anything at all: the caller has a shell.
    shell: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Star(Star),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Star {
    /// No part of a word stands before it, so what it stands for would be a word of its own.
    begins: bool,
    /// `**`: what it stands for may have a `/`.
    slashes: bool,
}

impl CommandPattern {
    /// Reads a pattern; the error says what is wrong with it and what to do. With `shell` a `*` stands for anything.
    pub fn new(text: &str, shell: bool) -> Result<Self, String> {
        let text = trimmed(text);
        if text.is_empty() {
            return Err("it is empty, and no command is".to_owned());
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if matches!(chars.peek(), Some('*' | '\\')) => literal.extend(chars.next()),
                '*' => {
                    let begins = literal.chars().next_back().map_or(parts.is_empty(), |last| !is_plain(last));
                    if !shell && let Some(before) = opens_a_place(&literal) {
                        return Err(format!(
                            "a * right after {before:?} lets the caller choose what runs, or which file or variable is \
                             meant; write out what comes there, or set `shell: true` to give callers a shell on purpose"
                        ));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    let slashes = chars.next_if_eq(&'*').is_some();
                    while chars.next_if_eq(&'*').is_some() {}
                    parts.push(Part::Star(Star { begins, slashes }));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if !shell && !names_its_program(&parts) {
            return Err("its first word has a *, so the caller would choose what runs; write that word out, or set \
                        `shell: true` to give callers a shell on purpose"
                .to_owned());
        }
        Ok(Self { parts, shell })
    }

    /// Whether a command is this, from its first character to its last. Blanks and newlines around it don't count.
    pub fn fits(&self, command: &str) -> bool {
        let command = trimmed(command);
        if command.is_empty() || command.len() > MAX_COMMAND {
            return false;
        }
        // All places that the parts so far may end at. Not by backtracking: a caller could make that take for ever.
        let bytes = command.as_bytes();
        let mut at = vec![false; bytes.len() + 1];
        if let Some(start) = at.first_mut() {
            *start = true;
        }
        for part in &self.parts {
            at = match part {
                Part::Literal(text) => after_literal(bytes, &at, text.as_bytes()),
                Part::Star(star) => self.after_star(bytes, &at, *star),
            };
        }
        at.last().copied().unwrap_or(false)
    }

    fn after_star(&self, bytes: &[u8], at: &[bool], star: Star) -> Vec<bool> {
        let mut within = false;
        let mut next = Vec::with_capacity(at.len());
        for (index, reached) in at.iter().enumerate() {
            next.push(*reached || within);
            within = bytes.get(index).is_some_and(|byte| {
                let c = char::from(*byte);
                // No way up out of a folder that the pattern names.
                let dot = |index: Option<usize>| index.and_then(|index| bytes.get(index)) == Some(&b'.');
                let climbs = c == '.' && (dot(index.checked_sub(1)) || dot(index.checked_add(1)));
                let goes_on = self.shell || is_plain(c) && !climbs && (star.slashes || c != '/');
                // At the beginning of a word these make it an option, or the content of a file.
                let starts = goes_on && (self.shell || !star.begins || !matches!(c, '-' | '+' | '@'));
                within && goes_on || *reached && starts
            });
        }
        next
    }
}

/// Whether the word that says what runs has no `*`. Variables that are set for it come before.
fn names_its_program(parts: &[Part]) -> bool {
    match parts {
        [Part::Literal(_)] => true,
        [Part::Literal(first), ..] => {
            let whole = first.rsplit_once(char::is_whitespace).map_or("", |(whole, _)| whole);
            whole.split_whitespace().any(|word| !word.contains('='))
        }
        _ => false,
    }
}

fn after_literal(bytes: &[u8], at: &[bool], text: &[u8]) -> Vec<bool> {
    let mut next = vec![false; at.len()];
    for (index, _) in at.iter().enumerate().filter(|(_, reached)| **reached) {
        if bytes.get(index..).is_some_and(|rest| rest.starts_with(text))
            && let Some(end) = next.get_mut(index + text.len())
        {
            *end = true;
        }
    }
    next
}

/// What `*` stands for: characters that mean nothing to a shell, and end no word. ASCII only: what is a blank
/// elsewhere in Unicode would split the arguments of helm and kubectl. No comma either: it begins another value in
/// helm's `--set`.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '=' | '@' | '%' | '+')
}

/// The last character of a text that, blanks aside, makes a shell take what follows for a command, a variable or a file.
fn opens_a_place(text: &str) -> Option<char> {
    let text = text.trim_end_matches([' ', '\t']);
    // A line that goes on.
    let text = text.strip_suffix("\\\n").map_or(text, |text| text.trim_end_matches([' ', '\t']));
    text.chars().next_back().filter(|c| matches!(c, '\n' | ';' | '&' | '|' | '(' | '`' | '$' | '<' | '>'))
}

/// Around a command these mean nothing to a shell; a YAML block ends with a newline.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, command: &str) -> bool {
        CommandPattern::new(pattern, false).unwrap().fits(command)
    }

    #[test]
    fn a_command_is_compared_as_a_whole() {
        let pattern = "hey -z 1m http://podinfo.test:9898/";
        assert!(fits(pattern, pattern));
        assert!(fits(pattern, "  hey -z 1m http://podinfo.test:9898/\n"));
        for other in [
            "hey -z 1m http://podinfo.test:9898/; id",
            "hey -z 1m http://podinfo.test:9898/x",
            "hey -z 1m http://podinfo.test:9898",
            "id; hey -z 1m http://podinfo.test:9898/",
            "hey  -z 1m http://podinfo.test:9898/",
            "HEY -z 1m http://podinfo.test:9898/",
            "",
            "\n",
        ] {
            assert!(!fits(pattern, other), "{other:?}");
        }
    }

    #[test]
    fn a_star_is_a_part_of_one_word_and_nothing_to_a_shell() {
        let pattern = "hey -z 1m http://*.test:9898/";
        assert!(fits(pattern, "hey -z 1m http://podinfo-canary.test:9898/"));
        for injected in [
            "a;id;",
            "a&id&",
            "a|id|",
            "a$(id)",
            "a`id`",
            "a\nid\n",
            "a id ",
            "a>x",
            "a<x",
            "a'",
            "a\"",
            "a\\",
            "a*",
            "a?",
            "a[b]",
            "a{b,c}",
            "a~",
            "a#",
            "a!",
            "a^",
            "a,b",
            "a(b)",
            "$HOME",
            "${IFS}",
            "a\tb",
            "a\rb",
            "a\u{a0}b",
            "a\u{85}b",
            "ä",
            "../../x",
            "a\u{0}b",
            "%s$(id)",
            "evil.example/",
            "evil.example:80/x",
        ] {
            let command = format!("hey -z 1m http://{injected}.test:9898/");
            assert!(!fits(pattern, &command), "{command:?}");
        }
    }

    #[test]
    fn a_star_that_is_a_word_of_its_own_is_no_option() {
        assert!(fits("bats /tests/run *", "bats /tests/run smoke"));
        for option in ["-x", "--formatter=/bin/sh", "+x", "@/etc/passwd", "a b", "../x", "a/../b"] {
            for stars in ["*", "**"] {
                let pattern = format!("bats /tests/run {stars}");
                assert!(!fits(&pattern, &format!("bats /tests/run {option}")), "{option}");
                let quoted = format!("bats /tests/run \"{stars}\"");
                assert!(!fits(&quoted, &format!("bats /tests/run \"{option}\"")), "{option}");
            }
        }
        // After a part of a word it is none anyway.
        assert!(fits("test run podinfo*", "test run podinfo-1"));
        assert!(fits("test run --set tag=*", "test run --set tag=1.2.3+b"));
        assert!(!fits("test run --set tag=*", "test run --set tag=1,replicas=0"));
        // A way up is the pattern's own or none.
        assert!(fits("cat ../*.txt", "cat ../a.txt"));
        assert!(!fits("cat ../*.txt", "cat ../../a.txt"));
        assert!(!fits("cat /a/.*/b", "cat /a/../b"));
    }

    #[test]
    fn several_stars_and_literal_ones() {
        assert!(fits("a *b*c", "a xbybc"));
        assert!(!fits("a *b*c", "a xbyb"));
        assert!(fits("echo **", "echo x"));
        assert!(fits("hey http://a.test/**?x=*", "hey http://a.test/b/c?x=1"));
        assert!(!fits("hey http://a.test/*", "hey http://a.test/b/c"));
        assert!(fits("echo ***", "echo x/y"));
        assert!(fits("echo \\*", "echo *"));
        assert!(!fits("echo \\*", "echo x"));
        assert!(fits("echo \\\\", "echo \\"));
        assert!(fits("echo \\n", "echo \\n"));
        // Linear in the text, however many stars.
        let many = format!("x {}b", "a*".repeat(50));
        assert!(!fits(&many, &format!("x {}", "a".repeat(10_000))));
    }

    #[test]
    fn the_operators_own_text_may_be_anything() {
        let own = "curl -s http://podinfo/ | grep -q 'ok' && echo $((1+1)); true";
        assert!(fits(own, own));
        assert!(!fits(own, &own.replace("true", "false")));
    }

    #[test]
    fn what_runs_is_written_out() {
        for pattern in ["*", "he* -z 1m", "* -z 1m", "hey*", "A=1 *", "A=* hey"] {
            let why = CommandPattern::new(pattern, false).unwrap_err();
            assert!(why.contains("first word") && why.contains("shell: true"), "{pattern}: {why}");
        }
        for pattern in [
            "true; *",
            "true;*",
            "true &&\n*",
            "true\n  *",
            "true; \\\n *",
            "true || *",
            "echo $(*)",
            "echo `*`",
            "echo $*",
            "cat <*",
            "true > *",
        ] {
            let why = CommandPattern::new(pattern, false).unwrap_err();
            assert!(why.contains("right after") && why.contains("shell: true"), "{pattern}: {why}");
            assert!(CommandPattern::new(pattern, true).is_ok(), "{pattern}");
        }
        assert!(fits("bats \\\n  *", "bats \\\n  smoke"));
        assert!(CommandPattern::new(" ", false).is_err());
    }

    #[test]
    fn shell_gives_a_shell_on_purpose() {
        let any = CommandPattern::new("*", true).unwrap();
        assert!(any.fits("a; b\nc $(d) ä"));
        assert!(!any.fits(""));
        assert!(!any.fits(&"x".repeat(MAX_COMMAND + 1)));
        let some = CommandPattern::new("make *", true).unwrap();
        assert!(some.fits("make ../x; id") && !some.fits("id; make x"));
    }

    #[test]
    fn a_rule_fits_in_all_its_parts_or_not_at_all() {
        let rule = |namespace: &str, types: &[TaskKind], command: &str| Rule {
            namespaces: vec![Glob::new(namespace).unwrap()],
            types: types.to_vec(),
            commands: vec![CommandPattern::new(command, false).unwrap()],
        };
        let allow = Allow(vec![
            rule("test-*", &[TaskKind::Cmd], "hey http://podinfo/"),
            rule("prod", &[TaskKind::Helm], "test run podinfo"),
        ]);
        let asked = |namespace: &str, kind, command| allow.permits(&Namespace::new(namespace).unwrap(), kind, command);
        assert!(asked("test-1", TaskKind::Cmd, "hey http://podinfo/"));
        assert!(asked("prod", TaskKind::Helm, "test run podinfo"));
        assert!(!asked("test", TaskKind::Cmd, "hey http://podinfo/"));
        assert!(!asked("test-1", TaskKind::Bash, "hey http://podinfo/"));
        assert!(!asked("prod", TaskKind::Cmd, "hey http://podinfo/"));
        assert!(!asked("test-1", TaskKind::Helm, "test run podinfo"));
        assert!(!Allow::default().permits(&Namespace::new("test").unwrap(), TaskKind::Cmd, "true"));
    }
}

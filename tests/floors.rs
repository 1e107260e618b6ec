//! The floors of ARCHITECTURE.md, kept: a folder under `src` imports only from floors below its own, so neither
//! upward nor, since no two folders of one floor import each other, in a circle.
//!
//! It reads tokens, not a syntax tree: enough to see every path that begins with `crate`, `stagehook`, `self` or
//! `super`, in `use` trees and in plain code. It does not look inside of macros that build paths out of pieces.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folders under `src` and their floors. A folder that is not named here is a fault.
const FLOORS: &[(&str, u8)] = &[
    ("domain", 0),
    ("failpoint", 0),
    ("config", 1),
    ("ledger", 1),
    ("executor", 1),
    ("source", 1),
    ("engine", 2),
    ("http", 3),
    ("reporter", 3),
    ("cli", 3),
    ("app", 4),
    ("fuzz", 4),
];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

#[test]
fn no_module_imports_upward_or_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files).unwrap();
    assert!(files.len() > 10, "the sources were not found under {}", root.display());
    let mut faults = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(&root).unwrap();
        faults.extend(check(relative, &text));
    }
    assert!(faults.is_empty(), "{} imports break the floors:\n{}", faults.len(), faults.join("\n"));
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// What is wrong with one file, given by its path below `src`.
fn check(file: &Path, text: &str) -> Vec<String> {
    let module = module_path(file);
    let fault = |line: usize, what: String| format!("src/{}:{line}: {what}", file.display());
    // `lib.rs` declares the folders and `main.rs` starts the program: they stand above every floor.
    let Some(own) = module.first() else { return Vec::new() };
    let Some(own_floor) = floor(own) else {
        return vec![fault(1, format!("the folder {own} has no floor: give it one here and in ARCHITECTURE.md"))];
    };
    let tokens = tokens(text);
    let mut faults = Vec::new();
    for path in paths(&tokens, &module) {
        match path.target.as_str() {
            "*" => faults.push(fault(path.line, "imports everything of the crate".into())),
            target if target == own => {}
            target => {
                match floor(target) {
                    None => faults
                        .push(fault(path.line, format!("{own} imports {target}, which is no folder with a floor"))),
                    Some(floor) if floor >= own_floor => faults
                        .push(fault(path.line, format!("{own} (floor {own_floor}) imports {target} (floor {floor})"))),
                    Some(_) => {}
                }
            }
        }
    }
    let moved =
        tokens.windows(3).filter(|three| three[0].text == "#" && three[1].text == "[" && three[2].text == "path");
    faults.extend(moved.map(|three| fault(three[0].line, "#[path] hides where a module stands".into())));
    faults
}

/// The module that a file is: `engine/run.rs` → engine, run; `lib.rs` → nothing.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod")
        || matches!(parts.as_slice(), [one] if one == "lib" || one == "main")
    {
        parts.pop();
    }
    parts
}

#[derive(Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

/// A path into the crate: the first module below its root.
#[derive(Debug, PartialEq)]
struct Target {
    target: String,
    line: usize,
}

/// Words, `::` and single characters; comments, texts and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => i = after_text(&chars, i),
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let hashes = (i..).take_while(|&j| at(j) == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                    i = after_raw_text(&chars, i + hashes + 1, hashes);
                } else if word == "r" && hashes == 1 {
                    i += 1; // r#word: the word follows as a token of its own
                } else {
                    tokens.push(Token { text: word, line });
                }
            }
            ':' if at(i + 1) == ':' => {
                tokens.push(Token { text: "::".into(), line });
                i += 2;
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.into(), line });
                }
                i += 1;
            }
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn after_text(chars: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn after_raw_text(chars: &[char], mut i: usize, hashes: usize) -> usize {
    while i < chars.len() {
        i += 1;
        if chars[i - 1] == '"' && (0..hashes).all(|j| chars.get(i + j) == Some(&'#')) {
            return i + hashes;
        }
    }
    i
}

/// Every path that leads from a file of `module` to the root of the crate.
fn paths(tokens: &[Token], module: &[String]) -> Vec<Target> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    // Inline modules that are open: their name, and the brace depth at which they close.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    for i in 0..tokens.len() {
        match text(i) {
            "{" => {
                if i >= 2 && text(i - 2) == "mod" {
                    inline.push((text(i - 1).to_owned(), depth));
                }
                depth += 1;
            }
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last().is_some_and(|(_, closes)| *closes == depth) {
                    inline.pop();
                }
            }
            first @ ("crate" | "stagehook" | "self" | "super") if i == 0 || text(i - 1) != "::" => {
                let here: Vec<String> =
                    module.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())).collect();
                if text(i + 1) == "::" {
                    // Inside the braces of a `use` tree the walk below has been here already, with its prefix.
                    tree(tokens, i, &here, None, &mut found);
                } else if matches!(first, "crate" | "stagehook") && text(i + 1) == "as" {
                    found.push(Target { target: "*".into(), line: tokens[i].line });
                }
            }
            _ => {}
        }
    }
    found.dedup();
    found
}

/// Walks one path, with its braces, from token `i`; gives the token after it. `at` is the module that the path has
/// reached so far; none before its first word.
fn tree(
    tokens: &[Token],
    mut i: usize,
    here: &[String],
    mut at: Option<Vec<String>>,
    found: &mut Vec<Target>,
) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    loop {
        let line = tokens.get(i).map_or(0, |token| token.line);
        let report = |module: &[String], found: &mut Vec<Target>| {
            if let Some(first) = module.first() {
                found.push(Target { target: first.clone(), line });
            }
        };
        match (text(i), at.take()) {
            ("crate" | "stagehook", None) => at = Some(Vec::new()),
            ("self", None) => at = Some(here.to_vec()),
            ("self", reached) => at = reached,
            ("super", reached) => {
                let mut module = reached.unwrap_or_else(|| here.to_vec());
                module.pop();
                at = Some(module);
            }
            ("{", reached) => {
                i += 1;
                while i < tokens.len() && text(i) != "}" {
                    i = tree(tokens, i, here, reached.clone(), found);
                    // `name as other` and the comma.
                    while i < tokens.len() && !matches!(text(i), "," | "}") {
                        i += 1;
                    }
                    if text(i) == "," {
                        i += 1;
                    }
                }
                return i + 1;
            }
            ("*", Some(module)) => {
                if module.is_empty() {
                    found.push(Target { target: "*".into(), line });
                }
                return i + 1;
            }
            (word, Some(mut module)) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                module.push(word.to_owned());
                report(&module, found);
                // What comes after may be types and functions; where it leads is known.
                at = Some(module);
            }
            _ => return i,
        }
        if text(i + 1) != "::" {
            let renamed = text(i + 1) == "as" && at.as_ref().is_some_and(Vec::is_empty);
            if renamed {
                found.push(Target { target: "*".into(), line });
            }
            return i + 1;
        }
        i += 2;
    }
}

mod scanner {
    use super::*;

    fn targets(module: &str, text: &str) -> Vec<String> {
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        let mut targets: Vec<_> = paths(&tokens(text), &module).into_iter().map(|path| path.target).collect();
        targets.sort();
        targets.dedup();
        targets
    }

    fn faults(file: &str, text: &str) -> Vec<String> {
        check(Path::new(file), text)
    }

    #[test]
    fn sees_a_plain_import_and_a_path_in_code() {
        assert_eq!(targets("engine", "use crate::http::Server;"), ["http"]);
        assert_eq!(targets("engine", "fn f() { stagehook::cli::run(); }"), ["cli"]);
        assert_eq!(targets("engine", "macro_rules! m { () => { $crate::app::x() } }"), ["app"]);
    }

    #[test]
    fn sees_into_braces_however_deep() {
        assert_eq!(
            targets("engine", "use crate::{domain::{ids::{self, RunId}, hook}, http::{a, b as c}, app as top};"),
            ["app", "domain", "http"]
        );
        assert_eq!(targets("engine", "use\n crate ::\n { cli\n };"), ["cli"]);
    }

    #[test]
    fn follows_super_to_the_root() {
        assert_eq!(targets("engine::run", "use super::super::http;"), ["http"]);
        assert_eq!(targets("engine", "use super::{http::A, super_store};"), ["http", "super_store"]);
        assert_eq!(targets("engine", "mod tests { use super::super::app::X; use super::*; }"), ["app"]);
        assert_eq!(targets("engine::run", "use super::slots::Slot;"), ["engine"]);
        assert_eq!(targets("engine", "mod a { mod b {} } use super::app;"), ["app"]);
    }

    #[test]
    fn leaves_comments_texts_and_characters_alone() {
        let text = r####"
            // use crate::http;
            /* crate::app /* nested crate::cli */ */
            const A: &str = "crate::http \" crate::app";
            const B: &str = r#"crate::http " "#;
            const C: [char; 3] = ['"', '\'', '\u{1b}'];
            fn f<'a>(x: &'a str) -> &'a str { x }
            use crate::domain::hook;
        "####;
        assert_eq!(targets("engine", text), ["domain"]);
    }

    #[test]
    fn reports_the_line() {
        let faults = faults("ledger/append.rs", "//! x\n\n/* a\n b */ use crate::engine::E;\n");
        assert_eq!(faults, ["src/ledger/append.rs:4: ledger (floor 1) imports engine (floor 2)"]);
    }

    #[test]
    fn refuses_upward_sideways_and_unknown() {
        assert_eq!(faults("domain/a.rs", "use crate::config::Settings;").len(), 1);
        assert_eq!(faults("ledger/mod.rs", "use crate::config::Settings;").len(), 1);
        assert_eq!(faults("cli/mod.rs", "use crate::http::Server;").len(), 1);
        assert_eq!(faults("http/mod.rs", "use crate::cli::Args;").len(), 1);
        assert_eq!(faults("cli/mod.rs", "use crate::*;").len(), 1);
        assert_eq!(faults("cli/mod.rs", "use crate as everything;").len(), 1);
        assert_eq!(faults("cli/mod.rs", "use crate::{self as everything};").len(), 1);
        assert_eq!(faults("cli/mod.rs", "use crate::Shortcut;").len(), 1);
        assert_eq!(faults("cli/mod.rs", "#[path = \"../http/mod.rs\"]\nmod http;").len(), 1);
        assert_eq!(faults("attic/mod.rs", "").len(), 1);
    }

    #[test]
    fn allows_what_is_below_and_its_own() {
        let text = "use crate::{domain, ledger::Ledger}; use crate::engine::clock; pub(crate) fn f() { super::g() }";
        assert_eq!(faults("engine/run.rs", text), Vec::<String>::new());
        assert_eq!(faults("main.rs", "use stagehook::app;"), Vec::<String>::new());
        assert_eq!(faults("app.rs", "use crate::{cli, http};"), Vec::<String>::new());
    }
}

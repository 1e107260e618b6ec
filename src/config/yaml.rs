//! YAML as a tree whose every key and value knows its place.
//!
//! It is built from serde-saphyr's event parser and walked by hand, since serde stops at the first fault and
//! loses the place of what is behind a tag. It deliberately knows nothing of settings or pipelines.
//!
//! Files are written by people and mounted by machines, so nothing in one may hurt: size, depth and what
//! aliases expand to are bounded.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::diagnostic::{Diagnostic, Origin, Place};

/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// The deepest nesting, aliases included. The walkers recurse.
const MAX_DEPTH: usize = 128;
/// What all nodes of a file may weigh, aliases expanded.
const MAX_WEIGHT: usize = 16 << 20;
/// What one node weighs, besides its text.
const NODE_WEIGHT: usize = 16;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it begins.
    pub at: Place,
    /// Its bytes in the origin's text.
    pub bytes: Range<usize>,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text; `plain` when it was written without quotes, so that it may be a number or a boolean.
    Scalar { text: String, plain: bool },
    /// A list.
    Seq(Vec<Node>),
    /// A map, in the order of the file; its keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Where it begins.
    pub at: Place,
    /// The key.
    pub text: String,
}

impl Node {
    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { text, plain: true } if is_bool(text) => "a boolean",
            Value::Scalar { text, plain: true } if is_number(text) => "a number",
            Value::Scalar { .. } => "text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value of a key, where it is a map that has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node),
            _ => None,
        }
    }
}

/// Reads a file: its text and the documents in it. With faults, the documents before the first are still there.
pub(super) fn read(path: &Path, faults: &mut Vec<Diagnostic>) -> Option<Vec<Node>> {
    let name = path.display().to_string();
    let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            faults.push(Diagnostic::of_file(name, format!("it can't be read: {error}")));
            return None;
        }
    };
    if bytes.len() as u64 > MAX_FILE {
        faults
            .push(Diagnostic::of_file(name, "it is larger than 1MiB").hint("keep long scripts in files of their own"));
        return None;
    }
    Some(parse(name, base, &bytes, faults))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    super::file::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses the documents of a text.
pub(super) fn parse(name: String, base: PathBuf, bytes: &[u8], faults: &mut Vec<Diagnostic>) -> Vec<Node> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => {
            let origin = Arc::new(Origin { name, text: String::from_utf8_lossy(bytes).into_owned(), base });
            // Up to the fault, the text and its lossy copy are the same.
            let place = Place::of_byte(&origin, error.valid_up_to());
            faults.push(Diagnostic::error(&place, "it is not UTF-8 here").hint("save the file as UTF-8"));
            return Vec::new();
        }
    };
    let origin = Arc::new(Origin { name, text, base });
    if let Some(at) = origin.text.find('\0') {
        faults.push(Diagnostic::error(&Place::of_byte(&origin, at), "there is a NUL byte here"));
        return Vec::new();
    }
    documents(&origin, faults)
}

/// Parses text that stands in a variable: it has no lines of its own.
pub(super) fn parse_variable(name: &str, text: &str, faults: &mut Vec<Diagnostic>) -> Option<Node> {
    let mut own = Vec::new();
    let origin = Arc::new(Origin { name: name.to_owned(), text: text.to_owned(), base: PathBuf::new() });
    let mut nodes = documents(&origin, &mut own);
    for mut fault in own {
        // The value may be a secret pasted into the wrong place: it is not quoted.
        fault.snippet = None;
        (fault.line, fault.column) = (0, 0);
        faults.push(fault);
    }
    let mut node = nodes.pop().filter(|_| nodes.is_empty())?;
    forget_places(&mut node, &Place::whole(&origin));
    Some(node)
}

fn forget_places(node: &mut Node, place: &Place) {
    node.at = place.clone();
    match &mut node.value {
        Value::Null | Value::Scalar { .. } => {}
        Value::Seq(items) => items.iter_mut().for_each(|item| forget_places(item, place)),
        Value::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
            key.at = place.clone();
            forget_places(value, place);
        }),
    }
}

fn documents(origin: &Arc<Origin>, faults: &mut Vec<Diagnostic>) -> Vec<Node> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder {
        parser: Parser::new_from_str_with_options(&origin.text, options),
        origin,
        anchors: HashMap::new(),
        weight: 0,
        faults,
    };
    let mut documents = Vec::new();
    loop {
        match builder.next() {
            Ok(Some((Event::StreamStart | Event::DocumentEnd, _))) => {}
            Ok(Some((Event::DocumentStart(..), _))) => {
                builder.anchors.clear();
                match builder.document() {
                    Ok(node) => documents.push(node),
                    Err(Stop) => break,
                }
            }
            Ok(_) | Err(Stop) => break,
        }
    }
    documents
}

/// The parser can't go on; the fault is noted.
struct Stop;

struct Anchored {
    node: Node,
    weight: usize,
    depth: usize,
}

struct Builder<'o, 'f> {
    parser: Parser<'o, StrInput<'o>>,
    origin: &'o Arc<Origin>,
    anchors: HashMap<usize, Anchored>,
    weight: usize,
    faults: &'f mut Vec<Diagnostic>,
}

impl<'o> Builder<'o, '_> {
    fn next(&mut self) -> Result<Option<(Event<'o>, Span)>, Stop> {
        self.parser.next_event().transpose().map_err(|error| self.syntax(&error))
    }

    fn document(&mut self) -> Result<Node, Stop> {
        let Some((event, span)) = self.next()? else { return Err(Stop) };
        self.node(event, span, 1).map(|(node, _)| node)
    }

    /// A node and how deep it is.
    fn node(&mut self, event: Event<'o>, span: Span, depth: usize) -> Result<(Node, usize), Stop> {
        if depth > MAX_DEPTH {
            return Err(self.stop(&span, format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        let before = self.weight;
        let at = self.place(&span);
        let start = span.start.byte_offset().unwrap_or(0);
        self.weigh(NODE_WEIGHT, &span)?;
        let mut deepest = 1;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.weigh(text.len(), &span)?;
                let string = self.tag(tag.as_deref(), &span);
                let plain = style == ScalarStyle::Plain && !string;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                (if null { Value::Null } else { Value::Scalar { text: text.into_owned(), plain } }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &span);
                let mut items = Vec::new();
                while let Some((event, span)) = self.inner(|event| matches!(event, Event::SequenceEnd))? {
                    let (item, below) = self.node(event, span, depth + 1)?;
                    deepest = deepest.max(below + 1);
                    items.push(item);
                }
                (Value::Seq(items), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &span);
                let (entries, below) = self.entries(depth)?;
                deepest = deepest.max(below + 1);
                (Value::Map(entries), anchor)
            }
            Event::Alias(id) => return self.alias(id, &span, depth),
            _ => return Err(self.stop(&span, "this can't be understood as YAML")),
        };
        let end = span.end.byte_offset().unwrap_or(start).max(start);
        let node = Node { at, bytes: start..end, value };
        if anchor > 0 {
            let weight = self.weight - before;
            self.anchors.insert(anchor, Anchored { node: node.clone(), weight, depth: deepest });
            // The copy that is kept for later counts as well.
            self.weigh(weight, &span)?;
        }
        Ok((node, deepest))
    }

    fn entries(&mut self, depth: usize) -> Result<(Vec<(Key, Node)>, usize), Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut deepest = 0;
        while let Some((event, span)) = self.inner(|event| matches!(event, Event::MappingEnd))? {
            let key_at = self.place(&span);
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let (key, _) = self.node(event, span, depth + 1)?;
            let Some((event, span)) = self.next()? else { return Err(Stop) };
            let (value, below) = self.node(event, span, depth + 1)?;
            deepest = deepest.max(below);
            let text = match key.value {
                Value::Scalar { text, .. } => text,
                Value::Null => "null".to_owned(),
                Value::Seq(_) | Value::Map(_) => {
                    self.faults.push(Diagnostic::error(&key_at, "a key must be text").hint("quote it"));
                    continue;
                }
            };
            if merge {
                self.merge(value, &mut merged);
            } else if let Some(line) = known.insert(text.clone(), key_at.line) {
                let message = format!("the key {text:?} stands twice in this map");
                self.faults.push(Diagnostic::error(&key_at, message).hint(format!("it was first in line {line}")));
            } else {
                entries.push((Key { at: key_at, text }, value));
            }
        }
        // `<<` fills in what is not there; of several, the first wins.
        for (key, value) in merged {
            if !known.contains_key(&key.text) {
                known.insert(key.text.clone(), key.at.line);
                entries.push((key, value));
            }
        }
        Ok((entries, deepest))
    }

    fn merge(&mut self, value: Node, merged: &mut Vec<(Key, Node)>) {
        let at = value.at.clone();
        match value.value {
            Value::Map(entries) => merged.extend(entries),
            Value::Seq(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
                items.into_iter().for_each(|item| self.merge(item, merged));
            }
            _ => self.faults.push(Diagnostic::error(&at, "`<<` takes a map, or a list of maps")),
        }
    }

    fn alias(&mut self, id: usize, span: &Span, depth: usize) -> Result<(Node, usize), Stop> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(self.stop(span, "this alias stands inside of what it names, so it would never end"));
        };
        let (weight, below) = (anchored.weight, anchored.depth);
        if depth + below > MAX_DEPTH {
            return Err(self.stop(span, format!("with this alias it is nested deeper than {MAX_DEPTH} levels")));
        }
        let node = anchored.node.clone();
        self.weigh(weight, span)?;
        Ok((node, below))
    }

    /// The next event inside a collection; none at its end.
    fn inner(&mut self, ends: impl Fn(&Event<'_>) -> bool) -> Result<Option<(Event<'o>, Span)>, Stop> {
        match self.next()? {
            Some((event, _)) if ends(&event) => Ok(None),
            Some(next) => Ok(Some(next)),
            None => Err(Stop),
        }
    }

    /// Whether a tag says that it is text, whatever it looks like.
    fn tag(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        if let Some(suffix) = tag.core_suffix() {
            return suffix == "str";
        }
        let start = span.tag_start().unwrap_or(span.start);
        let place = Place { origin: Arc::clone(self.origin), line: start.line(), column: start.col() + 1 };
        let message = format!("the tag {} means nothing here", tag.original());
        self.faults.push(Diagnostic::error(&place, message).hint("leave it out"));
        false
    }

    fn weigh(&mut self, weight: usize, span: &Span) -> Result<(), Stop> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > MAX_WEIGHT {
            return Err(self.stop(span, "the file is too large once its aliases are expanded"));
        }
        Ok(())
    }

    fn place(&self, span: &Span) -> Place {
        Place { origin: Arc::clone(self.origin), line: span.start.line(), column: span.start.col() + 1 }
    }

    fn stop(&mut self, span: &Span, message: impl Into<String>) -> Stop {
        let place = self.place(span);
        self.faults.push(Diagnostic::error(&place, message));
        Stop
    }

    fn syntax(&mut self, error: &ScanError) -> Stop {
        let mark = error.marker();
        let mut place = Place { origin: Arc::clone(self.origin), line: mark.line(), column: mark.col() + 1 };
        // The parser may take a line that begins with a tab for more of the line above.
        let mut near = (mark.line()..).take(2).filter_map(|number| Some((number, self.origin.line(number)?)));
        let tab = near.find_map(|(number, line)| {
            let indent = line.get(..line.find(|c: char| !c.is_whitespace())?)?;
            Some((number, indent.chars().position(|c| c == '\t')? + 1))
        });
        let quoted = self.origin.line(mark.line()).unwrap_or_default();
        let fault = if let Some(tab) = tab {
            (place.line, place.column) = tab;
            Diagnostic::error(&place, "there is a tab in the indentation").hint("YAML is indented with spaces")
        } else {
            let fault = Diagnostic::error(&place, format!("this is not valid YAML: {}", error.info()));
            if quoted.contains(": {{") { fault.hint("a value that begins with {{ must be quoted") } else { fault }
        };
        self.faults.push(fault);
        Stop
    }
}

pub(super) fn is_bool(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

pub(super) fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
        || digits.strip_prefix("0x").is_some_and(|hex| u128::from_str_radix(hex, 16).is_ok())
        || digits.strip_prefix("0o").is_some_and(|octal| u128::from_str_radix(octal, 8).is_ok())
}

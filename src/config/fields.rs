//! Reading a map by hand: every key is asked for by its name and type, every fault is noted, and what nobody
//! asked for is an unknown key.
//!
//! A value that is missing or null is absent; which absences are faults is the reader's business.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::domain::names::InvalidName;
use crate::domain::span::Span;

use super::diagnostic::{Diagnostic, Place, nearest};
use super::yaml::{Key, Node, Value, is_bool, is_number};

/// The keys of one map, and which of them were asked for.
pub(super) struct Fields<'n> {
    /// The map's own place.
    pub at: Place,
    entries: &'n [(Key, Node)],
    asked: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The fields of a node; nothing counts as an empty map.
    pub fn of(node: &'n Node, what: &str, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let entries: &[_] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                faults.push(Diagnostic::error(&node.at, format!("{what} must be a map, and this is {}", node.kind())));
                return None;
            }
        };
        Some(Self { at: node.at.clone(), entries, asked: Vec::new() })
    }

    /// The value of a key, unless it is absent.
    pub fn get(&mut self, name: &'static str) -> Option<&'n Node> {
        self.get_with_key(name).map(|(_, node)| node)
    }

    /// The key itself and its value, unless that is absent.
    pub fn get_with_key(&mut self, name: &'static str) -> Option<(&'n Key, &'n Node)> {
        // Some readers ask twice, first whether it is there; a hint names it once.
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        self.entries
            .iter()
            .find(|(key, _)| key.text == name)
            .filter(|(_, node)| !node.is_null())
            .map(|(key, node)| (key, node))
    }

    /// The place of a key, or of the map where it is absent.
    pub fn place(&self, name: &str) -> Place {
        self.entries.iter().find(|(key, _)| key.text == name).map_or_else(|| self.at.clone(), |(key, _)| key.at.clone())
    }

    /// Whether a key is absent.
    pub fn is_absent(&self, name: &str) -> bool {
        !self.entries.iter().any(|(key, node)| key.text == name && !node.is_null())
    }

    /// The fields below a key; an absent one is empty.
    pub fn map(&mut self, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        match self.get(name) {
            Some(node) => Self::of(node, name, faults),
            None => Some(Self { at: self.place(name), entries: &[], asked: Vec::new() }),
        }
    }

    /// Text.
    pub fn text(&mut self, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<&'n str> {
        self.get(name).and_then(|node| text(node, name, faults))
    }

    /// Text that is parsed.
    pub fn parsed<T: FromStr<Err = InvalidName>>(
        &mut self,
        name: &'static str,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<T> {
        let node = self.get(name)?;
        let text = text(node, name, faults)?;
        text.parse().map_err(|error: InvalidName| faults.push(Diagnostic::error(&node.at, error.to_string()))).ok()
    }

    /// One of a few words.
    pub fn word<T: Copy>(
        &mut self,
        name: &'static str,
        known: &[(&'static str, T)],
        faults: &mut Vec<Diagnostic>,
    ) -> Option<T> {
        let node = self.get(name)?;
        let text = text(node, name, faults)?;
        if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
        let message = format!("{name} is one of {}, and not {text:?}", words.join(", "));
        let fault = Diagnostic::error(&node.at, message);
        faults.push(match nearest(text, words) {
            Some(word) => fault.hint(format!("did you mean {word:?}?")),
            None => fault,
        });
        None
    }

    /// A whole number in a range.
    pub fn number(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<u64> {
        let node = self.get(name)?;
        let number = match &node.value {
            Value::Scalar { text, plain: true } => text.parse::<u64>().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let bounds = if *range.end() == u64::MAX {
                format!("a whole number, {} or more", range.start())
            } else {
                format!("a whole number from {} to {}", range.start(), range.end())
            };
            faults.push(Diagnostic::error(&node.at, format!("{name} must be {bounds}, and this is {}", shown(node))));
        }
        number
    }

    /// A boolean.
    pub fn boolean(&mut self, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<bool> {
        let node = self.get(name)?;
        match &node.value {
            Value::Scalar { text, plain: true } if is_bool(text) => Some(text.eq_ignore_ascii_case("true")),
            _ => {
                let message = format!("{name} must be true or false, and this is {}", shown(node));
                faults.push(Diagnostic::error(&node.at, message));
                None
            }
        }
    }

    /// A length of time that is longer than nothing.
    pub fn span(&mut self, name: &'static str, faults: &mut Vec<Diagnostic>) -> Option<Span> {
        self.get(name).and_then(|node| span(node, name, faults))
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self, what: &str, faults: &mut Vec<Diagnostic>) {
        for (key, _) in self.entries {
            if self.asked.iter().any(|asked| *asked == key.text) {
                continue;
            }
            let fault = Diagnostic::error(&key.at, format!("unknown key {:?} in {what}", key.text));
            faults.push(fault.hint(match nearest(&key.text, self.asked.iter().copied()) {
                // Whoever writes a pipeline does not choose the user.
                _ if key.text == "runAs" => {
                    "whom scripts run as is execution.runAs of the service's settings".to_owned()
                }
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("known are {}", self.asked.join(", ")),
            }));
        }
    }
}

/// Text: what was quoted, or does not look like anything else.
pub(super) fn text<'n>(node: &'n Node, what: &str, faults: &mut Vec<Diagnostic>) -> Option<&'n str> {
    let fault = match &node.value {
        Value::Scalar { text, plain } if !plain || !(is_bool(text) || is_number(text)) => {
            if !text.contains('\0') {
                return Some(text);
            }
            Diagnostic::error(&node.at, format!("{what} has a NUL character in it, which no program can be given"))
        }
        Value::Scalar { text, .. } => {
            let message = format!("{what} must be text, and this is {}", node.kind());
            Diagnostic::error(&node.at, message).hint(format!("quote it: {text:?}"))
        }
        _ => Diagnostic::error(&node.at, format!("{what} must be text, and this is {}", node.kind())),
    };
    faults.push(fault);
    None
}

/// A length of time that is longer than nothing.
pub(super) fn span(node: &Node, what: &str, faults: &mut Vec<Diagnostic>) -> Option<Span> {
    let fault = match &node.value {
        Value::Scalar { text, plain } if *plain && is_number(text) => {
            let message = format!("{what} is a length of time, and {text:?} has no unit");
            Diagnostic::error(&node.at, message).hint("it is written like 250ms, 5m or 1h30m")
        }
        Value::Scalar { text, .. } => match text.parse::<Span>() {
            Ok(span) if span.0 == Duration::ZERO => {
                Diagnostic::error(&node.at, format!("{what} must be longer than nothing"))
            }
            Ok(span) => return Some(span),
            Err(error) => Diagnostic::error(&node.at, format!("{what} is no length of time: {}", error.why)),
        },
        _ => Diagnostic::error(&node.at, format!("{what} must be a length of time, and this is {}", node.kind()))
            .hint("it is written like 250ms, 5m or 1h30m"),
    };
    faults.push(fault);
    None
}

/// Text, or a number or a boolean as its text.
pub(super) fn loose_text(node: &Node, what: &str, faults: &mut Vec<Diagnostic>) -> Option<String> {
    match &node.value {
        Value::Null => Some(String::new()),
        Value::Scalar { text, plain: true } => Some(text.clone()),
        _ => text(node, what, faults).map(str::to_owned),
    }
}

/// A map of text to text, with numbers and booleans as their text.
pub(super) fn labels(node: &Node, what: &str, faults: &mut Vec<Diagnostic>) -> BTreeMap<String, String> {
    let Some(fields) = Fields::of(node, what, faults) else { return BTreeMap::new() };
    let mut labels = BTreeMap::new();
    for (key, value) in fields.entries {
        if key.text.is_empty() || key.text.contains(char::is_control) {
            faults.push(Diagnostic::error(&key.at, format!("{:?} is no name in {what}", key.text)));
        } else if let Some(text) = loose_text(value, &key.text, faults) {
            labels.insert(key.text.clone(), text);
        }
    }
    labels
}

/// The entries of a map whose keys are free.
pub(super) fn entries<'n>(node: &'n Node, what: &str, faults: &mut Vec<Diagnostic>) -> &'n [(Key, Node)] {
    Fields::of(node, what, faults).map_or(&[], |fields| fields.entries)
}

/// The items of a list.
pub(super) fn items<'n>(node: &'n Node, what: &str, faults: &mut Vec<Diagnostic>) -> Option<&'n [Node]> {
    match &node.value {
        Value::Seq(items) => Some(items),
        _ => {
            faults.push(Diagnostic::error(&node.at, format!("{what} must be a list, and this is {}", node.kind())));
            None
        }
    }
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } if text.len() <= 40 => format!("{text:?}"),
        _ => node.kind().to_owned(),
    }
}

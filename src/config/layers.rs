//! Layers of settings: the defaults, the file and the variables, each a source that `config` lays over those below.
//!
//! A fault found after the merge must still name its file and line, or its variable, and `config` forgets where a
//! table came from. So what it is given are numbers: each stands for something that a layer wrote, and
//! [`Layers::merged`] looks up those that are left. Two of our rules are none of its own, and are told to it in tables:
//!
//! - A section is a table of what is written for it, with its keys in another table below: a section without
//!   anything in it, laid over one with keys, leaves the keys, while laid over a value it takes that away.
//! - `config` replaces values and merges tables. A section that is a choice is no longer merged: before its layer, the
//!   layer's other source ([`Layer`]) puts an empty value there.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use config::{Config, ConfigError, Map, Source, ValueKind};

use super::diagnostic::{Diagnostic, Origin, Place, nearest};
use super::secret::Environment;
use super::yaml::{self, Key, Node, Value};

/// Which settings there are, as far as variables need to know.
pub(super) enum Shape {
    /// A value.
    Leaf,
    /// A list, which a variable may give separated by commas.
    List,
    /// A section.
    Map(&'static [(&'static str, Self)]),
}

const PREFIX: &str = "STAGEHOOK_";

/// What others read: the command line, and the scripts that may call it (their own variables are STAGEHOOK_RUN_ID and the like).
const FOREIGN: [&str; 19] = [
    "CONFIG",
    "CA",
    "CLIENT_CERTIFICATE",
    "SERVER",
    "TOKEN",
    "HOOK",
    "SOURCE",
    "CLUSTER",
    "NAMESPACE",
    "NAME",
    "REVISION",
    "STAGE",
    "RUN_ID",
    "ATTEMPT",
    "EVENT_FILE",
    "OUTPUT",
    "OUTPUTS",
    "FORWARD_STATUS",
    "FORWARD_EXIT_CODE",
];

/// The table of all settings, as `config` knows it.
const ROOT: &str = "settings";
/// In the table of a section: the table of its keys.
const KEYS: &str = "keys";
/// In the table of a section: the map that a file has there.
const MAP: &str = "map";
/// In the table of a section: that nothing is written there. It counts when there are neither keys nor a map.
const NULL: &str = "null";

/// The layers, lowest first.
pub(super) struct Layers {
    shape: &'static Shape,
    layers: Vec<Layer>,
    /// What the numbers stand for: a value, or a section without its keys; with the place of its key.
    written: Vec<Option<(Place, Node)>>,
}

/// A source: the values of a layer by their paths, or the empty values that go before it.
#[derive(Clone, Debug)]
struct Layer(Map<String, config::Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, config::Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

impl Layers {
    /// No layer yet of the settings that there are.
    pub fn of(shape: &'static Shape) -> Self {
        Self { shape, layers: Vec::new(), written: Vec::new() }
    }

    /// Lays the defaults or a file over what is there.
    pub fn file(&mut self, root: Node) {
        let entry = |value| Layer(Map::from_iter([(ROOT.to_owned(), value)]));
        self.layers.extend(choices(&root, self.shape).map(entry));
        let value = self.value(root.at.clone(), root, self.shape);
        self.layers.push(entry(value));
    }

    /// Lays the variables over what is there.
    pub fn variables(&mut self, env: &Environment, faults: &mut Vec<Diagnostic>) {
        let mut choices = Map::new();
        let mut values = Map::new();
        for (path, (node, leaf)) in variables(env, self.shape, faults) {
            if let Some((last, section)) = path.split_last()
                && is_choice(last)
            {
                choices.insert(dotted(section), empty());
            }
            values.insert(dotted(&path), self.value(node.at.clone(), node, leaf));
        }
        self.layers.extend([Layer(choices), Layer(values)]);
    }

    /// All layers as one tree.
    pub fn merged(mut self) -> Result<Option<Node>, ConfigError> {
        let layers = mem::take(&mut self.layers);
        let config = layers.into_iter().fold(Config::builder(), |builder, layer| builder.add_source(layer)).build()?;
        let root = config::Value::from(config.get_table(ROOT)?);
        Ok(self.node(&root).map(|(_, node)| node))
    }

    /// What a node is for `config`. Only sections that there are can be in several layers: any other map is a value.
    fn value(&mut self, key: Place, mut node: Node, shape: &Shape) -> config::Value {
        let mut table = Map::new();
        let name = match &mut node.value {
            Value::Scalar { .. } | Value::Seq(_) => return self.number(key, node),
            Value::Null => NULL,
            Value::Map(entries) => {
                if let Shape::Map(_) = shape {
                    let below = mem::take(entries).into_iter();
                    let below = below.map(|(key, node)| {
                        let shape = shape.below(&key.text);
                        (key.text, self.value(key.at, node, shape))
                    });
                    table.insert(KEYS.to_owned(), below.collect::<Map<_, _>>().into());
                }
                MAP
            }
        };
        table.insert(name.to_owned(), self.number(key, node));
        table.into()
    }

    fn number(&mut self, key: Place, node: Node) -> config::Value {
        let number = self.written.len() as u64;
        self.written.push(Some((key, node)));
        config::Value::new(None, number)
    }

    /// The node that a merged value stands for, and the place of its key.
    fn node(&mut self, value: &config::Value) -> Option<(Place, Node)> {
        let table = match &value.kind {
            ValueKind::U64(number) => return self.written.get_mut(usize::try_from(*number).ok()?)?.take(),
            ValueKind::Table(table) => table,
            _ => return None,
        };
        let mut below = Vec::new();
        if let Some(ValueKind::Table(keys)) = table.get(KEYS).map(|keys| &keys.kind) {
            // `config` has them in no order.
            for (name, value) in keys.iter().collect::<BTreeMap<_, _>>() {
                below.extend(self.node(value).map(|(at, node)| (Key { at, text: name.clone() }, node)));
            }
        }
        if let Some(map) = table.get(MAP) {
            let (key, mut node) = self.node(map)?;
            if let Value::Map(entries) = &mut node.value {
                entries.extend(below);
            }
            return Some((key, node));
        }
        // Without a map, variables alone have set what is here, and the last of them is its place.
        let Some((_, last)) = below.last() else { return self.node(table.get(NULL)?) };
        let at = last.at.clone();
        Some((at.clone(), Node { at, bytes: 0..0, value: Value::Map(below) }))
    }
}

impl Shape {
    /// What is below a key; nothing is known of what is below an unknown one.
    fn below(&self, name: &str) -> &Self {
        match self {
            Self::Map(known) => known.iter().find(|(known, _)| *known == name).map_or(&Self::Leaf, |(_, below)| below),
            leaf => leaf,
        }
    }
}

/// A map that says which of several it is replaces another choice: its keys don't belong together.
fn is_choice(key: &str) -> bool {
    matches!(key, "type" | "fromFile" | "fromEnv")
}

/// Empty values where the choices of a file are.
fn choices(node: &Node, shape: &Shape) -> Option<config::Value> {
    let (Value::Map(entries), Shape::Map(_)) = (&node.value, shape) else { return None };
    if entries.iter().any(|(key, _)| is_choice(&key.text)) {
        return Some(empty());
    }
    let below = entries.iter().filter_map(|(key, node)| {
        let choices = choices(node, shape.below(&key.text))?;
        Some((key.text.clone(), choices))
    });
    let below: Map<_, _> = below.collect();
    (!below.is_empty()).then(|| Map::from_iter([(KEYS.to_owned(), config::Value::from(below))]).into())
}

fn empty() -> config::Value {
    config::Value::new(None, ValueKind::Nil)
}

/// A path of settings, as `config` knows it. There are letters and hyphens alone in it, so nothing needs to be quoted.
fn dotted(path: &[&str]) -> String {
    path.iter().fold(ROOT.to_owned(), |dotted, name| format!("{dotted}.{KEYS}.{name}"))
}

type Variables = BTreeMap<Vec<&'static str>, (Node, &'static Shape)>;

/// The settings that variables set.
fn variables(env: &Environment, shape: &'static Shape, faults: &mut Vec<Diagnostic>) -> Variables {
    let mut found = Variables::new();
    let mut taken: BTreeMap<Vec<&'static str>, &str> = BTreeMap::new();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if is_foreign(rest, value) {
            continue;
        }
        let (path, leaf) = match find(rest, shape) {
            Ok(found) => found,
            Err((message, hint)) => {
                faults.push(Diagnostic::of_file(name, message).hint(hint));
                continue;
            }
        };
        if let Some(other) = taken.insert(path.clone(), name) {
            faults.push(Diagnostic::of_file(name, format!("it sets the same as {other}")).hint("keep one of them"));
            continue;
        }
        if let Some(node) = read(name, value, leaf, faults) {
            found.insert(path, (node, leaf));
        }
    }
    found
}

/// Besides the fixed names: metadata that a script sees, and what Kubernetes and Docker set for services.
fn is_foreign(rest: &str, value: &str) -> bool {
    FOREIGN.contains(&rest) || rest.starts_with("METADATA_") || is_of_a_service(rest, value)
}

/// Whether it is a variable that Kubernetes or Docker sets for a service called stagehook, or stagehook-something:
/// whoever names a sibling so must not keep this service from starting.
fn is_of_a_service(rest: &str, value: &str) -> bool {
    if rest.contains("__") {
        return false;
    }
    let name = format!("_{rest}");
    let is_one_port = |after: &str| {
        let mut parts = after.split('_');
        let number = parts.next().is_some_and(|number| number.parse::<u16>().is_ok());
        let protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
        number && protocol && matches!((parts.next(), parts.next()), (None | Some("PROTO" | "PORT" | "ADDR"), None))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.split_once("_SERVICE_PORT_").is_some_and(|(_, port)| !port.is_empty())
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.match_indices("_PORT_").any(|(at, port)| name.get(at + port.len()..).is_some_and(is_one_port))
}

fn fold(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// The setting that a variable names, or what is wrong with the name and a hint.
fn find<'s>(rest: &str, shape: &'s Shape) -> Result<(Vec<&'static str>, &'s Shape), (String, String)> {
    let mut here = shape;
    let mut path = Vec::new();
    for segment in rest.split("__") {
        let Shape::Map(known) = here else {
            return Err((
                "there is no such setting".to_owned(),
                format!("{} is a value, and nothing is below it", path.join(".")),
            ));
        };
        let Some((name, below)) = known.iter().find(|(name, _)| fold(name) == fold(segment)) else {
            let names = known.iter().map(|(name, _)| *name);
            let hint = match nearest(segment, names.clone()) {
                Some(near) => {
                    path.push(near);
                    format!("did you mean {PREFIX}{}?", path.join("__").to_uppercase().replace('-', "_"))
                }
                None => format!("known there are {}", names.collect::<Vec<_>>().join(", ")),
            };
            return Err(("there is no such setting".to_owned(), hint));
        };
        path.push(*name);
        here = below;
    }
    match here {
        Shape::Map(known) => {
            let names: Vec<_> =
                known.iter().map(|(name, _)| format!("{PREFIX}{rest}__{}", name.to_uppercase())).collect();
            Err((format!("{} is a section and no value", path.join(".")), format!("it holds {}", names.join(", "))))
        }
        leaf => Ok((path, leaf)),
    }
}

fn read(name: &str, value: &str, shape: &Shape, faults: &mut Vec<Diagnostic>) -> Option<Node> {
    let origin = Arc::new(Origin { name: name.to_owned(), text: String::new(), base: "".into() });
    let scalar = |text: &str| Node {
        at: Place::whole(&origin),
        bytes: 0..0,
        value: if text.is_empty() { Value::Null } else { Value::Scalar { text: text.to_owned(), plain: true } },
    };
    if !matches!(shape, Shape::List) {
        return Some(scalar(value));
    }
    if value.trim_start().starts_with('[') {
        return yaml::parse_variable(name, value, faults);
    }
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(scalar).collect();
    Some(Node { at: Place::whole(&origin), bytes: 0..0, value: Value::Seq(items) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{read::SHAPE, settings::DEFAULT};

    /// Every path of values in a tree; lists count as values.
    fn paths(node: &Node, here: &str, found: &mut Vec<String>) {
        match &node.value {
            Value::Map(entries) => entries.iter().for_each(|(key, node)| {
                paths(node, &format!("{here}{}{}", if here.is_empty() { "" } else { "__" }, key.text), found);
            }),
            _ => found.push(here.to_owned()),
        }
    }

    fn leaves(shape: &Shape) -> usize {
        match shape {
            Shape::Leaf | Shape::List => 1,
            // The defaults have no `auth`, and no credential of our own: they must not open or close anything.
            Shape::Map(known) => {
                let set = known.iter().filter(|(name, _)| !matches!(*name, "auth" | "token" | "app"));
                set.map(|(_, below)| leaves(below)).sum()
            }
        }
    }

    #[test]
    fn the_defaults_and_the_variables_know_the_same_settings() {
        let mut faults = Vec::new();
        let documents = yaml::parse("default".to_owned(), "".into(), DEFAULT.as_bytes(), &mut faults);
        let mut found = Vec::new();
        paths(&documents[0], "", &mut found);
        assert_eq!((faults, found.len()), (vec![], leaves(&SHAPE)));
        for path in found {
            assert!(find(&path.to_uppercase(), &SHAPE).is_ok(), "{path}");
        }
    }

    fn lay(under: &mut Node, over: Node) {
        let mut layers = Layers::of(&SHAPE);
        layers.file(under.clone());
        layers.file(over);
        *under = layers.merged().unwrap().unwrap();
    }

    #[test]
    fn a_null_leaves_a_section_as_it_is_and_takes_a_value_away() {
        let parse = |text: &str| yaml::parse("x".to_owned(), "".into(), text.as_bytes(), &mut Vec::new()).remove(0);
        let mut under = parse("a: {b: 1}\nc: 2\n");
        lay(&mut under, parse("a:\nc:\n"));
        assert!(under.get("a").is_some_and(|a| a.get("b").is_some()));
        assert!(under.get("c").is_some_and(Node::is_null));
    }

    #[test]
    fn keys_are_no_paths_and_places_are_those_of_the_layer_that_wrote() {
        let parse = |name: &str, text: &str| {
            yaml::parse(name.to_owned(), "".into(), text.as_bytes(), &mut Vec::new()).remove(0)
        };
        let mut layers = Layers::of(&SHAPE);
        layers.file(parse("below", "server: {listen: a, shutdownGrace: b}\n"));
        layers
            .file(parse("above", "server.listen: x\na[999999999999]: x\nServer: {listen: x}\nserver:\n  listen: c\n"));
        let root = layers.merged().unwrap().unwrap();
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        let mut places: Vec<_> = entries.iter().map(|(key, _)| (key.at.line, key.text.as_str())).collect();
        places.sort_unstable();
        assert_eq!(places, [(1, "server.listen"), (2, "a[999999999999]"), (3, "Server"), (4, "server")]);
        let at = |name| root.get("server").and_then(|server| server.get(name)).map(|node| &node.at).unwrap();
        assert_eq!((at("listen").origin.name.as_str(), at("listen").line), ("above", 5));
        assert_eq!((at("shutdownGrace").origin.name.as_str(), at("shutdownGrace").line), ("below", 1));
    }
}

//! What the payloads of the sources have in common: a media type, and a JSON object with names, a revision and metadata.
//!
//! Every fault is said as what, where and what to do, since its text reaches the caller's own events and logs. What a
//! field means is not known here.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::json;
use crate::domain::names::{Application, Cluster, InvalidName, Name, Namespace, Revision};
use crate::domain::record::{About, Payload};

/// How many entries a call's `metadata` may have. Each becomes a variable of every script of the deployment, and takes a
/// hundred times its length in memory until that has started.
pub(super) const METADATA: usize = 1000;

const EXAMPLE: &str = r#"send a JSON object like {"namespace": "test", "name": "podinfo"}"#;

/// A body that can't be understood; reads as a sentence with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadCall(pub String);

impl From<InvalidName> for BadCall {
    fn from(error: InvalidName) -> Self {
        Self(error.to_string())
    }
}

/// A payload whose text is known to be sound: JSON, an object, no NUL anywhere.
#[derive(Debug)]
pub(super) struct Body {
    value: Value,
    metadata: BTreeMap<String, String>,
}

impl Body {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, BadCall> {
        if bytes.trim_ascii().is_empty() {
            return Err(BadCall(format!("the body is empty; {EXAMPLE}")));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            BadCall(format!("the body is not UTF-8 from its byte {} on; {EXAMPLE}", error.valid_up_to()))
        })?;
        let value: Value = json::read(text.as_bytes())
            .map_err(|error| BadCall(format!("the body is not JSON: {error}; {EXAMPLE}")))?;
        Self::of(value)
    }

    /// A payload that is JSON already.
    pub(super) fn of(value: Value) -> Result<Self, BadCall> {
        let Some(fields) = value.as_object() else {
            return Err(BadCall(format!("the body is {}, not an object; {EXAMPLE}", kind(&value))));
        };
        if let Some(path) = nul(&value) {
            let path = path.trim_start_matches('.');
            return Err(BadCall(format!(
                "the field `{path}` has the character NUL; leave it out, no script can be given one"
            )));
        }
        let metadata = metadata(fields)?;
        Ok(Self { value, metadata })
    }

    /// As it came.
    pub(super) const fn value(&self) -> &Value {
        &self.value
    }

    /// A field that is text; null counts as left out.
    pub(super) fn text(&self, field: &str) -> Result<Option<&str>, BadCall> {
        match self.value.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(BadCall(format!("the field `{field}` must be a string, and it is {}", kind(other)))),
        }
    }

    pub(super) fn needed(&self, field: &str, example: &str) -> Result<&str, BadCall> {
        self.text(field)?
            .ok_or_else(|| BadCall(format!("the field `{field}` is missing; add \"{field}\": \"{example}\"")))
    }

    /// The revision in `field`; an empty one is none.
    pub(super) fn revision(&self, field: &str) -> Result<Option<Revision>, BadCall> {
        self.text(field)?.filter(|text| !text.is_empty()).map(Revision::new).transpose().map_err(BadCall::from)
    }

    /// What is deployed. Where the cluster is named more than once, all must agree: none of them is a better witness.
    pub(super) fn application(&self, told: &[(&str, Option<&str>)]) -> Result<Application, BadCall> {
        let namespace = Namespace::new(self.needed("namespace", "test")?)?;
        let name = Name::new(self.needed("name", "podinfo")?)?;
        let mut cluster: Option<(&str, &str)> = None;
        for (place, text) in told {
            let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
            match cluster {
                Some((first, known)) if known != text => {
                    return Err(BadCall(format!("{first} and {place} name different clusters; name one")));
                }
                _ => cluster = Some((place, text)),
            }
        }
        let cluster = cluster.map(|(_, text)| Cluster::new(text)).transpose()?;
        Ok(Application { cluster, namespace, name })
    }

    /// An object within this one, which must be there. It has no metadata.
    pub(super) fn inner(&self, field: &str) -> Result<Self, BadCall> {
        match self.value.get(field) {
            None | Some(Value::Null) => Err(BadCall(format!("the field `{field}` is missing"))),
            Some(value @ Value::Object(_)) => Ok(Self { value: value.clone(), metadata: BTreeMap::new() }),
            Some(other) => Err(BadCall(format!("the field `{field}` must be an object, and it is {}", kind(other)))),
        }
    }

    /// All metadata.
    pub(super) fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata.iter().map(|(key, text)| (key.as_str(), text.as_str()))
    }

    /// A value of the metadata.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Whether there is any metadata.
    pub(super) fn has_metadata(&self) -> bool {
        !self.metadata.is_empty()
    }

    /// Who and why: from the metadata, and from the body's own fields where `own`.
    pub(super) fn about(&self, own: bool) -> About {
        let find = |names: &[&str]| {
            let in_body = names.iter().filter(|_| own).find_map(|name| self.value.get(*name).and_then(Value::as_str));
            in_body.or_else(|| names.iter().find_map(|name| self.metadata(name))).unwrap_or_default().to_owned()
        };
        About {
            commit_hash: find(&["commitHash", "commit", "sha"]),
            commander: find(&["commander", "triggeredBy"]),
            repository_url: find(&["repositoryUrl", "repository"]),
            summary: find(&["summary"]),
        }
    }

    /// As scripts see it.
    pub(super) fn into_payload(self) -> Payload {
        Payload { body: self.value, metadata: self.metadata }
    }
}

/// `metadata` as text. Numbers and booleans are taken as they are written, so that `{"pr": 7}` is no trap.
fn metadata(fields: &Map<String, Value>) -> Result<BTreeMap<String, String>, BadCall> {
    let entries = match fields.get("metadata") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => {
            return Err(BadCall(format!(
                "the field `metadata` must be an object of strings, and it is {}",
                kind(other)
            )));
        }
    };
    if entries.len() > METADATA {
        return Err(BadCall(format!(
            "the field `metadata` has {} entries, and at most {METADATA} are read; send what scripts need",
            entries.len()
        )));
    }
    let mut metadata = BTreeMap::new();
    for (key, value) in entries {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return Err(BadCall(format!(
                    "the field `metadata.{}` must be a string, and it is {}",
                    shown(key),
                    kind(value)
                )));
            }
        };
        metadata.insert(key.clone(), text);
    }
    Ok(metadata)
}

/// The media type of a body, without its parameters, in small letters; empty where none is told.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    essence(value)
}

/// A media type without its parameters, in small letters.
pub(super) fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Where in a value there is a NUL. The parser bounds the depth. Only a place that is told is put together: the paths
/// of all values may be a thousand times as long as the body.
pub(super) fn nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| nul(item).map(|below| format!("[{at}]{below}")))
        }
        Value::Object(entries) => entries.iter().find_map(|(key, value)| {
            let below = if key.contains('\0') { Some(String::new()) } else { nul(value) };
            below.map(|below| format!(".{}{below}", shown(key)))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// A caller's text on one line, cut.
pub(super) fn line(text: &str, longest: usize) -> String {
    text.chars().take(longest).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn shown(key: &str) -> String {
    line(key, 100)
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &[u8]) -> String {
        Body::read(body).and_then(|body| body.application(&[]).map(|_| ())).unwrap_err().0
    }

    #[test]
    fn a_fault_says_what_where_and_what_to_do() {
        for (body, said) in [
            (&b""[..], "the body is empty; send a JSON object like"),
            (b" \n", "the body is empty"),
            (b"{\"name\": \xff}", "not UTF-8 from its byte 9 on"),
            (b"{\n \"name\": nope}", "at line 2 column 11"),
            (b"[]", "the body is an array, not an object"),
            (b"{\"name\": \"x\"}", "the field `namespace` is missing; add \"namespace\": \"test\""),
            (b"{\"namespace\": 7, \"name\": \"x\"}", "the field `namespace` must be a string, and it is a number"),
            (b"{\"namespace\": \"t\", \"name\": null}", "the field `name` is missing"),
            (b"{\"namespace\": \"t\", \"name\": \"\"}", "the name is not valid: it is empty"),
            (
                b"{\"namespace\": \"a\\nb\", \"name\": \"x\"}",
                "the namespace is not valid: it has the control character U+000A",
            ),
            (b"{\"metadata\": []}", "the field `metadata` must be an object of strings, and it is an array"),
            (b"{\"metadata\": {\"a\": {}}}", "the field `metadata.a` must be a string, and it is an object"),
            (b"{\"metadata\": {\"a\": \"x\\u0000\"}}", "the field `metadata.a` has the character NUL"),
            (b"{\"extra\": [0, {\"k\": \"\\u0000\"}]}", "the field `extra[1].k` has the character NUL"),
            (b"{\"ke\\u0000y\": 1}", "the field `ke y` has the character NUL"),
        ] {
            let error = fault(body);
            assert!(error.contains(said), "{error:?} should have {said:?}");
        }
        let long = format!("{{\"namespace\": \"t\", \"name\": \"{}\"}}", "x".repeat(1000));
        assert!(fault(long.as_bytes()).contains("1000 bytes long, and at most 253"));
        assert!(fault("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn metadata_is_text_and_may_have_newlines() {
        let body = Body::read(br#"{"metadata": {"a": "x\ny", "n": 7, "b": true, "no": null}}"#).unwrap();
        let metadata = body.into_payload().metadata;
        let read: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(read, [("a", "x\ny"), ("b", "true"), ("n", "7")]);
    }

    #[test]
    fn metadata_has_an_end() {
        let body = |count: usize| {
            let entries: Map<_, _> = (0..count).map(|n| (format!("k{n}"), Value::from("x"))).collect();
            serde_json::to_vec(&serde_json::json!({ "metadata": entries })).unwrap()
        };
        assert_eq!(Body::read(&body(METADATA)).unwrap().into_payload().metadata.len(), METADATA);
        assert!(fault(&body(METADATA + 1)).contains("1001 entries, and at most 1000"));
    }

    #[test]
    fn clusters_must_agree() {
        let body = Body::read(br#"{"namespace": "t", "name": "x"}"#).unwrap();
        let ask = |one, other| body.application(&[("the query `cluster`", one), ("`metadata.cluster`", other)]);
        assert_eq!(ask(None, Some("eu")).unwrap().to_string(), "eu:t/x");
        assert_eq!(ask(Some("eu"), Some("eu")).unwrap().to_string(), "eu:t/x");
        assert_eq!(ask(Some(""), None).unwrap().to_string(), "t/x");
        let error = ask(Some("eu"), Some("us")).unwrap_err().0;
        assert_eq!(error, "the query `cluster` and `metadata.cluster` name different clusters; name one");
        assert!(ask(Some("e:u"), None).is_err());
    }

    #[test]
    fn about_prefers_the_body_where_it_may_speak() {
        let body = Body::read(br#"{"commit": "b", "metadata": {"sha": "m", "triggeredBy": "ann", "repository": "r"}}"#)
            .unwrap();
        assert_eq!(body.about(true).commit_hash, "b");
        let about = body.about(false);
        assert_eq!(
            (about.commit_hash.as_str(), about.commander.as_str(), about.repository_url.as_str()),
            ("m", "ann", "r")
        );
    }
}

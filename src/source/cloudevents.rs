//! CloudEvents 1.0 over HTTP: one event, its attributes in `ce-` headers (binary) or in the body (structured).
//!
//! What an event means for a deployment is not known here. Batches are refused: one request has one verdict.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::{Map, Value};

use super::body::{essence, media_type};
use super::json;
use crate::domain::names::Shown;

/// The longest `source` and `id` together, in bytes: they become the name of a call.
pub const MAX_KEY: usize = 1024;

/// An event, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// `id`: unique for its source.
    pub id: String,
    /// `source`: where it happened, a reference to a URI.
    pub source: String,
    /// `type`: what happened.
    pub kind: String,
    /// The data, as bytes.
    pub data: Vec<u8>,
}

impl CloudEvent {
    /// The name of the event among all. A reference to a URI has no space, so this is no other event's.
    pub fn key(&self) -> String {
        format!("{} {}", self.source, self.id)
    }
}

/// An event that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadEvent {
    /// It is malformed.
    Malformed(String),
    /// Its form is none that is read here.
    Unsupported(String),
}

/// Whether a request carries an event, or would like to. Four headers are mandatory; with any of them it was meant to
/// be an event, and what is missing is said: taken for a plain call, its repetition would run again.
pub fn is_event(headers: &HeaderMap) -> bool {
    let mandatory = ["ce-specversion", "ce-id", "ce-source", "ce-type"];
    media_type(headers).starts_with("application/cloudevents")
        || mandatory.iter().any(|name| headers.contains_key(*name))
}

/// Reads the event of a request.
pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<CloudEvent, BadEvent> {
    let form = media_type(headers);
    if form == "application/cloudevents+json" {
        structured(body)
    } else if form.starts_with("application/cloudevents-batch") {
        Err(BadEvent::Unsupported("batches of CloudEvents are not taken; send each event by itself".to_owned()))
    } else if form.starts_with("application/cloudevents") {
        let why =
            format!("the event format {} is not read; send application/cloudevents+json, or ce- headers", Shown(&form));
        Err(BadEvent::Unsupported(why))
    } else {
        binary(headers, body)
    }
}

fn binary(headers: &HeaderMap, body: &[u8]) -> Result<CloudEvent, BadEvent> {
    let attribute = |name: &str| {
        let header = format!("ce-{name}");
        let mut values = headers.get_all(&header).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(malformed(format!("the header {header} is there more than once; send it once")));
        }
        decoded(value.as_bytes()).map(Some).map_err(|why| malformed(format!("the header {header} {why}")))
    };
    event(&attribute, "the header ce-", body.to_vec())
}

fn structured(body: &[u8]) -> Result<CloudEvent, BadEvent> {
    let value: Value = json::read(body).map_err(|error| malformed(format!("the CloudEvent is not JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(malformed("the CloudEvent is not a JSON object".to_owned()));
    };
    let data = data(&mut fields)?;
    let attribute = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(malformed(format!("the attribute `{name}` of the CloudEvent must be a string"))),
    };
    event(&attribute, "the attribute ", data)
}

/// The data of a structured event, as bytes.
fn data(fields: &mut Map<String, Value>) -> Result<Vec<u8>, BadEvent> {
    let kind = fields.get("datacontenttype").and_then(Value::as_str).unwrap_or("application/json");
    let kind = essence(kind);
    let is_json = kind.ends_with("/json") || kind.ends_with("+json");
    match (fields.remove("data"), fields.remove("data_base64")) {
        (Some(_), Some(_)) => Err(malformed("the CloudEvent has both `data` and `data_base64`; send one".to_owned())),
        (None, Some(Value::String(text))) => {
            STANDARD.decode(text).map_err(|_| malformed("`data_base64` of the CloudEvent is not base64".to_owned()))
        }
        (None, Some(_)) => Err(malformed("`data_base64` of the CloudEvent must be a string".to_owned())),
        (Some(Value::String(text)), None) if !is_json => Ok(text.into_bytes()),
        (Some(value), None) => Ok(value.to_string().into_bytes()),
        (None, None) => Ok(Vec::new()),
    }
}

/// Puts an event together from its attributes, and checks those that each must have.
fn event(
    attribute: &dyn Fn(&str) -> Result<Option<String>, BadEvent>,
    place: &str,
    data: Vec<u8>,
) -> Result<CloudEvent, BadEvent> {
    let required = |name: &str| {
        let missing = || malformed(format!("{place}{name} is missing; every CloudEvent has one"));
        let value = attribute(name)?.filter(|value| !value.is_empty()).ok_or_else(missing)?;
        match value.chars().find(|c| c.is_control()) {
            Some(c) => Err(malformed(format!("{place}{name} has the control character U+{:04X}", u32::from(c)))),
            None => Ok(value),
        }
    };
    let version = required("specversion")?;
    if version != "1.0" {
        return Err(malformed(format!("{place}specversion is {}, and only \"1.0\" is understood", Shown(&version))));
    }
    let (id, source, kind) = (required("id")?, required("source")?, required("type")?);
    if source.contains(char::is_whitespace) {
        return Err(malformed(format!("{place}source has a space, so it is no reference to a URI")));
    }
    if source.len() + id.len() > MAX_KEY {
        return Err(malformed(format!("{place}source and {place}id are longer than {MAX_KEY} bytes together")));
    }
    Ok(CloudEvent { id, source, kind, data })
}

/// A header's value: quotes taken off (older senders put them), then one round of percent-decoding, strictly UTF-8.
fn decoded(value: &[u8]) -> Result<String, &'static str> {
    let value = value.trim_ascii();
    let unquoted = match value {
        [b'"', inner @ .., b'"'] => unescaped(inner)?,
        _ => value.to_vec(),
    };
    let mut bytes = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.as_slice();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        const WRONG: &str = "has a % that no two hex digits follow";
        let (digits, tail) = rest.split_first_chunk::<2>().ok_or(WRONG)?;
        bytes.extend(hex::decode(digits).map_err(|_| WRONG)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 when its percent-encoding is undone")
}

fn unescaped(inner: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => *rest.next().ok_or("ends with a backslash")?,
            b'"' => return Err("has a quote within its quotes"),
            other => *other,
        });
    }
    Ok(bytes)
}

const fn malformed(why: String) -> BadEvent {
    BadEvent::Malformed(why)
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        pairs.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
    }

    /// The example of the HTTP binding, with the type that it has there.
    const EXAMPLE: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-type", "com.example.someevent"),
        ("ce-time", "2018-04-05T03:56:24Z"),
        ("ce-id", "1234-1234-1234"),
        ("ce-source", "/mycontext/subcontext"),
    ];

    fn with(name: &'static str, text: Option<&str>) -> Result<CloudEvent, BadEvent> {
        let mut pairs: Vec<(&'static str, &str)> = EXAMPLE.into_iter().filter(|(known, _)| *known != name).collect();
        pairs.extend(text.map(|text| (name, text)));
        read(&headers(&pairs), b"{}")
    }

    fn json_event(fields: &Value) -> Result<CloudEvent, BadEvent> {
        let mut event = json!({"specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext",
            "id": "A234-1234-1234"});
        for (key, value) in fields.as_object().unwrap() {
            event[key] = value.clone();
        }
        read(&headers(&[("content-type", "application/cloudevents+json; charset=UTF-8")]), event.to_string().as_bytes())
    }

    fn why(result: Result<CloudEvent, BadEvent>) -> String {
        match result.unwrap_err() {
            BadEvent::Malformed(why) | BadEvent::Unsupported(why) => why,
        }
    }

    #[test]
    fn binary_has_its_attributes_in_headers() {
        let mut all = headers(&EXAMPLE);
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        assert!(is_event(&all));
        let event = read(&all, br#"{"a": 1}"#).unwrap();
        assert_eq!((event.kind.as_str(), event.data.as_slice()), ("com.example.someevent", &br#"{"a": 1}"#[..]));
        assert_eq!(event.key(), "/mycontext/subcontext 1234-1234-1234");
    }

    #[test]
    fn what_every_event_has_is_checked() {
        for name in ["ce-specversion", "ce-type", "ce-id", "ce-source"] {
            assert!(why(with(name, None)).contains(&format!("the header {name} is missing")), "{name}");
            assert!(is_event(&headers(&[(name, "x")])), "{name}");
            assert!(why(with(name, Some(""))).contains("is missing"), "{name}");
        }
        assert!(why(with("ce-specversion", Some("0.3"))).contains("only \"1.0\" is understood"));
        assert!(why(with("ce-source", Some("a%20b"))).contains("no reference to a URI"));
        assert!(why(with("ce-id", Some("a%0Ab"))).contains("the control character U+000A"));
        assert!(why(with("ce-id", Some(&"x".repeat(MAX_KEY)))).contains("longer than 1024 bytes"));
        let twice = headers(&[EXAMPLE.as_slice(), &[("ce-id", "2")]].concat());
        assert!(why(read(&twice, b"")).contains("ce-id is there more than once"));
    }

    #[test]
    fn headers_are_percent_decoded_once() {
        let id = |text: &str| with("ce-id", Some(text)).map(|event| event.id);
        assert_eq!(id("Euro%20%E2%82%AC%20%F0%9F%98%80").unwrap(), "Euro € 😀", "the example of the specification");
        assert_eq!(id("%e2%82%ac").unwrap(), "€");
        assert_eq!(id("%2541%41").unwrap(), "%41A");
        assert_eq!(id("\"a b \\\"c\\\"%20\"").unwrap(), "a b \"c\" ", "older senders quote");
        for wrong in ["%C0%A0", "%", "%4", "%zz", "%E2%82", "\"a\"b\"", "\"a\\\""] {
            assert!(with("ce-id", Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn structured_has_all_in_its_body() {
        let event =
            json_event(&json!({"data": {"appinfoA": "abc"}, "subject": null, "comexampleothervalue": 5})).unwrap();
        assert_eq!(
            (event.key().as_str(), event.data.as_slice()),
            ("/mycontext A234-1234-1234", &br#"{"appinfoA":"abc"}"#[..])
        );
        let binary =
            json_event(&json!({"data_base64": "eyJhIjoxfQ==", "datacontenttype": "application/json"})).unwrap();
        assert_eq!(binary.data, br#"{"a":1}"#);
        let text = json_event(&json!({"data": "<much wow=\"xml\"/>", "datacontenttype": "application/xml"})).unwrap();
        assert_eq!(text.data, b"<much wow=\"xml\"/>");
        let string = json_event(&json!({"data": "I'm just a string"})).unwrap();
        assert_eq!(string.data, b"\"I'm just a string\"", "JSON, and not a document within it");
        assert_eq!(json_event(&json!({})).unwrap().data, b"");
        for (fields, said) in [
            (json!({"id": 7}), "`id` of the CloudEvent must be a string"),
            (json!({"source": null}), "the attribute source is missing"),
            (json!({"specversion": "2.0"}), "only \"1.0\""),
            (json!({"data": {}, "data_base64": ""}), "both `data` and `data_base64`"),
            (json!({"data_base64": "%"}), "not base64"),
            (json!({"data_base64": {}}), "must be a string"),
        ] {
            assert!(why(json_event(&fields)).contains(said), "{fields}");
        }
        let json = headers(&[("content-type", "application/cloudevents+json")]);
        assert!(why(read(&json, b"nope")).contains("not JSON"));
        assert!(why(read(&json, b"[]")).contains("not a JSON object"));
    }

    #[test]
    fn batches_and_other_formats_are_not_read() {
        for (form, said) in [
            ("application/cloudevents-batch+json", "send each event by itself"),
            ("Application/CloudEvents-Batch+JSON; charset=utf-8", "send each event by itself"),
            ("application/cloudevents+avro", "\"application/cloudevents+avro\" is not read"),
            ("application/cloudevents", "is not read"),
        ] {
            let headers = headers(&[("content-type", form)]);
            assert!(is_event(&headers));
            assert!(matches!(read(&headers, b"[]"), Err(BadEvent::Unsupported(why)) if why.contains(said)), "{form}");
        }
        assert!(!is_event(&headers(&[("content-type", "application/json")])));
        assert!(!is_event(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn any_attribute_survives_its_encoding(text in "[^\\p{Cc}]{1,40}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(with("ce-id", Some(&encoded)).unwrap().id, text);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), id in "[ -~]{0,40}") {
            let _ = with("ce-id", Some(&id));
            let _ = read(&headers(&[("content-type", "application/cloudevents+json")]), &body);
        }
    }
}

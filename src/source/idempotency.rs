//! `Idempotency-Key`: the name that a caller gives one call, so that its repetition runs nothing again.
//!
//! The IETF draft has a string of the structured fields, `"8e03978e"`; what most clients send is the bare text, which
//! is taken as well. What a repetition is answered is the core's business.

use http::HeaderMap;

use super::BadCall;

/// The header.
pub const HEADER: &str = "idempotency-key";
/// The longest key, in bytes.
pub const MAX_KEY: usize = 255;

/// The key of a call, where it names one.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, BadCall> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("is there more than once; send one"));
    }
    // Of a header, visible ASCII, spaces and tabs are text.
    let text = value.to_str().map_err(|_| bad("has a character that is not ASCII"))?.trim_matches([' ', '\t']);
    let key = match text.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None => bare(text)?,
    };
    if key.is_empty() {
        return Err(bad("is empty; leave it out, or send a key such as a UUID"));
    }
    if key.len() > MAX_KEY {
        return Err(bad(&format!("is {} bytes long, and at most {MAX_KEY} are allowed", key.len())));
    }
    Ok(Some(key))
}

/// A string of RFC 8941, its opening quote taken. Parameters after it are allowed there, and mean nothing here.
fn quoted(text: &str) -> Result<String, BadCall> {
    let mut key = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next() {
            None => return Err(bad("has an opening quote and no closing one")),
            Some('"') => break,
            Some('\\') => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(bad("has a backslash before something else than a quote or a backslash")),
            },
            Some(c @ ' '..='~') => key.push(c),
            Some(_) => return Err(bad("has a control character")),
        }
    }
    let rest = characters.as_str().trim_start_matches(' ');
    if rest.is_empty() || rest.starts_with(';') {
        Ok(key)
    } else {
        Err(bad("goes on after its closing quote; send one key"))
    }
}

fn bare(text: &str) -> Result<String, BadCall> {
    match text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '\\' | ',' | ';')) {
        Some(c) => Err(bad(&format!("has the character {c:?}; write it in quotes: \"…\""))),
        None => Ok(text.to_owned()),
    }
}

fn bad(what: &str) -> BadCall {
    BadCall(format!("the header Idempotency-Key {what}"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, String> {
        let headers = values
            .iter()
            .map(|value| (HeaderName::from_static(HEADER), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
            .collect();
        key(&headers).map_err(|error| error.0)
    }

    #[test]
    fn a_structured_string_and_a_bare_word_name_the_same_call() {
        let key = "8e03978e-40d5-43e8-bc93-6894a57f9324";
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[key]), Ok(Some(key.to_owned())));
        assert_eq!(read(&[&format!("\"{key}\"")]), Ok(Some(key.to_owned())));
        assert_eq!(read(&[&format!(" \"{key}\"; a=1 ")]), Ok(Some(key.to_owned())));
        assert_eq!(
            read(&[r#""a \"quoted\" \\ key, with; all""#]),
            Ok(Some(r#"a "quoted" \ key, with; all"#.to_owned()))
        );
        assert_eq!(read(&["deploy/42:1+x=~"]), Ok(Some("deploy/42:1+x=~".to_owned())));
        assert_eq!(read(&[&"k".repeat(MAX_KEY)]), Ok(Some("k".repeat(MAX_KEY))));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (values, said) in [
            (&[""][..], "is empty"),
            (&["\"\""], "is empty"),
            (&["a", "b"], "more than once"),
            (&["a, b"], "has the character ','"),
            (&["a b"], "has the character ' '; write it in quotes"),
            (&["a\"b"], "has the character '\"'"),
            (&["\"a"], "no closing one"),
            (&["\"a\\"], "has a backslash"),
            (&["\"a\\n\""], "has a backslash"),
            (&["\"a\" \"b\""], "goes on after its closing quote"),
            (&["\"a\", \"b\""], "goes on after its closing quote"),
            (&["\"a\tb\""], "has a control character"),
            (&["schlüssel"], "not ASCII"),
            (&[&"k".repeat(MAX_KEY + 1)], "is 256 bytes long, and at most 255"),
        ] {
            let error = read(values).unwrap_err();
            assert!(error.starts_with("the header Idempotency-Key ") && error.contains(said), "{values:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_of_the_grammar_survives_its_quotes(text in "[ -~]{1,60}") {
            let written = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(read(&[&written]), Ok(Some(text)));
        }
    }
}

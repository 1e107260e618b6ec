//! JSON from outside: one reading of it, and in bounds.
//!
//! Of a key that is there twice some readers take the first and some the last, so a proxy that checks the namespace may
//! see another one than we do: it is refused. And a small text may become a large value: `{"a":0}` takes eighty times
//! its length. How deep it goes is bounded by the parser itself.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Map, Number, Value};

use crate::domain::names::Shown;

/// The most values in one text, in all depths together. Events of deployments have hundreds.
const VALUES: usize = 200_000;

/// Reads a text that is one value.
pub(super) fn read(text: &[u8]) -> Result<Value, Error> {
    let left = Cell::new(VALUES);
    let mut from = serde_json::Deserializer::from_slice(text);
    let value = Bounded(&left).deserialize(&mut from)?;
    from.end()?;
    Ok(value)
}

/// One value, of so many that are left.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| E::custom(format!("it has more than {VALUES} values; send fewer")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.count()?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // The parser gives none that is not finite.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if entries.contains_key(&key) {
                let shown = Shown(&key);
                return Err(A::Error::custom(format!("the key {shown} is there twice; send it once")));
            }
            let value = from.next_value_seed(self)?;
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(text: impl AsRef<[u8]>) -> String {
        read(text.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn what_has_two_readings_or_no_end_is_refused() {
        for (text, said) in [
            (r#"{"a": 1, "b": {"c": 1, "\u0063": 2}}"#.to_owned(), "the key \"c\" is there twice"),
            (r#"{"a": 1e400}"#.to_owned(), "number out of range"),
            (r#"["\ud800"]"#.to_owned(), "unexpected end of hex escape"),
            (r#"["\ud800\ud800"]"#.to_owned(), "lone leading surrogate"),
            ("\u{feff}{}".to_owned(), "expected value at line 1 column 1"),
            ("{} {}".to_owned(), "trailing characters"),
            ("{\"a\": NaN}".to_owned(), "expected value"),
            ("{\"a\": 01}".to_owned(), "invalid number"),
            ("{\"a\": 1,}".to_owned(), "trailing comma"),
            ("[".repeat(128), "recursion limit"),
            ("{\"a\":".repeat(128), "recursion limit"),
            ("[".repeat(1_000_000), "recursion limit"),
            (format!("[0{}]", ",0".repeat(VALUES)), "more than 200000 values"),
            (format!("[{{}}{}]", ",{\"a\":0}".repeat(VALUES / 2)), "more than 200000 values"),
        ] {
            let fault = fault(&text);
            assert!(fault.contains(said), "{:.60}: {fault}", text);
        }
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(fault(utf16).contains("line 1 column 2"));
        assert!(fault(b"{\"a\": \"\xff\"}").contains("line 1"));
    }

    #[test]
    fn as_deep_and_as_many_as_is_allowed() {
        assert!(read(format!("{}{}", "[".repeat(127), "]".repeat(127)).as_bytes()).is_ok());
        assert!(read(format!("[0{}]", ",0".repeat(VALUES - 2)).as_bytes()).is_ok());
        // One value, however long.
        assert!(read(format!("\"{}\"", "x".repeat(5_000_000)).as_bytes()).is_ok());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::hash_map(".*", inner, 0..8).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_read_as_any_other_reader_does(value in any_json()) {
            let text = value.to_string();
            prop_assert_eq!(read(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}

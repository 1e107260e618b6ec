//! The query of a request: named values, read strictly.

use std::fmt::Display;

use axum::extract::Query;
use http::Uri;

use super::problem::{Problem, Result};
use crate::domain::names::Shown;

/// A request's query.
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query of a URI.
    pub fn of(uri: &Uri) -> Result<Self> {
        let Query(pairs) = Query::try_from_uri(uri)
            .map_err(|_| Problem::bad("the query is not valid; write it as ?key=value&key=value, percent-encoded"))?;
        Ok(Self(pairs))
    }

    /// The value of a key; a key that is there twice has none that could be meant.
    pub fn get(&self, key: &str) -> Result<Option<&str>> {
        let mut values = self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Problem::bad(format!("the query has `{key}` more than once; name it once"))),
        }
    }

    /// The value of a key, parsed; empty counts as left out.
    pub fn parsed<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<Option<T>> {
        self.get(key)?
            .filter(|value| !value.is_empty())
            .map(|value| parse(value).map_err(|why| Problem::bad(format!("the query `{key}`: {why}"))))
            .transpose()
    }

    /// A switch: `?key`, `?key=true` or `?key=false`.
    pub fn switch(&self, key: &str) -> Result<bool> {
        match self.get(key)? {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(Problem::bad(format!("the query `{key}`: {} is neither true nor false", Shown(other)))),
        }
    }
}

//! The YAML that others take: what `stagehook webhooks` prints.
//!
//! Objects that Kubernetes itself knows are read with its own types, strictly: `kubectl` can't do that without a server.

#![expect(clippy::unwrap_used, reason = "the helpers are as much test as the tests")]

mod schema;
mod webhooks;

use serde_json::Value;

/// The documents of a text, as they are.
fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

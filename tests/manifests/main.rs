//! The YAML that others take: what `stagehook webhooks` prints, the manifests under `deploy` and those of `examples`.
//!
//! Objects that Kubernetes itself knows are read with its own types, strictly: `kubectl` can't do that without a server.

#![expect(clippy::unwrap_used, reason = "the helpers are as much test as the tests")]

mod deploy;
mod files;
mod schema;
mod webhooks;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of the project.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents of a text, as they are.
fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The documents of a file.
fn documents_of(path: &Path) -> Vec<Value> {
    documents(&std::fs::read_to_string(path).unwrap())
}

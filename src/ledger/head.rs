//! Where every stream ends at one moment: a small document to keep elsewhere, which later proves a cut tail.

use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::chain;
use super::error::LedgerError;
use super::rows;
use super::verify::VerifyError;

/// The ends of all streams, and one digest over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Each stream that has records, sorted by its name.
    pub streams: Vec<StreamHead>,
    /// SHA-256, in hex, over the streams above: names, numbers and hashes, framed like a record.
    pub digest: String,
}

/// The end of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamHead {
    /// `source:application`.
    pub stream: String,
    /// The number of its last record.
    pub seq: u64,
    /// The hash of its last record, in hex.
    pub hash: String,
}

impl Head {
    pub(super) fn new(mut streams: Vec<StreamHead>) -> Self {
        streams.sort_by(|a, b| a.stream.cmp(&b.stream));
        let digest = digest(&streams);
        Self { streams, digest }
    }

    /// Whether the digest is that of the streams: false for a document that was changed or cut.
    pub fn is_whole(&self) -> bool {
        self.digest == digest(&self.streams)
    }
}

/// Reads the head of the ledger at `path`, also while a service runs on it. It trusts what it reads; verify first.
pub fn head(path: &Path) -> Result<Head, VerifyError> {
    let connection = super::verify::open(path)?;
    Ok(read(&connection)?)
}

pub(super) fn read(connection: &Connection) -> Result<Head, LedgerError> {
    let mut statement =
        connection.prepare("SELECT source, application, head_seq, head_hash FROM streams WHERE head_seq > 0")?;
    let mut found = statement.query([])?;
    let mut streams = Vec::new();
    while let Some(row) = found.next()? {
        streams.push(StreamHead {
            stream: format!("{}:{}", row.get::<_, String>(0)?, row.get::<_, String>(1)?),
            seq: rows::number(row.get(2)?)?,
            hash: row.get(3)?,
        });
    }
    Ok(Head::new(streams))
}

fn digest(streams: &[StreamHead]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"stagehook head 1\n");
    for head in streams {
        chain::framed(&mut hasher, &head.stream);
        hasher.update(head.seq.to_be_bytes());
        chain::framed(&mut hasher, &head.hash);
    }
    hex::encode(hasher.finalize())
}

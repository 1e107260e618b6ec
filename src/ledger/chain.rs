//! The hash that links each record to the one before it.
//!
//! SHA-256 over these bytes, in this order; lengths and numbers are 8 bytes, big-endian, so that no two different
//! records have the same bytes:
//!
//! ```text
//! "stagehook record 1\n"
//! hash of the record before (32 bytes; zeros for a stream's first)
//! length of the stream's name, the name (`flagger:test/podinfo`)
//! number of the record
//! length of the body, the body (the JSON text as it is stored)
//! ```

use sha2::{Digest, Sha256};

/// The hash of a record.
pub(super) fn link(prev: &[u8; 32], stream: &str, seq: u64, body: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"stagehook record 1\n");
    hasher.update(prev);
    framed(&mut hasher, stream);
    hasher.update(seq.to_be_bytes());
    framed(&mut hasher, body);
    hasher.finalize().into()
}

/// The hash of a row that is in no chain, over its texts in this order, each after its length.
pub(super) fn seal(texts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"stagehook seal 1\n");
    for text in texts {
        framed(&mut hasher, text);
    }
    hasher.finalize().into()
}

/// Follows records in the order of their stream, and tells where one is not what was written.
pub(super) struct Walk {
    stream: String,
    last: Option<(u64, String)>,
}

impl Walk {
    pub(super) fn new(stream: String) -> Self {
        Self { stream, last: None }
    }

    /// The next record. Its own hash must fit; where it directly follows the one before, its link, too.
    pub(super) fn step(&mut self, seq: u64, prev: &str, hash: &str, body: &str) -> Result<(), String> {
        let fits = parse(prev).is_some_and(|prev| hex::encode(link(&prev, &self.stream, seq, body)) == hash);
        let follows = match &self.last {
            Some((last, before)) => seq != last + 1 || before == prev,
            None => true,
        };
        if !(fits && follows) {
            return Err(format!("record {seq} of {} is not what was written: its hash does not fit", self.stream));
        }
        self.last = Some((seq, hash.to_owned()));
        Ok(())
    }

    /// The number and the hash of the last one.
    pub(super) fn last(&self) -> Option<(u64, &str)> {
        self.last.as_ref().map(|(seq, hash)| (*seq, hash.as_str()))
    }
}

/// What the first record of a stream has in place of a hash before it.
pub(super) const START: [u8; 32] = [0; 32];

/// Text as it is stored, back to bytes; none where it is no hash.
pub(super) fn parse(hash: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hash, &mut bytes).ok().map(|()| bytes)
}

/// Adds a text with its length before it.
pub(super) fn framed(hasher: &mut Sha256, text: &str) {
    // A text is never longer than u64 can say.
    hasher.update((text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framing_is_fixed() {
        // Computed once with sha256sum over the documented bytes: a change here makes every ledger there is invalid.
        let hash = link(&START, "flagger:test/podinfo", 1, "{}");
        let mut bytes = b"stagehook record 1\n".to_vec();
        bytes.extend([0; 32]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 20]);
        bytes.extend(b"flagger:test/podinfo");
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend(b"{}");
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert_eq!(hex::encode(hash), "a684fc851487eb15e71d0ea1627556b1e6e49712e29e90127673ec01df77f105");
    }

    #[test]
    fn moving_a_byte_between_fields_changes_the_hash() {
        assert_ne!(link(&START, "a", 1, "bc"), link(&START, "ab", 1, "c"));
    }
}

//! Signatures over the raw body: `sha256=` and the digits of an HMAC, and Standard Webhooks.
//!
//! What the headers alone give away is refused before the body is read; the rest waits for its last byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use jiff::Timestamp;
use sha2::Sha256;

use super::{Unauthenticated, refused};
use crate::domain::names::Source;
use crate::domain::record::CallKey;

/// How far a message's timestamp may be from our clock, in seconds, either way.
pub const TOLERANCE: i64 = 300;
/// The longest id of a message, in bytes: the ledger keeps it.
const MAX_ID: usize = 256;
/// How many signatures of one message are looked at; a sender that rotates has two.
const MAX_SIGNATURES: usize = 16;

/// What a caller has signed with, as far as its headers tell.
#[derive(Debug)]
pub(super) enum Claim {
    /// One HMAC of the body.
    Hmac { digest: Vec<u8>, header: &'static Header },
    /// HMACs of the id, the timestamp and the body.
    Message { id: String, stamp: i64, signatures: Vec<Vec<u8>> },
}

/// The header of a plain HMAC.
#[derive(Debug)]
pub(super) struct Header {
    name: &'static str,
    missing: &'static str,
    malformed: &'static str,
    wrong: &'static str,
    pub(super) challenge: &'static str,
}

/// What Flux's `generic-hmac` sends, and whoever has no convention of its own.
static PLAIN: Header = Header {
    name: "x-signature",
    missing: "the header X-Signature is missing",
    malformed: "X-Signature is not written as sha256= and 64 hex digits",
    wrong: "X-Signature does not belong to this body",
    challenge: "HMAC-SHA256 header=\"X-Signature\"",
};

static GITHUB: Header = Header {
    name: "x-hub-signature-256",
    missing: "the header X-Hub-Signature-256 is missing",
    malformed: "X-Hub-Signature-256 is not written as sha256= and 64 hex digits",
    wrong: "X-Hub-Signature-256 does not belong to this body",
    challenge: "HMAC-SHA256 header=\"X-Hub-Signature-256\"",
};

/// The header that a source's callers sign in.
pub(super) fn header(source: Source) -> &'static Header {
    match source {
        Source::Github => &GITHUB,
        Source::Flagger
        | Source::Generic
        | Source::Argocd
        | Source::ArgoRollouts
        | Source::Flux
        | Source::Loadtester => &PLAIN,
    }
}

impl Claim {
    /// Reads a plain HMAC.
    pub fn hmac(source: Source, headers: &HeaderMap) -> Result<Self, Unauthenticated> {
        let header = header(source);
        let told = headers.get(header.name).ok_or(refused(header.missing))?;
        let digest = told
            .as_bytes()
            .strip_prefix(b"sha256=")
            .and_then(|digits| hex::decode(digits).ok())
            .filter(|digest| digest.len() == 32)
            .ok_or(refused(header.malformed))?;
        Ok(Self::Hmac { digest, header })
    }

    /// Reads the headers of Standard Webhooks. A message that is too old or too new is refused here.
    pub fn message(headers: &HeaderMap, now: Timestamp) -> Result<Self, Unauthenticated> {
        let text = |name, missing| headers.get(name).ok_or(refused(missing)).map(http::HeaderValue::as_bytes);
        let id = text("webhook-id", "the header webhook-id is missing")?;
        let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        let id = id.filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()));
        let id = id.ok_or(refused("webhook-id is not 1 to 256 plain characters"))?;
        let stamp = text("webhook-timestamp", "the header webhook-timestamp is missing")?;
        // Digits alone: the text is what was signed, so each number has one text.
        let digits = Some(stamp).filter(|stamp| stamp.iter().all(u8::is_ascii_digit) && !stamp.starts_with(b"0"));
        let stamp = digits.and_then(|stamp| std::str::from_utf8(stamp).ok()?.parse::<i64>().ok());
        let stamp = stamp.ok_or(refused("webhook-timestamp is not a number of seconds since 1970"))?;
        if now.as_second().abs_diff(stamp) > TOLERANCE.unsigned_abs() {
            return Err(refused("webhook-timestamp is more than 5 minutes away from this server's clock"));
        }
        let signatures = text("webhook-signature", "the header webhook-signature is missing")?;
        // Other versions (v1a: asymmetric) may stand beside ours.
        let signatures = signatures.split(|byte| *byte == b' ').filter_map(|signature| signature.strip_prefix(b"v1,"));
        let signatures = signatures.take(MAX_SIGNATURES).filter_map(|signature| STANDARD.decode(signature).ok());
        let signatures: Vec<_> = signatures.filter(|signature| signature.len() == 32).collect();
        if signatures.is_empty() {
            return Err(refused("webhook-signature has no v1, and base64 of an HMAC-SHA256 in it"));
        }
        Ok(Self::Message { id: id.to_owned(), stamp, signatures })
    }

    /// Whether a secret made it.
    pub fn is_of(&self, secret: &[u8], body: &[u8]) -> bool {
        // HMAC takes keys of any length; an empty one is nobody's secret.
        let Some(mac) = Hmac::<Sha256>::new_from_slice(secret).ok().filter(|_| !secret.is_empty()) else {
            return false;
        };
        match self {
            Self::Hmac { digest, .. } => mac.chain_update(body).verify_slice(digest).is_ok(),
            Self::Message { id, stamp, signatures } => {
                let mac = mac.chain_update(format!("{id}.{stamp}.")).chain_update(body);
                signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok())
            }
        }
    }

    /// Why it is refused when no secret made it.
    pub const fn wrong(&self) -> &'static str {
        match self {
            Self::Hmac { header, .. } => header.wrong,
            Self::Message { .. } => "webhook-signature does not belong to this message",
        }
    }

    /// What it says of the message, where it does.
    pub fn into_message(self) -> Option<CallKey> {
        match self {
            Self::Hmac { .. } => None,
            Self::Message { id, stamp, .. } => Some(CallKey { id, stamp: Some(stamp) }),
        }
    }
}

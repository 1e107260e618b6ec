//! Who calls: Basic, bearer, HMAC and Standard Webhooks, checked over the bytes as they came.
//!
//! Secrets arrive here resolved and leave in no form: not in [`Credentials`]' `Debug`, not in a reason, not in the
//! [`Actor`] that the ledger keeps. Which settings they come from is not known here.
//!
//! - [`present`]: what the headers tell; for a signature, [`Signed::verify`] after the body
//! - [`Grant`]: what a credential is for
//! - `signature`: what is signed, and how

mod grant;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

pub use self::grant::{Forbidden, Grant};
use self::signature::Claim;
use crate::domain::names::Source;
use crate::domain::record::{Actor, CallKey};

/// What a caller must show. Of several secrets any is good, so that they can be rotated.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A name and one of these passwords; Flagger takes them from the URL of the webhook.
    Basic {
        /// The name.
        username: String,
        /// The passwords.
        passwords: Vec<Key>,
    },
    /// One of these tokens.
    Bearer {
        /// The tokens.
        tokens: Vec<Key>,
    },
    /// An HMAC of the raw body under one of these secrets.
    HmacSha256 {
        /// The secrets.
        secrets: Vec<Key>,
    },
    /// The headers of Standard Webhooks, signed with one of these secrets.
    StandardWebhooks {
        /// The secrets, as the bytes that `whsec_…` stands for.
        secrets: Vec<Key>,
    },
}

/// A secret as callers know it. Its bytes are seen in this module alone, which compares them in constant time, and it
/// prints as `***`:
///
/// ```compile_fail,E0369
/// let secret = stagehook::source::auth::Secret::from("word");
/// assert!(secret == secret);
/// ```
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl<T: Into<Vec<u8>>> From<T> for Secret {
    fn from(value: T) -> Self {
        Self(value.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One secret: whose it is, and what it is for.
#[derive(Clone, Debug)]
pub struct Key {
    secret: Secret,
    name: Option<String>,
    grant: Grant,
}

impl Key {
    /// A secret with its limits; with a name the ledger calls it by that, else by its place.
    pub fn new(secret: impl Into<Secret>, name: Option<String>, grant: Grant) -> Self {
        Self { secret: secret.into(), name, grant }
    }

    fn label(&self, place: usize) -> String {
        self.name.clone().unwrap_or_else(|| (place + 1).to_string())
    }
}

/// A caller that is let in.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// As the ledger names it.
    pub by: Actor,
    /// What it may tell of.
    pub grant: Grant,
    /// Which message this is, where the signature covers that.
    pub message: Option<CallKey>,
}

/// A caller that is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unauthenticated {
    /// Why, without anything that the caller sent.
    pub reason: &'static str,
    /// Whether nobody could be let in, since nothing is configured.
    pub unconfigured: bool,
}

/// What the headers of a call show.
#[derive(Debug)]
pub enum Presented<'c> {
    /// Who calls.
    Known(Authenticated),
    /// A signature, which can only be checked with the body.
    Signed(Signed<'c>),
}

/// A signature whose body is still to come.
#[derive(Debug)]
pub struct Signed<'c> {
    source: Source,
    claim: Claim,
    kind: &'static str,
    secrets: &'c [Key],
}

impl Credentials {
    /// The value of `WWW-Authenticate` in a refusal.
    pub fn challenge(&self, source: Source) -> &'static str {
        match self {
            Self::None if source.is_never_open() => signature::header(source).challenge,
            Self::None | Self::Bearer { .. } => "Bearer realm=\"stagehook\"",
            Self::Basic { .. } => "Basic realm=\"stagehook\", charset=\"UTF-8\"",
            Self::HmacSha256 { .. } => signature::header(source).challenge,
            Self::StandardWebhooks { .. } => "StandardWebhooks header=\"webhook-signature\"",
        }
    }
}

/// Says who calls, as far as the headers tell. `now` is our clock, for signatures that have a time.
pub fn present<'c>(
    source: Source,
    credentials: &'c Credentials,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Presented<'c>, Unauthenticated> {
    let known = |by: String, grant: &Grant| {
        Ok(Presented::Known(Authenticated { by: Actor(by), grant: grant.clone(), message: None }))
    };
    let signed = |claim, kind, secrets| Ok(Presented::Signed(Signed { source, claim, kind, secrets }));
    match credentials {
        Credentials::None if source.is_never_open() => {
            Err(Unauthenticated { reason: "no secret is configured for this source", unconfigured: true })
        }
        Credentials::None => known(source.as_str().to_owned(), &Grant::default()),
        Credentials::Basic { username, passwords } => {
            let told = authorization(headers, "basic", "Basic authentication is needed")?;
            let told = STANDARD.decode(told).map_err(|_| refused("the Basic credentials are not base64"))?;
            let colon = told.iter().position(|byte| *byte == b':');
            let (name, word) = colon.map_or((told.as_slice(), &[][..]), |at| (&told[..at], &told[at + 1..]));
            let name_is_right = same(name, username.as_bytes()) & Choice::from(u8::from(colon.is_some()));
            let found = find(word, passwords.iter().map(|key| &key.secret));
            let key = found.filter(|_| bool::from(name_is_right)).and_then(|at| passwords.get(at));
            let key = key.ok_or(refused("the username or the password is wrong"))?;
            let by = match &key.name {
                // A username has no colon in it.
                Some(name) => format!("{source} basic:{username}:{name}"),
                None => format!("{source} basic:{username}"),
            };
            known(by, &key.grant)
        }
        Credentials::Bearer { tokens } => {
            let told = authorization(headers, "bearer", "a bearer token is needed")?;
            let found = find(told, tokens.iter().map(|key| &key.secret));
            let (place, key) =
                found.and_then(|at| Some((at, tokens.get(at)?))).ok_or(refused("the bearer token is not known"))?;
            known(format!("{source} bearer:{}", key.label(place)), &key.grant)
        }
        Credentials::HmacSha256 { secrets } => signed(Claim::hmac(source, headers)?, "hmac", secrets),
        Credentials::StandardWebhooks { secrets } => {
            signed(Claim::message(headers, now)?, "standard-webhooks", secrets)
        }
    }
}

impl Signed<'_> {
    /// Says who calls, now that the body is there.
    pub fn verify(self, body: &[u8]) -> Result<Authenticated, Unauthenticated> {
        let found = self.secrets.iter().enumerate().find(|(_, key)| self.claim.is_of(&key.secret.0, body));
        let (place, key) = found.ok_or(refused(self.claim.wrong()))?;
        let by = Actor(format!("{} {}:{}", self.source, self.kind, key.label(place)));
        Ok(Authenticated { by, grant: key.grant.clone(), message: self.claim.into_message() })
    }
}

/// The place of a secret among the known ones; every one is compared, whichever matches.
pub fn find<'a>(told: &[u8], known: impl Iterator<Item = &'a Secret>) -> Option<usize> {
    // An empty one in the settings would let everybody in that sends none.
    known.enumerate().fold(None, |found, (place, Secret(secret))| {
        let matches = bool::from(same(told, secret)) && !secret.is_empty();
        found.or(matches.then_some(place))
    })
}

/// The credentials of an `Authorization` header of this scheme.
pub fn authorization<'a>(
    headers: &'a HeaderMap,
    scheme: &str,
    missing: &'static str,
) -> Result<&'a [u8], Unauthenticated> {
    let value = headers.get(AUTHORIZATION).ok_or(refused(missing))?.as_bytes();
    let (told, rest) = value.split_at_checked(scheme.len()).ok_or(refused(missing))?;
    match rest.strip_prefix(b" ") {
        Some(rest) if told.eq_ignore_ascii_case(scheme.as_bytes()) => Ok(rest.trim_ascii()),
        _ => Err(refused(missing)),
    }
}

/// Digests are compared, so that the time tells nothing of the length either.
fn same(told: &[u8], known: &[u8]) -> Choice {
    Sha256::digest(told).as_slice().ct_eq(Sha256::digest(known).as_slice())
}

const fn refused(reason: &'static str) -> Unauthenticated {
    Unauthenticated { reason, unconfigured: false }
}

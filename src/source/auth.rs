//! Who calls: Basic, bearer and HMAC, checked over the bytes as they came.
//!
//! Secrets arrive here resolved and leave in no form: not in [`Credentials`]' `Debug`, not in a reason, not in the
//! [`Actor`] that the ledger keeps. Which settings they come from is not known here.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::domain::names::Source;
use crate::domain::record::Actor;

/// The header that carries an HMAC: `sha256=` and 64 hex digits.
pub const SIGNATURE: &str = "x-signature";

/// What a caller must show.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A name and a password; Flagger takes them from the URL of the webhook.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// One of these tokens; several so that they can be rotated.
    Bearer {
        /// The tokens.
        tokens: Vec<String>,
    },
    /// An HMAC of the raw body under one of these secrets.
    HmacSha256 {
        /// The secrets.
        secrets: Vec<Vec<u8>>,
    },
}

impl Credentials {
    /// Whether the body must be read before the caller is known.
    pub const fn covers_body(&self) -> bool {
        matches!(self, Self::HmacSha256 { .. })
    }

    /// The value of `WWW-Authenticate` in a refusal.
    pub const fn challenge(&self) -> &'static str {
        match self {
            Self::None | Self::Bearer { .. } => "Bearer realm=\"stagehook\"",
            Self::Basic { .. } => "Basic realm=\"stagehook\", charset=\"UTF-8\"",
            Self::HmacSha256 { .. } => "HMAC-SHA256 header=\"X-Signature\"",
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Basic { username, .. } => write!(f, "Basic {{ username: {username:?}, password: *** }}"),
            Self::Bearer { tokens } => write!(f, "Bearer {{ tokens: {} of *** }}", tokens.len()),
            Self::HmacSha256 { secrets } => write!(f, "HmacSha256 {{ secrets: {} of *** }}", secrets.len()),
        }
    }
}

/// A caller that is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unauthenticated {
    /// Why, without anything that the caller sent.
    pub reason: &'static str,
}

/// Says who calls. `body` is looked at only where [`Credentials::covers_body`].
pub fn authenticate(
    source: Source,
    credentials: &Credentials,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Actor, Unauthenticated> {
    match credentials {
        Credentials::None => Ok(Actor(source.as_str().to_owned())),
        Credentials::Basic { username, password } => {
            let told = authorization(headers, "basic", "Basic authentication is needed")?;
            let told = STANDARD.decode(told).map_err(|_| refused("the Basic credentials are not base64"))?;
            let colon = told.iter().position(|byte| *byte == b':');
            let (name, word) = colon.map_or((told.as_slice(), &[][..]), |at| (&told[..at], &told[at + 1..]));
            let right = same(name, username.as_bytes())
                & same(word, password.as_bytes())
                & Choice::from(u8::from(colon.is_some()));
            if !bool::from(right) {
                return Err(refused("the username or the password is wrong"));
            }
            Ok(Actor(format!("{source} basic:{username}")))
        }
        Credentials::Bearer { tokens } => {
            let told = authorization(headers, "bearer", "a bearer token is needed")?;
            let number =
                token(told, tokens.iter().map(String::as_str)).ok_or(refused("the bearer token is not known"))?;
            Ok(Actor(format!("{source} bearer:{}", number + 1)))
        }
        Credentials::HmacSha256 { secrets } => {
            let header = headers.get(SIGNATURE).ok_or(refused("the header X-Signature is missing"))?;
            let told = header
                .as_bytes()
                .strip_prefix(b"sha256=")
                .and_then(|digits| hex::decode(digits).ok())
                .filter(|digest| digest.len() == 32)
                .ok_or(refused("X-Signature is not written as sha256= and 64 hex digits"))?;
            let number = secrets.iter().position(|secret| signs(secret, body, &told));
            let number = number.ok_or(refused("X-Signature does not belong to this body"))?;
            Ok(Actor(format!("{source} hmac:{}", number + 1)))
        }
    }
}

/// The place of a token among the known ones; every one is compared, whichever matches.
pub fn token<'a>(told: &[u8], known: impl Iterator<Item = &'a str>) -> Option<usize> {
    // An empty one in the settings would let everybody in that sends none.
    known.enumerate().fold(None, |found, (number, token)| {
        let matches = bool::from(same(told, token.as_bytes())) && !token.is_empty();
        found.or(matches.then_some(number))
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

fn signs(secret: &[u8], body: &[u8], digest: &[u8]) -> bool {
    // HMAC takes keys of any length; an empty one is nobody's secret.
    !secret.is_empty()
        && Hmac::<Sha256>::new_from_slice(secret).is_ok_and(|mac| mac.chain_update(body).verify_slice(digest).is_ok())
}

const fn refused(reason: &'static str) -> Unauthenticated {
    Unauthenticated { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    fn ask(credentials: &Credentials, headers: &HeaderMap, body: &[u8]) -> Result<String, &'static str> {
        authenticate(Source::Flagger, credentials, headers, body).map(|by| by.0).map_err(|error| error.reason)
    }

    #[test]
    fn an_open_source_lets_everybody_in() {
        assert_eq!(ask(&Credentials::None, &HeaderMap::new(), b""), Ok("flagger".to_owned()));
    }

    #[test]
    fn basic_wants_both_the_name_and_the_password() {
        let wanted = Credentials::Basic { username: "alice".into(), password: "se:cret".into() };
        let with = |text: &str| headers("authorization", &format!("basic {}", STANDARD.encode(text)));
        assert_eq!(ask(&wanted, &with("alice:se:cret"), b""), Ok("flagger basic:alice".to_owned()));
        for wrong in ["alice:secret", "bob:se:cret", "alice", "", ":", "alice:"] {
            assert_eq!(ask(&wanted, &with(wrong), b""), Err("the username or the password is wrong"), "{wrong:?}");
        }
        assert_eq!(
            ask(&wanted, &headers("authorization", "Basic ???"), b""),
            Err("the Basic credentials are not base64")
        );
        assert_eq!(ask(&wanted, &headers("authorization", "Bearer x"), b""), Err("Basic authentication is needed"));
        assert_eq!(ask(&wanted, &HeaderMap::new(), b""), Err("Basic authentication is needed"));
        let nameless = Credentials::Basic { username: String::new(), password: String::new() };
        assert!(ask(&nameless, &with(""), b"").is_err(), "no colon is no credential");
    }

    #[test]
    fn bearer_knows_several_tokens_and_names_them_by_number() {
        let wanted = Credentials::Bearer { tokens: vec!["old".into(), "new".into(), String::new()] };
        assert_eq!(ask(&wanted, &headers("authorization", "bearer  new"), b""), Ok("flagger bearer:2".to_owned()));
        for wrong in ["Bearer ", "Bearer", "Bearer ne", "Bearernew", "B", "Basic new", "Bearer neww"] {
            assert!(ask(&wanted, &headers("authorization", wrong), b"").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hmac_covers_the_raw_bytes() {
        let secret = b"It's a Secret to Everybody".to_vec();
        let wanted = Credentials::HmacSha256 { secrets: vec![b"older".to_vec(), secret] };
        let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(ask(&wanted, &headers(SIGNATURE, right), b"Hello, World!"), Ok("flagger hmac:2".to_owned()));
        assert_eq!(
            ask(&wanted, &headers(SIGNATURE, right), b"Hello, World! "),
            Err("X-Signature does not belong to this body")
        );
        for malformed in ["sha256=", "sha256=00", &right[7..], "sha1=00", &right[..70]] {
            let reason = "X-Signature is not written as sha256= and 64 hex digits";
            assert_eq!(ask(&wanted, &headers(SIGNATURE, malformed), b"Hello, World!"), Err(reason), "{malformed}");
        }
        let empty = Credentials::HmacSha256 { secrets: vec![Vec::new()] };
        assert!(ask(&empty, &headers(SIGNATURE, right), b"").is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        for credentials in [
            Credentials::Basic { username: "alice".into(), password: "hunter2".into() },
            Credentials::Bearer { tokens: vec!["hunter2".into()] },
            Credentials::HmacSha256 { secrets: vec![b"hunter2".to_vec()] },
        ] {
            let shown = format!("{credentials:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        }
    }
}

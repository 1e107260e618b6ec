//! A GitHub App: it signs that it is itself (RS256), and gets a token for each of its installations, which lasts an hour.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use reqwest::Method;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Clock, bearer, understood};
use crate::config::tls;
use crate::engine::report::Unsent;

/// How long before its end a token is not used any more, in seconds.
const SPARE: i64 = 120;
/// How long a signature is good for; GitHub allows ten minutes.
const SIGNED_FOR: i64 = 8 * 60;
/// How many repositories' installations are remembered.
const MOST_FOUND: usize = 4096;
/// How much GitHub's clock may be behind ours.
const CLOCKS_DIFFER: i64 = 60;

/// An app, with its key.
#[derive(Clone)]
pub struct App {
    id: String,
    installation: Option<u64>,
    key: Arc<dyn SigningKey>,
}

impl App {
    /// An app by its id (or client id) and its private key in PEM, as GitHub gives it.
    pub fn new(id: String, installation: Option<u64>, pem: &[u8]) -> Result<Self, String> {
        // The parser's own words may be a piece of the key.
        let key = tls::key_in(pem).map_err(|why| format!("it is no private key in PEM: {why}"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| format!("it is no private key that can be used: {error}"))?;
        if key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).is_none() {
            return Err("it is no RSA key, and those of GitHub Apps are".to_owned());
        }
        Ok(Self { id, installation, key })
    }

    /// A JSON Web Token that says: this is the app.
    fn signed(&self, now: Timestamp) -> Result<HeaderValue, String> {
        let now = now.as_second();
        let claims = json!({"iat": now - CLOCKS_DIFFER, "exp": now + SIGNED_FOR, "iss": self.id});
        let header = json!({"alg": "RS256", "typ": "JWT"});
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signer = self.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).ok_or("the key is no RSA key")?;
        let signature = signer.sign(text.as_bytes()).map_err(|error| format!("the key can't sign: {error}"))?;
        bearer(&format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))).ok_or_else(|| "it is no header".to_owned())
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("id", &self.id).field("installation", &self.installation).finish_non_exhaustive()
    }
}

/// The installations of an app, and their tokens.
pub(super) struct Installations {
    app: App,
    clock: Clock,
    tokens: Mutex<BTreeMap<u64, (HeaderValue, Timestamp)>>,
    /// Of repositories whose deliveries name none.
    found: Mutex<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    expires_at: Timestamp,
}

impl Installations {
    pub fn new(app: App, clock: Clock) -> Self {
        Self { app, clock, tokens: Mutex::default(), found: Mutex::default() }
    }

    /// The installation for a repository: the configured one, that of the delivery, else what GitHub says.
    pub async fn installation(&self, api: &Api, repository: &str, told: Option<u64>) -> Result<u64, Unsent> {
        if let Some(id) = self.app.installation.or(told) {
            return Ok(id);
        }
        if let Some(id) = lock(&self.found).get(repository) {
            return Ok(*id);
        }
        let url = api.path(&["repos"], repository, &["installation"])?;
        let answer = api.ask(Method::GET, url, self.signed()?, None).await?;
        let id = installation_in(&answer)?;
        let mut found = lock(&self.found);
        if found.len() >= MOST_FOUND {
            found.clear();
        }
        found.insert(repository.to_owned(), id);
        Ok(id)
    }

    /// A token of an installation that is good for a while.
    pub async fn token(&self, api: &Api, installation: u64) -> Result<HeaderValue, Unsent> {
        let now = (self.clock)();
        if let Some((token, until)) = lock(&self.tokens).get(&installation)
            && until.as_second() - SPARE > now.as_second()
        {
            return Ok(token.clone());
        }
        let url = api.plain(&["app", "installations", &installation.to_string(), "access_tokens"]);
        let answer = api.ask(Method::POST, url, self.signed()?, None).await.inspect_err(|refused| {
            if refused.status == Some(StatusCode::NOT_FOUND) {
                // Taken away; it may be installed anew, and that one has another id.
                lock(&self.found).retain(|_, found| *found != installation);
            }
        })?;
        let (token, until) = token_in(&answer)?;
        let mut tokens = lock(&self.tokens);
        // Of what is gone for good nobody would ask again.
        tokens.retain(|_, (_, until)| *until > now);
        tokens.insert(installation, (token.clone(), until));
        Ok(token)
    }

    /// Drops a token that is not taken any more.
    pub fn forget(&self, installation: u64) {
        lock(&self.tokens).remove(&installation);
    }

    fn signed(&self) -> Result<HeaderValue, Unsent> {
        self.app.signed((self.clock)()).map_err(|why| Unsent::Never(format!("sources.github.api.app.key: {why}")))
    }
}

/// GitHub's answer to which installation a repository is in.
pub(super) fn installation_in(answer: &[u8]) -> Result<u64, Unsent> {
    understood(answer, "installation").map(|found: Installation| found.id)
}

/// GitHub's answer with a token, and when that ends.
pub(super) fn token_in(answer: &[u8]) -> Result<(HeaderValue, Timestamp), Unsent> {
    // Not the parser's own words: they may repeat what it read.
    let Token { token, expires_at } = serde_json::from_slice(answer)
        .map_err(|_| Unsent::Later("GitHub's installation token is not understood".to_owned()))?;
    let token = bearer(&token).ok_or_else(|| Unsent::Never("GitHub's installation token is no header".to_owned()))?;
    Ok((token, expires_at))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = include_bytes!("../../tests/fixtures/github-app/key.pem");

    /// Made with `openssl dgst -sha256 -sign`, which signs the same text in the same way.
    const SIGNED: &str = "Bearer \
        eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3MDAwMDA0ODAsImlhdCI6MTY5OTk5OTk0MCwiaXNzIjoiMTIzNDU\
        ifQ.s4hLYp-gSmAy1SnpLKxpNHV0L0HVpZndCZ2T-XiW-FcyI4rpVyh1WfZ4HMstcqgMI6LyIWfR4AAAYKtxDQQCu2vyQufoFELE\
        D3K1tJwPAKvJzyQBVjFnj-6TAks1W416G7IshfkGdbuZC15yOlhfKd0q9x6pDMJyZqaPYL4rMHFhsmn8gdj_m5y8pjSf5ptIGuow\
        Sc6_IORLWkHvIjlyTPbwrGBGe7lw0YAbnveVxMdjiQEolB21fXFI2dETZaqfYfPNGq9rkF4nnATEPkCidBmjpxfnS_moI6cSJRYk\
        bHxQqN37Bs1ck4pB56DVoi7DSFBth7DOxvFg4bTUQS9Zng";

    #[test]
    fn an_app_signs_as_openssl_does() {
        let app = App::new("12345".into(), None, KEY).unwrap();
        let signed = app.signed("2023-11-14T22:13:20Z".parse().unwrap()).unwrap();
        assert_eq!(signed.to_str().unwrap(), SIGNED);
        assert!(signed.is_sensitive());
        let shown = format!("{app:?}");
        assert_eq!(shown, r#"App { id: "12345", installation: None, .. }"#);
    }

    #[test]
    fn what_is_no_key_of_an_app_is_refused() {
        let refused = |pem: &[u8]| App::new("1".into(), None, pem).unwrap_err();
        assert!(refused(b"hunter2").contains("no private key in PEM"));
        assert!(!refused(b"hunter2").contains("hunter2"));
        let torn = String::from_utf8_lossy(KEY).replace("MII", "AAA");
        assert!(refused(torn.as_bytes()).contains("no private key"));
    }

    /// Some stores of secrets lose line breaks. The parser then tells what it stumbled over, byte by byte.
    #[test]
    fn a_key_that_lost_its_line_breaks_is_not_told() {
        let key = String::from_utf8_lossy(KEY);
        for (between, cut) in [("", 0), (" ", 0), ("\\n", 0), ("", 30), (" ", 30)] {
            let lost = key.trim_end().replace('\n', between);
            let refused = App::new("1".into(), None, &lost.as_bytes()[..lost.len() - cut]).unwrap_err();
            assert!(refused.len() < 100 && !refused.contains('['), "{refused}");
        }
    }
}

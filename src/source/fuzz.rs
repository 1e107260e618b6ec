//! What must hold of every credential that is shown, and of everything that a payload is read into.
//!
//! Each function is the body of a fuzz target, or what several have in common; see `crate::fuzz`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::Value;
use sha2::Sha256;

use super::auth::{self, Authenticated, Credentials, Grant, Key, Presented};
use super::{BadCall, Parsed, Read};
use crate::domain::call::Says;
use crate::domain::names::{MAX_NAME, Source};

/// When every call comes: the moment of the published vector of Standard Webhooks.
const NOW: i64 = 1_649_367_553;
const USER: &str = "flagger";
const PASSWORD: &[u8] = b"pass:word";
const OLD: &[u8] = b"an older token";
const TOKEN: &[u8] = b"a bearer token";
const SECRET: &[u8] = b"It's a Secret to Everybody";

/// `credentials`: the headers of a call, an empty line, its body.
pub fn credentials(data: &[u8]) {
    let (headers, body) = message(data);
    refused_without_the_secret(&headers, body);
    accepted_with_it(data, body);
}

/// Headers, one a line, and what follows an empty line. What is no header is left out.
pub(crate) fn message(data: &[u8]) -> (HeaderMap, &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = match data.strip_prefix(b"\n") {
        Some(body) => (&[][..], body),
        None => end.map_or((data, &[][..]), |at| (&data[..at], &data[at + 2..])),
    };
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (headers, body)
}

fn keys(secrets: &[&[u8]]) -> Vec<Key> {
    secrets.iter().map(|secret| Key::new(*secret, None, Grant::default())).collect()
}

fn ask(source: Source, credentials: &Credentials, headers: &HeaderMap, body: &[u8]) -> Option<Authenticated> {
    let now = Timestamp::from_second(NOW).unwrap_or_default();
    let told = match auth::present(source, credentials, headers, now) {
        Ok(Presented::Known(who)) => Ok(who),
        Ok(Presented::Signed(signed)) => signed.verify(body),
        Err(refused) => Err(refused),
    };
    let challenge = credentials.challenge(source);
    assert!(HeaderValue::from_static(challenge).to_str().is_ok());
    match told {
        Ok(who) => {
            let key = who.message.as_ref().map_or("", |key| key.id.as_str());
            assert!(key.len() <= 256 && !key.contains(char::is_control), "{key:?}");
            Some(who)
        }
        Err(refused) => {
            assert!(!refused.reason.is_empty() && !refused.unconfigured, "{refused:?}");
            None
        }
    }
}

fn hmac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return Vec::new() };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Whoever is let in has shown the secret itself, or what only the secret makes of this very body.
fn refused_without_the_secret(headers: &HeaderMap, body: &[u8]) {
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let authorization = header("authorization");
    let basic = Credentials::Basic { username: USER.to_owned(), passwords: keys(&[OLD, PASSWORD, b""]) };
    if ask(Source::Flagger, &basic, headers, body).is_some() {
        let word = authorization.split(|byte| *byte == b' ').rfind(|word| !word.is_empty()).unwrap_or_default();
        let told = STANDARD.decode(word.trim_ascii()).unwrap_or_default();
        let right = [OLD, PASSWORD].map(|password| [USER.as_bytes(), b":", password].concat());
        assert!(right.contains(&told), "{:?}", String::from_utf8_lossy(&told));
    }
    let bearer = Credentials::Bearer { tokens: keys(&[OLD, TOKEN, b""]) };
    if ask(Source::Generic, &bearer, headers, body).is_some() {
        assert!([OLD, TOKEN].iter().any(|token| authorization.ends_with(token)), "{authorization:?}");
    }
    let signed = Credentials::HmacSha256 { secrets: keys(&[b"", SECRET]) };
    for (source, name) in [(Source::Github, "x-hub-signature-256"), (Source::Flux, "x-signature")] {
        if ask(source, &signed, headers, body).is_some() {
            let right = format!("sha256={}", hex::encode(hmac(SECRET, &[body])));
            assert!(header(name).eq_ignore_ascii_case(right.as_bytes()), "{:?}", header(name));
        }
    }
    let messages = Credentials::StandardWebhooks { secrets: keys(&[b"", SECRET]) };
    if let Some(who) = ask(Source::Generic, &messages, headers, body) {
        let (id, stamp) = (header("webhook-id"), header("webhook-timestamp"));
        let right = STANDARD.encode(hmac(SECRET, &[id, b".", stamp, b".", body]));
        assert!(has(header("webhook-signature"), format!("v1,{right}").as_bytes()));
        let key = who.message.unwrap_or_else(|| panic!("a message has a name"));
        assert_eq!(
            (key.id.as_bytes(), key.stamp.map(|stamp| stamp.to_string().into_bytes())),
            (id, Some(stamp.to_vec()))
        );
        assert!(key.stamp.is_some_and(|stamp| stamp.abs_diff(NOW) <= 300));
    }
}

/// A secret made of the input lets its holder in, and with one bit of the secret or of the body changed nobody.
fn accepted_with_it(data: &[u8], body: &[u8]) {
    let secret = &data[..data.len().min(40)];
    let Some(first) = secret.first() else { return };
    let other = [&[first ^ 1], &secret[1..]].concat();
    let one = |name: &'static str, value: &[u8]| {
        HeaderValue::from_bytes(value).map(|value| HeaderMap::from_iter([(HeaderName::from_static(name), value)]))
    };
    let all = |secret: &[u8]| {
        [
            Credentials::Basic { username: USER.to_owned(), passwords: keys(&[OLD, secret]) },
            Credentials::Bearer { tokens: keys(&[OLD, secret]) },
            Credentials::HmacSha256 { secrets: keys(&[OLD, secret]) },
            Credentials::StandardWebhooks { secrets: keys(&[OLD, secret]) },
        ]
    };
    let digest = hmac(secret, &[body]);
    let stamp = NOW.to_string();
    let message = STANDARD.encode(hmac(secret, &[b"msg_1.", stamp.as_bytes(), b".", body]));
    let name_and_word = [USER.as_bytes(), b":", secret].concat();
    let mut signed = HeaderMap::from_iter([
        (HeaderName::from_static("webhook-id"), HeaderValue::from_static("msg_1")),
        (HeaderName::from_static("webhook-timestamp"), HeaderValue::from(NOW)),
    ]);
    if let Ok(value) = HeaderValue::try_from(format!("v1a,x v1,{message}")) {
        signed.insert("webhook-signature", value);
    }
    let shown = [
        one("authorization", format!("bAsic {}", STANDARD.encode(name_and_word)).as_bytes()),
        one("authorization", &[b"bearer ", secret].concat()),
        one("x-signature", format!("sha256={}", hex::encode(digest)).as_bytes()),
        Ok(signed),
    ];
    // A header can't carry every token, and blanks around one are no part of it.
    let is_token = secret.trim_ascii() == secret;
    let longer = [body, b"!"].concat();
    for (at, ((right, wrong), headers)) in all(secret).iter().zip(&all(&other)).zip(shown).enumerate() {
        let Ok(headers) = headers else { continue };
        if at == 1 && !is_token {
            continue;
        }
        let who = ask(Source::Generic, right, &headers, body).unwrap_or_else(|| panic!("kind {at} refuses {secret:?}"));
        let name = &who.by.0;
        assert!(name.starts_with("generic ") && !name.contains(char::is_control), "{name:?}");
        let signs = matches!(right, Credentials::HmacSha256 { .. } | Credentials::StandardWebhooks { .. });
        // The secret may be the older token, which is known to both. HMAC fills a key up with zeros (RFC 2104), so
        // that there it is the same key with any number of them behind.
        let older = |secret: &[u8]| match secret.strip_prefix(OLD) {
            Some(rest) => rest.is_empty() || signs && rest.iter().all(|byte| *byte == 0),
            None => false,
        };
        assert!(
            older(secret) || older(&other) || ask(Source::Generic, wrong, &headers, body).is_none(),
            "kind {at} takes any secret"
        );
        assert!(!signs || ask(Source::Generic, right, &headers, &longer).is_none(), "kind {at} signs any body");
        assert!(!format!("{right:?} {who:?}").contains(&format!("{secret:?}")));
    }
}

/// What was read of a request has sound names, bounded, and every text of ours is one line.
pub(crate) fn is_sound(read: &Result<Read, BadCall>) {
    match read {
        Ok(Read::Calls(calls)) => {
            assert!(!calls.is_empty(), "a request without a call is ignored, and says why");
            calls.iter().for_each(call_is_sound);
        }
        Ok(Read::Ignored(why) | Read::Unsupported(why)) | Err(BadCall(why)) => line_is_sound(why),
    }
}

/// One line that fits into an event, a header's log and a terminal.
pub(crate) fn line_is_sound(text: &str) {
    assert!(!text.is_empty() && text.len() < 4096, "{} bytes: {text:.300}", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn name_is_sound(name: &str) {
    assert!((1..=MAX_NAME).contains(&name.len()), "{name:?}");
    assert!(!name.contains(|c: char| c.is_control() || c.is_whitespace()), "{name:?}");
}

pub(crate) fn call_is_sound(parsed: &Parsed) {
    let Parsed { application, call } = parsed;
    name_is_sound(application.namespace.as_str());
    name_is_sound(application.name.as_str());
    application.cluster.iter().for_each(|cluster| name_is_sound(cluster.as_str()));
    assert_eq!(application.to_string().parse().as_ref(), Ok(application));
    let revision = match &call.says {
        Says::Opening { under: revision, .. }
        | Says::Forward { revision }
        | Says::Succeeded { revision }
        | Says::Reconciled { revision }
        | Says::Reverted { to: revision }
        | Says::Failed { revision }
        | Says::Undo { revision, .. }
        | Says::Question { revision } => revision.as_ref(),
        Says::Event { message, .. } => {
            assert!(message.len() <= 8192 && !message.contains(char::is_control), "{message:?}");
            None
        }
        Says::LoadGate { .. } | Says::Task(_) => None,
    };
    revision.into_iter().for_each(|revision| name_is_sound(revision.as_str()));
    call.rollout.iter().for_each(|rollout| name_is_sound(rollout.as_str()));
    if let Some(key) = &call.key {
        assert!((1..=1100).contains(&key.id.len()) && !key.id.contains(char::is_control), "{key:?}");
    }
    let payload = &call.payload;
    assert!(payload.metadata.iter().all(|(key, value)| !key.contains('\0') && !value.contains('\0')));
    assert!(has_no_nul(&payload.body), "no script can be given a NUL");
    let about = &call.about;
    for text in [&about.commit_hash, &about.commander, &about.repository_url, &about.summary] {
        assert!(!text.contains('\0'), "{text:?}");
    }
}

fn has_no_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(items) => items.iter().all(has_no_nul),
        Value::Object(entries) => entries.iter().all(|(key, value)| !key.contains('\0') && has_no_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

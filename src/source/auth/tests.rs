//! Every kind of credential, right and wrong.

use super::*;
use crate::domain::names::Source;

/// When the message of the vector was sent.
const SENT: i64 = 1_649_367_553;
const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

fn key(secret: &str) -> Key {
    Key::new(secret, None, Grant::default())
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

/// Who calls, or why it is refused and whether that was known without the body.
fn ask_at(
    credentials: &Credentials,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<Authenticated, (&'static str, bool)> {
    ask_for(Source::Generic, credentials, headers, body, now)
}

fn ask_for(
    source: Source,
    credentials: &Credentials,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
) -> Result<Authenticated, (&'static str, bool)> {
    let now = Timestamp::from_second(now).unwrap();
    match present(source, credentials, headers, now).map_err(|error| (error.reason, true))? {
        Presented::Known(who) => Ok(who),
        Presented::Signed(signed) => signed.verify(body).map_err(|error| (error.reason, false)),
    }
}

fn ask(credentials: &Credentials, headers: &HeaderMap, body: &[u8]) -> Result<String, &'static str> {
    ask_at(credentials, headers, body, SENT).map(|who| who.by.0).map_err(|(reason, _)| reason)
}

#[test]
fn an_open_source_lets_everybody_in() {
    assert_eq!(ask(&Credentials::None, &HeaderMap::new(), b""), Ok("generic".to_owned()));
}

#[test]
fn basic_wants_both_the_name_and_a_password() {
    let wanted = Credentials::Basic {
        username: "alice".into(),
        passwords: vec![key("se:cret"), Key::new("newer", Some("ci".into()), Grant::default())],
    };
    let with = |text: &str| headers(&[("authorization", &format!("basic {}", STANDARD.encode(text)))]);
    assert_eq!(ask(&wanted, &with("alice:se:cret"), b""), Ok("generic basic:alice".to_owned()));
    assert_eq!(ask(&wanted, &with("alice:newer"), b""), Ok("generic basic:alice:ci".to_owned()));
    for wrong in ["alice:secret", "bob:se:cret", "bob:newer", "alice", "", ":", "alice:"] {
        assert_eq!(ask(&wanted, &with(wrong), b""), Err("the username or the password is wrong"), "{wrong:?}");
    }
    let header = |value: &str| headers(&[("authorization", value)]);
    assert_eq!(ask(&wanted, &header("Basic ???"), b""), Err("the Basic credentials are not base64"));
    assert_eq!(ask(&wanted, &header("Bearer x"), b""), Err("Basic authentication is needed"));
    assert_eq!(ask(&wanted, &HeaderMap::new(), b""), Err("Basic authentication is needed"));
    let nameless = Credentials::Basic { username: String::new(), passwords: vec![key("")] };
    for nothing in ["", ":"] {
        assert!(ask(&nameless, &with(nothing), b"").is_err(), "an empty password is nobody's");
    }
}

#[test]
fn bearer_knows_several_tokens_and_names_them_by_name_or_number() {
    let named = Key::new("third", Some("ci".into()), Grant::default());
    let wanted = Credentials::Bearer { tokens: vec![key("old"), key("new"), named, key("")] };
    let header = |value: &str| headers(&[("authorization", value)]);
    assert_eq!(ask(&wanted, &header("bearer  new"), b""), Ok("generic bearer:2".to_owned()));
    assert_eq!(ask(&wanted, &header("Bearer third"), b""), Ok("generic bearer:ci".to_owned()));
    for wrong in ["Bearer ", "Bearer", "Bearer ne", "Bearernew", "B", "Basic new", "Bearer neww"] {
        assert!(ask(&wanted, &header(wrong), b"").is_err(), "{wrong:?}");
    }
}

#[test]
fn hmac_covers_the_raw_bytes() {
    let wanted = Credentials::HmacSha256 { secrets: vec![key("older"), key("It's a Secret to Everybody")] };
    let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let header = |value: &str| headers(&[("x-signature", value)]);
    assert_eq!(ask(&wanted, &header(right), b"Hello, World!"), Ok("generic hmac:2".to_owned()));
    assert_eq!(ask(&wanted, &header(right), b"Hello, World! "), Err("X-Signature does not belong to this body"));
    for malformed in ["sha256=", "sha256=00", &right[7..], "sha1=00", &right[..70]] {
        let refused = ("X-Signature is not written as sha256= and 64 hex digits", true);
        let told = ask_at(&wanted, &header(malformed), b"Hello, World!", SENT).map(|who| who.by);
        assert_eq!(told, Err(refused), "{malformed}");
    }
    let other = headers(&[("x-hub-signature-256", right)]);
    assert_eq!(ask(&wanted, &other, b"Hello, World!"), Err("the header X-Signature is missing"));
    let empty = Credentials::HmacSha256 { secrets: vec![key("")] };
    assert!(ask(&empty, &header(right), b"").is_err());
}

#[test]
fn each_sources_callers_sign_in_the_header_that_they_know() {
    let wanted = Credentials::HmacSha256 { secrets: vec![key("It's a Secret to Everybody")] };
    let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    for source in Source::ALL {
        let (own, other) = if source == Source::Github {
            ("x-hub-signature-256", "x-signature")
        } else {
            ("x-signature", "x-hub-signature-256")
        };
        let ask = |header| ask_for(source, &wanted, &headers(&[(header, right)]), b"Hello, World!", SENT);
        assert_eq!(ask(own).unwrap().by.0, format!("{source} hmac:1"));
        assert!(matches!(ask(other), Err((missing, true)) if missing.ends_with("is missing")), "{source}");
        assert!(wanted.challenge(source).to_lowercase().contains(own), "{source}");
    }
}

#[test]
fn github_without_a_secret_lets_nobody_in() {
    let told = present(Source::Github, &Credentials::None, &HeaderMap::new(), Timestamp::UNIX_EPOCH);
    assert!(told.unwrap_err().unconfigured);
}

/// What `whsec_…` of the vector stands for, behind one that was there before.
fn standard_webhooks() -> Credentials {
    let secret = STANDARD.decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
    Credentials::StandardWebhooks { secrets: vec![key("older"), Key::new(secret, None, Grant::default())] }
}

fn message(id: &str, stamp: &str, signature: &str) -> HeaderMap {
    headers(&[("webhook-id", id), ("webhook-timestamp", stamp), ("webhook-signature", signature)])
}

const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";

#[test]
fn a_standard_webhook_covers_its_id_its_time_and_its_body() {
    let wanted = standard_webhooks();
    let stamp = SENT.to_string();
    let several = format!("v1a,AAAA v1,AAAA v1,{} {SIGNATURE} v2,x", STANDARD.encode([7; 32]));
    for signatures in [SIGNATURE, &several] {
        let who = ask_at(&wanted, &message(ID, &stamp, signatures), BODY, SENT).unwrap();
        assert_eq!(who.by.0, "generic standard-webhooks:2");
        assert_eq!(who.message, Some(CallKey { id: ID.into(), stamp: Some(SENT) }));
    }
    let wrong = Err(("webhook-signature does not belong to this message", false));
    let other_time = (SENT + 1).to_string();
    for (id, stamp, body) in [("msg_2", stamp.as_str(), BODY), (ID, &other_time, BODY), (ID, &stamp, b"{}")] {
        let told = ask_at(&wanted, &message(id, stamp, SIGNATURE), body, SENT).map(|who| who.by);
        assert_eq!(told, wrong, "{id} {stamp}");
    }
}

#[test]
fn a_standard_webhook_is_good_for_five_minutes_either_way() {
    let (wanted, stamp) = (standard_webhooks(), SENT.to_string());
    let at = |now| ask_at(&wanted, &message(ID, &stamp, SIGNATURE), BODY, now).map(|who| who.by.0);
    for near in [SENT - 300, SENT + 300] {
        assert!(at(near).is_ok());
    }
    for far in [SENT - 301, SENT + 301, 0] {
        assert_eq!(at(far), Err(("webhook-timestamp is more than 5 minutes away from this server's clock", true)));
    }
}

#[test]
fn a_standard_webhook_without_what_it_needs_is_refused_before_its_body() {
    let (wanted, stamp) = (standard_webhooks(), SENT.to_string());
    for (left_out, reason) in [
        ("webhook-id", "the header webhook-id is missing"),
        ("webhook-timestamp", "the header webhook-timestamp is missing"),
        ("webhook-signature", "the header webhook-signature is missing"),
    ] {
        let mut headers = message(ID, &stamp, SIGNATURE);
        headers.remove(left_out);
        assert_eq!(ask_at(&wanted, &headers, BODY, SENT).map(|who| who.by), Err((reason, true)));
    }
    let long = "x".repeat(257);
    for (id, stamp, signature) in [
        ("", stamp.as_str(), SIGNATURE),
        ("a b", &stamp, SIGNATURE),
        ("\u{e9}", &stamp, SIGNATURE),
        (&long, &stamp, SIGNATURE),
        (ID, "", SIGNATURE),
        (ID, "01649367553", SIGNATURE),
        (ID, "+1649367553", SIGNATURE),
        (ID, "-1", SIGNATURE),
        (ID, "99999999999999999999", SIGNATURE),
        (ID, &stamp, ""),
        (ID, &stamp, "v1,"),
        (ID, &stamp, &SIGNATURE[3..]),
        (ID, &stamp, "v1,AAAA"),
        (ID, &stamp, "v2,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
    ] {
        let told = ask_at(&wanted, &message(id, stamp, signature), BODY, SENT);
        assert!(matches!(told, Err((_, true))), "{id:?} {stamp:?} {signature:?}: {told:?}");
    }
}

#[test]
fn a_key_brings_its_limits() {
    let cluster = Some("eu".parse().unwrap());
    let limited = Key::new("s3cret", None, Grant::new("here", cluster, &[], &[]));
    let wanted = Credentials::Bearer { tokens: vec![key("other"), limited] };
    let who = ask_at(&wanted, &headers(&[("authorization", "Bearer s3cret")]), b"", SENT).unwrap();
    assert_eq!(who.grant.admit("a/b".parse().unwrap()).unwrap().to_string(), "eu:a/b");
    let who = ask_at(&wanted, &headers(&[("authorization", "Bearer other")]), b"", SENT).unwrap();
    assert_eq!(who.grant.admit("a/b".parse().unwrap()).unwrap().to_string(), "a/b");
}

#[test]
fn debug_shows_no_secret() {
    for credentials in [
        Credentials::Basic { username: "alice".into(), passwords: vec![key("hunter2")] },
        Credentials::Bearer { tokens: vec![key("hunter2")] },
        Credentials::HmacSha256 { secrets: vec![key("hunter2")] },
        Credentials::StandardWebhooks { secrets: vec![key("hunter2")] },
    ] {
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}

//! Argo CD: hook Jobs, which gate a sync with curl, and notifications, which only tell. Both send the generic body and
//! `operation`; a notification has the field `event`, the name of its trigger, too.
//!
//! Argo CD itself calls no webhook for its hooks, so the bodies are ours: examples/argocd has what sends them.

use http::HeaderMap;
use jiff::Timestamp;

use super::body::{BadCall, Body, line};
use super::{Incoming, Parsed, generic, idempotency};
use crate::domain::call::{Call, CallKey, Says, Tells};
use crate::domain::hook::Hook;
use crate::domain::names::{Revision, RolloutId, Source};

/// The hooks that can be called. Argo CD's phases are pre-rollout (PreSync), rollout (Sync), post-rollout (PostSync) and
/// rollback (SyncFail).
pub const HOOKS: &[&str] = generic::HOOKS;

/// The longest message of an event that is noted, in characters.
const LONGEST_EVENT: usize = 1000;

/// Reads a call.
pub fn parse(incoming: &Incoming<'_>) -> Result<Parsed, BadCall> {
    let hook = incoming.hook.unwrap_or_default().parse::<Hook>()?;
    let body = Body::read(incoming.body)?;
    let application = generic::application(&body, incoming.cluster)?;
    let revision = body.revision("revision")?;
    let rollout = operation(incoming.headers, &body)?;
    let event = body.text("event")?.filter(|event| !event.is_empty()).map(str::to_owned);
    let says = match event.as_deref() {
        None => Says::of(hook, revision),
        Some(event) => tells(hook, event, &body, revision)?,
    };
    let about = body.about(true);
    let mut call = Call::new(Source::Argocd, hook, says, body.into_payload(), about);
    if event.is_some() {
        call.unattended = true;
        // One operation says one thing of a hook, be it in several triggers: on-sync-succeeded, then on-deployed.
        call.key = match (&rollout, &call.says) {
            (None, _) | (_, Says::Event { .. }) => None,
            (Some(rollout), _) => Some(CallKey { id: format!("{rollout}/{hook}"), stamp: None }),
        };
    }
    call.rollout = rollout;
    Ok(Parsed { application, call })
}

/// What a notification means. A trigger of one's own means what its path says.
fn tells(hook: Hook, event: &str, body: &Body, revision: Option<Revision>) -> Result<Says, BadCall> {
    let at: &[Hook] = match event {
        "on-sync-running" => &[Hook::PreRollout, Hook::Rollout],
        "on-sync-succeeded" | "on-deployed" => &[Hook::PostRollout],
        "on-sync-failed" | "on-health-degraded" => &[Hook::Rollback],
        _ => &[hook],
    };
    if !at.contains(&hook) {
        let at: Vec<_> = at.iter().map(|hook| format!("/hooks/argocd/{hook}")).collect();
        return Err(BadCall(format!("the event {event} belongs to {}, not to {hook}", at.join(" or "))));
    }
    if event != "on-health-degraded" {
        return Ok(Says::of(hook, revision));
    }
    // While the sync goes on it is what ran before that is degraded, or the sync will tell its own end. After that it is
    // the failure of a rollout that was never healthy, but not of one that was told to have succeeded.
    let synced = body.text("phase")? == Some("Succeeded");
    let message = match body.metadata("summary").map(|summary| line(summary, LONGEST_EVENT)) {
        Some(summary) if !summary.is_empty() => format!("{event}: {summary}"),
        _ => event.to_owned(),
    };
    Ok(Says::Event { message, tells: if synced { Tells::Failure } else { Tells::Other } })
}

/// Which operation is meant: the header `Idempotency-Key`, the field `operation`, or both alike.
fn operation(headers: &HeaderMap, body: &Body) -> Result<Option<RolloutId>, BadCall> {
    let header = idempotency::key(headers)?.as_deref().map(canonical).transpose()?;
    let field = body.text("operation")?.filter(|text| !text.is_empty()).map(canonical).transpose()?;
    match (header, field) {
        (Some(header), Some(field)) if header != field => Err(BadCall(format!(
            "the header Idempotency-Key names the operation {header}, and the field `operation` names {field}; name one"
        ))),
        (header, field) => Ok(header.or(field)),
    }
}

/// An operation is known by the second in which it started. A notification knows the application's uid and
/// `operationState.startedAt`, a hook Job the seconds since 1970 in its own name: both must mean the same.
fn canonical(text: &str) -> Result<RolloutId, BadCall> {
    let started = text.rsplit_once('/').map_or(text, |(_, started)| started);
    let id = match started.parse::<Timestamp>() {
        Ok(started) => started.as_second().to_string(),
        Err(_) if !started.is_empty() && started.bytes().all(|byte| byte.is_ascii_digit()) => started.to_owned(),
        Err(_) => text.to_owned(),
    };
    RolloutId::new(id).map_err(|error| BadCall(format!("the operation is not valid: {}", error.why)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const STARTED: &str = "2026-11-21T15:00:00Z";
    const OPERATION: &str = "0b9d3c1e-9d0c-4a53-8b67-0f9f1b2f3c4d/2026-11-21T15:00:00Z";
    const SECONDS: &str = "1795273200";

    fn read(hook: &str, key: Option<&str>, more: &Value) -> Result<Call, String> {
        let mut body = json!({"namespace": "test", "name": "podinfo"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let headers = key.map(|key| (idempotency_header(), HeaderValue::try_from(key).unwrap())).into_iter().collect();
        let bytes = body.to_string();
        let incoming = Incoming { hook: Some(hook), headers: &headers, cluster: None, body: bytes.as_bytes() };
        parse(&incoming).map(|parsed| parsed.call).map_err(|error| error.0)
    }

    fn idempotency_header() -> http::HeaderName {
        http::HeaderName::from_static("idempotency-key")
    }

    fn revision(text: &str) -> Option<Revision> {
        Some(Revision::new(text).unwrap())
    }

    #[test]
    fn a_hook_job_is_a_gate() {
        let more = json!({"revision": "8f2c"});
        for hook in ["pre-rollout", "rollout", "confirm-rollout", "confirm-traffic-increase", "confirm-promotion"] {
            let call = read(hook, Some(SECONDS), &more).unwrap();
            assert_eq!(call.says, Says::Forward { revision: revision("8f2c") });
            assert_eq!((call.source, call.hook.as_str(), call.unattended), (Source::Argocd, hook, false));
            assert_eq!((call.rollout.unwrap().as_str(), call.key), (SECONDS, None));
        }
        assert_eq!(read("post-rollout", None, &more).unwrap().says, Says::Succeeded { revision: revision("8f2c") });
        assert_eq!(read("rollback", None, &json!({})).unwrap().says, Says::Failed { revision: None });
    }

    #[test]
    fn an_operation_has_one_name() {
        let named = |key, operation: Value| {
            read("rollout", key, &json!({"operation": operation})).map(|call| call.rollout.map(String::from))
        };
        for told in [SECONDS, STARTED, OPERATION, "2026-11-21T16:00:00+01:00", "any/1795273200"] {
            assert_eq!(named(None, told.into()), Ok(Some(SECONDS.to_owned())), "{told}");
            assert_eq!(named(Some(told), Value::Null), Ok(Some(SECONDS.to_owned())), "{told}");
            assert_eq!(named(Some(SECONDS), told.into()), Ok(Some(SECONDS.to_owned())), "{told}");
        }
        assert_eq!(named(Some("\"op-7/a\""), "op-7/a".into()), Ok(Some("op-7/a".to_owned())));
        assert_eq!(named(None, "op-7/".into()), Ok(Some("op-7/".to_owned())));
        assert_eq!(named(None, Value::Null), Ok(None));
        assert_eq!(named(None, "".into()), Ok(None));
        let error = named(Some("op-7"), "op-8".into()).unwrap_err();
        assert_eq!(
            error,
            "the header Idempotency-Key names the operation op-7, and the field `operation` names op-8; name one"
        );
        assert!(
            named(None, "a\u{7}".into()).unwrap_err().starts_with("the operation is not valid: it has the control")
        );
        assert!(named(None, "x".repeat(300).into()).unwrap_err().contains("300 bytes long"));
        assert!(named(None, 7.into()).unwrap_err().contains("`operation` must be a string"));
    }

    #[test]
    fn a_notification_only_tells() {
        let told =
            |hook, event: &str| read(hook, None, &json!({"event": event, "operation": OPERATION, "phase": "Running"}));
        for (hook, event, says) in [
            ("rollout", "on-sync-running", Says::Forward { revision: None }),
            ("pre-rollout", "on-sync-running", Says::Forward { revision: None }),
            ("post-rollout", "on-sync-succeeded", Says::Succeeded { revision: None }),
            ("post-rollout", "on-deployed", Says::Succeeded { revision: None }),
            ("rollback", "on-sync-failed", Says::Failed { revision: None }),
            ("confirm-promotion", "on-my-own", Says::Forward { revision: None }),
            ("rollback", "on-my-own", Says::Failed { revision: None }),
        ] {
            let call = told(hook, event).unwrap();
            assert!(call.unattended, "{event}");
            assert_eq!(call.says, says, "{event}");
            assert_eq!(call.key, Some(CallKey { id: format!("{SECONDS}/{hook}"), stamp: None }), "{event}");
            assert_eq!(call.rollout.unwrap().as_str(), SECONDS);
        }
        assert_eq!(read("rollback", None, &json!({"event": "on-sync-failed"})).unwrap().key, None);
        assert!(!read("rollback", None, &json!({"event": ""})).unwrap().unattended);
        for (hook, event) in [
            ("rollback", "on-deployed"),
            ("post-rollout", "on-sync-failed"),
            ("rollout", "on-health-degraded"),
            ("post-rollout", "on-sync-running"),
        ] {
            let error = told(hook, event).unwrap_err();
            assert!(error.starts_with(&format!("the event {event} belongs to /hooks/argocd/")), "{error}");
            assert!(error.ends_with(&format!(", not to {hook}")), "{error}");
        }
    }

    #[test]
    fn a_degraded_health_is_a_failure_only_after_the_sync() {
        let told = |phase: Value| {
            let more = json!({"event": "on-health-degraded", "operation": OPERATION, "phase": phase,
                "metadata": {"summary": "2 of 3 pods\nare down"}});
            read("rollback", None, &more).unwrap()
        };
        let event = |tells| Says::Event { message: "on-health-degraded: 2 of 3 pods are down".to_owned(), tells };
        assert_eq!(told("Succeeded".into()).says, event(Tells::Failure));
        assert_eq!(told("Succeeded".into()).key, None);
        assert_eq!(told("Running".into()).says, event(Tells::Other));
        assert_eq!(told(Value::Null).says, event(Tells::Other));
    }

    #[test]
    fn who_and_where_are_read_as_of_generic_callers() {
        let headers = HeaderMap::new();
        let body = br#"{"namespace": "test", "name": "podinfo", "cluster": "eu", "metadata": {"commit": "8f2c"}}"#;
        let incoming = Incoming { hook: Some("rollout"), headers: &headers, cluster: Some("eu"), body };
        let parsed = parse(&incoming).unwrap();
        assert_eq!(parsed.application.to_string(), "eu:test/podinfo");
        assert_eq!(parsed.call.about.commit_hash, "8f2c");
        assert!(parse(&Incoming { cluster: Some("us"), ..incoming }).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(hook in prop::sample::select(HOOKS), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let headers = HeaderMap::new();
            let _ = parse(&Incoming { hook: Some(hook), headers: &headers, cluster: None, body: &body });
        }

        #[test]
        fn no_fields_make_it_panic(
            hook in prop::sample::select(HOOKS), event in any::<String>(), operation in any::<String>(),
            phase in any::<String>(), revision in any::<String>(),
        ) {
            let more = json!({"event": event, "operation": operation, "phase": phase, "revision": revision});
            if let Ok(call) = read(hook, None, &more) && let Some(key) = call.key {
                prop_assert!(key.id.chars().all(|c| !c.is_control()));
            }
        }
    }
}

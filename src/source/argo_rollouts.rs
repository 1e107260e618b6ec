//! Argo Rollouts: web metrics, which ask, and notifications, which only tell. Both send the generic body with `uid`,
//! `revision` and `podHash`; a notification has the field `event`, the name of its trigger, too.
//!
//! A metric reads the verdict in the body of a 200, and asks the same question again until there is one. That what has
//! run is not run again for it is the core's business.

use super::body::{BadCall, Body};
use super::{Incoming, Parsed, generic};
use crate::domain::call::{Call, Says};
use crate::domain::hook::Hook;
use crate::domain::names::{Revision, Source};

/// The hooks that can be called.
pub const HOOKS: &[&str] = generic::HOOKS;

/// Reads a call.
pub fn parse(incoming: &Incoming<'_>) -> Result<Parsed, BadCall> {
    let hook = incoming.hook.unwrap_or_default().parse::<Hook>()?;
    let body = Body::read(incoming.body)?;
    let application = generic::application(&body, incoming.cluster)?;
    let revision = identity(&body)?;
    let event = body.text("event")?.filter(|event| !event.is_empty());
    if let Some(event) = event {
        fits(hook, event)?;
    }
    let unattended = event.is_some();
    let says = match hook {
        // Asked by postPromotionAnalysis while Argo Rollouts can still go back: a gate of the rollout in progress.
        Hook::PostRollout if !unattended => Says::Forward { revision },
        _ => Says::of(hook, revision),
    };
    let about = body.about(true);
    let mut call = Call::new(Source::ArgoRollouts, hook, says, body.into_payload(), about);
    call.unattended = unattended;
    Ok(Parsed { application, call })
}

/// A trigger of one's own means what its path says; those that end a rollout must not be told as something else.
fn fits(hook: Hook, event: &str) -> Result<(), BadCall> {
    let at = match event {
        "on-rollout-aborted" => Hook::Rollback,
        "on-rollout-completed" => Hook::PostRollout,
        _ => hook,
    };
    if at == hook {
        Ok(())
    } else {
        Err(BadCall(format!("the event {event} belongs to /hooks/argo-rollouts/{at}, not to {hook}")))
    }
}

/// What is rolled out: the revision of the Rollout, the hash of its pods and its uid, what people look for first:
/// `4-7bf84f9696@0b9d3c1e`. The revision alone may be that already, in a call by hand.
///
/// Only the three together name one rollout: a Rollout that is made again begins at 1, and going back to older pods is
/// a new revision.
fn identity(body: &Body) -> Result<Option<Revision>, BadCall> {
    let text = |field| body.text(field).map(|text| text.filter(|text| !text.is_empty()));
    let (revision, hash, uid) = (text("revision")?, text("podHash")?, text("uid")?);
    match (revision, hash, uid) {
        (None, None, None) => Ok(None),
        (Some(revision), None, None) => Ok(Some(Revision::new(revision)?)),
        (Some(revision), Some(hash), Some(uid)) => {
            // The first group of a uid is 32 random bits.
            let uid = uid.split('-').next().unwrap_or(uid);
            Ok(Some(Revision::new(format!("{revision}-{hash}@{uid}"))?))
        }
        _ => {
            let missing: Vec<_> = [("revision", revision), ("podHash", hash), ("uid", uid)]
                .into_iter()
                .filter(|(_, text)| text.is_none())
                .map(|(field, _)| format!("`{field}`"))
                .collect();
            Err(BadCall(format!(
                "the rollout is named by `revision`, `podHash` and `uid` together, and there is no {}; see the arguments of \
                 the AnalysisTemplate in examples/argo-rollouts",
                missing.join(", no ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(hook: &str, more: &Value) -> Result<Call, String> {
        let mut body = json!({"namespace": "test", "name": "podinfo"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (headers, bytes) = (HeaderMap::new(), body.to_string());
        let incoming = Incoming { hook: Some(hook), headers: &headers, cluster: None, body: bytes.as_bytes() };
        parse(&incoming).map(|parsed| parsed.call).map_err(|error| error.0)
    }

    fn named() -> Value {
        json!({"uid": "0b9d3c1e-9d0c-4a53-8b67-0f9f1b2f3c4d", "revision": "4", "podHash": "7bf84f9696"})
    }

    fn identity() -> Option<Revision> {
        Some(Revision::new("4-7bf84f9696@0b9d3c1e").unwrap())
    }

    #[test]
    fn a_metric_asks_about_the_rollout_in_progress() {
        let gates = [
            "confirm-rollout",
            "pre-rollout",
            "rollout",
            "confirm-traffic-increase",
            "confirm-promotion",
            // Not told to have succeeded: it may still be aborted.
            "post-rollout",
        ];
        for hook in gates {
            let call = read(hook, &named()).unwrap();
            assert_eq!(call.says, Says::Forward { revision: identity() }, "{hook}");
            assert_eq!((call.source, call.hook.as_str(), call.unattended), (Source::ArgoRollouts, hook, false));
            assert_eq!((call.rollout, call.key), (None, None), "an abort is tried again under the same names");
        }
        assert_eq!(read("rollback", &named()).unwrap().says, Says::Failed { revision: identity() });
    }

    #[test]
    fn a_notification_tells_how_it_ended() {
        let told = |hook, event: &str| {
            let mut more = named();
            more["event"] = event.into();
            read(hook, &more)
        };
        let aborted = told("rollback", "on-rollout-aborted").unwrap();
        assert_eq!((aborted.says, aborted.unattended), (Says::Failed { revision: identity() }, true));
        let completed = told("post-rollout", "on-rollout-completed").unwrap();
        assert_eq!((completed.says, completed.unattended), (Says::Succeeded { revision: identity() }, true));
        let updated = told("pre-rollout", "on-rollout-updated").unwrap();
        assert_eq!((updated.says, updated.unattended), (Says::Forward { revision: identity() }, true));
        assert_eq!(
            told("rollback", "on-rollout-completed").unwrap_err(),
            "the event on-rollout-completed belongs to /hooks/argo-rollouts/post-rollout, not to rollback"
        );
        assert!(told("post-rollout", "on-rollout-aborted").unwrap_err().contains("/hooks/argo-rollouts/rollback"));
        assert!(!told("rollout", "").unwrap().unattended);
    }

    #[test]
    fn a_rollout_is_named_whole_or_not_at_all() {
        let says = |more: Value| read("rollout", &more).map(|call| call.says);
        assert_eq!(says(json!({})), Ok(Says::Forward { revision: None }));
        assert_eq!(says(json!({"uid": "", "revision": "", "podHash": null})), Ok(Says::Forward { revision: None }));
        assert_eq!(says(json!({"revision": "4-7bf84f9696@0b9d3c1e"})), Ok(Says::Forward { revision: identity() }));
        let error = says(json!({"revision": "4", "podHash": "7bf84f9696"})).unwrap_err();
        assert!(error.contains("there is no `uid`; see"), "{error}");
        let error = says(json!({"podHash": "7bf84f9696"})).unwrap_err();
        assert!(error.contains("there is no `revision`, no `uid`; see"), "{error}");
        assert!(
            says(json!({"uid": "a", "revision": "4", "podHash": "a b"})).unwrap_err().contains("the revision is not")
        );
        assert!(says(json!({"uid": 7})).unwrap_err().contains("the field `uid` must be a string"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(hook in prop::sample::select(HOOKS), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let headers = HeaderMap::new();
            let _ = parse(&Incoming { hook: Some(hook), headers: &headers, cluster: None, body: &body });
        }

        #[test]
        fn no_fields_make_it_panic(
            hook in prop::sample::select(HOOKS), event in any::<String>(), uid in any::<String>(),
            revision in any::<String>(), hash in any::<String>(),
        ) {
            let _ = read(hook, &json!({"event": event, "uid": uid, "revision": revision, "podHash": hash}));
        }
    }
}

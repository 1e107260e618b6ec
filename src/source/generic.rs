//! Any caller that can POST `{namespace, name, cluster?, revision?, deployment?, metadata?, phase?}`, the hook in the path.
//!
//! Other keys are ignored here, and still reach the scripts' event file. Without a revision the open deployment is meant.
//!
//! The body may come as the data of a CloudEvent. On the path `event` the event's type says which hook is meant.

use super::body::{self, BadCall, Body};
use super::cloudevents::{self, BadEvent, CloudEvent};
use super::{Incoming, Parsed, Read, cdevents, idempotency, render};
use crate::domain::call::{Call, CallKey, Says};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Application, Source};

/// In place of a hook: a CloudEvent whose type says which is meant.
const EVENT: &str = "event";

/// What may stand in a path: the hooks, then what stands in place of one.
pub const PATHS: &[&str] = &[
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "post-rollout",
    "rollback",
    EVENT,
];

/// The hooks that can be called.
pub const HOOKS: &[&str] = PATHS.split_at(PATHS.len() - 1).0;

/// What the type of an event for a hook begins with: `dev.stagehook.hook.pre-rollout`.
const HOOK_TYPE: &str = "dev.stagehook.hook.";

/// JSON by default: whoever calls wrote the call.
pub const DEFAULT_FORM: render::Form = render::Form::Json;

/// Reads a request, whose path ends with one of [`PATHS`].
///
/// An event that finds its hook by its type comes from a bus: nobody waits for its verdict, and a bus that is told no
/// only sends it again. On the path of a hook somebody asks, whatever the form.
pub fn read(incoming: &Incoming<'_>) -> Result<Read, BadCall> {
    let hook = incoming.hook.unwrap_or_default();
    let told = idempotency::key(incoming.headers)?;
    let named = |id: Option<String>| id.map(|id| CallKey { id, stamp: None });
    if hook != EVENT && !cloudevents::is_event(incoming.headers) {
        let mut parsed = parse(hook, incoming.body, incoming.cluster)?;
        parsed.call.key = named(told);
        return Ok(Read::Calls(vec![parsed]));
    }
    let event = match cloudevents::read(incoming.headers, incoming.body) {
        Ok(event) => event,
        Err(BadEvent::Malformed(why)) => return Err(BadCall(why)),
        Err(BadEvent::Unsupported(why)) => return Ok(Read::Unsupported(why)),
    };
    let mut parsed = if hook == EVENT {
        match by_type(&event, incoming.cluster)? {
            Some(parsed) => parsed,
            None => {
                let kind = body::line(&event.kind, 100);
                return Ok(Read::Ignored(format!("events of the type {kind} are none that matter here")));
            }
        }
    } else {
        parse(hook, &event.data, incoming.cluster).map_err(of_data)?
    };
    parsed.call.unattended = hook == EVENT;
    // A header of this very request is nearer than the name of the event, which several requests may carry on.
    parsed.call.key = named(told.or_else(|| Some(event.key())));
    Ok(Read::Calls(vec![parsed]))
}

fn by_type(event: &CloudEvent, cluster: Option<&str>) -> Result<Option<Parsed>, BadCall> {
    if let Some(hook) = event.kind.strip_prefix(HOOK_TYPE) {
        parse(hook, &event.data, cluster).map(Some).map_err(of_data)
    } else if event.kind.starts_with(cdevents::PREFIX) {
        cdevents::read(&event.kind, &event.data, cluster).map_err(of_data)
    } else {
        Ok(None)
    }
}

fn of_data(BadCall(why): BadCall) -> BadCall {
    BadCall(format!("in the data of the event: {why}"))
}

/// What is deployed, in the fields of a generic body.
pub(super) fn application(body: &Body, cluster: Option<&str>) -> Result<Application, BadCall> {
    body.application(&[
        ("the query `cluster`", cluster),
        ("the field `cluster`", body.text("cluster")?),
        ("`metadata.cluster`", body.metadata("cluster")),
    ])
}

/// Reads a call. `hook` is one of [`HOOKS`]; `cluster` is the query's.
pub fn parse(hook: &str, body: &[u8], cluster: Option<&str>) -> Result<Parsed, BadCall> {
    let hook = hook.parse::<Hook>()?;
    let body = Body::read(body)?;
    let application = application(&body, cluster)?;
    let revision = body.revision("revision")?;
    let phase = body.text("phase")?;
    let deployment = body.text("deployment")?.map(str::parse::<DeploymentId>).transpose()?;
    if deployment.is_some() && hook != Hook::Rollback {
        // Ignored, it could name another deployment than the one that the call would then be about.
        return Err(BadCall(format!(
            "the field `deployment` is understood by the hook rollback only; for {hook} name the `revision`, or leave \
             both out to mean the open deployment"
        )));
    }
    let says = match hook {
        Hook::Rollback => Says::Undo { deployment, revision },
        Hook::PostRollout if phase == Some("Failed") => Says::Failed { revision },
        _ => Says::of(hook, revision),
    };
    let about = body.about(true);
    Ok(Parsed { application, call: Call::new(Source::Generic, hook, says, body.into_payload(), about) })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::names::Revision;

    fn says(hook: &str, body: &str) -> Result<Says, String> {
        parse(hook, body.as_bytes(), None).map(|parsed| parsed.call.says).map_err(|error| error.0)
    }

    #[test]
    fn hooks_mean_what_they_are_called() {
        let body = r#"{"namespace": "test", "name": "shop", "revision": "v1", "more": [1]}"#;
        let revision = Some(Revision::new("v1").unwrap());
        for hook in ["confirm-rollout", "pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion"] {
            assert_eq!(says(hook, body), Ok(Says::Forward { revision: revision.clone() }));
        }
        assert_eq!(says("post-rollout", body), Ok(Says::Succeeded { revision: revision.clone() }));
        assert_eq!(says("rollback", body), Ok(Says::Undo { deployment: None, revision }));
    }

    fn incoming(hook: &str, headers: &[(&'static str, &str)], body: &str) -> Result<Read, String> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let incoming = Incoming { hook: Some(hook), headers: &headers, cluster: None, body: body.as_bytes() };
        read(&incoming).map_err(|error| error.0)
    }

    fn call(read: Result<Read, String>) -> Call {
        match read.unwrap() {
            Read::Calls(mut calls) if calls.len() == 1 => calls.remove(0).call,
            other => panic!("{other:?}"),
        }
    }

    const SHOP: &str = r#"{"namespace": "test", "name": "shop"}"#;
    const EVENT_HEADERS: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "e1"), ("ce-source", "/ci"), ("ce-type", "com.example.deploy")];

    #[test]
    fn a_header_or_the_event_names_the_call() {
        let key = |headers: &[(&'static str, &str)]| call(incoming("rollout", headers, SHOP)).key.map(|key| key.id);
        assert_eq!(key(&[]), None);
        assert_eq!(key(&[("idempotency-key", "\"k1\"")]).as_deref(), Some("k1"));
        assert_eq!(key(&EVENT_HEADERS).as_deref(), Some("/ci e1"));
        let both = [EVENT_HEADERS.as_slice(), &[("idempotency-key", "k1")]].concat();
        assert_eq!(key(&both).as_deref(), Some("k1"));
        assert!(
            incoming("rollout", &[("idempotency-key", "")], SHOP).unwrap_err().contains("Idempotency-Key is empty")
        );
    }

    #[test]
    fn an_event_on_the_path_of_a_hook_is_a_call_like_any_other() {
        let parsed =
            call(incoming("post-rollout", &EVENT_HEADERS, r#"{"namespace": "t", "name": "x", "phase": "Failed"}"#));
        assert_eq!((parsed.says, parsed.unattended), (Says::Failed { revision: None }, false));
        let structured =
            format!(r#"{{"specversion": "1.0", "id": "e1", "source": "/ci", "type": "x", "data": {SHOP}}}"#);
        let json = [("content-type", "application/cloudevents+json")];
        let parsed = call(incoming("rollout", &json, &structured));
        assert_eq!(parsed.says, Says::Forward { revision: None });
        assert_eq!(parsed.payload.body["name"], "shop", "the data, and not the event around it");
        let error = incoming("rollout", &EVENT_HEADERS, "").unwrap_err();
        assert!(error.starts_with("in the data of the event: the body is empty"), "{error}");
        let batch = incoming("rollout", &[("content-type", "application/cloudevents-batch+json")], "[]");
        assert!(matches!(batch, Ok(Read::Unsupported(why)) if why.contains("each event by itself")));
    }

    #[test]
    fn on_the_path_event_the_type_says_the_hook_and_nobody_waits() {
        let typed = |kind: &str, body: &str| {
            let mut headers = EVENT_HEADERS;
            headers[3] = ("ce-type", kind);
            incoming("event", &headers, body)
        };
        let parsed = call(typed("dev.stagehook.hook.pre-rollout", SHOP));
        assert_eq!((parsed.hook, parsed.unattended), (Hook::PreRollout, true));
        let undo = call(typed("dev.stagehook.hook.rollback", SHOP));
        assert_eq!(undo.says, Says::Undo { deployment: None, revision: None });
        assert!(typed("dev.stagehook.hook.nope", SHOP).unwrap_err().contains("\"nope\" is none of"));
        let service = r#"{"subject": {"id": "x", "content": {"environment": {"id": "t"}, "artifactId": "v1"}}}"#;
        let back = call(typed("dev.cdevents.service.rolledback.0.3.0", service));
        assert!(back.unattended && back.key.is_some());
        for (kind, body) in [("com.example.deploy", "not even JSON"), ("dev.cdevents.build.started.0.2.0", SHOP)] {
            let ignored = typed(kind, body);
            assert!(matches!(&ignored, Ok(Read::Ignored(why)) if why.contains(kind)), "{ignored:?}");
        }
        assert!(incoming("event", &[], SHOP).unwrap_err().contains("ce-specversion is missing"));
    }

    #[test]
    fn post_rollout_may_state_the_failure() {
        let body = r#"{"namespace": "test", "name": "shop", "phase": "Failed"}"#;
        assert_eq!(says("post-rollout", body), Ok(Says::Failed { revision: None }));
    }

    #[test]
    fn rollback_may_name_a_deployment() {
        let id = "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let body = format!(r#"{{"namespace": "test", "name": "shop", "deployment": "{id}"}}"#);
        assert_eq!(says("rollback", &body), Ok(Says::Undo { deployment: Some(id.parse().unwrap()), revision: None }));
        assert!(says("rollout", &body).unwrap_err().contains("`deployment` is understood by the hook rollback only"));
        let bad = r#"{"namespace": "test", "name": "shop", "deployment": "7"}"#;
        assert!(says("rollback", bad).unwrap_err().contains("the deployment id is not valid"));
    }

    #[test]
    fn names_are_checked_and_kept_whole() {
        let body = r#"{"namespace": "production", "name": "octo/app", "cluster": "eu", "commander": "ann"}"#;
        let parsed = parse("rollout", body.as_bytes(), None).unwrap();
        assert_eq!(parsed.application.to_string(), "eu:production/octo/app");
        assert_eq!(parsed.call.about.commander, "ann");
        assert_eq!(parsed.call.payload.body["commander"], "ann");
        let error = says("rollout", r#"{"namespace": "t", "name": "x", "revision": "a\u0007"}"#).unwrap_err();
        assert!(error.contains("the revision is not valid: it has the control character U+0007"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(hook in prop::sample::select(HOOKS), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(hook, &body, None);
        }

        #[test]
        fn whatever_is_read_has_sound_names(
            hook in prop::sample::select(HOOKS), namespace in any::<String>(), name in any::<String>(),
            revision in any::<String>(),
        ) {
            let body = serde_json::json!({"namespace": namespace, "name": name, "revision": revision});
            if let Ok(parsed) = parse(hook, body.to_string().as_bytes(), None) {
                let text = parsed.application.to_string();
                prop_assert!(text.chars().all(|c| !c.is_control()));
                prop_assert_eq!(text.parse(), Ok(parsed.application));
            }
        }
    }
}

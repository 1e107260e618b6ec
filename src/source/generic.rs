//! Any caller that can POST `{namespace, name, cluster?, revision?, deployment?, metadata?, phase?}`, the hook in the path.
//!
//! Other keys are ignored here, and still reach the scripts' event file. Without a revision the open deployment is meant.

use super::body::{BadCall, Body};
use super::{Parsed, render};
use crate::domain::call::{Call, Says};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::Source;

/// The hooks that can be called.
pub const HOOKS: &[&str] = &[
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "post-rollout",
    "rollback",
];

/// JSON by default: whoever calls wrote the call.
pub const DEFAULT_FORM: render::Form = render::Form::Json;

/// Reads a call. `hook` is one of [`HOOKS`]; `cluster` is the query's.
pub fn parse(hook: &str, body: &[u8], cluster: Option<&str>) -> Result<Parsed, BadCall> {
    let hook = hook.parse::<Hook>()?;
    let body = Body::read(body)?;
    let application = body.application(&[
        ("the query `cluster`", cluster),
        ("the field `cluster`", body.text("cluster")?),
        ("`metadata.cluster`", body.metadata("cluster")),
    ])?;
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
        Hook::PostRollout => Says::Succeeded { revision },
        Hook::ConfirmRollout
        | Hook::PreRollout
        | Hook::Rollout
        | Hook::ConfirmTrafficIncrease
        | Hook::ConfirmPromotion => Says::Forward { revision },
    };
    let about = body.about(true);
    Ok(Parsed { application, call: Call::new(Source::Generic, hook, says, body.into_payload(), about) })
}

#[cfg(test)]
mod tests {
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

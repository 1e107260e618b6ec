//! Flagger's canary webhooks: `{name, namespace, phase, checksum, metadata}`, the hook in the path.
//!
//! The meaning of a hook depends on the phase of the canary, as Flagger's own source has it. Which deployment a
//! checksum belongs to is the core's business.

use super::body::{BadCall, Body, line};
use super::{Parsed, render};
use crate::domain::call::{Before, Call, Says, Tells};
use crate::domain::hook::Hook;
use crate::domain::names::{Revision, Source};

/// The hooks that Flagger can be wired to.
pub const HOOKS: &[&str] = &[
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "post-rollout",
    "rollback",
    EVENT,
];

/// The path of Flagger's event webhook, which is no lifecycle point.
const EVENT: &str = "event";

/// How Flagger's event begins when a changed revision starts a rollout.
const START: &str = "New revision detected! Scaling up";

/// How Flagger's event begins when a changed revision restarts the analysis.
const RESTART: &str = "New revision detected! Restarting analysis";

/// The longest event that is noted, in characters.
const LONGEST_EVENT: usize = 1000;

/// Text by default: Flagger shows bodies of 4xx and 501 in the canary's events.
pub const DEFAULT_FORM: render::Form = render::Form::Text;

/// Reads a call. `hook` is one of [`HOOKS`]; `cluster` is the query's.
pub fn parse(hook: &str, body: &[u8], cluster: Option<&str>) -> Result<Parsed, BadCall> {
    let body = Body::read(body)?;
    let application =
        body.application(&[("the query `cluster`", cluster), ("`metadata.cluster`", body.metadata("cluster"))])?;
    let phase = body.text("phase")?.unwrap_or_default();
    let checksum = body.revision("checksum")?;
    let (hook, says) = if hook == EVENT {
        // An event belongs to no hook and runs no stage; the core only notes it. `rollout` is where events come from.
        (Hook::Rollout, event(&body))
    } else {
        let hook = hook.parse::<Hook>()?;
        (hook, says(hook, phase, checksum))
    };
    let about = body.about(false);
    Ok(Parsed { application, call: Call::new(Source::Flagger, hook, says, body.into_payload(), about) })
}

fn says(hook: Hook, phase: &str, checksum: Option<Revision>) -> Says {
    match (hook, phase) {
        (Hook::ConfirmRollout, "Failed") => Says::Opening { under: checksum, before: Before::Failed },
        (Hook::ConfirmRollout, "Succeeded" | "Initialized") => {
            Says::Opening { under: checksum, before: Before::Succeeded }
        }
        (Hook::ConfirmRollout, "Waiting") if checksum.is_some() => {
            Says::Opening { under: checksum, before: Before::ByChecksum }
        }
        // Not what Flagger sends: a call by hand, with name and namespace only. It tells nothing of the deployment
        // before, so it must not end or undo one; the open deployment is meant. Nor is the checksum here its revision.
        (Hook::ConfirmRollout, _) => Says::Forward { revision: None },
        (Hook::PreRollout | Hook::Rollout | Hook::ConfirmTrafficIncrease | Hook::ConfirmPromotion, _) => {
            Says::Forward { revision: checksum }
        }
        (Hook::PostRollout, "Failed") => Says::Failed { revision: checksum },
        (Hook::PostRollout, _) => Says::Succeeded { revision: checksum },
        (Hook::Rollback, "Progressing" | "Waiting" | "WaitingPromotion") => Says::Question { revision: checksum },
        (Hook::Rollback, _) => Says::Failed { revision: checksum },
    }
}

fn event(body: &Body) -> Says {
    let message = body.metadata("eventMessage").unwrap_or_default();
    let tells = if message.starts_with(RESTART) {
        Tells::Restart
    } else if message.starts_with(START) {
        Tells::Start
    } else {
        Tells::Other
    };
    let text = match body.metadata("eventType") {
        Some(kind) if !kind.is_empty() => format!("{kind} {message}"),
        _ => message.to_owned(),
    };
    let message = line(&text, LONGEST_EVENT);
    Says::Event { message: if message.is_empty() { "an event without a message".to_owned() } else { message }, tells }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(hook: &str, phase: &str, checksum: &str) -> Says {
        let body = serde_json::json!({"name": "podinfo", "namespace": "test", "phase": phase, "checksum": checksum});
        let parsed = parse(hook, body.to_string().as_bytes(), None).unwrap();
        assert_eq!(parsed.application.to_string(), "test/podinfo");
        assert_eq!(parsed.call.hook.as_str(), hook);
        parsed.call.says
    }

    fn bare(hook: &str) -> Says {
        parse(hook, br#"{"name": "podinfo", "namespace": "test"}"#, None).unwrap().call.says
    }

    fn checksum(text: &str) -> Option<Revision> {
        Some(Revision::new(text).unwrap())
    }

    #[test]
    fn confirm_rollout_tells_of_the_rollout_before() {
        let opening = |phase, before| {
            assert_eq!(
                read("confirm-rollout", phase, "7d7b"),
                Says::Opening { under: checksum("7d7b"), before },
                "{phase}"
            );
        };
        opening("Initialized", Before::Succeeded);
        opening("Succeeded", Before::Succeeded);
        opening("Failed", Before::Failed);
        opening("Waiting", Before::ByChecksum);
    }

    #[test]
    fn a_confirm_rollout_that_proves_nothing_is_about_the_open_deployment() {
        let open = Says::Forward { revision: None };
        assert_eq!(bare("confirm-rollout"), open);
        assert_eq!(read("confirm-rollout", "Progressing", "7d7b"), open);
        assert_eq!(read("confirm-rollout", "Waiting", ""), open);
    }

    #[test]
    fn gates_carry_the_current_checksum() {
        for hook in ["pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion"] {
            assert_eq!(read(hook, "Progressing", "7d7b"), Says::Forward { revision: checksum("7d7b") });
            assert_eq!(read(hook, "Progressing", ""), Says::Forward { revision: None });
            assert_eq!(bare(hook), Says::Forward { revision: None });
        }
    }

    #[test]
    fn post_rollout_tells_the_end() {
        assert_eq!(read("post-rollout", "Failed", "7d7b"), Says::Failed { revision: checksum("7d7b") });
        assert_eq!(read("post-rollout", "Succeeded", "7d7b"), Says::Succeeded { revision: checksum("7d7b") });
        assert_eq!(bare("post-rollout"), Says::Succeeded { revision: None });
    }

    #[test]
    fn rollback_is_a_question_only_while_the_rollout_goes_on() {
        for phase in ["Progressing", "Waiting", "WaitingPromotion"] {
            assert_eq!(read("rollback", phase, "7d7b"), Says::Question { revision: checksum("7d7b") });
        }
        for phase in ["Failed", "Succeeded", "Promoting", ""] {
            assert_eq!(read("rollback", phase, "7d7b"), Says::Failed { revision: checksum("7d7b") });
        }
        assert_eq!(bare("rollback"), Says::Failed { revision: None });
    }

    #[test]
    fn an_event_is_one_line() {
        let event = |message: &str| {
            let body = serde_json::json!({"name": "podinfo", "namespace": "test", "phase": "Progressing",
                "metadata": {"eventMessage": message, "eventType": "Normal", "timestamp": "1578607635167"}});
            match parse("event", body.to_string().as_bytes(), None).unwrap().call.says {
                Says::Event { message, tells } => (message, tells),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(event("Halt\nadvancement\u{1b}[1m"), ("Normal Halt advancement [1m".to_owned(), Tells::Other));
        assert_eq!(event("New revision detected! Restarting analysis for podinfo.test").1, Tells::Restart);
        assert_eq!(event("podinfo: New revision detected! Restarting analysis").1, Tells::Other);
        assert_eq!(event("New revision detected! Scaling up podinfo.test").1, Tells::Start);
        assert_eq!(event(&"é".repeat(5000)).0.chars().count(), LONGEST_EVENT);
        assert_eq!(
            bare("event"),
            Says::Event { message: "an event without a message".to_owned(), tells: Tells::Other }
        );
    }

    #[test]
    fn the_cluster_may_stand_in_the_query_or_the_metadata() {
        let body = br#"{"name": "podinfo", "namespace": "test", "metadata": {"cluster": "eu", "commit": "abc"}}"#;
        let parsed = parse("rollout", body, None).unwrap();
        assert_eq!(parsed.application.to_string(), "eu:test/podinfo");
        assert_eq!(parsed.call.about.commit_hash, "abc");
        assert!(parse("rollout", body, Some("us")).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(hook in prop::sample::select(HOOKS), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(hook, &body, None);
        }

        #[test]
        fn no_fields_make_it_panic(
            hook in prop::sample::select(HOOKS), name in any::<String>(), phase in any::<String>(),
            checksum in any::<String>(), message in any::<String>(), cluster in any::<Option<String>>(),
        ) {
            let body = serde_json::json!({"name": name, "namespace": "test", "phase": phase, "checksum": checksum,
                "metadata": {"eventMessage": message}});
            if let Ok(parsed) = parse(hook, body.to_string().as_bytes(), cluster.as_deref())
                && let Says::Event { message, .. } = parsed.call.says
            {
                prop_assert!(!message.is_empty() && message.chars().all(|c| !c.is_control()));
            }
        }
    }
}

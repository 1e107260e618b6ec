//! Flux's notification controller, its providers `generic` and `generic-hmac`: one event of a HelmRelease or a
//! Kustomization in each request.
//!
//! Which reasons there are, and what of the release they are about, was read from helm-controller and
//! kustomize-controller. Flux asks nobody, so every call is unattended.

use super::body::{BadCall, Body, line};
use super::{Incoming, Parsed, Read};
use crate::domain::call::{Call, CallKey, Says};
use crate::domain::hook::Hook;
use crate::domain::names::{Revision, Source};
use crate::domain::record::About;

/// The longest message of an event that becomes the summary, in characters.
const LONGEST_SUMMARY: usize = 1000;

/// The longest name of an event, in bytes: its reason, the object's uid and the time.
const LONGEST_KEY: usize = 500;

/// Reads an event.
pub fn read(incoming: &Incoming<'_>) -> Result<Read, BadCall> {
    let body = Body::read(incoming.body)?;
    let object = body.inner("involvedObject")?;
    let kind = object.text("kind")?.unwrap_or_default();
    let (reason, severity) = (body.needed("reason", "UpgradeSucceeded")?, body.text("severity")?.unwrap_or_default());
    let metadata = unprefixed(&body);
    let find = |key: &str| metadata.iter().find(|(known, _)| *known == key).map(|(_, text)| text.as_str());
    let application =
        object.application(&[("the query `cluster`", incoming.cluster), ("`metadata.cluster`", find("cluster"))])?;
    let meaning = match kind {
        "HelmRelease" => helm(reason),
        "Kustomization" => kustomization(reason, severity),
        _ => Meaning::None("it is of no HelmRelease and no Kustomization, which alone deploy something"),
    };
    let (hook, means) = match meaning {
        Meaning::None(why) => return Ok(ignored(kind, reason, why)),
        Meaning::Of(hook, means) => (hook, means),
    };
    let Some(revision) = find("revision").filter(|text| !text.is_empty()) else {
        return Ok(ignored(kind, reason, "it names no revision, so no rollout can be meant"));
    };
    let revision = Some(Revision::new(revision)?);
    let about = about(&body, find("summary"), revision.as_ref());
    let says = match means {
        Means::Progress => Says::Forward { revision },
        Means::Success => Says::Succeeded { revision },
        Means::InPlace => Says::Reconciled { revision },
        Means::Failure => Says::Failed { revision },
        // Told of a release that was told to have succeeded before, and is none for that.
        Means::FailureAfterAll => Says::Undo { deployment: None, revision },
        Means::WentBack => Says::Reverted { to: revision },
    };
    let key = key(reason, object.text("uid")?, body.text("timestamp")?)?;
    let mut payload = body.into_payload();
    payload.metadata = metadata.into_iter().collect();
    let mut call = Call::new(Source::Flux, hook, says, payload, about);
    call.key = key;
    call.unattended = true;
    Ok(Read::Calls(vec![Parsed { application, call }]))
}

enum Meaning {
    Of(Hook, Means),
    None(&'static str),
}

enum Means {
    Progress,
    Success,
    InPlace,
    Failure,
    FailureAfterAll,
    WentBack,
}

fn helm(reason: &str) -> Meaning {
    match reason {
        "InstallSucceeded" | "UpgradeSucceeded" => Meaning::Of(Hook::PostRollout, Means::Success),
        "TestSucceeded" => Meaning::Of(Hook::PostRollout, Means::InPlace),
        "InstallFailed" | "UpgradeFailed" => Meaning::Of(Hook::Rollback, Means::Failure),
        "TestFailed" => Meaning::Of(Hook::Rollback, Means::FailureAfterAll),
        "RollbackSucceeded" => Meaning::Of(Hook::Rollback, Means::WentBack),
        "RollbackFailed" => Meaning::None("its revision is the one to go back to; what failed was told of before"),
        "UninstallSucceeded" | "UninstallFailed" => {
            Meaning::None("a release that is removed is no rollout; what failed before it was told of")
        }
        "HealthCheckCanceled" => Meaning::None("another reconciliation takes its place, and its outcome is told"),
        "DriftDetected" | "DriftCorrected" | "DriftCorrectionFailed" => Meaning::None("a drift is no rollout"),
        _ => Meaning::None("this reason begins and ends no release"),
    }
}

fn kustomization(reason: &str, severity: &str) -> Meaning {
    match (severity, reason) {
        (_, "HealthCheckCanceled") => Meaning::None("another reconciliation takes its place, and its outcome is told"),
        // Told when its status can't be written, with whatever reason that had: the reconciliation goes on.
        ("error", "Progressing") => Meaning::None("an error of the controller while it goes on is no failed rollout"),
        ("error", _) => Meaning::Of(Hook::Rollback, Means::Failure),
        ("info", "Progressing") => Meaning::Of(Hook::Rollout, Means::Progress),
        ("info", "ReconciliationSucceeded") => Meaning::Of(Hook::PostRollout, Means::InPlace),
        ("info", "DependencyNotReady") => Meaning::None("it waits for its dependencies"),
        _ => Meaning::None("this reason begins and ends no rollout"),
    }
}

fn ignored(kind: &str, reason: &str, why: &str) -> Read {
    let (kind, reason) = (line(kind, 100), line(reason, 100));
    let kind = if kind.is_empty() { "an object without a kind" } else { &kind };
    Read::Ignored(format!("{reason} of {kind}: {why}"))
}

/// The metadata with keys as they are meant: the controllers write `helm.toolkit.fluxcd.io/revision`, and the
/// notification controller mostly takes the group off. What a controller wrote wins over what an Alert adds.
fn unprefixed(body: &Body) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let (grouped, plain): (Vec<_>, Vec<_>) = body
        .all_metadata()
        .map(|(key, text)| match key.split_once('/') {
            Some((group, name)) if group.ends_with(".toolkit.fluxcd.io") && !name.is_empty() => (true, name, text),
            _ => (false, key, text),
        })
        .partition(|(grouped, ..)| *grouped);
    for (_, key, text) in grouped.into_iter().chain(plain) {
        if !found.iter().any(|(known, _)| known == key) {
            found.push((key.to_owned(), text.to_owned()));
        }
    }
    found
}

/// A repetition of an event is the same bytes. It has no id; its time is in whole seconds.
fn key(reason: &str, uid: Option<&str>, timestamp: Option<&str>) -> Result<Option<CallKey>, BadCall> {
    let (Some(uid), Some(timestamp)) = (uid, timestamp) else { return Ok(None) };
    let id = format!("{reason}/{uid}/{timestamp}");
    if id.len() > LONGEST_KEY || id.chars().any(char::is_control) {
        return Err(BadCall(
            "`reason`, `involvedObject.uid` and `timestamp` name the event, and are no names: too long, or with a control \
             character"
                .to_owned(),
        ));
    }
    Ok(Some(CallKey { id, stamp: None }))
}

/// A revision of a source is written `main@sha1:4f1d…`; the part after the last colon is the commit.
fn about(body: &Body, summary: Option<&str>, revision: Option<&Revision>) -> About {
    let mut about = body.about(false);
    if about.summary.is_empty() {
        let message = body.text("message").ok().flatten().unwrap_or_default();
        about.summary = line(summary.unwrap_or(message), LONGEST_SUMMARY);
    }
    if about.commit_hash.is_empty()
        && let Some((_, digest)) = revision.and_then(|revision| revision.as_str().split_once('@'))
        && let Some((_, commit)) = digest.split_once(':')
    {
        commit.clone_into(&mut about.commit_hash);
    }
    about
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn event(kind: &str, severity: &str, reason: &str) -> Value {
        json!({
            "involvedObject": {
                "kind": kind, "namespace": "test", "name": "podinfo", "uid": "0b9d3c1e",
                "apiVersion": "helm.toolkit.fluxcd.io/v2", "resourceVersion": "7",
            },
            "severity": severity, "timestamp": "2026-11-21T15:00:00Z", "reason": reason,
            "message": "Helm upgrade succeeded\nfor release test/podinfo.v2",
            "metadata": {"helm.toolkit.fluxcd.io/revision": "6.7.1", "helm.toolkit.fluxcd.io/token": "sha256:1f"},
            "reportingController": "helm-controller",
        })
    }

    fn parse(event: &Value) -> Result<Read, String> {
        let (headers, bytes) = (HeaderMap::new(), event.to_string());
        let incoming = Incoming { hook: None, headers: &headers, cluster: None, body: bytes.as_bytes() };
        read(&incoming).map_err(|error| error.0)
    }

    fn parsed(event: &Value) -> Parsed {
        match parse(event).unwrap() {
            Read::Calls(mut calls) if calls.len() == 1 => calls.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn why(event: &Value) -> String {
        match parse(event).unwrap() {
            Read::Ignored(why) => why,
            other @ (Read::Calls(_) | Read::Unsupported(_)) => panic!("{other:?}"),
        }
    }

    fn revision() -> Option<Revision> {
        Some(Revision::new("6.7.1").unwrap())
    }

    #[test]
    fn a_helm_release_tells_its_end() {
        for (severity, reason, hook, says) in [
            ("info", "InstallSucceeded", Hook::PostRollout, Says::Succeeded { revision: revision() }),
            ("info", "UpgradeSucceeded", Hook::PostRollout, Says::Succeeded { revision: revision() }),
            ("info", "TestSucceeded", Hook::PostRollout, Says::Reconciled { revision: revision() }),
            ("error", "InstallFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "UpgradeFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "TestFailed", Hook::Rollback, Says::Undo { deployment: None, revision: revision() }),
            ("info", "RollbackSucceeded", Hook::Rollback, Says::Reverted { to: revision() }),
        ] {
            let Parsed { application, call } = parsed(&event("HelmRelease", severity, reason));
            assert_eq!(application.to_string(), "test/podinfo");
            assert_eq!((call.hook, &call.says), (hook, &says), "{reason}");
            assert!(call.unattended && call.source == Source::Flux && call.rollout.is_none());
            let id = format!("{reason}/0b9d3c1e/2026-11-21T15:00:00Z");
            assert_eq!(call.key, Some(CallKey { id, stamp: None }));
        }
    }

    #[test]
    fn a_kustomization_tells_of_its_progress() {
        for (severity, reason, hook, says) in [
            ("info", "Progressing", Hook::Rollout, Says::Forward { revision: revision() }),
            ("info", "ReconciliationSucceeded", Hook::PostRollout, Says::Reconciled { revision: revision() }),
            ("error", "ReconciliationFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "HealthCheckFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "BuildFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "PruneFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "ArtifactFailed", Hook::Rollback, Says::Failed { revision: revision() }),
            ("error", "error", Hook::Rollback, Says::Failed { revision: revision() }),
            // While it is deleted it keeps the reason of its last reconciliation: the severity decides.
            ("error", "ReconciliationSucceeded", Hook::Rollback, Says::Failed { revision: revision() }),
        ] {
            let call = parsed(&event("Kustomization", severity, reason)).call;
            assert_eq!((call.hook, call.says), (hook, says), "{severity} {reason}");
        }
    }

    #[test]
    fn what_is_no_rollout_is_acknowledged_with_the_reason() {
        for (kind, severity, reason, said) in [
            ("HelmRelease", "error", "RollbackFailed", "what failed was told of before"),
            ("HelmRelease", "info", "UninstallSucceeded", "is no rollout"),
            ("HelmRelease", "error", "UninstallFailed", "is no rollout"),
            ("HelmRelease", "error", "HealthCheckCanceled", "takes its place"),
            ("HelmRelease", "error", "DriftDetected", "a drift"),
            ("HelmRelease", "info", "DriftCorrected", "a drift"),
            ("HelmRelease", "error", "ArtifactFailed", "begins and ends no release"),
            ("HelmRelease", "info", "DependencyNotReady", "begins and ends no release"),
            ("HelmRelease", "info", "", "begins and ends no release"),
            ("Kustomization", "error", "HealthCheckCanceled", "takes its place"),
            ("Kustomization", "info", "DependencyNotReady", "waits for its dependencies"),
            ("Kustomization", "error", "Progressing", "while it goes on"),
            ("Kustomization", "trace", "Progressing", "begins and ends no rollout"),
            ("Kustomization", "", "Progressing", "begins and ends no rollout"),
            ("GitRepository", "info", "NewArtifact", "no HelmRelease and no Kustomization"),
            ("", "info", "Any\nreason", "Any reason of an object without a kind"),
        ] {
            let why = why(&event(kind, severity, reason));
            assert!(why.contains(said), "{why:?} should have {said:?}");
        }
        let mut nameless = event("Kustomization", "error", "AccessDenied");
        nameless["metadata"] = Value::Null;
        assert_eq!(why(&nameless), "AccessDenied of Kustomization: it names no revision, so no rollout can be meant");
    }

    #[test]
    fn metadata_is_found_with_and_without_its_group() {
        for (metadata, found) in [
            (json!({"revision": "a"}), "a"),
            (json!({"helm.toolkit.fluxcd.io/revision": "a"}), "a"),
            (json!({"kustomize.toolkit.fluxcd.io/revision": "a"}), "a"),
            (json!({"revision": "of the Alert", "kustomize.toolkit.fluxcd.io/revision": "a"}), "a"),
            (json!({"example.com/revision": "of somebody else", "revision": "a"}), "a"),
        ] {
            let mut told = event("Kustomization", "info", "Progressing");
            told["metadata"] = metadata;
            let call = parsed(&told).call;
            assert_eq!(call.says, Says::Forward { revision: Some(Revision::new(found).unwrap()) });
            assert_eq!(call.payload.metadata["revision"], found);
            assert_eq!(call.payload.body, told, "scripts see the event as it came");
        }
        let mut told = event("HelmRelease", "info", "UpgradeSucceeded");
        told["metadata"]["cluster"] = "eu".into();
        assert_eq!(parsed(&told).application.to_string(), "eu:test/podinfo");
    }

    #[test]
    fn scripts_see_who_and_why() {
        let mut told = event("Kustomization", "info", "Progressing");
        assert_eq!(parsed(&told).call.about.summary, "Helm upgrade succeeded for release test/podinfo.v2");
        assert_eq!(parsed(&told).call.about.commit_hash, "");
        told["metadata"] = json!({"revision": "main@sha1:4f1d2c", "summary": "shop, production"});
        let about = parsed(&told).call.about;
        assert_eq!((about.commit_hash.as_str(), about.summary.as_str()), ("4f1d2c", "shop, production"));
    }

    #[test]
    fn a_fault_says_what_and_where() {
        let fault = |pointer: &str, value: Value| {
            let mut told = event("HelmRelease", "info", "UpgradeSucceeded");
            *told.pointer_mut(pointer).unwrap() = value;
            parse(&told).unwrap_err()
        };
        assert!(fault("/involvedObject", Value::Null).contains("the field `involvedObject` is missing"));
        assert!(fault("/involvedObject", json!([])).contains("the field `involvedObject` must be an object"));
        assert!(fault("/involvedObject/name", Value::Null).contains("the field `name` is missing"));
        assert!(fault("/involvedObject/namespace", json!("a/b")).contains("the namespace is not valid"));
        assert!(fault("/reason", Value::Null).contains("the field `reason` is missing"));
        assert!(fault("/reason", json!(7)).contains("the field `reason` must be a string"));
        assert!(
            fault("/metadata/helm.toolkit.fluxcd.io~1revision", json!("a b")).contains("the revision is not valid")
        );
        assert!(fault("/timestamp", json!("x".repeat(600))).contains("name the event"));
        let mut told = event("HelmRelease", "info", "UpgradeSucceeded");
        told["timestamp"] = Value::Null;
        assert_eq!(parsed(&told).call.key, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let headers = HeaderMap::new();
            let _ = read(&Incoming { hook: None, headers: &headers, cluster: None, body: &body });
        }

        #[test]
        fn no_fields_make_it_panic(
            kind in prop::sample::select(vec!["HelmRelease", "Kustomization", "Pod"]),
            severity in prop::sample::select(vec!["info", "error"]),
            reason in any::<String>(), revision in any::<String>(), uid in any::<String>(), message in any::<String>(),
        ) {
            let mut told = event(kind, severity, &reason);
            told["metadata"] = json!({"revision": revision});
            told["involvedObject"]["uid"] = uid.into();
            told["message"] = message.into();
            match parse(&told) {
                Ok(Read::Ignored(why)) => prop_assert!(why.chars().all(|c| !c.is_control())),
                Ok(Read::Calls(calls)) => prop_assert!(calls[0].call.unattended),
                Ok(Read::Unsupported(why)) => prop_assert!(false, "{why}"),
                Err(_) => {}
            }
        }
    }
}

//! CDEvents: what a delivery tool tells of services in the vocabulary of the CD Foundation, carried by CloudEvents.
//!
//! `service.deployed` and `service.upgraded` are a success, `service.rolledback` is the way back; every other event is
//! none of ours. The version at the end of a type is not looked at: what is read here is in all of them.

use serde_json::{Map, Value};

use super::body::Body;
use super::{BadCall, Parsed, generic};
use crate::domain::call::{Call, Says};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::Source;
use crate::domain::record::Payload;

/// What every type begins with.
pub(super) const PREFIX: &str = "dev.cdevents.";

/// Reads an event whose type begins with [`PREFIX`]. `None`: it is none that matters here.
///
/// The environment is the namespace, the service is the name, the artifact is the revision. `customData.stagehook` may
/// have the fields of a generic body, which win: names that are no names here, a cluster, what is to be undone.
pub(super) fn read(kind: &str, data: &[u8], cluster: Option<&str>) -> Result<Option<Parsed>, BadCall> {
    let Some(hook) = hook(kind) else { return Ok(None) };
    let event = Body::read(data)?;
    let content = at(event.value(), &["subject", "content"]);
    let own = match at(event.value(), &["customData", "stagehook"]) {
        Value::Null => Map::new(),
        Value::Object(own) => own.clone(),
        _ => return Err(BadCall("`customData.stagehook` of the CDEvent must be an object".to_owned())),
    };
    let names_revision = own.contains_key("revision");
    let mut fields = Map::new();
    for (field, value, place) in [
        ("namespace", at(content, &["environment", "id"]), "subject.content.environment.id"),
        ("name", at(event.value(), &["subject", "id"]), "subject.id"),
        ("revision", at(content, &["artifactId"]), "subject.content.artifactId"),
    ] {
        match value {
            _ if own.contains_key(field) => {}
            Value::Null if field == "revision" => {}
            Value::String(text) => {
                fields.insert(field.to_owned(), text.clone().into());
            }
            _ => {
                return Err(BadCall(format!(
                    "the CDEvent has no text at {place}, which is the {field}; send it, or `customData.stagehook.{field}`"
                )));
            }
        }
    }
    fields.extend(own);
    let fields = Body::of(Value::Object(fields))?;
    let application = generic::application(&fields, cluster).map_err(|BadCall(why)| {
        BadCall(format!("{why}; `customData.stagehook` of the CDEvent may have a `namespace` and a `name` instead"))
    })?;
    let revision = fields.revision("revision")?;
    let deployment = fields.text("deployment")?.map(str::parse::<DeploymentId>).transpose()?;
    let says = match hook {
        Hook::Rollback if deployment.is_some() || names_revision => Says::Undo { deployment, revision },
        // The artifact of an event is the one that is deployed with the service then: after going back, the earlier.
        Hook::Rollback => Says::Reverted { to: revision },
        _ => Says::Succeeded { revision },
    };
    let about = fields.about(true);
    let payload = Payload { metadata: fields.into_payload().metadata, body: event.into_payload().body };
    Ok(Some(Parsed { application, call: Call::new(Source::Generic, hook, says, payload, about) }))
}

fn hook(kind: &str) -> Option<Hook> {
    let rest = kind.strip_prefix(PREFIX)?.strip_prefix("service.")?;
    match rest.split('.').next()? {
        "deployed" | "upgraded" => Some(Hook::PostRollout),
        "rolledback" => Some(Hook::Rollback),
        _ => None,
    }
}

/// What is at a path; null where there is nothing.
fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[*key])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The example of the specification, `conformance/service_rolledback.json`, without its links.
    fn example() -> Value {
        json!({
            "context": {
                "version": "0.4.1", "id": "271069a8-fc18-44f1-b38f-9d70a1695819", "source": "/event/source/123",
                "type": "dev.cdevents.service.rolledback.0.2.0", "timestamp": "2023-03-20T14:27:05.315384Z",
                "chainId": "4c8cb7dd-3448-41de-8768-eec704e2829b",
            },
            "subject": {
                "id": "mySubject123", "source": "/event/source/123", "type": "service",
                "content": {
                    "environment": {"id": "test123"},
                    "artifactId":
                        "pkg:oci/myapp@sha256%3A0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427",
                },
            },
        })
    }

    fn told(kind: &str, event: &Value) -> Result<Option<Call>, String> {
        let parsed = read(kind, event.to_string().as_bytes(), None).map_err(|error| error.0)?;
        Ok(parsed.map(|parsed| parsed.call))
    }

    fn artifact() -> Option<crate::domain::names::Revision> {
        Some(example()["subject"]["content"]["artifactId"].as_str().unwrap().parse().unwrap())
    }

    #[test]
    fn the_environment_the_service_and_the_artifact_name_the_rollout() {
        let parsed = read("dev.cdevents.service.deployed.0.2.0", example().to_string().as_bytes(), Some("eu"));
        let parsed = parsed.unwrap().unwrap();
        assert_eq!(parsed.application.to_string(), "eu:test123/mySubject123");
        assert_eq!((parsed.call.hook, parsed.call.says), (Hook::PostRollout, Says::Succeeded { revision: artifact() }));
        assert_eq!(parsed.call.payload.body, example(), "scripts see the event as it came");
    }

    #[test]
    fn the_predicate_says_what_happened_whatever_the_version() {
        for (kind, hook) in [
            ("dev.cdevents.service.deployed.0.1.4", Some(Hook::PostRollout)),
            ("dev.cdevents.service.upgraded.0.3.0-draft", Some(Hook::PostRollout)),
            ("dev.cdevents.service.rolledback", Some(Hook::Rollback)),
            ("dev.cdevents.service.rolledback.9.9.9", Some(Hook::Rollback)),
            ("dev.cdevents.service.removed.0.2.0", None),
            ("dev.cdevents.service.published.0.2.0", None),
            ("dev.cdevents.environment.deployed.0.2.0", None),
            ("dev.cdevents.servicedeployed", None),
            ("dev.cdevents.service.", None),
            ("dev.cdevents.", None),
        ] {
            assert_eq!(told(kind, &example()).unwrap().map(|call| call.hook), hook, "{kind}");
        }
    }

    #[test]
    fn the_artifact_after_going_back_is_the_earlier_one() {
        let says = |event: &Value| told("dev.cdevents.service.rolledback.0.2.0", event).unwrap().unwrap().says;
        assert_eq!(says(&example()), Says::Reverted { to: artifact() });
        let mut event = example();
        event["subject"]["content"]["artifactId"] = Value::Null;
        assert_eq!(says(&event), Says::Reverted { to: None });
        event["customData"] = json!({"stagehook": {"revision": "v2"}});
        assert_eq!(says(&event), Says::Undo { deployment: None, revision: Some("v2".parse().unwrap()) });
        let id = "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        event["customData"] = json!({"stagehook": {"deployment": id}});
        assert_eq!(says(&event), Says::Undo { deployment: Some(id.parse().unwrap()), revision: None });
    }

    #[test]
    fn custom_data_may_say_it_in_our_words() {
        let mut event = example();
        event["subject"]["content"]["environment"]["id"] = json!("tenant/1");
        event["customData"] = json!({"namespace": 7, "stagehook": {"namespace": "test", "name": "podinfo", "cluster": "us",
            "metadata": {"pr": 7}, "commitHash": "57d"}});
        let parsed = read("dev.cdevents.service.upgraded.0.2.0", event.to_string().as_bytes(), None).unwrap().unwrap();
        assert_eq!(parsed.application.to_string(), "us:test/podinfo");
        assert_eq!(parsed.call.payload.metadata["pr"], "7");
        assert_eq!(parsed.call.about.commit_hash, "57d");
        assert_eq!(parsed.call.says, Says::Succeeded { revision: artifact() });
    }

    #[test]
    fn what_is_missing_is_said_with_its_place() {
        let without = |pointer: &str| {
            let mut event = example();
            *event.pointer_mut(pointer).unwrap() = Value::Null;
            told("dev.cdevents.service.deployed.0.2.0", &event).unwrap_err()
        };
        assert!(without("/subject/id").contains("no text at subject.id, which is the name"));
        assert!(without("/subject/content/environment").contains("subject.content.environment.id"));
        assert!(without("/subject").contains("customData.stagehook.namespace"));
        let mut event = example();
        event["subject"]["content"]["environment"]["id"] = json!("tenant/1");
        let error = told("dev.cdevents.service.deployed.0.2.0", &event).unwrap_err();
        assert!(error.contains("the namespace is not valid") && error.contains("`customData.stagehook`"), "{error}");
        event["customData"] = json!({"stagehook": []});
        assert!(told("dev.cdevents.service.deployed.0.2.0", &event).unwrap_err().contains("must be an object"));
        assert!(read("dev.cdevents.service.deployed", b"[]", None).is_err());
    }
}

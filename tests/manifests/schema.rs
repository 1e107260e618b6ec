//! Kubernetes' own types as a schema. What they read is written again, and must be what it was: a key that they don't
//! know is gone then, and one that they need is there with nothing in it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolumeClaim, PodTemplateSpec, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with an object; none also where somebody else defines it.
pub fn check(object: &Value) -> Vec<String> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "Namespace") => typed::<Namespace>(object),
        ("v1", "ServiceAccount") => typed::<ServiceAccount>(object),
        ("v1", "ConfigMap") => typed::<ConfigMap>(object),
        ("v1", "Secret") => typed::<Secret>(object),
        ("v1", "PersistentVolumeClaim") => typed::<PersistentVolumeClaim>(object),
        ("v1", "Service") => typed::<Service>(object),
        ("apps/v1", "Deployment") => typed::<Deployment>(object),
        ("batch/v1", "Job") => typed::<Job>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => typed::<NetworkPolicy>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => typed::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => typed::<RoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => typed::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => typed::<ClusterRoleBinding>(object),
        // Its pods are Kubernetes' own again.
        ("argoproj.io/v1alpha1", "Rollout") => typed::<PodTemplateSpec>(&object["spec"]["template"]),
        ("", _) | (_, "") => vec!["it has no apiVersion or no kind".to_owned()],
        (version, kind) if is_of_kubernetes(version) => vec![format!("{version} {kind} is not known here: add it")],
        _ => Vec::new(),
    }
}

/// Groups of Kubernetes itself have no dot, or end in k8s.io; kustomize is a tool's.
fn is_of_kubernetes(version: &str) -> bool {
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);
    !group.contains('.') || (group.ends_with(".k8s.io") && !group.starts_with("kustomize."))
}

fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    match serde_json::from_value::<T>(object.clone()) {
        Err(error) => vec![error.to_string()],
        Ok(read) => {
            let again = serde_json::to_value(read).unwrap();
            let mut faults = Vec::new();
            compare("", object, &again, &mut faults);
            faults
        }
    }
}

fn compare(path: &str, ours: &Value, read: &Value, faults: &mut Vec<String>) {
    match (ours, read) {
        (Value::Object(ours), Value::Object(read)) => {
            for (key, value) in ours {
                match read.get(key) {
                    Some(again) => compare(&format!("{path}.{key}"), value, again, faults),
                    None => faults.push(format!("{path}.{key} is not known")),
                }
            }
            let needed = read.keys().filter(|key| !ours.contains_key(*key));
            faults.extend(needed.map(|key| format!("{path}.{key} is missing")));
        }
        (Value::Array(ours), Value::Array(read)) if ours.len() == read.len() => {
            for (index, (value, again)) in ours.iter().zip(read).enumerate() {
                compare(&format!("{path}[{index}]"), value, again, faults);
            }
        }
        _ if ours == read => {}
        _ => faults.push(format!("{path} is {ours}, which is read as {read}")),
    }
}

mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: &Value) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "a-"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}})
    }

    #[test]
    fn what_is_right_passes() {
        assert_eq!(check(&pod(&json!({"name": "a", "image": "b"}))), Vec::<String>::new());
    }

    #[test]
    fn a_key_that_is_unknown_missing_or_of_another_type_is_a_fault() {
        let at = ".spec.template.spec.containers[0]";
        assert_eq!(check(&pod(&json!({"name": "a", "imagee": "b"}))), [format!("{at}.imagee is not known")]);
        assert_eq!(check(&pod(&json!({"image": "b"}))), [format!("{at}.name is missing")]);
        assert_eq!(check(&pod(&json!({"name": "a", "tty": "yes"}))).len(), 1);
        let unknown = json!({"apiVersion": "apps/v1", "kind": "Deploymint"});
        assert_eq!(check(&unknown), ["apps/v1 Deploymint is not known here: add it"]);
        assert_eq!(check(&json!({"kind": "Job"})).len(), 1);
    }

    #[test]
    fn what_others_define_is_left_to_them() {
        for version in
            ["flagger.app/v1beta1", "notification.toolkit.fluxcd.io/v1beta3", "kustomize.config.k8s.io/v1beta1"]
        {
            assert_eq!(check(&json!({"apiVersion": version, "kind": "X"})), Vec::<String>::new(), "{version}");
        }
    }
}

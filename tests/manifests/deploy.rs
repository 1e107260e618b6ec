//! `deploy/kubernetes`: the objects fit each other, the image and the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stagehook::config::settings::Settings;
use tempfile::TempDir;

use super::{documents_of, root};

fn folder() -> PathBuf {
    root().join("deploy/kubernetes")
}

fn object(file: &str) -> Value {
    let [object] = documents_of(&folder().join(file)).try_into().unwrap();
    object
}

fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

/// Where each volume is mounted, with what it is.
fn mounts(deployment: &Value) -> BTreeMap<String, Value> {
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let mounts = container(deployment)["volumeMounts"].as_array().unwrap().iter().map(|mount| {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        (mount["mountPath"].as_str().unwrap().to_owned(), volume.unwrap_or_else(|| panic!("{mount}")).clone())
    });
    let mounts: BTreeMap<_, _> = mounts.collect();
    assert_eq!(mounts.len(), volumes.len(), "each volume is mounted once");
    mounts
}

/// What the image sets: `ENV`, and the user.
fn image() -> (BTreeMap<String, String>, String) {
    let text = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let words = text.split_whitespace().filter(|word| word.starts_with("STAGEHOOK_"));
    let env = words.filter_map(|word| word.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned()));
    let user = text.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    (env.collect(), user.to_owned())
}

/// The pod's files, in a folder that stands for its root.
struct Pod {
    root: TempDir,
    env: BTreeMap<String, String>,
}

impl Pod {
    fn new(deployment: &Value) -> Self {
        let root = tempfile::tempdir().unwrap();
        let secret = object("secret.example.yaml");
        let maps = [object("settings.yaml"), object("pipelines.yaml")];
        let inside = |path: &str| format!("{}{path}", root.path().display());
        let mounts = mounts(deployment);
        for (path, volume) in &mounts {
            let data = if let Some(name) = volume["configMap"]["name"].as_str() {
                &maps.iter().find(|map| map["metadata"]["name"] == name).unwrap()["data"]
            } else if let Some(name) = volume["secret"]["secretName"].as_str() {
                assert_eq!(secret["metadata"]["name"], name);
                &secret["stringData"]
            } else {
                &Value::Null
            };
            std::fs::create_dir_all(inside(path)).unwrap();
            for (key, text) in data.as_object().into_iter().flatten() {
                // All paths are absolute in the pod.
                let words = text.as_str().unwrap().split(' ').map(|word| {
                    let mounted = mounts.keys().any(|path| word.starts_with(path));
                    if mounted { inside(word) } else { word.to_owned() }
                });
                let text = words.collect::<Vec<_>>().join(" ");
                std::fs::write(Path::new(&inside(path)).join(key), text).unwrap();
            }
        }
        let (mut env, _) = image();
        for variable in container(deployment)["env"].as_array().unwrap() {
            let text = |key: &str| variable[key].as_str().unwrap().to_owned();
            env.insert(text("name"), text("value"));
        }
        for value in env.values_mut() {
            if let Some(path) = value.strip_prefix("sqlite://") {
                *value = format!("sqlite://{}", inside(path));
            } else if value.starts_with('/') {
                *value = inside(value);
            }
        }
        Self { root, env }
    }
}

#[test]
fn the_settings_and_the_pipelines_load_as_they_would_in_the_pod() {
    let pod = Pod::new(&object("deployment.yaml"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_stagehook"));
    let output = command.arg("check").env_clear().envs(&pod.env).current_dir(pod.root.path()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), said.trim()), (Some(0), "1 pipeline, 0 errors, 0 warnings"), "{said}");
}

#[test]
fn the_variables_of_a_service_named_stagehook_are_no_settings() {
    let deployment = object("deployment.yaml");
    let mut pod = Pod::new(&deployment);
    let file = pod.env["STAGEHOOK_CONFIG"].clone();
    let without = Settings::load(Some(Path::new(&file)), &pod.env).unwrap();
    for (name, value) in [("PORT", "tcp://10.0.0.1:80"), ("SERVICE_HOST", "10.0.0.1"), ("SERVICE_PORT_HTTP", "80")] {
        pod.env.insert(format!("STAGEHOOK_{name}"), value.into());
    }
    assert_eq!(Settings::load(Some(Path::new(&file)), &pod.env).unwrap(), without);
    // And the pod is given none of them: only the API server's variables, for kubectl in scripts.
    assert_eq!(deployment["spec"]["template"]["spec"]["enableServiceLinks"], false);
}

#[test]
fn what_is_written_is_on_a_volume_and_there_is_time_to_stop() {
    let deployment = object("deployment.yaml");
    let pod = Pod::new(&deployment);
    let settings = Settings::load(Some(Path::new(&pod.env["STAGEHOOK_CONFIG"])), &pod.env).unwrap();
    let kind = |path: &Path| {
        let inside = Path::new("/").join(path.strip_prefix(pod.root.path()).unwrap());
        let mounted = mounts(&deployment).into_iter().find(|(mount, _)| inside.starts_with(mount));
        mounted.unwrap_or_else(|| panic!("{} is on no volume", inside.display())).1
    };
    let claim = object("persistentvolumeclaim.yaml")["metadata"]["name"].clone();
    assert_eq!(kind(&settings.ledger.path)["persistentVolumeClaim"]["claimName"], claim);
    assert!(kind(&settings.execution.work_dir).get("emptyDir").is_some());
    assert!(kind(&settings.pipelines).get("configMap").is_some());
    // Scripts expect it, and the root file system is read-only.
    assert!(mounts(&deployment)["/tmp"].get("emptyDir").is_some());

    let spec = &deployment["spec"]["template"]["spec"];
    let stopping = settings.server.shutdown_grace.0 + settings.execution.kill_grace.0;
    assert!(spec["terminationGracePeriodSeconds"].as_u64().unwrap() > stopping.as_secs() + 5);
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate");
}

#[test]
fn the_pod_has_no_more_rights_than_it_needs() {
    let deployment = object("deployment.yaml");
    let spec = &deployment["spec"]["template"]["spec"];
    let (_, user) = image();
    let pod = &spec["securityContext"];
    assert_eq!(format!("{}:{}", pod["runAsUser"], pod["runAsGroup"]), user);
    assert_eq!(pod["fsGroup"], pod["runAsGroup"], "or it can't write the ledger");
    assert_eq!(
        (&pod["runAsNonRoot"], &pod["seccompProfile"]["type"]),
        (&Value::from(true), &Value::from("RuntimeDefault"))
    );
    let own = &container(&deployment)["securityContext"];
    assert_eq!(
        (&own["allowPrivilegeEscalation"], &own["readOnlyRootFilesystem"]),
        (&Value::from(false), &Value::from(true))
    );
    assert_eq!(own["capabilities"]["drop"][0], "ALL");
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(object("serviceaccount.yaml")["metadata"]["name"], spec["serviceAccountName"]);
}

#[test]
fn labels_and_ports_lead_to_the_pod() {
    let deployment = object("deployment.yaml");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    let (service, policy) = (object("service.yaml"), object("networkpolicy.yaml"));
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels);
    let port = &container(&deployment)["ports"][0];
    assert!(image().0["STAGEHOOK_SERVER__LISTEN"].ends_with(&format!(":{}", port["containerPort"])));
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], port["name"]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container(&deployment)[probe]["httpGet"]["port"], port["name"], "{probe}");
    }
    // The URL that examples and documents have.
    assert_eq!(
        (&service["metadata"]["name"], &service["metadata"]["namespace"]),
        (&"stagehook".into(), &"stagehook".into())
    );
}

#[test]
fn every_manifest_is_applied_but_for_the_examples() {
    let kustomization = object("kustomization.yaml");
    let mut listed: Vec<_> =
        kustomization["resources"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned()).collect();
    listed.sort();
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut there: Vec<_> = files
        .filter(|file| file.ends_with(".yaml") && !file.ends_with(".example.yaml") && file != "kustomization.yaml")
        .collect();
    there.sort();
    assert_eq!(listed, there);
    for file in &listed {
        let object = object(file);
        let namespace =
            if object["kind"] == "Namespace" { &object["metadata"]["name"] } else { &object["metadata"]["namespace"] };
        assert_eq!(namespace, "stagehook", "{file}");
    }
}

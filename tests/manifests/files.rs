//! Every manifest that is handed out.

use std::path::{Path, PathBuf};

use super::{documents_of, root, schema};

fn yaml_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
}

#[test]
fn every_manifest_is_one_that_kubernetes_takes() {
    let mut files = Vec::new();
    yaml_files(&root().join("examples"), &mut files);
    yaml_files(&root().join("deploy"), &mut files);
    let mut faults = Vec::new();
    let mut objects = 0;
    for file in &files {
        for object in documents_of(file) {
            // A list of something else (a workflow's steps, settings) is no object of Kubernetes.
            if object.get("apiVersion").is_none() {
                continue;
            }
            objects += 1;
            let found = schema::check(&object).into_iter();
            faults.extend(found.map(|fault| format!("{}: {}: {fault}", file.display(), object["kind"])));
        }
    }
    assert!(objects > 10, "only {objects} objects were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

//! Pipeline files for tests. Each script is the same: `LIBRARY` in `world` does what the test has laid out for it.

use serde_json::{Value, json};

/// What every test script runs.
pub const SCRIPT: &str = r#". "$E2E_DIR/library.sh""#;

/// A stage of a native pipeline, with an `onRollback`.
pub fn stage(id: &str, hook: &str) -> Value {
    json!({"id": id, "name": "SCRIPT_RUN", "hook": hook, "with": {"run": SCRIPT, "onRollback": SCRIPT}})
}

/// The same with further settings under `with`.
pub fn stage_with(id: &str, hook: &str, with: &Value) -> Value {
    let mut stage = stage(id, hook);
    for (key, value) in with.as_object().unwrap() {
        stage["with"][key] = value.clone();
    }
    stage
}

/// A stage that runs at the end of every rollback: it has nothing to undo itself.
pub fn rollback_stage(id: &str) -> Value {
    json!({"id": id, "name": "SCRIPT_RUN", "hook": "rollback", "with": {"run": SCRIPT}})
}

/// A native pipeline for `test/podinfo`.
pub fn pipeline(stages: &[Value]) -> Value {
    pipeline_for("test", "podinfo", stages)
}

/// A native pipeline for an application.
pub fn pipeline_for(namespace: &str, name: &str, stages: &[Value]) -> Value {
    json!({
        "apiVersion": "stagehook.dev/v1",
        "kind": "Pipeline",
        "metadata": {"name": name},
        "spec": {"selector": {"namespace": namespace, "name": name}, "stages": stages},
    })
}

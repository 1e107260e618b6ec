//! The JSON Schema of the native pipeline file, for editors.
//!
//! It is written by hand beside the hand-written reader. It is help while typing and not the check: what a schema
//! can't say (duplicate ids, templates, ties between files) only the reader knows.

use serde_json::{Value, json};

use super::pipeline::github::{CONCLUSIONS, RELEASE_ACTIONS, RUN_ACTIONS};
use crate::domain::hook::Hook;
use crate::domain::names::Source;

/// The schema; `schema/pipeline.schema.json` is this, printed.
pub fn schema() -> Value {
    let hooks: Vec<_> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stagehook pipeline",
        "description": "An ordered list of stages for the applications that it selects.",
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "stagehook.dev/v1"},
            "kind": {"const": "Pipeline"},
            "metadata": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name"],
                "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 253, "description": "The pipeline's name, unique in its directory."}}
            },
            "spec": {
                "type": "object",
                "additionalProperties": false,
                "required": ["selector", "stages"],
                "properties": {
                    "selector": selector(),
                    "labels": {
                        "type": "object",
                        "description": "What scripts see as SR_LABELS_X.",
                        "additionalProperties": {"$ref": "#/$defs/scalar"}
                    },
                    "rollback": {
                        "type": "object",
                        "description": "How a rollback replays.",
                        "additionalProperties": false,
                        "properties": {
                            "order": {"enum": ["pipeline", "reverse"], "default": "pipeline", "description": "In which order the onRollback scripts run."},
                            "onFailure": {"enum": ["continue", "stop"], "default": "continue", "description": "Whether one that fails stops the rest."}
                        }
                    },
                    "onSupersede": {"enum": ["rollback", "keep"], "default": "rollback", "description": "What becomes of a deployment whose revision is superseded before it succeeded."},
                    "onFailure": {"enum": ["wait", "rollback"], "default": "wait", "description": "Whether a stage that failed requests the rollback itself, or the caller decides."},
                    "sources": {
                        "type": "object",
                        "description": "Events that are calls only where it says so here.",
                        "additionalProperties": false,
                        "properties": {"github": github()}
                    },
                    "stages": {"type": "array", "description": "The stages, in order.", "items": {"$ref": "#/$defs/stage"}}
                }
            }
        },
        "$defs": {
            "scalar": {"type": ["string", "number", "boolean", "null"]},
            "duration": {"type": "string", "pattern": "^([0-9]+ *[a-zµ]+ *)+$", "description": "A length of time: 250ms, 5m, 1h30m.", "examples": ["250ms", "5m", "1h30m"]},
            "globs": {"oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}]},
            "scripts": {
                "description": "A script, or several that run in order and stop at the first that fails. Templates ({{ … }}) are refused.",
                "oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}]
            },
            "repeat": {"enum": ["retry-failed", "once", "always"], "description": "What a further call does about a result: retry-failed keeps a success (the default), once keeps any result, always runs again (the default on rollout and confirm-traffic-increase)."},
            "secret": {
                "description": "A secret: read when the script starts, masked in its output. A relative path is relative to this file.",
                "type": "object",
                "additionalProperties": false,
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {
                    "fromFile": {"type": "string", "minLength": 1, "description": "The file whose content is the value."},
                    "fromEnv": {"type": "string", "minLength": 1, "description": "The variable of the service whose value it is."}
                }
            },
            "stage": {
                "type": "object",
                "description": "One step.",
                "additionalProperties": false,
                "required": ["id", "name", "hook", "with"],
                "properties": {
                    "id": {"type": "string", "pattern": "^[^/:,\\s]+$", "maxLength": 253, "description": "Unique in the pipeline. The ledger knows the stage by it."},
                    "name": {"enum": ["SCRIPT_RUN", "WAIT"], "description": "The stage's type."},
                    "desc": {"type": "string", "description": "For people."},
                    "hook": {"enum": hooks, "description": "When it runs."},
                    "with": {"type": "object"}
                },
                "oneOf": [
                    {"properties": {"name": {"const": "SCRIPT_RUN"}, "with": {"$ref": "#/$defs/script"}}},
                    {"properties": {"name": {"const": "WAIT"}, "with": {"$ref": "#/$defs/wait"}}}
                ]
            },
            "script": {
                "type": "object",
                "additionalProperties": false,
                "oneOf": [{"required": ["run"]}, {"required": ["runs"]}],
                "properties": {
                    "env": {
                        "type": "object",
                        "description": "The script's own variables; they win over every other.",
                        "additionalProperties": {"oneOf": [{"$ref": "#/$defs/scalar"}, {"$ref": "#/$defs/secret"}]}
                    },
                    "run": {"$ref": "#/$defs/scripts"},
                    "runs": {"$ref": "#/$defs/scripts"},
                    "onRollback": {"anyOf": [{"const": ""}, {"$ref": "#/$defs/scripts"}], "description": "What undoes it; empty for nothing."},
                    "shell": {
                        "description": "The program and its arguments; the script is the last one.",
                        "default": "/bin/sh -c",
                        "oneOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]
                    },
                    "timeout": {"$ref": "#/$defs/duration", "description": "For all attempts together; default execution.defaultTimeout."},
                    "retries": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 0, "description": "How many further attempts one run has."},
                    "repeat": {"$ref": "#/$defs/repeat"},
                    "onInterrupt": {"enum": ["rerun", "hold"], "default": "rerun", "description": "What a call does when Stagehook died while the script ran: run it again, or reject until a person decides."}
                }
            },
            "wait": {
                "type": "object",
                "additionalProperties": false,
                "required": ["duration"],
                "properties": {
                    "duration": {"$ref": "#/$defs/duration"},
                    "repeat": {"$ref": "#/$defs/repeat"}
                }
            }
        }
    })
}

fn selector() -> Value {
    let sources: Vec<_> = Source::ALL.iter().map(|source| source.as_str()).collect();
    json!({
        "type": "object",
        "description": "The applications, by globs; a field that is absent selects any. More specific wins: name counts before namespace, cluster and source, a literal before a glob.",
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "namespace": {"type": "string", "minLength": 1},
            "cluster": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1, "examples": sources}
        }
    })
}

fn github() -> Value {
    let rules = |what: &str, when: Value| {
        let mut rule = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["hook", "environment"],
            "properties": {
                "hook": {"enum": Hook::ALL.map(|hook| hook.as_str()), "description": "What the event is."},
                "environment": {"type": "string", "minLength": 1, "description": "The namespace of the application; its name is the repository."}
            }
        });
        for (name, schema) in when.as_object().into_iter().flatten() {
            rule["properties"][name] = schema.clone();
        }
        json!({"description": what, "oneOf": [rule.clone(), {"type": "array", "items": rule}]})
    };
    let words = |words: &[&str]| json!({"oneOf": [{"enum": words}, {"type": "array", "minItems": 1, "items": {"enum": words}}]});
    let globs = |what: &str| json!({"$ref": "#/$defs/globs", "description": what});
    json!({
        "type": "object",
        "description": "Which events of GitHub are calls, beside those of deployments. Of several rules that fit one application the first counts.",
        "additionalProperties": false,
        "properties": {
            "push": rules("Pushes; without branch and tag those to any branch.", json!({
                "branch": globs("The branch."),
                "tag": globs("The tag.")
            })),
            "release": rules("Releases.", json!({
                "action": words(RELEASE_ACTIONS),
                "tag": globs("The tag of the release."),
                "prerelease": {"type": "boolean", "description": "Prereleases only, or none of them."}
            })),
            "workflow_run": rules("Runs of workflows. A rule for completed runs needs a conclusion.", json!({
                "action": words(RUN_ACTIONS),
                "workflow": globs("The workflow's name, its path or its file name."),
                "branch": globs("The branch."),
                "event": globs("What triggered the run: push, schedule, …"),
                "conclusion": words(CONCLUSIONS)
            }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed file, rewritten when `STAGEHOOK_BLESS` is compiled in: `STAGEHOOK_BLESS=1 cargo test schema`.
    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/pipeline.schema.json");
        let current = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
        if option_env!("STAGEHOOK_BLESS").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == current, "schema/pipeline.schema.json is stale: STAGEHOOK_BLESS=1 cargo test schema");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let schema = schema();
        let text = schema.to_string();
        for reference in text.split("#/$defs/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schema["$defs"].get(name).is_some(), "{name}");
        }
    }
}

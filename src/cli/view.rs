//! The API's JSON, as far as the text output shows it.
//!
//! Every field may be missing: a newer or older server is shown as well as it can be. `--output json` passes the
//! server's document through instead.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::Failure;

/// Reads a document of the API.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::No(format!("the server's answer is not understood: {error}")))
}

/// A page of deployments.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub deployments: Vec<Deployment>,
    #[serde(default)]
    pub next: Option<String>,
}

/// A deployment; stages and runs only where one alone was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Deployment {
    pub id: String,
    pub application: String,
    pub source: String,
    pub revision: Option<String>,
    pub state: String,
    pub reason: Option<String>,
    pub opened_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub opened_by: Option<Value>,
    pub rollout: Option<String>,
    pub reports: Vec<Report>,
    pub pipeline: Pipeline,
    pub stages: Vec<Stage>,
    pub runs: Vec<Run>,
}

/// An outcome that its caller wants told elsewhere.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    pub hook: String,
    pub state: String,
    pub problem: Option<String>,
}

/// The pipeline that a deployment pinned.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pipeline {
    pub name: String,
    pub file: String,
    pub hash: String,
}

/// Where a stage stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stage {
    pub id: String,
    pub name: String,
    pub hook: Option<String>,
    pub state: Option<String>,
    pub reason: Option<String>,
    pub run: Option<String>,
}

/// One run.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Run {
    pub id: String,
    pub deployment: String,
    pub stage: String,
    pub name: String,
    pub hook: Option<String>,
    pub state: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub duration_ms: Option<i64>,
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    pub message: Option<String>,
    pub last_line: Option<String>,
    pub attempts: Vec<Value>,
    pub output: Option<OutputDigest>,
    pub outputs: BTreeMap<String, String>,
}

/// What a run printed, in numbers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OutputDigest {
    pub bytes: u64,
    pub kept: u64,
}

/// The answer of a hook path.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    pub verdict: String,
    #[serde(default)]
    pub deployment: Option<String>,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub stages: Vec<StageReport>,
}

/// Where a stage of a hook stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StageReport {
    pub id: String,
    pub name: String,
    pub state: Option<String>,
    pub run: Option<String>,
    pub exit_code: Option<i64>,
    pub duration_ms: Option<i64>,
}

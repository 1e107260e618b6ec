//! One delivery: its headers, and its body as JSON, whichever of GitHub's two content types it came in.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::Value;

use super::super::body::{BadCall, kind, line, media_type, nul};
use super::super::json;
use crate::domain::call::CallKey;
use crate::domain::names::{Application, Cluster, Name, Namespace, Shown};
use crate::domain::record::{About, Payload};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A longer id is none of GitHub's.
const LONGEST_ID: usize = 200;

/// A delivery whose text is known to be sound.
pub(super) struct Delivery {
    /// What happened.
    pub event: String,
    /// Which delivery: a redelivery has the same.
    pub key: CallKey,
    /// The query's word, since no payload names one.
    pub cluster: Option<Cluster>,
    body: Value,
}

impl Delivery {
    pub fn read(headers: &HeaderMap, body: &[u8], cluster: Option<&str>) -> Result<Self, BadCall> {
        let event = header(headers, "X-GitHub-Event")?;
        let id = header(headers, "X-GitHub-Delivery")?;
        let cluster = cluster.filter(|text| !text.is_empty()).map(Cluster::new).transpose()?;
        let body = json(headers, body)?;
        Ok(Self { event, key: CallKey { id, stamp: None }, cluster, body })
    }

    /// Text that may be missing; empty text is none.
    pub fn text(&self, path: &str) -> Result<Option<&str>, BadCall> {
        match self.at(path) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(other) => Err(self.fault(path, "a string", other)),
        }
    }

    /// Text that must be there.
    pub fn needed(&self, path: &str) -> Result<&str, BadCall> {
        self.text(path)?.ok_or_else(|| self.missing(path))
    }

    /// An id of GitHub's.
    pub fn id(&self, path: &str) -> Result<Option<u64>, BadCall> {
        match self.at(path) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| self.fault(path, "a whole number", value)),
        }
    }

    /// An id that must be there.
    pub fn needed_id(&self, path: &str) -> Result<u64, BadCall> {
        self.id(path)?.ok_or_else(|| self.missing(path))
    }

    /// Whether a field is true.
    pub fn is_true(&self, path: &str) -> bool {
        self.at(path) == Some(&Value::Bool(true))
    }

    /// A value, by the dotted path of its keys.
    pub fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.body, |value, key| value.get(key))
    }

    /// `repository.full_name`.
    pub fn repository(&self) -> Result<Name, BadCall> {
        Ok(Name::new(self.needed("repository.full_name")?)?)
    }

    /// The repository in an environment.
    pub fn application(&self, environment: Namespace) -> Result<Application, BadCall> {
        Ok(Application { cluster: self.cluster.clone(), namespace: environment, name: self.repository()? })
    }

    /// Whether a workflow run is of a fork's code: whoever opens a pull request decides what it says. `run` is where it
    /// stands in the payload; without, the payload itself tells of it.
    pub fn is_of_a_fork(&self, run: Option<&str>) -> bool {
        let Some(run) = run.map_or(Some(&self.body), |path| self.at(path)) else { return false };
        let own = self.at("repository.id");
        if let Some(head @ Value::Object(_)) = run.get("head_repository") {
            return head.get("id") != own;
        }
        // Not told, or deleted since. A fork's pull requests are not listed either.
        let event = run.get("event").and_then(Value::as_str).unwrap_or_default();
        let mut pulls = run.get("pull_requests").and_then(Value::as_array).into_iter().flatten();
        event.starts_with("pull_request") && !pulls.any(|pull| pull.pointer("/head/repo/id") == own)
    }

    /// Who and why.
    pub fn about(&self, commit: Option<&str>, summary: Option<&str>) -> Result<About, BadCall> {
        Ok(About {
            commit_hash: commit.unwrap_or_default().to_owned(),
            commander: self.text("sender.login")?.unwrap_or_default().to_owned(),
            repository_url: self.text("repository.html_url")?.unwrap_or_default().to_owned(),
            summary: line(summary.and_then(|text| text.lines().next()).unwrap_or_default(), 200),
        })
    }

    /// The body as scripts see it, with what they can have as a variable.
    pub fn payload(&self, metadata: BTreeMap<String, String>) -> Payload {
        Payload { body: self.body.clone(), metadata }
    }

    fn missing(&self, path: &str) -> BadCall {
        BadCall(format!(
            "the field `{path}` of the event {:.100} is missing; GitHub sends it, so what stands between must not take it \
             out",
            self.event
        ))
    }

    fn fault(&self, path: &str, wanted: &str, found: &Value) -> BadCall {
        BadCall(format!(
            "the field `{path}` of the event {:.100} must be {wanted}, and it is {}",
            self.event,
            kind(found)
        ))
    }
}

fn header(headers: &HeaderMap, name: &'static str) -> Result<String, BadCall> {
    let value = headers.get(name).ok_or_else(|| {
        BadCall(format!("the header {name} is missing; this path is for the webhooks of GitHub, which send it"))
    })?;
    let text = value
        .to_str()
        .ok()
        .filter(|text| !text.is_empty() && text.len() <= LONGEST_ID && text.chars().all(|c| c.is_ascii_graphic()));
    let why =
        || BadCall(format!("the header {name} is not a word of at most {LONGEST_ID} characters, as GitHub sends"));
    text.map(str::to_owned).ok_or_else(why)
}

/// What is said of a body that is neither JSON nor a form; none where it is.
pub(super) fn unsupported(headers: &HeaderMap) -> Option<String> {
    let kind = media_type(headers);
    (!matches!(kind.as_str(), JSON | FORM)).then(|| {
        format!(
            "the content type {} is not understood; set the webhook's content type to {JSON} ({FORM} works as well)",
            Shown(&kind)
        )
    })
}

fn json(headers: &HeaderMap, body: &[u8]) -> Result<Value, BadCall> {
    let form;
    let text = if media_type(headers) == FORM {
        let payload = form_urlencoded::parse(body).find(|(key, _)| key == "payload");
        form = payload.ok_or_else(|| BadCall("the form has no field `payload`".to_owned()))?.1;
        form.as_bytes()
    } else {
        body
    };
    let value: Value = json::read(text).map_err(|error| BadCall(format!("the body is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(BadCall(format!("the body is {}, not an object", kind(&value))));
    }
    match nul(&value) {
        Some(path) => {
            let path = path.trim_start_matches('.');
            Err(BadCall(format!("the field `{path}` has the character NUL, which no script can be given")))
        }
        None => Ok(value),
    }
}

//! How a verdict is written: status, headers and a body of text or JSON.
//!
//! The table «Answers»: approved 200, rejected 501 and pending 503 unless the settings say otherwise; a replay that
//! still goes on is 202; Flagger's question is 200 or 404. Never 204, which Flagger takes for a failure. Refusals of
//! requests that were not understood are not here; `http` writes those as problems.

use http::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::domain::call::{Answer, StageReport, Subject, Verdict};
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Application, Source};

/// After how many seconds a pending call is worth repeating.
pub const RETRY_SECONDS: u16 = 5;

/// The statuses that a source's settings may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// For a rejection. 501 is the one 5xx that Flagger and curl do not repeat, and its body reaches the events.
    pub rejected: StatusCode,
    /// For a verdict that is not known yet.
    pub pending: StatusCode,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { rejected: StatusCode::NOT_IMPLEMENTED, pending: StatusCode::SERVICE_UNAVAILABLE }
    }
}

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One line for people.
    Text,
    /// For programs.
    Json,
}

impl Form {
    /// What the `Accept` header prefers, else the source's default.
    pub fn of(source: Source, headers: &HeaderMap) -> Self {
        // Its metric takes any 200 that is no JSON for a success.
        if source == Source::ArgoRollouts {
            return Self::Json;
        }
        let default = match source {
            Source::Flagger => super::flagger::DEFAULT_FORM,
            Source::Generic => super::generic::DEFAULT_FORM,
            Source::Loadtester => super::loadtester::DEFAULT_FORM,
            Source::Github | Source::Argocd | Source::ArgoRollouts | Source::Flux => Self::Json,
        };
        let (json, text) = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .fold((0.0_f32, 0.0_f32), |(json, text), range| match weigh(range) {
                (Some(Self::Json), q) => (json.max(q), text),
                (Some(Self::Text), q) => (json, text.max(q)),
                (None, _) => (json, text),
            });
        if json > text {
            Self::Json
        } else if text > json {
            Self::Text
        } else {
            default
        }
    }
}

/// The form that one media range of an `Accept` header asks for, and how much. `*/*` asks for nothing in particular.
fn weigh(range: &str) -> (Option<Form>, f32) {
    let mut parts = range.split(';').map(str::trim);
    let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "application/json" | "application/problem+json" | "application/*" => Some(Form::Json),
        "text/plain" | "text/*" => Some(Form::Text),
        _ => None,
    };
    let q = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0);
    (form, q)
}

/// What an answer is about, as the call's path and body said it.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The application.
    pub application: &'a Application,
    /// The hook of the path; for Flagger's event hook it is no lifecycle point.
    pub hook: &'a str,
}

/// How a source wants its answers.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Whose answer it is.
    pub source: Source,
    /// What the settings say of statuses.
    pub statuses: Statuses,
    /// Text or JSON.
    pub form: Form,
    /// Whether the caller only wants to know that it was understood: the verdict comes later, or nobody reads it.
    pub unattended: bool,
}

/// The path at which a deployment can be looked at.
pub fn location(deployment: DeploymentId) -> String {
    format!("/api/v1/deployments/{deployment}")
}

/// The status of an answer.
pub fn status(answer: &Answer, dialect: Dialect) -> StatusCode {
    let statuses = dialect.statuses;
    match (answer.subject, answer.verdict) {
        (_, Verdict::Pending) if dialect.unattended => StatusCode::ACCEPTED,
        (_, Verdict::Rejected) if dialect.unattended => StatusCode::OK,
        // A metric reads the verdict in the body; what is no 2xx it asks again, a replay as well.
        (_, Verdict::Approved | Verdict::Rejected) if dialect.source == Source::ArgoRollouts => StatusCode::OK,
        (_, Verdict::Pending) if dialect.source == Source::ArgoRollouts => statuses.pending,
        // The Job of SyncFail is done when the replay is: curl asks again.
        (Subject::Replay, Verdict::Pending) if dialect.source == Source::Argocd => statuses.pending,
        (Subject::Question, Verdict::Rejected | Verdict::Pending) => StatusCode::NOT_FOUND,
        (Subject::Replay, Verdict::Pending) => StatusCode::ACCEPTED,
        (Subject::Note, _) | (_, Verdict::Approved) => StatusCode::OK,
        (Subject::Gate | Subject::Replay, Verdict::Rejected) => statuses.rejected,
        (Subject::Gate, Verdict::Pending) => statuses.pending,
    }
}

/// Writes an answer.
pub fn answer(answer: &Answer, about: About<'_>, dialect: Dialect) -> Response<String> {
    let (kind, body) = match dialect.form {
        Form::Text => ("text/plain; charset=utf-8", format!("{}\n", answer.message)),
        Form::Json => ("application/json", json(answer, about, measured(answer, dialect))),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status(answer, dialect);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if answer.verdict == Verdict::Pending && !dialect.unattended {
        headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
    }
    // An id is letters, digits and an underscore, so it always is a header value.
    if let Some(value) = answer.deployment.and_then(|id| HeaderValue::try_from(location(id)).ok()) {
        headers.insert(LOCATION, value);
    }
    response
}

/// Acknowledges what was understood to be nothing for us.
pub fn ignored(why: &str, form: Form) -> Response<String> {
    let (kind, body) = match form {
        Form::Text => ("text/plain; charset=utf-8", format!("ignored: {why}\n")),
        Form::Json => ("application/json", serde_json::json!({"ignored": why}).to_string()),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What a web metric of Argo Rollouts compares.
fn measured(answer: &Answer, dialect: Dialect) -> Option<&'static str> {
    (dialect.source == Source::ArgoRollouts).then_some(match answer.verdict {
        Verdict::Approved => "succeeded",
        Verdict::Rejected => "failed",
        Verdict::Pending => "pending",
    })
}

fn json(answer: &Answer, about: About<'_>, status: Option<&'static str>) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
        verdict: Verdict,
        application: &'a Application,
        deployment: Option<DeploymentId>,
        hook: &'a str,
        message: &'a str,
        stages: &'a [StageReport],
    }
    let document = Document {
        status,
        verdict: answer.verdict,
        application: about.application,
        deployment: answer.deployment,
        hook: about.hook,
        message: &answer.message,
        stages: &answer.stages,
    };
    // A struct of strings and numbers has no way to fail.
    serde_json::to_string(&document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hook::Hook;

    const ID: &str = "dep_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn dialect(statuses: Statuses, form: Form) -> Dialect {
        Dialect { source: Source::Generic, statuses, form, unattended: false }
    }

    fn told(subject: Subject, verdict: Verdict) -> Answer {
        Answer {
            verdict,
            subject,
            hook: Hook::PreRollout,
            deployment: Some(ID.parse().unwrap()),
            message: "stage migrate failed (exit code 3): no such table".to_owned(),
            stages: vec![StageReport {
                id: "migrate".parse().unwrap(),
                name: "SCRIPT_RUN".to_owned(),
                state: Some("Failed".to_owned()),
                run: None,
                exit_code: Some(3),
                duration_ms: Some(12),
            }],
        }
    }

    fn write(subject: Subject, verdict: Verdict, form: Form) -> Response<String> {
        let application = "test/podinfo".parse().unwrap();
        let about = About { application: &application, hook: "pre-rollout" };
        answer(&told(subject, verdict), about, dialect(Statuses::default(), form))
    }

    #[test]
    fn the_table_of_answers() {
        use Subject::{Gate, Note, Question, Replay};
        use Verdict::{Approved, Pending, Rejected};
        for (subject, verdict, status, retry) in [
            (Gate, Approved, 200, false),
            (Gate, Rejected, 501, false),
            (Gate, Pending, 503, true),
            (Replay, Approved, 200, false),
            (Replay, Rejected, 501, false),
            (Replay, Pending, 202, true),
            (Question, Approved, 200, false),
            (Question, Rejected, 404, false),
            (Note, Approved, 200, false),
            (Note, Rejected, 200, false),
        ] {
            let response = write(subject, verdict, Form::Text);
            assert_eq!(response.status().as_u16(), status, "{subject:?} {verdict:?}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), retry, "{subject:?} {verdict:?}");
            assert_eq!(response.headers()[LOCATION], format!("/api/v1/deployments/{ID}"));
            assert_eq!(response.body(), "stage migrate failed (exit code 3): no such table\n");
        }
    }

    #[test]
    fn each_caller_is_answered_in_its_own_way() {
        use Subject::{Gate, Replay};
        use Verdict::{Approved, Pending, Rejected};
        let argocd = Statuses { rejected: StatusCode::UNPROCESSABLE_ENTITY, ..Statuses::default() };
        for (source, unattended, subject, verdict, code, retry) in [
            (Source::Argocd, false, Gate, Approved, 200, false),
            (Source::Argocd, false, Gate, Rejected, 422, false),
            (Source::Argocd, false, Gate, Pending, 503, true),
            (Source::Argocd, false, Replay, Approved, 200, false),
            (Source::Argocd, false, Replay, Rejected, 422, false),
            (Source::Argocd, false, Replay, Pending, 503, true),
            (Source::Argocd, true, Gate, Rejected, 200, false),
            (Source::Argocd, true, Replay, Pending, 202, false),
            (Source::ArgoRollouts, false, Gate, Approved, 200, false),
            (Source::ArgoRollouts, false, Gate, Rejected, 200, false),
            (Source::ArgoRollouts, false, Gate, Pending, 503, true),
            (Source::ArgoRollouts, false, Replay, Pending, 503, true),
            (Source::ArgoRollouts, true, Gate, Pending, 202, false),
            (Source::Flux, true, Gate, Approved, 200, false),
            (Source::Flux, true, Gate, Pending, 202, false),
            (Source::Flux, true, Replay, Pending, 202, false),
            (Source::Flux, true, Replay, Rejected, 200, false),
        ] {
            let application = "test/podinfo".parse().unwrap();
            let about = About { application: &application, hook: "rollout" };
            let dialect = Dialect { source, statuses: argocd, form: Form::Json, unattended };
            let response = answer(&told(subject, verdict), about, dialect);
            assert_eq!(response.status().as_u16(), code, "{source} {subject:?} {verdict:?} {unattended}");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), retry, "{source} {subject:?} {verdict:?}");
        }
    }

    #[test]
    fn a_metric_reads_one_word() {
        let application = "test/podinfo".parse().unwrap();
        let about = About { application: &application, hook: "rollout" };
        let (statuses, form) = (Statuses::default(), Form::Json);
        let dialect = Dialect { source: Source::ArgoRollouts, statuses, form, unattended: false };
        for (verdict, status) in
            [(Verdict::Approved, "succeeded"), (Verdict::Rejected, "failed"), (Verdict::Pending, "pending")]
        {
            let response = answer(&told(Subject::Gate, verdict), about, dialect);
            let value: serde_json::Value = serde_json::from_str(response.body()).unwrap();
            assert_eq!((value["status"].as_str(), value["verdict"].as_str()), (Some(status), Some(verdict.as_str())));
        }
    }

    #[test]
    fn the_settings_choose_the_statuses() {
        let statuses = Statuses { rejected: StatusCode::UNPROCESSABLE_ENTITY, pending: StatusCode::TOO_MANY_REQUESTS };
        assert_eq!(
            status(&told(Subject::Gate, Verdict::Rejected), dialect(statuses, Form::Json)),
            StatusCode::UNPROCESSABLE_ENTITY
        );
        assert_eq!(
            status(&told(Subject::Gate, Verdict::Pending), dialect(statuses, Form::Json)),
            StatusCode::TOO_MANY_REQUESTS
        );
    }

    #[test]
    fn json_has_the_documented_shape() {
        let response = write(Subject::Gate, Verdict::Rejected, Form::Json);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let value: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        let expected = serde_json::json!({
            "verdict": "rejected", "application": "test/podinfo", "deployment": ID, "hook": "pre-rollout",
            "message": "stage migrate failed (exit code 3): no such table",
            "stages": [{"id": "migrate", "name": "SCRIPT_RUN", "state": "Failed", "run": null, "exitCode": 3, "durationMs": 12}],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn accept_decides_the_form() {
        for (source, accept, form) in [
            (Source::Flagger, None, Form::Text),
            (Source::Flagger, Some("*/*"), Form::Text),
            (Source::Flagger, Some("application/json"), Form::Json),
            (Source::Generic, None, Form::Json),
            (Source::Generic, Some("*/*"), Form::Json),
            (Source::Generic, Some("text/plain"), Form::Text),
            (Source::Generic, Some("text/plain;q=0.5, application/json"), Form::Json),
            (Source::Generic, Some("text/plain, application/json; q=0.5"), Form::Text),
            (Source::Generic, Some("text/plain;q=0"), Form::Json),
            (Source::Flagger, Some("text/html, application/problem+json"), Form::Json),
            (Source::ArgoRollouts, Some("text/plain"), Form::Json),
        ] {
            let headers = accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept))).into_iter().collect();
            assert_eq!(Form::of(source, &headers), form, "{source} {accept:?}");
        }
    }
}

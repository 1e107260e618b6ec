//! Refusals: RFC 9457 problems, or one line of text where the caller shows bodies to people.
//!
//! Every refused request leaves one log line with its reason; the router writes it from the [`Refused`] that each
//! problem leaves in its response.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use crate::engine::Told;
use crate::source::render::{Form, RETRY_SECONDS};

/// The result of a handler.
pub type Result<T = Response> = std::result::Result<T, Problem>;

/// A request that is not served.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    /// For the caller: what is wrong, and what to do.
    detail: String,
    /// For the log, where that must not quote the caller.
    reason: Option<&'static str>,
    form: Form,
    header: Option<(HeaderName, HeaderValue)>,
}

/// Why a request was refused, for its log line.
#[derive(Clone, Debug)]
pub struct Refused(pub Cow<'static, str>);

impl Problem {
    /// A refusal with this status; the detail says what is wrong and what to do.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), reason: None, form: Form::Json, header: None }
    }

    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// A caller that is not let in. The reason quotes nothing that it sent.
    pub fn unauthenticated(reason: &'static str, hint: &str, challenge: &'static str) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, format!("{reason}{hint}")).logged_as(reason);
        problem.header = Some((WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
        problem
    }

    /// Nothing was started; the caller may come again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.header = Some((RETRY_AFTER, HeaderValue::from(RETRY_SECONDS)));
        problem
    }

    /// What the engine says when it is no answer; `None` for an answer or an acceptance.
    pub fn of(told: &Told) -> Option<Self> {
        match told {
            Told::Answer(_) | Told::Accepted { .. } => None,
            Told::Unknown { message } => Some(Self::unknown(message)),
            Told::Conflict { message } => Some(Self::new(StatusCode::CONFLICT, message)),
            Told::Busy { message, after } => {
                let mut problem = Self::unavailable(message);
                // In whole seconds, and rather too late: too early is in vain.
                let seconds = after.as_millis().div_ceil(1000);
                problem.header = Some((RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX))));
                Some(problem)
            }
            Told::Unavailable { message } => Some(Self::unavailable(message)),
        }
    }

    /// The same in this form.
    pub const fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// What the log says of it, instead of the detail.
    pub const fn logged_as(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (kind, body) = match self.form {
            Form::Text => ("text/plain; charset=utf-8", format!("{}\n", self.detail)),
            Form::Json => {
                // With `about:blank` the title is the status, as RFC 9457 has it: the detail says the rest.
                let document = json!({
                    "type": "about:blank",
                    "title": self.status.canonical_reason().unwrap_or("Refused"),
                    "status": self.status.as_u16(),
                    "detail": self.detail,
                });
                ("application/problem+json", document.to_string())
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().extend(self.header);
        let reason = self.reason.map_or(Cow::Owned(self.detail), Cow::Borrowed);
        response.extensions_mut().insert(Refused(reason));
        response
    }
}

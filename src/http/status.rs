//! Status documents: where callers that did not wait for the verdict read what became of their call.
//!
//! One for each hook of a deployment, there from the moment that the call was taken on, and the same after a restart.
//! Reading one changes nothing: no result counts as delivered by it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Shared};
use axum::response::IntoResponse;
use http::header::{CACHE_CONTROL, HOST, LOCATION};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::problem::{Problem, Result};
use super::{State, hooks};
use crate::domain::call::{Answer, StageReport, Verdict};
use crate::domain::hook::Hook;
use crate::domain::ids::DeploymentId;
use crate::domain::names::{Application, Revision, Shown, Source, StageId};
use crate::domain::progress::{self, Phase};
use crate::source::auth::{self, Grant};

/// In place of an id, for a call that there was nothing to do for.
const NONE: &str = "none";

/// A status document. The names of the first three fields, and the words of `status`, are what Spinnaker is told to
/// look for; `progress` is always text, since it takes nothing else.
#[derive(Debug, Serialize)]
struct Document<'a> {
    status: &'static str,
    progress: &'a str,
    results: BTreeMap<&'a StageId, &'a BTreeMap<String, String>>,
    verdict: Verdict,
    application: Option<&'a Application>,
    deployment: Option<DeploymentId>,
    revision: Option<&'a Revision>,
    state: Option<&'static str>,
    hook: Hook,
    stages: &'a [StageReport],
}

/// `GET /hooks/generic/deployments/{id}/{hook}`.
pub async fn show(
    Shared(state): Shared<State>,
    path: std::result::Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result {
    let grant = known(&state, request).await?;
    let Path((id, hook)) = path.map_err(|_| Problem::unknown("the path is not valid UTF-8"))?;
    let hook: Hook = hook.parse().map_err(|_| {
        let hooks: Vec<_> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
        Problem::unknown(format!("{} is no hook; there are {}", Shown(&hook), hooks.join(", ")))
    })?;
    if id == NONE {
        return Ok(written(&Document {
            status: word(Phase::Succeeded),
            progress: "there was nothing to do",
            results: BTreeMap::new(),
            verdict: Verdict::Approved,
            application: None,
            deployment: None,
            revision: None,
            state: None,
            hook,
            stages: &[],
        }));
    }
    let id: DeploymentId =
        id.parse().map_err(|error| Problem::unknown(format!("{} names no deployment: {error}", Shown(&id))))?;
    let found = state.engine.deployment(id).await.map_err(Problem::unavailable)?;
    let (stream, deployment) = found.ok_or_else(|| Problem::unknown(format!("there is no deployment {id}")))?;
    may_see(&grant, &stream.application)?;
    let (phase, answer) = progress::of(&deployment, stream.source, hook)
        .ok_or_else(|| Problem::unknown(format!("{hook} was not called for {id} yet")))?;
    Ok(written(&Document {
        status: word(phase),
        progress: &answer.message,
        results: progress::results(&deployment, hook),
        verdict: match phase {
            Phase::Running => Verdict::Pending,
            Phase::Succeeded => Verdict::Approved,
            Phase::Failed | Phase::Canceled => Verdict::Rejected,
        },
        application: Some(&stream.application),
        deployment: Some(id),
        revision: deployment.revision.as_ref(),
        state: Some(deployment.state().as_str()),
        hook,
        stages: &answer.stages,
    }))
}

fn written(document: &Document<'_>) -> axum::response::Response {
    ([(CACHE_CONTROL, "no-store")], Json(document)).into_response()
}

const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "RUNNING",
        Phase::Succeeded => "SUCCEEDED",
        Phase::Failed => "FAILED",
        Phase::Canceled => "CANCELED",
    }
}

/// Whoever may call may ask what became of it, within the same limits; so may whoever has a token of the API, without
/// any. A signature covers an empty body.
async fn known(state: &State, request: Request) -> Result<Grant> {
    let source = Source::Generic;
    let settings = hooks::served(state, source)?;
    let (head, body) = request.into_parts();
    let access = state.access();
    let tokens = access.api_tokens.iter().map(|token| &token.secret);
    let told = auth::authorization(&head.headers, "bearer", "a bearer token is needed");
    if told.is_ok_and(|told| auth::find(told, tokens).is_some()) {
        return Ok(Grant::default());
    }
    hooks::admitted(state, source, settings, &head.headers, body).await.map(|(who, _)| who.grant)
}

fn may_see(grant: &Grant, application: &Application) -> Result<()> {
    let forbidden = |why: String| Problem::new(StatusCode::FORBIDDEN, why);
    let admitted = grant.admit(application.clone()).map_err(|why| forbidden(why.0))?;
    if admitted == *application {
        return Ok(());
    }
    Err(forbidden(format!("the credential is for one cluster alone, and {application} is in none")))
}

/// Turns an answer into one for a caller who does not wait: taken on, whatever the verdict, and where to read more.
/// A rejection is no error of the call, which some callers would repeat.
pub fn taken_on<T>(response: &mut Response<T>, state: &State, head: &Parts, answer: &Answer) {
    *response.status_mut() = StatusCode::ACCEPTED;
    if let Some(location) = location(state, head, answer.deployment, answer.hook) {
        response.headers_mut().insert(LOCATION, location);
    }
}

/// The absolute URL of a status document, by the name under which the caller itself has reached us unless the settings
/// name another. Relative only where a caller names no host.
fn location(state: &State, head: &Parts, deployment: Option<DeploymentId>, hook: Hook) -> Option<HeaderValue> {
    let base = match &state.settings.public_url {
        Some(url) => url.clone(),
        None => {
            let scheme = if state.settings.tls.is_some() { "https" } else { "http" };
            host(head).map_or_else(String::new, |host| format!("{scheme}://{host}"))
        }
    };
    let id = deployment.map_or_else(|| NONE.to_owned(), |id| id.to_string());
    // A URL of the settings was parsed as one, and so was the host: neither has a control character.
    HeaderValue::try_from(format!("{base}/hooks/generic/deployments/{id}/{hook}")).ok()
}

fn host(head: &Parts) -> Option<Authority> {
    let told = head.headers.get(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    told.or_else(|| head.uri.authority().cloned()).filter(|host| !host.as_str().contains('@'))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn named(uri: &str, host: Option<&str>) -> Option<String> {
        let mut request = Request::get(uri);
        if let Some(name) = host {
            request = request.header(HOST, name);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        super::host(&head).map(|host| host.to_string())
    }

    #[test]
    fn the_host_is_the_one_that_was_asked() {
        assert_eq!(named("/x", Some("stagehook.test.svc:8080")).as_deref(), Some("stagehook.test.svc:8080"));
        assert_eq!(named("/x", Some("[::1]:80")).as_deref(), Some("[::1]:80"));
        assert_eq!(named("http://a/x", None).as_deref(), Some("a"));
        for none in [None, Some(""), Some("a b"), Some("a/b"), Some("user@a")] {
            assert_eq!(named("/x", none), None, "{none:?}");
        }
    }
}

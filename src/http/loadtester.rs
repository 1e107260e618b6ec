//! The paths of Flagger's load tester, at the service's root: gates, and commands that calls name.
//!
//! Limits, authentication and the log are those of every other call. Only the answers are the original's: bare bodies,
//! without a line's end, and no content type where there is no body.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};

use super::hooks::{Held, admitted, served};
use super::problem::{Problem, Refused, Result};
use super::query::Params;
use super::{SourceSettings, State};
use crate::domain::call::{Answer, Verdict};
use crate::domain::names::Source;
use crate::domain::span::Span;
use crate::source::auth::Authenticated;
use crate::source::loadtester::{self, Asked, ROUTES, Route};
use crate::source::render::{self, Dialect, Form};

const SOURCE: Source = Source::Loadtester;

/// Every path of the load tester, with any method as the original has it; `GET /` is the dashboard's.
pub async fn call(Shared(state): Shared<State>, request: Request) -> Response {
    let path = request.uri().path();
    let Some((_, name, route)) = ROUTES.into_iter().find(|(known, ..)| *known == path) else {
        return Problem::unknown("there is nothing at this path").into_response();
    };
    let form = Form::of(SOURCE, request.headers());
    match answer(&state, name, route, request).await {
        Ok(response) => response,
        Err(problem) => problem.in_form(form).into_response(),
    }
}

async fn answer(state: &State, name: &'static str, route: Route, request: Request) -> Result {
    let began = Instant::now();
    let settings = served(state, SOURCE)?;
    let (head, body) = request.into_parts();
    let (Authenticated { by, grant, .. }, body) = admitted(state, SOURCE, settings, &head.headers, body).await?;
    let (parsed, asked) = match route {
        // Without a look at the body: the original has none either.
        Route::Approve => return Ok(bare(StatusCode::OK, "OK")),
        Route::Halt => return Ok(bare(StatusCode::FORBIDDEN, "Forbidden")),
        Route::Check(_) | Route::Set(..) | Route::Command => {
            let params = Params::of(&head.uri)?;
            let mut told = loadtester::read(&body, params.get("cluster")?).map_err(|error| Problem::bad(error.0))?;
            let admitted = grant.admit(told.application.clone());
            told.application = admitted.map_err(|why| Problem::new(StatusCode::FORBIDDEN, why.0))?;
            match route {
                Route::Check(gate) => (told.gate(gate, None), None),
                Route::Set(gate, open) => (told.gate(gate, Some(open)), None),
                _ => match told.command(&state.settings.commands) {
                    Ok((parsed, asked)) => (parsed, Some(asked)),
                    Err(refused) => return refusal(refused),
                },
            }
        }
    };
    drop(body);
    let params = Params::of(&head.uri)?;
    let wait = params.parsed("wait", |text| text.parse::<Span>())?;
    let wait = wait.map(|span| span.0).or(settings.respond_within);

    let application = parsed.application.clone();
    let held = Held { source: SOURCE, hook: name, by, began, head: &head, wait };
    let answer = held.until_answered(state, parsed.application, parsed.call).await?;
    let mut response = match (route, asked) {
        (Route::Check(_), _) => match answer.verdict {
            Verdict::Approved => bare(StatusCode::OK, "Approved"),
            Verdict::Rejected | Verdict::Pending => bare(StatusCode::FORBIDDEN, "Forbidden"),
        },
        (_, Some(asked)) => {
            if answer.verdict == Verdict::Pending {
                let about = render::About { application: &application, hook: name };
                let (statuses, form) = (settings.statuses, Form::Text);
                let dialect = Dialect { source: SOURCE, statuses, form, unattended: false };
                return Ok(render::answer(&answer, about, dialect).map(Body::from));
            }
            if asked.held { ended(state, settings, &asked, &answer).await? } else { bare(StatusCode::ACCEPTED, "") }
        }
        (_, None) => bare(StatusCode::ACCEPTED, ""),
    };
    // An id is letters, digits and an underscore, so it always is a header value.
    if let Some(value) = answer.deployment.and_then(|id| HeaderValue::try_from(render::location(id)).ok()) {
        response.headers_mut().insert(LOCATION, value);
    }
    Ok(response)
}

/// The answer to a call that waited for the end of its command.
async fn ended(state: &State, settings: &SourceSettings, asked: &Asked, answer: &Answer) -> Result {
    let unreadable = |why: String| Problem::unavailable(format!("what the command printed can't be read: {why}"));
    let engine = &state.engine;
    let run = answer.stages.first().and_then(|stage| stage.run);
    let output = match run {
        Some(run) => engine.ledger().output(run).await.map_err(|error| unreadable(error.to_string()))?,
        None => None,
    };
    let output = output.unwrap_or_default();
    if answer.verdict == Verdict::Approved {
        return Ok(bare(StatusCode::OK, if asked.wants_output { Bytes::from(output) } else { Bytes::new() }));
    }
    let found = match answer.deployment {
        Some(id) => engine.deployment(id).await.map_err(unreadable)?,
        None => None,
    };
    let ending = found.as_ref().zip(run).and_then(|((_, deployment), run)| deployment.run(run)?.ending().cloned());
    let body = match ending {
        Some(ending) => loadtester::failure(&asked.command, &output, &ending),
        // It was given up before it began.
        None => format!("command {} failed: : {}", asked.command, answer.message).into_bytes(),
    };
    Ok(bare(settings.statuses.rejected, body))
}

fn refusal(refused: loadtester::Refused) -> Result {
    match refused {
        loadtester::Refused::Bad(error) => Err(Problem::bad(error.0)),
        loadtester::Refused::NotAllowed(why) => {
            Err(Problem::new(StatusCode::FORBIDDEN, why).logged_as("sources.loadtester.allow does not permit it"))
        }
        loadtester::Refused::Words(words) => {
            let mut response = bare(StatusCode::BAD_REQUEST, words.clone().into_owned());
            response.extensions_mut().insert(Refused(words));
            Ok(response)
        }
    }
}

fn bare(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let kind = (!body.is_empty()).then(|| HeaderValue::from_static("text/plain; charset=utf-8"));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().extend(kind.map(|kind| (CONTENT_TYPE, kind)));
    response
}

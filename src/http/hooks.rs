//! The calls of the sources: limited, authenticated over the raw bytes, read, decided by the engine, answered.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Shared};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;

use super::State;
use super::bodies::Whole;
use super::line::Line;
use super::prefer::Prefer;
use super::problem::{Problem, Result};
use super::query::Params;
use super::settings::SourceSettings;
use super::status;
use crate::config::catalog::Selected;
use crate::domain::call::{Answer, Call, Subject, Verdict};
use crate::domain::names::{Application, Shown, Source, StreamId};
use crate::domain::record::Actor;
use crate::domain::span::Span;
use crate::engine::{Told, clock};
use crate::failpoint::{self, Point};
use crate::source;
use crate::source::auth::{self, Authenticated, Grant, Presented, Unauthenticated};
use crate::source::github::{Known, Mapping};
use crate::source::render::{self, Dialect, Form};
use crate::source::{Incoming, Parsed, Read};

/// `POST /hooks/{source}/{hook}`.
pub async fn call(
    Shared(state): Shared<State>,
    path: std::result::Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    match path {
        Ok(Path((source, hook))) => respond(&state, &source, Some(&hook), request).await,
        Err(_) => {
            let source = as_it_stands(&request);
            respond(&state, &source, Some(NO_HOOK), request).await
        }
    }
}

/// `POST` and `PUT /hooks/argo-rollouts/{hook}`: a web metric may be told to use either.
pub async fn metric(
    Shared(state): Shared<State>,
    path: std::result::Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let hook = path.map_or_else(|_| NO_HOOK.to_owned(), |Path(hook)| hook);
    respond(&state, Source::ArgoRollouts.as_str(), Some(&hook), request).await
}

/// `POST /hooks/{source}`, of sources whose payload says which hook is meant.
pub async fn event(
    Shared(state): Shared<State>,
    path: std::result::Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    match path {
        Ok(Path(source)) => respond(&state, &source, None, request).await,
        Err(_) => {
            let source = as_it_stands(&request);
            respond(&state, &source, None, request).await
        }
    }
}

/// In place of a hook that is not UTF-8. It is none, but that is told to nobody who is not let in.
const NO_HOOK: &str = "\u{fffd}";

/// The source of a path that can't be decoded.
fn as_it_stands(request: &Request) -> String {
    request.uri().path().split('/').nth(2).unwrap_or_default().to_owned()
}

async fn respond(state: &State, source: &str, hook: Option<&str>, request: Request) -> Response {
    let source = match known(state, source) {
        Ok(source) => source,
        Err(problem) => {
            // An unknown source has no dialect; Flagger's shows text to people.
            let form = Source::from_str(source).map_or(Form::Json, |source| Form::of(source, request.headers()));
            return problem.in_form(form).into_response();
        }
    };
    let form = Form::of(source, request.headers());
    match answer(state, source, hook, form, request).await {
        Ok(response) => response,
        Err(problem) => problem.in_form(form).into_response(),
    }
}

/// The source of a path.
fn known(state: &State, source: &str) -> Result<Source> {
    let Ok(source) = Source::from_str(source) else {
        let known: Vec<_> = Source::ALL.iter().map(|source| source.as_str()).collect();
        let detail = format!("{} is no source; there are {}", Shown(source), known.join(", "));
        return Err(Problem::unknown(detail).logged_as("unknown source"));
    };
    served(state, source).map(|_| source)
}

/// The settings of a source that is served.
pub(super) fn served(state: &State, source: Source) -> Result<&SourceSettings> {
    state.settings.of(source).ok_or_else(|| {
        let detail = format!("the source {source} is disabled; set `sources.{source}.enabled` to true to use it");
        Problem::unknown(detail).logged_as("the source is disabled")
    })
}

/// The hook of a path, in our own words.
fn known_hook(source: Source, hook: Option<&str>) -> Result<Option<&'static str>> {
    let hooks = source::hooks(source);
    let Some(hook) = hook else {
        if hooks.is_empty() {
            return Ok(None);
        }
        let detail =
            format!("a hook of {source} is named in the path: /hooks/{source}/HOOK; there are {}", hooks.join(", "));
        return Err(Problem::unknown(detail).logged_as("no hook in the path"));
    };
    match hooks.iter().find(|known| **known == hook) {
        Some(known) => Ok(Some(known)),
        None if hooks.is_empty() => {
            let detail = format!("{source} has one path for all its events: /hooks/{source}");
            Err(Problem::unknown(detail).logged_as("unknown hook"))
        }
        None => {
            let detail = format!("{} is no hook of {source}; there are {}", Shown(hook), hooks.join(", "));
            Err(Problem::unknown(detail).logged_as("unknown hook"))
        }
    }
}

async fn answer(state: &State, source: Source, hook: Option<&str>, form: Form, request: Request) -> Result {
    let began = Instant::now();
    let settings = served(state, source)?;
    let (head, body) = request.into_parts();
    // Before anything else is said of the call: only who is let in learns what is wrong with it.
    let (Authenticated { by, grant, message }, body) = admitted(state, source, settings, &head.headers, body).await?;
    let hook = known_hook(source, hook)?;
    let params = Params::of(&head.uri)?;
    let prefer = Prefer::of(source, &head.headers);
    let wait = prefer.over(params.parsed("wait", |text| text.parse::<Span>())?.map(Duration::from));
    let incoming = Incoming { hook, headers: &head.headers, cluster: params.get("cluster")?, body: &body };
    let read = with_github(state, source, &grant, |known| source::read(source, &incoming, known));
    let mut calls = match read.map_err(|error| Problem::bad(error.0))? {
        Read::Calls(calls) => calls,
        Read::Ignored(why) => {
            tracing::debug!(%source, by = by.0, why, "ignored");
            return Ok(render::ignored(&why, form).map(Body::from));
        }
        Read::Unsupported(why) => return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)),
    };
    drop(body);
    // All of them before the first is told: a request is admitted as a whole or not at all.
    for parsed in &mut calls {
        let admitted = grant.admit(parsed.application.clone());
        parsed.application = admitted.map_err(|why| Problem::new(StatusCode::FORBIDDEN, why.0))?;
        // What was signed names the call better than what merely stands beside it.
        parsed.call.key = message.clone().or(parsed.call.key.take());
    }
    let (mut answered, mut refused) = (None, None);
    for parsed in calls {
        let asked = Asked { source, hook, settings, form, wait, prefer, by: by.clone(), began, head: &head };
        match asked.tell(state, parsed).await {
            Ok(told) => _ = answered.get_or_insert(told),
            Err(problem) => _ = refused.get_or_insert(problem),
        }
    }
    // One that was refused has to be sent again, whatever became of the others: those are answered from the ledger.
    match (refused, answered) {
        (Some(problem), _) => Err(problem),
        (None, Some(answered)) => Ok(answered),
        // An adapter that has found no call says why it ignores the event.
        (None, None) => Ok(render::ignored("it concerns no application here", form).map(Body::from)),
    }
}

/// Reads something with what GitHub's events are read with, where it is GitHub that calls.
fn with_github<T>(state: &State, source: Source, grant: &Grant, read: impl FnOnce(Known<'_>) -> T) -> T {
    if source != Source::Github {
        return read(Known::default());
    }
    let catalog = state.engine.catalog();
    // By the very pipeline and not by its name, which PipeCD's files may share.
    let own = |pipeline: &Arc<Selected>| {
        let (catalog, pipeline) = (&catalog, Arc::clone(pipeline));
        move |application: &Application| {
            // With the cluster that the credential is of. One that it may not name is refused as a whole later.
            let admitted = grant.admit(application.clone()).unwrap_or_else(|_| application.clone());
            catalog.select(source, &admitted).is_some_and(|selected| Arc::ptr_eq(&selected, &pipeline))
        }
    };
    let known: Vec<_> = catalog.github().map(|(pipeline, rules)| (pipeline, rules, own(pipeline))).collect();
    let mappings: Vec<_> = known
        .iter()
        .map(|(pipeline, rules, selects)| Mapping { pipeline: &pipeline.pipeline.name, rules, selects })
        .collect();
    read(Known { reports: state.settings.github_reports, mappings: &mappings })
}

/// What the calls of one request have in common.
struct Asked<'a> {
    source: Source,
    hook: Option<&'static str>,
    settings: &'a SourceSettings,
    form: Form,
    /// How long the caller itself would have it held.
    wait: Option<Duration>,
    prefer: Prefer,
    by: Actor,
    began: Instant,
    head: &'a Parts,
}

impl Asked<'_> {
    async fn tell(self, state: &State, parsed: Parsed) -> Result {
        let Self { source, settings, form, prefer, by, began, head, .. } = self;
        let (application, mut call) = (parsed.application.clone(), parsed.call);
        // Nobody waits for it: it is answered once it is recorded.
        let wait = match (prefer.respond_async, call.unattended) {
            (true, _) => Some(self.wait.unwrap_or_default()),
            (false, true) => Some(Duration::ZERO),
            (false, false) => self.wait.or(settings.respond_within),
        };
        call.unattended |= prefer.respond_async;
        let hook = match (source, self.hook) {
            // An event has found its hook by its type, and not by the path.
            (Source::Generic, _) | (_, None) => call.hook.as_str(),
            (_, Some(hook)) => hook,
        };
        let unattended = call.unattended;
        let held = Held { source, hook, by, began, head, wait };
        let answer = held.until_answered(state, parsed.application, call).await?;
        failpoint::hit(Point::AnswerBefore);
        let about = render::About { application: &application, hook };
        let dialect = Dialect { source, statuses: settings.statuses, form, unattended };
        let mut response = render::answer(&answer, about, dialect);
        if prefer.respond_async {
            status::taken_on(&mut response, state, head, &answer);
        }
        prefer.note(&mut response, self.wait);
        failpoint::hit(Point::AnswerAfter);
        Ok(response.map(Body::from))
    }
}

/// A caller that is held until its call is answered.
pub(super) struct Held<'a> {
    pub source: Source,
    /// What the call is named in the log and the metrics.
    pub hook: &'static str,
    pub by: Actor,
    pub began: Instant,
    pub head: &'a Parts,
    /// For how long; none: until the verdict.
    pub wait: Option<Duration>,
}

impl Held<'_> {
    /// Tells the engine, counts and logs the answer. A caller that hangs up meanwhile is told of in the log.
    pub async fn until_answered(self, state: &State, application: Application, call: Call) -> Result<Answer> {
        let Self { source, hook, by, began, head, wait } = self;
        let stream = StreamId { source, application: application.clone() };
        let hung_up = HungUp::armed(source, hook, &application, began, &state.stopping);
        let waiting = head.extensions.get::<Line>().map(Line::wait);
        // With too many held, it is taken on all the same, and told that it is pending: a failure is never refused.
        let held = state.held.try_acquire().ok();
        let wait = if held.is_some() { wait } else { Some(Duration::ZERO) };
        failpoint::hit(Point::AdmittedAfter);
        let told = state.engine.call(stream, call, by.clone(), wait).await;
        drop((waiting, held));
        hung_up.disarm();
        let answer = match told {
            Told::Answer(answer) => answer,
            refused => {
                return Err(Problem::of(&refused).unwrap_or_else(|| {
                    // The engine accepts requests of people only; a call is answered.
                    let detail = "the call was not answered; please report it as a bug";
                    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
                }));
            }
        };
        let took = began.elapsed();
        log(source, hook, &application, &by, &answer, took);
        state.metrics.answered(source, hook, answer.verdict, took);
        Ok(answer)
    }
}

/// Who calls, and the body. Nothing of the body is read for a caller whom the headers alone already refuse.
pub async fn admitted(
    state: &State,
    source: Source,
    settings: &SourceSettings,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Authenticated, Whole)> {
    let access = state.access();
    let Some(credentials) = access.sources.get(&source) else {
        let hint = format!("; set `sources.{source}.auth`");
        return Err(Problem::unauthenticated("nobody is let in by this source", &hint, "Bearer realm=\"stagehook\""));
    };
    let refused = |refused: Unauthenticated| {
        let hint = if refused.unconfigured {
            format!("; set `sources.{source}.auth` to {{type: hmac-sha256, secrets: [{{fromFile: /path}}]}}")
        } else {
            format!("; the setting `sources.{source}.auth` says what callers must send")
        };
        Problem::unauthenticated(refused.reason, &hint, credentials.challenge(source))
    };
    let presented = auth::present(source, credentials, headers, clock::now()).map_err(refused)?;
    // The one thing that is said before a signature is checked: a body that is too large, breaks off or does not come
    // (413, 400, 408) is never there as a whole, and so nothing that could be verified.
    let body = state.bodies.read(source, settings, headers, body, state.settings.body_timeout).await?;
    let who = match presented {
        Presented::Known(who) => who,
        Presented::Signed(signed) => signed.verify(&body).map_err(refused)?,
    };
    Ok((who, body))
}

fn log(source: Source, hook: &str, application: &Application, by: &Actor, answer: &Answer, took: Duration) {
    let deployment = answer.deployment.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let (verdict, took) = (answer.verdict.as_str(), Span(Duration::from_millis(whole_millis(took))));
    let message = &answer.message;
    // Asked on every tick of every canary; a no is the rule.
    if answer.subject == Subject::Question && answer.verdict == Verdict::Rejected {
        tracing::debug!(%source, hook, %application, deployment, verdict, by = by.0, %took, message);
    } else {
        tracing::info!(%source, hook, %application, deployment, verdict, by = by.0, %took, message);
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells of a caller that did not wait for its verdict: the handler is dropped when the connection ends.
struct HungUp<'a> {
    source: Source,
    hook: &'static str,
    application: &'a Application,
    began: Instant,
    stopping: &'a CancellationToken,
    armed: bool,
}

impl<'a> HungUp<'a> {
    const fn armed(
        source: Source,
        hook: &'static str,
        application: &'a Application,
        began: Instant,
        stopping: &'a CancellationToken,
    ) -> Self {
        Self { source, hook, application, began, stopping, armed: true }
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for HungUp<'_> {
    fn drop(&mut self) {
        if !self.armed || self.stopping.is_cancelled() {
            return;
        }
        let (source, hook, application) = (self.source, self.hook, self.application);
        let waited = Span(Duration::from_millis(whole_millis(self.began.elapsed())));
        let remedy = match source {
            Source::Flagger | Source::Loadtester => {
                "set `timeout` of this webhook in the Canary above what its stages take"
            }
            Source::ArgoRollouts => "set `?wait=` below the `timeoutSeconds` of the metric",
            Source::Generic | Source::Argocd | Source::Github | Source::Flux => {
                "set the caller's `timeout` (curl: --max-time) above what its stages take, or `?wait=` below it"
            }
        };
        tracing::warn!(
            %source, hook, %application, %waited, remedy,
            "the caller hung up before the verdict; what was started goes on, and the next call joins it"
        );
    }
}

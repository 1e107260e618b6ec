//! Which path is whose, and what holds for every request: no call from foreign web pages, and one log line for each
//! that is refused.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::header::{CONNECTION, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::problem::{Problem, Refused};
use super::{State, api, health, hooks, loadtester, metrics, page, status};
use crate::domain::names::Source;
use crate::source::loadtester::ROUTES;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The request came over one of the connections beyond the limit.
#[derive(Clone, Copy, Debug)]
pub struct Reserve;

/// Every path.
pub fn router(state: State) -> Router {
    let mut router = Router::new();
    for (path, ..) in ROUTES.into_iter().filter(|(path, ..)| *path != "/") {
        router = router.route(path, any(loadtester::call));
    }
    router
        .route("/hooks/{source}", post(hooks::event))
        .route("/hooks/argo-rollouts/{hook}", post(hooks::metric).put(hooks::metric))
        .route("/hooks/{source}/{hook}", post(hooks::call))
        .route("/hooks/generic/deployments/{id}/{hook}", get(status::show))
        .nest("/api/v1", api::routes())
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .route("/", any(loadtester::call).get(page::show))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), read_in_turn))
        .layer(from_fn_with_state(state.clone(), refuse_foreign_pages))
        .layer(from_fn_with_state(state.clone(), keep_the_reserve))
        .layer(from_fn_with_state(state.clone(), log_refusals))
        .with_state(state)
}

fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// With every connection in use by a request, the last few are for probes: a service that is busy is not dead.
async fn keep_the_reserve(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    if request.extensions().get::<Reserve>().is_none() || is_probe(request.uri().path()) {
        return next.run(request).await;
    }
    let detail = format!(
        "all {} connections are in use by requests; come again, or raise the setting `server.maxConnections`",
        state.settings.max_connections
    );
    let mut response = Problem::unavailable(detail).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whoever only looks reads the ledger after those who look already, and never before a call.
async fn read_in_turn(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let looks = matches!(*request.method(), Method::GET | Method::HEAD) && !is_probe(request.uri().path());
    // Never closed, so there always is one.
    let _turn = if looks { state.readers.acquire().await.ok() } else { None };
    next.run(request).await
}

async fn nothing_here() -> Problem {
    Problem::unknown(
        "there is nothing at this path; there are POST /hooks/SOURCE/HOOK, POST /hooks/github, POST /hooks/flux, \
         GET /hooks/generic/deployments/ID/HOOK, the load tester's POST /, /gate/… and /rollback/…, \
         GET /api/v1/deployments, GET /healthz, GET /readyz, GET /metrics",
    )
    .logged_as("unknown path")
}

async fn wrong_method(uri: Uri) -> Problem {
    let what = match uri.path() {
        path if path.starts_with("/hooks/argo-rollouts/") => {
            "a web metric asks with GET unless it says `method: POST` (or PUT); its jsonBody then says which rollout is meant"
        }
        path if path.starts_with("/hooks/") => "hooks are called with POST",
        _ => "see the header Allow",
    };
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path does not take this method; {what}"))
        .logged_as("wrong method")
}

/// A web page that somebody on this machine looks at could otherwise call what is open on loopback. No delivery tool
/// sends `Origin`; a page of our own sends the one that it came from.
async fn refuse_foreign_pages(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    // Which of two is meant each program on the way decides for itself (RFC 9112, 3.2). One without any is let through:
    // some health checks name none.
    if request.headers().get_all(HOST).iter().nth(1).is_some() {
        let detail = "this request is for more than one host; send one Host header";
        return Problem::new(StatusCode::BAD_REQUEST, detail).logged_as("more than one host").into_response();
    }
    let path = request.uri().path();
    // Read only: with any other method it is the load tester's, whose callers send no `Origin` either.
    let is_page = path == "/" && matches!(*request.method(), Method::GET | Method::HEAD);
    let is_ours = is_page || path.starts_with("/api/");
    let open = state.loopback && state.access().api_tokens.is_empty();
    // A page of ours calls the API alone. What is a source's may be open although the API is not.
    if is_foreign(request.headers(), open || !is_ours) {
        let detail = "this request comes from a web page of another origin, and those are not served";
        return Problem::new(StatusCode::FORBIDDEN, detail).logged_as("foreign origin").into_response();
    }
    // A name in the request's first line wins over the header.
    let asked = request.uri().authority().is_none_or(|authority| is_loopback_name(authority.as_str()));
    if open && is_ours && !(asked && is_for_loopback(request.headers())) {
        let detail = "without `api.tokens` this is open to this machine alone, and only by the names 127.0.0.1, [::1] and \
                      localhost; ask by one of them, or configure a token";
        return Problem::new(StatusCode::FORBIDDEN, detail).logged_as("foreign host").into_response();
    }
    next.run(request).await
}

/// Where nothing but the address may protect us (`open`), the origin's own name must be one of loopback as well:
/// a foreign name can be made to resolve to it.
fn is_foreign(headers: &HeaderMap, open: bool) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match authority {
        Some(authority) => Some(authority) != host || open && !is_loopback_name(authority),
        None => true,
    }
}

/// A page under a foreign name that was made to resolve to us reads without an `Origin`: to the browser we are the
/// page's own server. The name it asks for is then still the foreign one. No browser leaves it out.
fn is_for_loopback(headers: &HeaderMap) -> bool {
    headers.get(HOST).is_none_or(|host| host.to_str().is_ok_and(is_loopback_name))
}

fn is_loopback_name(authority: &str) -> bool {
    let name = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(authority, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

async fn log_refusals(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let source = source_of(request.method(), request.uri().path());
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(Refused(reason)) = response.extensions_mut().remove::<Refused>() {
        let peer = peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let status = response.status().as_u16();
        tracing::warn!(source, %peer, status, %reason, "request refused");
        state.metrics.refused(source, status);
    }
    response
}

/// One of a few words, never the caller's own.
fn source_of(method: &Method, path: &str) -> &'static str {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("hooks"), Some(name)) => name.parse::<Source>().map_or("-", Source::as_str),
        (Some("api"), _) => "api",
        (Some("gate" | "rollback"), _) => Source::Loadtester.as_str(),
        // To read `/` is the dashboard's.
        (Some(""), None) if !matches!(*method, Method::GET | Method::HEAD) => Source::Loadtester.as_str(),
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_of_ours_may_call() {
        let foreign = |host: &str, origin: Option<&str>, open| {
            let mut headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            headers.extend(origin.map(|origin| (ORIGIN, origin.parse().unwrap())));
            is_foreign(&headers, open)
        };
        for open in [false, true] {
            assert!(!foreign("127.0.0.1:8080", None, open));
            assert!(!foreign("127.0.0.1:8080", Some("http://127.0.0.1:8080"), open));
            assert!(!foreign("localhost:8080", Some("http://localhost:8080"), open));
            assert!(!foreign("[::1]:8080", Some("http://[::1]:8080"), open));
            assert!(!foreign("[::1]", Some("http://[::1]"), open));
            assert!(foreign("127.0.0.1:8080", Some("https://evil.example"), open));
            assert!(foreign("127.0.0.1:8080", Some("null"), open));
        }
        assert!(!foreign("hooks.example", Some("https://hooks.example"), false));
        assert!(foreign("evil.example:8080", Some("http://evil.example:8080"), true), "a name that resolves to us");
    }

    #[test]
    fn only_names_of_this_machine_are_for_it() {
        let ours =
            |host: &'static str| is_for_loopback(&HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]));
        for host in ["127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "[::1]", "localhost:8080", "LocalHost"] {
            assert!(ours(host), "{host}");
        }
        for host in ["evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1:8080", ""] {
            assert!(!ours(host), "{host}");
        }
        assert!(is_for_loopback(&HeaderMap::new()));
    }

    #[test]
    fn a_source_is_named_by_one_of_our_words() {
        assert_eq!(source_of(&Method::POST, "/hooks/flagger/rollout"), "flagger");
        assert_eq!(source_of(&Method::POST, "/hooks/evil\nsource/rollout"), "-");
        assert_eq!(source_of(&Method::POST, "/api/v1/deployments"), "api");
        assert_eq!(source_of(&Method::POST, ""), "-");
        assert_eq!(source_of(&Method::POST, "/gate/open"), "loadtester");
        assert_eq!(source_of(&Method::POST, "/"), "loadtester");
        assert_eq!(source_of(&Method::GET, "/"), "-");
        assert_eq!(source_of(&Method::HEAD, "/"), "-");
    }
}

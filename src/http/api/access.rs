//! Who may use the API: holders of a bearer token, or, while none is configured, everybody on this machine.

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;

use crate::domain::record::Actor;
use crate::http::State;
use crate::http::problem::{Problem, Result};
use crate::http::settings::Scope;
use crate::source::auth;

const CHALLENGE: &str = "Bearer realm=\"stagehook\"";

/// Somebody who may look.
pub struct Reader;

/// Somebody who may change things.
pub struct Operator(pub Actor);

impl FromRequestParts<State> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self> {
        who(parts, state, Scope::Read).map(|_| Self)
    }
}

impl FromRequestParts<State> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self> {
        who(parts, state, Scope::Operate).map(Self)
    }
}

fn who(parts: &Parts, state: &State, needed: Scope) -> Result<Actor> {
    let access = state.access();
    let tokens = &access.api_tokens;
    if tokens.is_empty() {
        if state.loopback {
            return Ok(Actor("api".to_owned()));
        }
        let reason = "the API is closed";
        let hint = ": the server listens beyond this machine and no token is configured; set `api.tokens`";
        return Err(Problem::unauthenticated(reason, hint, CHALLENGE));
    }
    let refused = |reason| Problem::unauthenticated(reason, "; `api.tokens` has those that are known", CHALLENGE);
    let told = auth::authorization(&parts.headers, "bearer", "a bearer token is needed")
        .map_err(|error| refused(error.reason))?;
    let found = auth::find(told, tokens.iter().map(|token| &token.secret)).and_then(|at| tokens.get(at));
    let token = found.ok_or_else(|| refused("the bearer token is not known"))?;
    if token.scope < needed {
        let detail = format!("the token {} may only look; use one with the scope operate", token.name);
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(Actor(format!("api token:{}", token.name)))
}

//! Probes: alive, and ready for calls.

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};

use super::State;
use super::problem::Problem;
use crate::source::render::Form;

/// `GET /healthz`: the process answers.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: calls can be taken. A real write is tried, since a full disk shows in nothing less.
pub async fn ready(Shared(state): Shared<State>) -> Response {
    let why = if state.engine.is_draining() {
        "the service is shutting down".to_owned()
    } else {
        match state.engine.ledger().check_writable().await {
            Ok(()) => return "ready\n".into_response(),
            Err(error) => format!("not ready: {error}"),
        }
    };
    Problem::unavailable(why).in_form(Form::Text).into_response()
}

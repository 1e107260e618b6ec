//! Probes: alive, and ready for calls.

use std::time::Duration;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};

use super::State;
use super::problem::Problem;
use crate::source::render::Form;

/// `GET /healthz`: the process answers.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// How long the write that a probe tries may take. A prober waits for its answer, and the first one that meets a lock
/// would be held as long as a call.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /readyz`: calls can be taken. A real write is tried, since a full disk shows in nothing less.
pub async fn ready(Shared(state): Shared<State>) -> Response {
    let why = if state.engine.is_draining() {
        "the service is shutting down".to_owned()
    } else {
        let ledger = state.engine.ledger();
        match tokio::time::timeout(PATIENCE, ledger.check_writable()).await {
            Ok(Ok(())) => return "ready\n".into_response(),
            Ok(Err(error)) => format!("not ready: {error}"),
            Err(_) => match ledger.write_fault() {
                Some(why) => format!("not ready: the ledger can't be written: {why}"),
                None => format!(
                    "not ready: the ledger can't be written: nothing came of a write for {}s; another program holds its \
                     lock, or its disk does not answer",
                    PATIENCE.as_secs()
                ),
            },
        }
    };
    Problem::unavailable(why).in_form(Form::Text).into_response()
}

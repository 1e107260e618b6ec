//! Requests that change something. The engine takes them on or says why not; what comes of them is read elsewhere.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::response::IntoResponse;
use http::header::LOCATION;
use http::{StatusCode, Uri};
use serde_json::json;

use super::access::Operator;
use super::{Part, id, parse_id};
use crate::domain::call::Operation;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::Shown;
use crate::domain::record::Actor;
use crate::engine::Told;
use crate::failpoint::{self, Point};
use crate::http::State;
use crate::http::problem::{Problem, Result};
use crate::http::query::Params;
use crate::source::render::location;

/// `POST /api/v1/deployments/{id}/{rollback, cancel, close or release}`.
pub async fn deployment(
    Operator(by): Operator,
    Shared(state): Shared<State>,
    path: std::result::Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Result {
    let Path((deployment, word)) = path.map_err(|_| Problem::unknown("the path is not valid UTF-8"))?;
    let operation = match word.as_str() {
        "rollback" => Operation::Rollback { now: Params::of(&uri)?.switch("now")? },
        "cancel" => Operation::Cancel,
        "close" => Operation::Close,
        "release" => Operation::Release,
        other => {
            let detail =
                format!("{} is nothing that can be done; there are rollback, cancel, close and release", Shown(other));
            return Err(Problem::unknown(detail));
        }
    };
    let deployment: DeploymentId = parse_id(&deployment)?;
    failpoint::hit(Point::OperateBefore);
    let told = state.engine.operate(deployment, operation, by.clone()).await;
    failpoint::hit(Point::OperateAfter);
    log(&by, &word, &deployment.to_string(), &told);
    answer(&told, &location(deployment))
}

/// `POST /api/v1/runs/{id}/cancel`.
pub async fn cancel_run(Operator(by): Operator, Shared(state): Shared<State>, part: Part) -> Result {
    let run: RunId = id(part)?;
    let told = state.engine.cancel_run(run, by.clone()).await;
    log(&by, "cancel", &run.to_string(), &told);
    answer(&told, &format!("/api/v1/runs/{run}"))
}

fn answer(told: &Told, location: &str) -> Result {
    let message = match told {
        Told::Accepted { message } => message,
        Told::Answer(answer) => &answer.message,
        refused => {
            let bug = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request was not answered");
            return Err(Problem::of(refused).unwrap_or_else(bug));
        }
    };
    let headers = [(LOCATION, location.to_owned())];
    Ok((StatusCode::ACCEPTED, headers, Json(json!({"message": message}))).into_response())
}

fn log(by: &Actor, operation: &str, on: &str, told: &Told) {
    if let Told::Accepted { message } = told {
        tracing::info!(by = by.0, operation, on, %message, "request taken on");
    }
}

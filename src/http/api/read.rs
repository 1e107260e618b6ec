//! Deployments, records and runs, as the ledger has them.

use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::Uri;
use serde_json::json;

use super::access::Reader;
use super::{Part, id, unreadable, views};
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Application, Shown, StreamId};
use crate::domain::state::Deployment;
use crate::domain::summary::State as Standing;
use crate::http::State;
use crate::http::problem::{Problem, Result};
use crate::http::query::Params;
use crate::ledger::ListQuery;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// Of a deployment's records; without a `limit`, too: few have so many.
const MAX_RECORDS: usize = 1000;

/// `GET /api/v1/deployments`.
pub async fn list(_: Reader, Shared(state): Shared<State>, uri: Uri) -> Result {
    let query = query(&Params::of(&uri)?)?;
    let page = state.engine.ledger().list(&query).await.map_err(unreadable)?;
    Ok(Json(json!({"deployments": page.deployments, "next": page.next})).into_response())
}

fn query(params: &Params) -> Result<ListQuery> {
    let application = params.parsed("application", |text| text.parse::<Application>())?;
    let state = params.parsed("state", |text| {
        Standing::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Standing::ALL.iter().map(|state| state.as_str()).collect();
            format!("{} is none of {}", Shown(text), known.join(", "))
        })
    })?;
    let limit = limit(params, MAX_LIMIT)?;
    let cursor = params.parsed("cursor", |text| text.parse::<DeploymentId>())?;
    Ok(ListQuery { application, state, limit: limit.unwrap_or(DEFAULT_LIMIT), cursor })
}

fn limit(params: &Params, most: usize) -> Result<Option<usize>> {
    params.parsed("limit", |text| match text.parse() {
        Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(format!("{} is no number from 1 to {most}", Shown(text))),
    })
}

/// `GET /api/v1/deployments/{id}`.
pub async fn deployment(_: Reader, Shared(state): Shared<State>, part: Part) -> Result {
    let (stream, deployment) = load(&state, id(part)?).await?;
    Ok(Json(views::deployment(&stream, &deployment)).into_response())
}

/// `GET /api/v1/deployments/{id}/records`.
pub async fn records(_: Reader, Shared(state): Shared<State>, part: Part, uri: Uri) -> Result {
    let id = id(part)?;
    let params = Params::of(&uri)?;
    let limit = limit(&params, MAX_RECORDS)?.unwrap_or(MAX_RECORDS);
    let cursor = params
        .parsed("cursor", |text| text.parse::<u64>().map_err(|_| format!("{} is no record's number", Shown(text))))?;
    // One more than is wanted tells whether there is a next page.
    let ledger = state.engine.ledger();
    let mut records = ledger.records(id, cursor.unwrap_or(0), limit + 1).await.map_err(unreadable)?;
    let more = records.len() > limit;
    records.truncate(limit);
    // After the last one there is nothing, and that is no reason to deny the deployment.
    if records.is_empty() && (cursor.is_none() || ledger.summary(id).await.map_err(unreadable)?.is_none()) {
        return Err(no_deployment(id));
    }
    let next = records.last().filter(|_| more).map(|stored| stored.record.seq);
    Ok(Json(json!({"records": records, "next": next})).into_response())
}

/// `GET /api/v1/runs/{id}`.
pub async fn run(_: Reader, Shared(state): Shared<State>, part: Part) -> Result<Response> {
    Ok(Json(load_run(&state, id(part)?).await?).into_response())
}

async fn load(state: &State, id: DeploymentId) -> Result<(StreamId, Deployment)> {
    state.engine.deployment(id).await.map_err(unreadable)?.ok_or_else(|| no_deployment(id))
}

/// A run as the ledger has it.
pub(super) async fn load_run(state: &State, id: RunId) -> Result<views::Run> {
    let found = state.engine.ledger().find_run(id).await.map_err(unreadable)?;
    let none = || Problem::unknown(format!("there is no run {id}"));
    let (_, deployment) = found.ok_or_else(none)?;
    let (_, deployment) = load(state, deployment).await?;
    deployment.run(id).map(|run| views::run(&deployment, run)).ok_or_else(none)
}

fn no_deployment(id: DeploymentId) -> Problem {
    Problem::unknown(format!("there is no deployment {id}; GET /api/v1/deployments lists what there is"))
}

//! The API: what people, the command line and the dashboard ask, under `/api/v1`.
//!
//! - `access`: who may
//! - `read`: deployments, records, runs; `views` is how they are written
//! - `logs`: what a run printed, also while it prints
//! - `operate`: requests that change something

mod access;
mod logs;
mod operate;
mod read;
mod views;

use std::fmt::Display;
use std::str::FromStr;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::routing::{get, post};

use super::State;
use super::problem::{Problem, Result};
use crate::domain::names::Shown;

/// Every path of the API.
pub fn routes() -> Router<State> {
    Router::new()
        .route("/deployments", get(read::list))
        .route("/deployments/{id}", get(read::deployment))
        .route("/deployments/{id}/records", get(read::records))
        .route("/deployments/{id}/{operation}", post(operate::deployment))
        .route("/runs/{id}", get(read::run))
        .route("/runs/{id}/logs", get(logs::logs))
        .route("/runs/{id}/cancel", post(operate::cancel_run))
}

/// A part of a path.
type Part = std::result::Result<Path<String>, PathRejection>;

/// The id in a path. One that is none names nothing: 404.
fn id<T: FromStr<Err: Display>>(part: Part) -> Result<T> {
    let Path(text) = part.map_err(|_| Problem::unknown("the path is not valid UTF-8"))?;
    parse_id(&text)
}

fn parse_id<T: FromStr<Err: Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| Problem::unknown(format!("{} names nothing: {error}", Shown(text))))
}

/// A read of the ledger that failed.
fn unreadable(error: impl Display) -> Problem {
    Problem::unavailable(error.to_string())
}

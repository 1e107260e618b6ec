//! The page at `/`: the newest deployments, read only, without a script. No dashboard yet.

use std::fmt::Write as _;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};

use super::State;
use crate::domain::summary::Summary;
use crate::ledger::ListQuery;

/// How many deployments are shown.
const SHOWN: usize = 30;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Stagehook</title>\
    <meta name=\"viewport\" content=\"width=device-width\"><style>body{font:15px/1.5 system-ui;margin:2rem}\
    td,th{text-align:left;padding:.1rem 1rem .1rem 0}</style><h1>Stagehook</h1>";

/// `GET /`.
pub async fn show(Shared(state): Shared<State>) -> Response {
    let body = if !state.access().api_tokens.is_empty() || !state.loopback {
        // A browser sends no bearer token, and what the API hides must not show here.
        "<p>Deployments are shown to holders of an API token: <code>stagehook deployments</code>.</p>".to_owned()
    } else {
        let query = ListQuery { limit: SHOWN, ..ListQuery::default() };
        match state.engine.ledger().list(&query).await {
            Ok(page) => table(&page.deployments),
            Err(error) => format!("<p>{}</p>", escape(&error.to_string())),
        }
    };
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, format!("{HEAD}{body}</html>\n")).into_response()
}

fn table(deployments: &[Summary]) -> String {
    if deployments.is_empty() {
        return "<p>No deployment yet.</p>".to_owned();
    }
    let mut html = "<table><tr><th>Opened<th>Application<th>Source<th>Revision<th>State<th>Deployment".to_owned();
    for Summary { id, application, source, revision, state, reason, opened_at, .. } in deployments {
        let revision = revision.as_ref().map_or("", |revision| revision.as_str());
        let reason = reason.map_or_else(String::new, |reason| format!(", {}", reason.as_str()));
        // Writing to a string can't fail.
        let _ = write!(
            html,
            "<tr><td>{opened_at:.0}<td>{}<td>{source}<td>{}<td>{}{reason}<td><a href=\"/api/v1/deployments/{id}\">{id}</a>",
            escape(&application.to_string()),
            escape(revision),
            state.as_str(),
        );
    }
    html + "</table>"
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_shown_and_not_obeyed() {
        assert_eq!(escape("<b a='1' b=\"2\">&"), "&lt;b a=&#39;1&#39; b=&quot;2&quot;&gt;&amp;");
    }
}

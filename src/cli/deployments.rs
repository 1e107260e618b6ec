//! `deployments`, and the commands that change one: `rollback`, `cancel`, `close`, `release`.

use serde_json::Value;

use super::Environment;
use super::args::{CancelArgs, ChangeArgs, Id, ListArgs, Output};
use super::failure::Failure;
use super::out::Out;
use super::target::Target;
use super::text::{self, Table};
use super::view::{self, Page};

/// Lists a page of the deployments.
pub(super) async fn list(
    args: &ListArgs,
    target: &Target,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.application.as_ref().map(|application| ("application", application.to_string())));
    query.extend(args.state.map(|state| ("state", state.as_str().to_owned())));
    query.extend(args.cursor.as_ref().map(|cursor| ("cursor", cursor.clone())));
    let document = target.client()?.get(&["api", "v1", "deployments"], &query).await?;
    if args.output == Output::Json {
        return out.json(&document);
    }
    let page: Page = view::read(&document)?;
    if page.deployments.is_empty() {
        return out.line("no deployments");
    }
    let now = (environment.now)();
    let mut table = Table::new(&["ID", "APPLICATION", "SOURCE", "REVISION", "STATE", "REASON", "OPENED"]);
    for deployment in &page.deployments {
        table.row([
            &deployment.id,
            &deployment.application,
            &deployment.source,
            deployment.revision.as_deref().unwrap_or_default(),
            &deployment.state,
            deployment.reason.as_deref().unwrap_or_default(),
            &deployment.opened_at.map(|at| text::time(at, now)).unwrap_or_default(),
        ]);
    }
    for line in table.lines(0) {
        out.line(line)?;
    }
    match page.next {
        Some(next) => out.line(format!("more: --cursor {}", text::escape(&next))),
        None => Ok(()),
    }
}

/// Asks for a change of one deployment.
pub(super) async fn change(
    args: &ChangeArgs,
    operation: &str,
    now: bool,
    target: &Target,
    out: &mut Out,
) -> Result<(), Failure> {
    let query: &[_] = if now { &[("now", "true".to_owned())] } else { &[] };
    let id = args.id.to_string();
    let document = target.client()?.post(&["api", "v1", "deployments", &id, operation], query).await?;
    taken_on(&document, args.output, out)
}

/// Cancels a deployment, or one script.
pub(super) async fn cancel(args: &CancelArgs, target: &Target, out: &mut Out) -> Result<(), Failure> {
    let (kind, id) = match args.id {
        Id::Deployment(id) => ("deployments", id.to_string()),
        Id::Run(id) => ("runs", id.to_string()),
    };
    let document = target.client()?.post(&["api", "v1", kind, &id, "cancel"], &[]).await?;
    taken_on(&document, args.output, out)
}

fn taken_on(document: &Value, output: Output, out: &mut Out) -> Result<(), Failure> {
    if output == Output::Json {
        return out.json(document);
    }
    out.line(text::escape(document.get("message").and_then(Value::as_str).unwrap_or("accepted")))
}

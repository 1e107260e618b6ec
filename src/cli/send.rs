//! `send`: a call as a delivery tool would make it, to try a pipeline out by hand.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderValue};
use serde_json::{Map, Value, json};

use crate::domain::names::Source;

use super::args::{Output, SendArgs};
use super::client;
use super::failure::Failure;
use super::out::Out;
use super::target::Target;
use super::text::{self, Table, escape};
use super::view::{self, Verdict};

/// Calls a hook and shows the answer. Only `approved` is a yes.
pub(super) async fn send(args: &SendArgs, target: &Target, out: &mut Out) -> Result<(), Failure> {
    if matches!(args.source, Source::Github | Source::Flux | Source::Loadtester) {
        return Err(Failure::Usage(format!(
            "{} sends payloads of its own, which this command can't make up; its page in docs/ shows how to play one",
            args.source
        )));
    }
    if args.hook == "event" && args.source != Source::Flagger {
        return Err(Failure::Usage("only flagger sends the hook event".into()));
    }
    if args.deployment.is_some() && args.source != Source::Generic {
        return Err(Failure::Usage("only a generic call can name a --deployment".into()));
    }
    if args.phase.is_some() && args.source != Source::Flagger {
        return Err(Failure::Usage("only a flagger call has a --phase".into()));
    }
    let client = target.client()?;
    let mut query: Vec<_> = args.wait.map(|wait| ("wait", wait.to_string())).into_iter().collect();
    if let (Source::Flagger, Some(cluster)) = (args.source, &args.application.cluster) {
        query.push(("cluster", cluster.to_string()));
    }
    let mut request = client
        .request(Method::POST, &["hooks", args.source.as_str(), &args.hook], &query)
        .header(ACCEPT, "application/json")
        .json(&payload(args));
    if let Some(user) = &args.user {
        let basic = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(user)))
            .map_err(|_| Failure::Usage("the user can't be written into a header".into()))?;
        request = client::authorized(request, basic);
    }
    // No deadline: the server answers when there is a verdict.
    let response = client.send(request).await?;
    let status = response.status();
    let body = client.text(response).await?;
    let document: Option<Value> = serde_json::from_str(&body).ok();
    let Some(document) = document.filter(|document| document.get("verdict").is_some()) else {
        return Err(Failure::No(client::refusal(status, &body)));
    };
    let verdict: Verdict = view::read(&document)?;
    if args.output == Output::Json {
        out.json(&document)?;
    } else {
        show(status.as_u16(), &verdict, out)?;
    }
    if verdict.verdict == "approved" { Ok(()) } else { Err(Failure::Said) }
}

fn show(status: u16, answer: &Verdict, out: &mut Out) -> Result<(), Failure> {
    let message = answer.message.strip_prefix(&format!("{}: ", answer.verdict)).unwrap_or(&answer.message);
    out.line(format!("{status} {}: {}", escape(&answer.verdict), escape(message)))?;
    if let Some(deployment) = &answer.deployment {
        out.line(format!("deployment {}", escape(deployment)))?;
    }
    let mut table = Table::new(&["STAGE", "NAME", "STATE", "RUN", "EXIT", "TOOK"]);
    for stage in &answer.stages {
        table.row([
            &stage.id,
            &stage.name,
            stage.state.as_deref().unwrap_or_default(),
            stage.run.as_deref().unwrap_or_default(),
            &stage.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            &stage.duration_ms.map(text::duration).unwrap_or_default(),
        ]);
    }
    if table.is_empty() { Ok(()) } else { table.lines(0).into_iter().try_for_each(|line| out.line(line)) }
}

/// The body that this caller would send.
fn payload(args: &SendArgs) -> Value {
    let application = &args.application;
    let metadata: Map<String, Value> =
        args.metadata.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
    let mut body = json!({"name": application.name.as_str(), "namespace": application.namespace.as_str()});
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[key] = value;
        }
    };
    let revision = args.revision.as_ref().map(|revision| revision.as_str().into());
    match args.source {
        Source::Flagger => {
            set("phase", Some(args.phase.as_deref().unwrap_or_else(|| phase(&args.hook)).into()));
            set("checksum", revision);
        }
        Source::Generic | Source::Argocd | Source::ArgoRollouts => {
            set("cluster", application.cluster.as_ref().map(|cluster| cluster.as_str().into()));
            set("revision", revision);
            set("deployment", args.deployment.map(|deployment| deployment.to_string().into()));
        }
        // Refused above: these say in their own payload which hook is meant.
        Source::Github | Source::Flux | Source::Loadtester => {}
    }
    set("metadata", (!metadata.is_empty()).then_some(Value::Object(metadata)));
    body
}

/// The phase that Flagger sends with a hook when all goes well. With `rollback` that makes it the question, which
/// changes nothing.
fn phase(hook: &str) -> &'static str {
    match hook {
        "confirm-rollout" => "Initialized",
        "post-rollout" => "Succeeded",
        _ => "Progressing",
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::{Args, Command};
    use super::*;
    use clap::Parser;

    fn body(line: &str) -> Value {
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        let Command::Send(args) = args.command else { panic!("{line}") };
        payload(&args)
    }

    #[test]
    fn flagger_sends_its_phase_and_checksum() {
        assert_eq!(
            body("stagehook send flagger pre-rollout --app test/podinfo --revision 57d --metadata A=b=c --metadata D="),
            json!({"name": "podinfo", "namespace": "test", "phase": "Progressing", "checksum": "57d",
                   "metadata": {"A": "b=c", "D": ""}})
        );
        assert_eq!(body("stagehook send flagger post-rollout --app a/b")["phase"], "Succeeded");
        assert_eq!(body("stagehook send flagger post-rollout --app a/b --phase Failed")["phase"], "Failed");
        assert_eq!(body("stagehook send flagger confirm-rollout --app a/b")["phase"], "Initialized");
    }

    #[test]
    fn generic_sends_its_revision_and_cluster() {
        assert_eq!(
            body("stagehook send generic rollout --app eu:prod/octo/app --revision v1"),
            json!({"name": "octo/app", "namespace": "prod", "cluster": "eu", "revision": "v1"})
        );
    }
}

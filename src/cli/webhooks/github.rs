//! GitHub: the settings of a repository's webhook, and the command that creates it.

use serde_json::json;

use super::place::{REPOSITORY, shell};
use super::{Wiring, yaml};

/// The settings, each under the name that the form has for it.
pub(super) fn written(wiring: &Wiring<'_>) -> String {
    let place = &wiring.place;
    // In GitHub an application is `environment/owner/repository`; a name without a slash can't be one.
    let repository = if place.name.contains('/') { place.name.as_str() } else { REPOSITORY };
    let url = wiring.base.with("/hooks/github", &[("cluster", place.cluster())]);
    let rules = wiring.github;
    let mapped = [
        ("push", rules.push.is_empty()),
        ("release", rules.release.is_empty()),
        ("workflow_run", rules.workflow_run.is_empty()),
    ];
    let mapped = mapped.iter().filter(|(_, unmapped)| !unmapped).map(|(event, _)| *event);
    let events: Vec<_> = ["deployment", "deployment_status"].into_iter().chain(mapped).collect();
    let hook = json!({
        "name": "web",
        "active": true,
        "events": events,
        "config": {"url": url, "content_type": "json", "insecure_ssl": "0"},
    });
    let path = shell(&format!("repos/{repository}/hooks"));
    let command = format!(
        "jq --rawfile secret webhook-secret '.config.secret = ($secret | rtrimstr(\"\\n\"))' <<'EOF' |\n{}\nEOF\n  gh api --method POST {path} --input -\n",
        serde_json::to_string_pretty(&hook).unwrap_or_default(),
    );
    format!(
        "{}\
# Repository: Settings, Webhooks, Add webhook. The application is ENVIRONMENT/OWNER/REPOSITORY: the pipeline's selector
# has the environment as its namespace and the repository's full name as its name.
# Every call is answered at once (202), and the stages run after it: there is no timeout to set.
payloadUrl: {}
contentType: application/json
# What sources.github.auth has; make one with: openssl rand -hex 32 >webhook-secret
secret: \"<the content of the file webhook-secret>\"
sslVerification: true
# deployment: pre-rollout. deployment_status: in_progress is rollout, success post-rollout, failure and error rollback.
# A gate before the deployment (deployment_protection_rule, held until pre-rollout is decided) is told to GitHub Apps
# alone: tick it among the events of the App, with this URL and secret, and add the App to the environment's rules.
# workflow_run, release and push: only where a pipeline maps them.
events:
{}
# The same with the GitHub CLI; the secret is read from a file and stands on no command line.
command: |
{}
",
        wiring.title("The webhook of GitHub"),
        yaml::quoted(&url),
        events.iter().map(|event| format!("  - {event}")).collect::<Vec<_>>().join("\n"),
        yaml::indented(&command, 2),
    )
}

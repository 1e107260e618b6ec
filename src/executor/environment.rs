//! The environment of a script: the facts about its run, as variables.
//!
//! Pure, and the only place that knows the variables' names, but for those that name a file or an
//! attempt, which the executor adds. What a caller sent becomes a value and nothing else: it never
//! reaches a shell's line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use crate::domain::hook::Hook;
use crate::domain::ids::{DeploymentId, RunId};
use crate::domain::names::{Application, Revision, Source, StageId};
use crate::domain::pipeline::EnvValue;
use crate::domain::record::{About, Outcome};

/// What a script may know of its run.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The variables of the service's own environment that scripts inherit.
    pub inherited: &'a [(String, String)],
    /// The deployment.
    pub deployment: DeploymentId,
    /// What is deployed.
    pub application: &'a Application,
    /// The hook that it runs on.
    pub hook: Hook,
    /// Who told of the deployment.
    pub source: Source,
    /// What is rolled out.
    pub revision: Option<&'a Revision>,
    /// The stage.
    pub stage: &'a StageId,
    /// The run.
    pub run: RunId,
    /// The call's metadata.
    pub metadata: &'a BTreeMap<String, String>,
    /// The pipeline's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Who started the deployment, and why.
    pub about: &'a About,
    /// Whether this undoes a stage.
    pub is_rollback: bool,
    /// When the deployment was opened.
    pub triggered_at: Timestamp,
    /// How the stage's forward run ended, for what undoes it.
    pub forward: Option<Forward>,
    /// The stage's own environment, which wins.
    pub own: &'a BTreeMap<String, EnvValue>,
}

/// How a forward run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The state.
    pub outcome: Outcome,
    /// The exit code, where there was one.
    pub exit_code: Option<i32>,
}

/// The environment, later entries winning over earlier ones.
pub fn environment(facts: &Facts<'_>) -> Vec<(String, EnvValue)> {
    let Facts { application, about, .. } = facts;
    let mut env = Environment(Vec::new());
    for (name, value) in facts.inherited {
        env.put(name.clone(), value);
    }
    env.put("SR_DEPLOYMENT_ID", &facts.deployment.to_string());
    env.put("SR_APPLICATION_ID", &application.to_string());
    env.put("SR_APPLICATION_NAME", application.name.as_str());
    env.put("SR_TRIGGERED_AT", &facts.triggered_at.as_second().to_string());
    env.put("SR_TRIGGERED_COMMIT_HASH", &about.commit_hash);
    env.put("SR_TRIGGERED_COMMANDER", &about.commander);
    env.put("SR_REPOSITORY_URL", &about.repository_url);
    env.put("SR_SUMMARY", &about.summary);
    env.put("SR_IS_ROLLBACK", if facts.is_rollback { "true" } else { "false" });
    env.put("SR_CONTEXT_RAW", &context(facts));
    for (name, value) in facts.labels {
        env.put(variable("SR_LABELS_", name), value);
    }
    env.put("STAGEHOOK_HOOK", facts.hook.as_str());
    env.put("STAGEHOOK_SOURCE", facts.source.as_str());
    env.put("STAGEHOOK_CLUSTER", application.cluster.as_ref().map_or("", |cluster| cluster.as_str()));
    env.put("STAGEHOOK_NAMESPACE", application.namespace.as_str());
    env.put("STAGEHOOK_NAME", application.name.as_str());
    env.put("STAGEHOOK_REVISION", facts.revision.map_or("", |revision| revision.as_str()));
    env.put("STAGEHOOK_STAGE", facts.stage.as_str());
    env.put("STAGEHOOK_RUN_ID", &facts.run.to_string());
    for (name, value) in facts.metadata {
        env.put(variable("STAGEHOOK_METADATA_", name), value);
    }
    if let Some(forward) = facts.forward {
        env.put("STAGEHOOK_FORWARD_STATUS", forward.outcome.as_str());
        let code = forward.exit_code.map(|code| code.to_string()).unwrap_or_default();
        env.put("STAGEHOOK_FORWARD_EXIT_CODE", &code);
    }
    env.0.extend(facts.own.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.0
}

/// A prefix and a caller's key as a valid name: upper case, `_` for what is neither letter nor digit.
fn variable(prefix: &str, key: &str) -> String {
    let valid = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    prefix.chars().chain(valid).collect()
}

/// PipeCD's `ContextInfo`, with its field names.
fn context(facts: &Facts<'_>) -> String {
    json!({
        "deploymentID": facts.deployment.to_string(),
        "applicationID": facts.application.to_string(),
        "applicationName": facts.application.name.as_str(),
        "triggeredAt": facts.triggered_at.as_second(),
        "triggeredCommitHash": facts.about.commit_hash,
        "triggeredCommander": facts.about.commander,
        "repositoryURL": facts.about.repository_url,
        "summary": facts.about.summary,
        "labels": facts.labels,
        "isRollback": facts.is_rollback,
    })
    .to_string()
}

struct Environment(Vec<(String, EnvValue)>);

impl Environment {
    fn put(&mut self, name: impl Into<String>, value: &str) {
        // No variable can hold a NUL, and a caller's text shall not keep a script from running.
        self.0.push((name.into(), EnvValue::Plain(value.replace('\0', ""))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Mint;

    #[test]
    fn has_every_variable_of_the_contract() {
        let mut mint = Mint::new(Timestamp::from_second(1_700_000_000).unwrap(), 1);
        let (deployment, run) = (mint.deployment(), mint.run());
        let application: Application = "eu:test/octo/app".parse().unwrap();
        let metadata = BTreeMap::from([("retry-count.é".into(), "a\0b; rm -rf /".into())]);
        let labels = BTreeMap::from([("env".into(), "prod".into())]);
        let about = About { summary: "fix".into(), ..About::default() };
        let own = BTreeMap::from([("SR_SUMMARY".to_owned(), EnvValue::FromFile("/s".into()))]);
        let env = environment(&Facts {
            inherited: &[("LANG".into(), "C".into())],
            deployment,
            application: &application,
            hook: Hook::PreRollout,
            source: Source::Flagger,
            revision: None,
            stage: &StageId::new("migrate").unwrap(),
            run,
            metadata: &metadata,
            labels: &labels,
            about: &about,
            is_rollback: true,
            triggered_at: Timestamp::from_second(1_700_000_000).unwrap(),
            forward: Some(Forward { outcome: Outcome::TimedOut, exit_code: None }),
            own: &own,
        });
        let all: BTreeMap<_, _> = env.iter().cloned().collect();
        let plain = |name: &str| match &all[name] {
            EnvValue::Plain(text) => text.clone(),
            EnvValue::FromFile(_) | EnvValue::FromEnv(_) => panic!("{name} is a reference"),
        };
        assert_eq!(plain("LANG"), "C");
        assert_eq!(plain("SR_APPLICATION_ID"), "eu:test/octo/app");
        assert_eq!(plain("SR_TRIGGERED_AT"), "1700000000");
        assert_eq!(plain("SR_IS_ROLLBACK"), "true");
        assert_eq!(plain("SR_LABELS_ENV"), "prod");
        assert_eq!(plain("SR_TRIGGERED_COMMANDER"), "");
        assert_eq!(plain("STAGEHOOK_METADATA_RETRY_COUNT__"), "ab; rm -rf /");
        assert_eq!(plain("STAGEHOOK_CLUSTER"), "eu");
        assert_eq!(plain("STAGEHOOK_REVISION"), "");
        assert_eq!(plain("STAGEHOOK_FORWARD_STATUS"), "TimedOut");
        assert_eq!(plain("STAGEHOOK_FORWARD_EXIT_CODE"), "");
        assert_eq!(all["SR_SUMMARY"], EnvValue::FromFile("/s".into()));
        let context: serde_json::Value = serde_json::from_str(&plain("SR_CONTEXT_RAW")).unwrap();
        assert_eq!(context["deploymentID"], deployment.to_string());
        assert_eq!(context["labels"]["env"], "prod");
        assert_eq!(context["isRollback"], true);
    }
}

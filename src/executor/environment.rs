//! The environment of a script: the facts about its run, as variables.
//!
//! Pure, and the only place that knows the variables' names, but for those that name a file or an
//! attempt, which the executor adds. What a caller sent becomes a value and nothing else: it never
//! reaches a shell's line.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

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

/// Below what one variable may have with its name (Linux: 128 KiB), and what callers may take of all that a process is
/// started with together (2 MiB, the script's own text and environment included).
const LONGEST: usize = 127 * 1024;
const MOST: usize = 1024 * 1024;

/// The environment of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variables {
    /// Later entries win over earlier ones.
    pub all: Vec<(String, EnvValue)>,
    /// Those that a rollback has to do without, since a caller's text is too long for them.
    pub left_out: Vec<String>,
}

/// The environment.
pub fn environment(facts: &Facts<'_>) -> Variables {
    let Facts { application, about, .. } = facts;
    let mut env = Environment(Vec::new());
    let mut told = Environment(Vec::new());
    for (name, value) in facts.inherited {
        env.put(name.clone(), value);
    }
    env.put("SR_DEPLOYMENT_ID", &facts.deployment.to_string());
    env.put("SR_APPLICATION_ID", &application.to_string());
    env.put("SR_APPLICATION_NAME", application.name.as_str());
    env.put("SR_TRIGGERED_AT", &facts.triggered_at.as_second().to_string());
    told.put("SR_TRIGGERED_COMMIT_HASH", &about.commit_hash);
    told.put("SR_TRIGGERED_COMMANDER", &about.commander);
    told.put("SR_REPOSITORY_URL", &about.repository_url);
    told.put("SR_SUMMARY", &about.summary);
    env.put("SR_IS_ROLLBACK", if facts.is_rollback { "true" } else { "false" });
    told.put("SR_CONTEXT_RAW", &context(facts));
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
        told.put(variable("STAGEHOOK_METADATA_", name), value);
    }
    if let Some(forward) = facts.forward {
        env.put("STAGEHOOK_FORWARD_STATUS", forward.outcome.as_str());
        let code = forward.exit_code.map(|code| code.to_string()).unwrap_or_default();
        env.put("STAGEHOOK_FORWARD_EXIT_CODE", &code);
    }
    let left_out = if facts.is_rollback { told.shorten() } else { Vec::new() };
    env.0.extend(told.0);
    env.0.extend(facts.own.iter().map(|(name, value)| (name.clone(), value.clone())));
    Variables { all: env.0, left_out }
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

    /// Takes out what would keep a script from being started, the longest first, and tells the names. A forward stage is
    /// refused for such a text instead: it must not run on half of what it was told. What undoes one must run.
    fn shorten(&mut self) -> Vec<String> {
        // A caller may send a hundred thousand of them: each is looked at twice at most.
        let mut by_length: BinaryHeap<_> = self.0.iter().map(entry_length).zip(0..).collect();
        let mut all: usize = self.0.iter().map(entry_length).sum();
        let (mut left_out, mut gone) = (Vec::new(), BTreeSet::new());
        while let Some((length, index)) = by_length.pop().filter(|(length, _)| *length > LONGEST || all > MOST) {
            all -= length;
            let entry: &mut (String, EnvValue) = &mut self.0[index];
            // Empty rather than unset, for scripts that stop at an unset variable; the names may be too long, too.
            if value_length(&entry.1) > 0 {
                left_out.push(entry.0.clone());
                entry.1 = EnvValue::Plain(String::new());
                let length = entry_length(entry);
                all += length;
                by_length.push((length, index));
            } else {
                gone.insert(index);
            }
        }
        let mut index = 0..;
        self.0.retain(|_| index.next().is_some_and(|index| !gone.contains(&index)));
        left_out
    }
}

/// What one takes of the space that a process is started with: `NAME=value`, its end, and where it stands.
fn entry_length((name, value): &(String, EnvValue)) -> usize {
    name.len() + value_length(value) + 2 + size_of::<usize>()
}

fn value_length(value: &EnvValue) -> usize {
    match value {
        EnvValue::Plain(text) => text.len(),
        EnvValue::FromFile(_) | EnvValue::FromEnv(_) => 0,
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
        assert_eq!(env.left_out, [""; 0]);
        let all: BTreeMap<_, _> = env.all.iter().cloned().collect();
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

    #[test]
    fn a_text_that_is_too_long_keeps_no_rollback_from_running() {
        let long = |length: usize| EnvValue::Plain("x".repeat(length));
        let mut told = Environment(vec![
            ("A".into(), long(LONGEST)),
            ("B".into(), long(LONGEST - 11)),
            ("C".into(), EnvValue::Plain("kept".into())),
        ]);
        assert_eq!(told.shorten(), ["A"]);
        let lengths: Vec<_> = told.0.iter().map(|(_, value)| value_length(value)).collect();
        assert_eq!(lengths, [0, LONGEST - 11, 4]);
        let mut many = Environment((0..40).map(|n| (format!("V{n}"), long(MOST / 32))).collect());
        assert_eq!(many.shorten().len(), 9, "with their names 31 of them fit");
        let mut name = Environment(vec![("N".repeat(LONGEST + 1), EnvValue::Plain("x".into()))]);
        assert_eq!(name.shorten().len(), 1);
        assert!(name.0.is_empty());
    }

    #[test]
    fn many_short_texts_keep_no_rollback_from_running() {
        // What fits into a call of 1 MiB. Looked at again for each that goes, they took a minute.
        let mut many = Environment(
            (0..110_000).map(|n| (format!("STAGEHOOK_METADATA_K{n}"), EnvValue::Plain("x".into()))).collect(),
        );
        let left_out = many.shorten();
        assert!(left_out.len() >= 110_000 - many.0.len(), "each that is missing is told: {}", left_out.len());
        let all: usize = many.0.iter().map(entry_length).sum();
        assert!((MOST - 64..=MOST).contains(&all), "{all}");
    }
}

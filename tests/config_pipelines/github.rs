//! `spec.sources.github`: which events are calls, and every fault in it with its place.

use stagehook::domain::github::Rules;
use stagehook::domain::hook::Hook;

use crate::*;

/// A file with this below `spec.sources.github`, which begins in line 8.
fn mapped(rules: &str) -> String {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: a}}\nspec:\n  selector: {{namespace: prod*}}\n  sources:\n    github:\n{rules}  stages: []\n"
    )
}

fn rules(text: &str) -> Rules {
    let (catalog, warnings) = load(&mapped(text)).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(warnings, [], "{text}");
    catalog.github().next().map(|(_, rules)| rules.clone()).unwrap_or_default()
}

#[test]
fn one_rule_or_several_with_what_they_leave_out() {
    let found = rules(
        "      push: {environment: production, hook: pre-rollout}
      release:
        - environment: prod/eu
          hook: rollout
          tag: [v*, rc-*]
          prerelease: false
        - {environment: production, hook: rollback, action: [deleted, unpublished]}
      workflow_run:
        {environment: production, hook: post-rollout, workflow: deploy.yml, event: push, conclusion: success}
",
    );
    assert_eq!(found.push[0].target.hook, Hook::PreRollout);
    assert!(found.push[0].when.branch.is_empty() && found.push[0].when.tag.is_empty());
    assert_eq!(found.release[0].target.environment.as_str(), "prod%2Feu");
    assert!(found.release[0].when.tag.matches("rc-1") && !found.release[0].when.tag.matches("1"));
    assert_eq!(found.release[0].when.actions, ["published"]);
    assert_eq!(found.release[0].when.prerelease, Some(false));
    assert_eq!(found.release[1].when.actions, ["deleted", "unpublished"]);
    assert_eq!(found.workflow_run[0].when.actions, ["completed"]);
    assert_eq!(found.workflow_run[0].when.conclusions, ["success"]);
    assert!(found.workflow_run[0].when.event.matches("push"));
    assert!(rules("      push: []\n").is_empty());
}

#[test]
fn what_a_rule_says_of_events_is_no_part_of_what_is_pinned() {
    let with = load(&mapped("      push: {environment: production, hook: rollout}\n")).unwrap().0;
    let without = load(&mapped("      push: []\n")).unwrap().0;
    let hash = |catalog: &Catalog| catalog.pipelines().next().unwrap().pipeline.stages.clone();
    assert_eq!(hash(&with), hash(&without));
}

#[test]
fn faults_of_a_rule_have_their_place() {
    for (text, wanted) in [
        ("      push: {hook: rollout}\n", "8:13 the rule has no environment; it is the namespace of the application"),
        ("      push: {environment: production}\n", "8:13 the rule has no hook; it says what the event is"),
        ("      push: {environment: production, hook: deploy}\n", "8:45 the hook \"deploy\" is not known; hooks are"),
        (
            "      push: {environment: staging, hook: rollout}\n",
            "8:27 this pipeline selects nothing that github tells of in the namespace staging",
        ),
        ("      push: {environment: '', hook: rollout}\n", "8:27 the environment is not valid: it is empty"),
        ("      push: {environment: production, hook: rollout, branch: '['}\n", "8:62 branch is no glob"),
        ("      push: {environment: production, hook: rollout, branch: []}\n", "8:62 branch is an empty list"),
        (
            "      push: {environment: production, hook: rollout, branches: main}\n",
            "8:54 unknown key \"branches\" in a rule of push; did you mean \"branch\"?",
        ),
        ("      pushes: []\n", "8:7 unknown key \"pushes\" in sources.github; did you mean \"push\"?"),
        ("      push: main\n", "8:13 a rule of push must be a map"),
        (
            "      release: {environment: production, hook: rollout, action: publish}\n",
            "8:65 action is one of created, deleted",
        ),
        (
            "      release: {environment: production, hook: rollout, prerelease: no}\n",
            "prerelease must be true or false",
        ),
        (
            "      workflow_run: {environment: production, hook: post-rollout}\n",
            "8:21 the rule doesn't say how the run ended; without it a failed run would count as one that succeeded",
        ),
        (
            "      workflow_run: {environment: production, hook: rollout, action: requested, conclusion: success}\n",
            "8:81 only a completed run has a conclusion",
        ),
        (
            "      workflow_run: {environment: production, hook: rollout, conclusion: failed}\n",
            "conclusion is one of action_required",
        ),
    ] {
        let found = faults(&mapped(text));
        assert_eq!(found.len(), 1, "{text}{found:#?}");
        assert!(found[0].contains(wanted), "{text}{found:#?}");
    }
    let text = mapped("      push: []\n").replace("    github:", "    gitlab:");
    assert!(
        faults(&text)[0].contains("7:5 unknown key \"gitlab\" in sources; did you mean \"github\"?"),
        "{:?}",
        faults(&text)
    );
}

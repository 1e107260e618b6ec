//! What well-formed files mean.

use stagehook::config::catalog::Catalog;
use stagehook::config::diagnostic::Severity;
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::pipeline::{EnvValue, OnInterrupt, Repeat, RollbackOrder, Work};
use stagehook::domain::span::Span;
use std::path::Path;
use std::time::Duration;

use crate::*;

#[test]
fn the_shipped_pipelines_load() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines");
    let (catalog, warnings) = Catalog::load(&directory, &DEFAULTS).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!((catalog.len(), warnings), (3, vec![]));

    let podinfo = catalog.select(Source::Flagger, &"test/podinfo".parse().unwrap()).unwrap();
    let hooks: Vec<_> = podinfo.pipeline.stages.iter().map(|stage| stage.hook().unwrap().as_str()).collect();
    assert_eq!(hooks, ["confirm-rollout", "pre-rollout", "rollout", "post-rollout"]);
    assert!(catalog.select(Source::Flagger, &"prod/podinfo".parse().unwrap()).is_none());

    let canary = catalog.select(Source::Generic, &"any/canary-with-script-run".parse().unwrap()).unwrap();
    let stages: Vec<_> =
        canary.pipeline.stages.iter().map(|s| (s.id.as_str(), s.type_name(), s.hook().map(Hook::as_str))).collect();
    assert_eq!(
        stages,
        [
            ("stage-0", "K8S_CANARY_ROLLOUT", None),
            ("stage-1", "WAIT", Some("rollout")),
            ("stage-2", "SCRIPT_RUN", Some("rollout")),
            ("stage-3", "K8S_PRIMARY_ROLLOUT", None),
            ("stage-4", "SCRIPT_RUN", Some("post-rollout")),
            ("stage-5", "K8S_CANARY_CLEAN", None),
            ("stage-6", "SCRIPT_RUN", Some("post-rollout")),
        ]
    );
    assert_eq!(canary.pipeline.labels["team"], "product");
    assert_eq!(canary.hash.to_string(), canary.pipeline.pinned().0.to_string());
}

#[test]
fn a_stage_is_complete_once_it_is_read() {
    let pipeline = one(&script("pre-rollout", "        run: echo hi\n"));
    let read = only_script(&pipeline);
    assert_eq!(read.shell, ["/bin/sh", "-c"]);
    assert_eq!((read.run.as_slice(), read.on_rollback.len()), (["echo hi".to_owned()].as_slice(), 0));
    assert_eq!((read.timeout, read.retries), (DEFAULTS.timeout, 0));
    assert_eq!((read.repeat, read.on_interrupt), (Repeat::RetryFailed, OnInterrupt::Rerun));
    assert!(Path::new(&pipeline.directory).is_absolute());
}

#[test]
fn every_key_of_a_stage_is_heard() {
    let pipeline = one(&script(
        "rollout",
        "        env: {A: text, N: 5, B: true, E: , F: {fromFile: token}, G: {fromFile: /abs}, V: {fromEnv: NAME}}\n\
         \x20       runs: [one, two]\n        onRollback: [undo]\n        shell: bash -ec\n        timeout: 1h30m\n\
         \x20       retries: 2\n        repeat: once\n        onInterrupt: hold\n",
    ));
    let read = only_script(&pipeline);
    let plain = |text: &str| EnvValue::Plain(text.to_owned());
    assert_eq!(
        [&read.env["A"], &read.env["N"], &read.env["B"], &read.env["E"]],
        [&plain("text"), &plain("5"), &plain("true"), &plain("")]
    );
    assert_eq!(read.env["F"], EnvValue::FromFile(format!("{}/token", pipeline.directory)));
    assert_eq!(read.env["G"], EnvValue::FromFile("/abs".to_owned()));
    assert_eq!(read.env["V"], EnvValue::FromEnv("NAME".to_owned()));
    assert_eq!(read.run, ["one", "two"]);
    assert_eq!(read.on_rollback, ["undo"]);
    assert_eq!(read.shell, ["bash", "-ec"]);
    assert_eq!(read.timeout, Span(Duration::from_secs(5400)));
    assert_eq!((read.retries, read.repeat, read.on_interrupt), (2, Repeat::Once, OnInterrupt::Hold));
}

#[test]
fn hooks_that_are_asked_step_by_step_repeat_always_in_native_files_only() {
    for (hook, repeat) in [
        ("confirm-rollout", Repeat::RetryFailed),
        ("rollout", Repeat::Always),
        ("confirm-traffic-increase", Repeat::Always),
        ("confirm-promotion", Repeat::RetryFailed),
    ] {
        assert_eq!(one(&script(hook, "        run: x\n")).stages[0].repeat(), repeat, "{hook}");
        let external = format!("      - name: SCRIPT_RUN\n        hook: {hook}\n        with: {{run: x}}\n");
        assert_eq!(one(&pipecd(&external)).stages[0].repeat(), Repeat::RetryFailed, "{hook}");
    }
}

#[test]
fn policies_and_anchors_are_read() {
    let pipeline = one("apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a}\nspec:\n  selector: {}\n  \
         rollback: {order: reverse}\n  onFailure: rollback\n  stages:\n  - &one\n    id: a\n    name: WAIT\n    \
         hook: rollout\n    with: {duration: 90s}\n  - <<: *one\n    id: b\n");
    assert_eq!(pipeline.rollback.order, RollbackOrder::Reverse);
    assert_eq!(pipeline.stages[1].id.as_str(), "b");
    assert!(matches!(&pipeline.stages[1].work, Work::Wait { duration, .. } if *duration == Span::from_secs(90)));
}

#[test]
fn an_application_of_pipecd_loads_with_everything_that_only_pipecd_reads() {
    let text = "apiVersion: pipecd.dev/v1beta1\nkind: TerraformApp\nspec:\n  name: infra\n  input: {workspace: dev}\n  \
                planner: {alwaysUsePipeline: true}\n  trigger: {onChart: true}\n  notification: {mentions: []}\n  \
                pipeline:\n    stages:\n    - name: SCRIPT_RUN\n      desc: before\n      timeout: 1.5h\n      with: {run: a}\n    \
                - name: TERRAFORM_PLAN\n      with: {exitOnNoChanges: true}\n    - name: SCRIPT_RUN\n      id: mid\n      \
                timeout: 5m\n      with: {run: b, timeout: 30s}\n    - name: TERRAFORM_APPLY\n    - name: SCRIPT_RUN\n      \
                hook: confirm-promotion\n      with: {run: c}\n    - name: SCRIPT_RUN\n      with: {run: d}\n";
    let pipeline = one(text);
    let hooks: Vec<_> = pipeline.stages.iter().filter_map(|s| Some((s.id.as_str(), s.hook()?.as_str()))).collect();
    assert_eq!(
        hooks,
        [("stage-0", "pre-rollout"), ("mid", "rollout"), ("stage-4", "confirm-promotion"), ("stage-5", "post-rollout")]
    );
    let timeout = |index: usize| pipeline.stages[index].script().unwrap().timeout.to_string();
    assert_eq!((timeout(0), timeout(2)), ("1h30m".to_owned(), "30s".to_owned()));
    assert_eq!(one("apiVersion: pipecd.dev/v1beta1\nkind: ECSApp\nspec: {name: a, input: {}}\n").stages, []);
}

#[test]
fn of_several_promotions_the_last_ends_the_rollout() {
    let pipeline = one(&pipecd(
        "      - name: LAMBDA_PROMOTE\n      - name: SCRIPT_RUN\n        with: {run: x}\n      - name: LAMBDA_PROMOTE\n",
    ));
    assert_eq!(pipeline.stages[1].hook(), Some(Hook::Rollout));
}

#[test]
fn skip_on_is_a_warning() {
    let (_, warnings) = load(&pipecd(
        "      - name: SCRIPT_RUN\n        skipOn: {paths: [docs]}\n        with:\n          skipOn: {paths: [docs]}\n          run: x\n",
    ))
    .unwrap();
    assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
    assert_eq!(
        shown(&warnings),
        [
            "8:9 skipOn is ignored: the stage always runs; commits are not read here",
            "10:11 skipOn is ignored: the stage always runs; commits are not read here",
        ]
    );
}

#[test]
fn an_empty_on_rollback_is_none() {
    for empty in ["''", "\"\"", "|\n", "' '", ""] {
        let pipeline = one(&script("pre-rollout", &format!("        run: x\n        onRollback: {empty}\n")));
        assert_eq!(only_script(&pipeline).on_rollback, [""; 0], "{empty}");
    }
    let stage = "      - name: SCRIPT_RUN\n        with: {run: x, onRollback: ''}\n";
    assert_eq!(only_script(&one(&pipecd(stage))).on_rollback, [""; 0]);
    one(&script("rollback", "        run: x\n        onRollback: ''\n"));
    expect(&script("rollout", "        run: x\n        onRollback: ['']\n"), &["12:22 onRollback is empty"]);
}

//! Pipeline files as people write them, and every fault with its place.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in the helpers of tests, too, a surprise is a failure")]

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use stagehook::config::catalog::Catalog;
use stagehook::config::diagnostic::{Diagnostic, Severity};
use stagehook::config::pipeline::Defaults;
use stagehook::domain::hook::Hook;
use stagehook::domain::names::Source;
use stagehook::domain::pipeline::{EnvValue, OnInterrupt, Pipeline, Repeat, RollbackOrder, Work};
use stagehook::domain::span::Span;
use tempfile::TempDir;

const DEFAULTS: Defaults = Defaults { timeout: Span::from_secs(3600) };

/// A directory with these files; it goes away with the value.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn load(text: &str) -> Result<(Catalog, Vec<Diagnostic>), Vec<Diagnostic>> {
    Catalog::load(folder(&[("a.yaml", text.as_bytes())]).path(), &DEFAULTS)
}

fn one(text: &str) -> Pipeline {
    let (catalog, warnings) = load(text).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(warnings, [], "{text}");
    catalog.pipelines().next().unwrap().pipeline.as_ref().clone()
}

/// `line:column message; hint` of every fault.
fn faults(text: &str) -> Vec<String> {
    shown(&load(text).expect_err(text))
}

fn shown(faults: &[Diagnostic]) -> Vec<String> {
    let line = |fault: &Diagnostic| {
        let hint = fault.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", fault.line, fault.column, fault.message)
    };
    faults.iter().map(line).collect()
}

/// A native file whose stages begin in line 6.
fn native(stages: &str) -> String {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: a}}\nspec:\n  selector: {{name: a}}\n  stages:\n{stages}"
    )
}

/// A native file with one SCRIPT_RUN stage on a hook; what is `with` begins in line 11, column 9.
fn script(hook: &str, with: &str) -> String {
    native(&format!("    - id: s\n      name: SCRIPT_RUN\n      hook: {hook}\n      with:\n{with}"))
}

/// A PipeCD file whose stages begin in line 7.
fn pipecd(stages: &str) -> String {
    format!("apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  name: a\n  pipeline:\n    stages:\n{stages}")
}

fn only_script(pipeline: &Pipeline) -> &stagehook::domain::pipeline::Script {
    pipeline.stages[0].script().unwrap()
}

#[test]
fn the_shipped_pipelines_load() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines");
    let (catalog, warnings) = Catalog::load(&directory, &DEFAULTS).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!((catalog.len(), warnings), (2, vec![]));

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

/// A file and all of its faults.
fn expect(text: &str, expected: &[&str]) {
    let found = faults(text);
    let matches = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(matches, "{text}\nfound {found:#?}\nexpected {expected:#?}");
}

#[test]
fn faults_of_a_document() {
    expect("", &["0:0 the file holds no pipeline; it begins with apiVersion"]);
    expect("# nothing\n---\n---\n", &["0:0 the file holds no pipeline"]);
    expect("- a\n", &["1:1 a pipeline must be a map, and this is a list"]);
    expect("kind: Pipeline\n", &["1:1 apiVersion is missing; it is stagehook.dev/v1"]);
    expect("apiVersion: v1\n", &["1:13 the apiVersion \"v1\" is not known"]);
    expect("apiVersion: 1\n", &["1:13 apiVersion must be text, and this is a number; quote it: \"1\""]);
    expect(
        "apiVersion: stagehook.dev/v1\nkind: Pipelin\nspec: 5\n",
        &[
            "1:1 metadata is missing; it gives the pipeline its name",
            "2:7 the kind is not known; it is Pipeline",
            "3:7 spec must be a map, and this is a number",
        ],
    );
    expect(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a b}\nspec: {selector: , stage: []}\n",
        &[
            "3:18 the name is not valid: it has the character ' '",
            "4:7 stages are missing",
            "4:8 the selector is missing",
            "4:20 unknown key \"stage\" in spec; did you mean \"stages\"?",
        ],
    );
}

/// A script may write into its working directory, which is the folder of the pipeline files.
#[test]
fn what_is_plainly_something_else_is_skipped_with_a_warning() {
    for (other, at) in [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n", 2),
        ("kind: Kustomization\nresources: []\n", 1),
        ("apiVersion: tekton.dev/v1\nkind: PipelineRun\n", 2),
        ("apiVersion: 1\nkind: Deployment\n", 2),
    ] {
        let folder = folder(&[
            ("a.yaml", native("    []\n").as_bytes()),
            ("b.yaml", format!("{other}---\n{}", native("    []\n").replace("name: a", "name: b")).as_bytes()),
            ("c.yaml", other.as_bytes()),
        ]);
        let (catalog, warnings) =
            Catalog::load(folder.path(), &DEFAULTS).unwrap_or_else(|faults| panic!("{faults:#?}"));
        assert_eq!(catalog.len(), 2, "{other}");
        let found: Vec<_> = warnings.iter().map(|w| (w.severity, w.file.ends_with("b.yaml"), w.line)).collect();
        assert_eq!(found, [(Severity::Warning, true, at), (Severity::Warning, false, at)], "{other}");
        assert!(warnings[0].message.contains("is no pipeline, and is left out"), "{}", warnings[0]);
    }
}

#[test]
fn what_may_be_meant_as_a_pipeline_is_never_skipped() {
    for text in [
        "spec: {}\n",
        "apiVersion: v1\n",
        "kind: Pipeline\n",
        "kind: Pipelin\n",
        "kind: KubernetesApp\n",
        "kind: 5\n",
        "apiVersion: tekton.dev/v1\nkind: Pipeline\n",
        "apiVersion: v1\nkind: TerraformApp\n",
        "apiVersion: stagehook.dev/v2\nkind: Stages\n",
        "apiVersion: stagehok.dev/v1\nkind: Stages\n",
        "apiVersion: pipecd.dev/v1\nkind: Piped\n",
        "apiVersion: pipedc.dev/v1beta1\nkind: Thing\n",
    ] {
        assert!(load(text).is_err(), "{text}");
    }
}

#[test]
fn faults_of_the_yaml_itself() {
    expect("a: 1\n\ttab: 2\n", &["2:1 there is a tab in the indentation; YAML is indented with spaces"]);
    expect("a:\n  b: 1\n \tc: 1\n", &["3:2 there is a tab in the indentation"]);
    expect(
        "a: {{ x }} y\n",
        &[
            "1:5 a key must be text; quote it",
            "1:12 this is not valid YAML: while parsing a block mapping, did not find expected key; a value that begins with {{ must be quoted",
        ],
    );
    expect("a: [1\n", &["1:4 this is not valid YAML: unclosed bracket"]);
    expect("a: &x [*x]\n", &["1:8 this alias stands inside of what it names"]);
    expect("a: *none\n", &["1:4 this is not valid YAML"]);
    expect("a: !secret x\n", &["1:1 apiVersion is missing", "1:4 the tag !secret means nothing here; leave it out"]);
    expect("? [a]\n: b\n", &["1:1 apiVersion is missing", "1:3 a key must be text; quote it"]);
    expect(
        "apiVersion: a\napiVersion: b\n",
        &[
            "1:13 the apiVersion \"a\" is not known",
            "2:1 the key \"apiVersion\" stands twice in this map; it was first in line 1",
        ],
    );
}

#[test]
fn bytes_that_are_no_text() {
    let faults = |bytes: &[u8]| shown(&Catalog::load(folder(&[("a.yml", bytes)]).path(), &DEFAULTS).unwrap_err());
    assert_eq!(faults(b"a: 1\nb: \xff\n"), ["2:4 it is not UTF-8 here; save the file as UTF-8"]);
    assert_eq!(faults(b"a: 1\nb: x\0\n"), ["2:5 there is a NUL byte here"]);
    assert_eq!(faults(&vec![b'#'; 1 << 21]), ["0:0 it is larger than 1MiB; keep long scripts in files of their own"]);
}

#[test]
fn bombs_are_refused_in_no_time() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{},", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(faults(&bomb)[0].contains("too large once its aliases are expanded"), "{:?}", faults(&bomb));
    let deep = faults(&"[".repeat(100_000));
    assert!(deep[0].contains("nested deeper") || deep[0].contains("not valid YAML"), "{deep:?}");
    let mut tower = format!("a0: &a0 {}{}\n", "[".repeat(100), "]".repeat(100));
    tower += &format!("a1: {}*a0{}\n", "[".repeat(100), "]".repeat(100));
    assert!(faults(&tower)[0].contains("with this alias it is nested deeper"), "{:?}", faults(&tower));
}

#[test]
fn faults_of_stages() {
    expect(
        &native("    - {}\n"),
        &[
            "7:7 the stage has no id",
            "7:7 the stage has no hook; it is one of confirm-rollout, pre",
            "7:7 the stage has no name",
        ],
    );
    expect(
        &native("    - {id: a, name: SCRIPT_RUNN, hook: pre-rolout, with: {run: x}, wiht: 1}\n"),
        &[
            "7:21 the stage type \"SCRIPT_RUNN\" is not known; did you mean \"SCRIPT_RUN\"?",
            "7:40 the hook \"pre-rolout\" is not known; did you mean \"pre-rollout\"? hooks are confirm-rollout",
            "7:68 unknown key \"wiht\" in a stage; did you mean \"with\"?",
        ],
    );
    expect(
        &native(
            "    - {id: a, name: WAIT, hook: rollout, with: {duration: 5s}}\n    - {id: a, name: WAIT, hook: rollout, with: {duration: 5s}}\n",
        ),
        &["8:12 the stage id \"a\" stands twice in this pipeline; it was first in line 7"],
    );
    expect(
        &native("    - {id: a/b, name: K8S_SYNC, hook: rollout}\n"),
        &[
            "7:12 the stage id is not valid: it has the character '/'",
            "7:23 the stage type \"K8S_SYNC\" is not known; known are SCRIPT_RUN, WAIT",
        ],
    );
    expect(&native("    - {id: a, name: WAIT_APPROVAL, hook: rollout}\n"), &["7:21 WAIT_APPROVAL can't be run yet"]);
    expect(&pipecd("      - name: WAIT_APPROVAL\n"), &["7:15 WAIT_APPROVAL can't be run yet"]);
    expect(
        &native("    - {id: a, name: WAIT, hook: rollback, with: {duration: 5}}\n"),
        &[
            "7:7 a WAIT on the hook rollback would never run",
            "7:60 duration is a length of time, and \"5\" has no unit; it is written like 250ms",
        ],
    );
    expect(&native("    - {id: a, name: WAIT, hook: rollout, with: {}}\n"), &["7:42 the stage has no duration"]);
    expect(&native("    - {id: a, name: SCRIPT_RUN, hook: rollout}\n"), &["7:7 the stage has nothing to run"]);
}

#[test]
fn a_stage_of_no_known_type_is_checked_as_far_as_it_can_be() {
    expect(
        &native("    - {id: a, hook: rollout, wiht: 1, with: {run: x, timout: 5m}}\n"),
        &[
            "7:7 the stage has no name",
            "7:30 unknown key \"wiht\" in a stage; did you mean \"with\"?",
            "7:54 unknown key \"timout\" in with; did you mean \"timeout\"?",
        ],
    );
    expect(
        &native("    - {id: a, name: SCRIPTRUN, hook: rollout, with: {rum: x}}\n"),
        &[
            "7:21 the stage type \"SCRIPTRUN\" is not known; did you mean \"SCRIPT_RUN\"?",
            "7:53 the stage has nothing to run",
            "7:54 unknown key \"rum\" in with; did you mean \"run\"?",
        ],
    );
    expect(
        &native("    - {id: a, name: PAUSE, hook: rollout, with: {duration: 5}}\n"),
        &["7:21 the stage type \"PAUSE\" is not known", "7:60 duration is a length of time, and \"5\" has no unit"],
    );
    expect(
        &native("    - {id: a, name: 5, hook: rollout, hok: x, with: {runs: 5}}\n"),
        &["7:21 name must be text", "7:39 unknown key \"hok\"", "7:60 runs must be text"],
    );
    expect(
        &native("    - {id: a, name: WAIT_APPROVAL, hook: rollout, hok: x, with: {approvers: [me]}}\n"),
        &["7:21 WAIT_APPROVAL can't be run yet", "7:51 unknown key \"hok\""],
    );
    expect(
        &pipecd("      - {hook: rolout, dsc: x, with: {run: a, retires: 1}}\n"),
        &[
            "7:9 the stage has no name",
            "7:16 the hook \"rolout\" is not known",
            "7:24 unknown key \"dsc\" in a stage",
            "7:47 unknown key \"retires\" in with",
        ],
    );
    expect(
        &pipecd("      - {name: WAIT_APPROVAL, dsc: x, hook: rolout}\n"),
        &["7:16 WAIT_APPROVAL can't be run yet", "7:31 unknown key \"dsc\"", "7:45 the hook \"rolout\" is not known"],
    );
    expect("apiVersion: pipecd.dev/v1beta1\nspec: {input: {}}\n", &["1:1 kind is missing", "2:7 spec.name is missing"]);
}

#[test]
fn a_hint_names_each_known_key_once() {
    expect(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {name: a, annotations: {}}\nspec: {selector: {}, stages: []}\n",
        &["3:21 unknown key \"annotations\" in metadata; known are name"],
    );
    let found = faults(&native("    - {id: a, name: WAIT, hook: rollout, with: {duration: 5s, message: x}}\n"));
    assert_eq!(found, ["7:63 unknown key \"message\" in with; known are duration, repeat"]);
    let found = faults(&pipecd("      - {name: WAIT, with: {duration: 5s, message: x}}\n"));
    assert_eq!(found, ["7:43 unknown key \"message\" in with; known are duration, repeat, skipOn"]);
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

#[test]
fn a_slip_in_a_stage_type_of_pipecd_is_a_warning() {
    for (slip, meant) in [
        ("WAIT_APROVAL", "WAIT_APPROVAL"),
        ("SCRIPTRUN", "SCRIPT_RUN"),
        ("SCRIPT_RUNN", "SCRIPT_RUN"),
        ("Wait", "WAIT"),
        ("wiat", "WAIT"),
    ] {
        let (_, warnings) = load(&pipecd(&format!("      - name: {slip}\n"))).unwrap();
        let expected = format!(
            "7:15 the stage type {slip:?} is not known here, so the delivery tool is taken to act there; did you mean {meant:?}?"
        );
        assert_eq!(shown(&warnings), [expected]);
    }
    for known in [
        "ANALYSIS",
        "K8S_SYNC",
        "K8S_PRIMARY_ROLLOUT",
        "K8S_CANARY_ROLLOUT",
        "K8S_CANARY_CLEAN",
        "K8S_BASELINE_ROLLOUT",
        "K8S_BASELINE_CLEAN",
        "K8S_TRAFFIC_ROUTING",
        "K8S_MULTI_SYNC",
        "TERRAFORM_SYNC",
        "TERRAFORM_PLAN",
        "TERRAFORM_APPLY",
        "CLOUDRUN_SYNC",
        "CLOUDRUN_PROMOTE",
        "LAMBDA_SYNC",
        "LAMBDA_CANARY_ROLLOUT",
        "LAMBDA_PROMOTE",
        "ECS_SYNC",
        "ECS_CANARY_ROLLOUT",
        "ECS_PRIMARY_ROLLOUT",
        "ECS_TRAFFIC_ROUTING",
        "ECS_CANARY_CLEAN",
        "CUSTOM_SYNC",
        "CUSTOM_SYNC_ROLLBACK",
        "SCRIPT_RUN_ROLLBACK",
        "ROLLBACK",
    ] {
        one(&pipecd(&format!("      - name: {known}\n")));
    }
}

#[test]
fn faults_of_a_script() {
    let of = |with: &str, expected: &[&str]| expect(&script("pre-rollout", with), expected);
    of("        timout: 5m\n        run: x\n", &["11:9 unknown key \"timout\" in with; did you mean \"timeout\"?"]);
    of("        run: 5\n", &["11:14 run must be text, and this is a number; quote it: \"5\""]);
    of("        run: ' '\n", &["11:14 run is empty"]);
    of("        run: []\n", &["11:14 run is empty"]);
    of("        run: [a, {b: c}]\n", &["11:18 run must be text, and this is a map"]);
    of("        run: a\n        runs: [b]\n", &["12:9 both run and runs are given; keep one of them"]);
    of("        onRollback: a\n", &["11:9 the stage has nothing to run"]);
    of(
        "        run: |\n          echo one\n          echo {{ .Secret }}\n",
        &["13:16 run has a {{ … }} template in it; templates are not"],
    );
    of("        run: a\n        onRollback: \"{{a}}\"\n", &["12:22 onRollback has a {{ … }} template in it"]);
    of("        run: \"a\\0b\"\n", &["11:14 run has a NUL character in it"]);
    of("        run: a\n        timeout: 5 apples\n", &["12:18 timeout is no length of time"]);
    of("        run: a\n        timeout: 0s\n", &["12:18 timeout must be longer than nothing"]);
    of(
        "        run: a\n        retries: -1\n",
        &["12:18 retries must be a whole number from 0 to 1000, and this is \"-1\""],
    );
    of(
        "        run: a\n        repeat: alway\n",
        &["12:17 repeat is one of retry-failed, once, always, and not \"alway\"; did you mean \"always\"?"],
    );
    of("        run: a\n        onInterrupt: [x]\n", &["12:22 onInterrupt must be text, and this is a list"]);
    of("        run: a\n        shell: []\n", &["12:16 the shell is empty"]);
    of(
        "        run: a\n        env: {A=B: x, C: [], D: {fromFile: a, fromEnv: b}, E: {fromVault: x}}\n",
        &[
            "12:15 \"A=B\" can't be the name of a variable",
            "12:26 C must be text, {fromFile: …} or {fromEnv: …}, and this is a list",
            "12:33 a secret is taken from one place",
            "12:63 a secret is taken from one place",
            "12:64 unknown key \"fromVault\" in a secret; known are fromFile, fromEnv",
        ],
    );
    expect(
        &script("rollback", "        run: a\n        onRollback: b\n"),
        &["12:21 onRollback of a stage on the hook rollback would never run"],
    );
}

#[test]
fn faults_of_an_application_of_pipecd() {
    expect(
        "apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  input: {}\n",
        &["4:3 spec.name is missing, and it selects the application"],
    );
    expect("apiVersion: pipecd.dev/v1beta1\nkind: Piped\nspec: {}\n", &["2:7 the kind \"Piped\" is no application"]);
    expect(
        &pipecd("      - name: SCRIPT_RUN\n        with: {rum: x}\n"),
        &["8:15 the stage has nothing to run", "8:16 unknown key \"rum\" in with; did you mean \"run\"?"],
    );
    expect(
        "apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec: {name: my app}\n",
        &[
            "3:14 the name is not valid: it has the character ' ', which is not allowed there; callers name the application by it",
        ],
    );
    expect(
        &pipecd("      - name: WAIT\n        with: {duration: 5}\n"),
        &[
            "8:26 duration is a length of time, and \"5\" has no unit; write it like 30s, 5m or 1h30m: a bare number is nanoseconds in PipeCD",
        ],
    );
    expect(
        &pipecd("      - name: K8S_SYNC\n        id: stage-1\n      - name: K8S_SYNC\n"),
        &["9:9 the stage id \"stage-1\" stands twice"],
    );
}

#[test]
fn a_fault_shows_its_file_and_line() {
    let folder = folder(&[("a.yaml", script("rollout", "        run: x\n        timout: 5m\n").as_bytes())]);
    let shown = Catalog::load(folder.path(), &DEFAULTS).unwrap_err()[0].to_string();
    let expected = format!(
        "{}/a.yaml:12:9: error: unknown key \"timout\" in with; did you mean \"timeout\"?\n 12 |         timout: 5m\n    |         ^",
        folder.path().display()
    );
    assert_eq!(shown, expected);
}

fn with_selector(name: &str, selector: &str) -> Vec<u8> {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  selector: {selector}\n  stages: []\n"
    )
    .into_bytes()
}

#[test]
fn the_more_specific_selector_wins() {
    let folder = folder(&[
        ("1.yaml", &with_selector("all", "{}")),
        ("2.yaml", &with_selector("glob", "{name: \"pod*\"}")),
        ("3.yaml", &with_selector("longer", "{name: \"podi*\"}")),
        ("4.yaml", &with_selector("space", "{namespace: test}")),
        ("5.yaml", &with_selector("name", "{name: podinfo}")),
        ("6.yaml", &with_selector("both", "{name: podinfo, namespace: \"te*\"}")),
        ("7.yaml", &with_selector("cluster", "{name: podinfo, namespace: \"te*\", cluster: \"eu-*\"}")),
        ("8.yaml", &with_selector("source", "{name: podinfo, namespace: \"te*\", source: generic}")),
        ("ignored.txt", b"{"),
        (".hidden.yaml", b"{"),
    ]);
    std::fs::create_dir(folder.path().join("below.yaml")).unwrap();
    let (catalog, _) = Catalog::load(folder.path(), &DEFAULTS).unwrap_or_else(|faults| panic!("{faults:#?}"));
    for (source, application, name) in [
        (Source::Flagger, "test/podinfo", "both"),
        (Source::Generic, "test/podinfo", "source"),
        (Source::Flagger, "eu-1:test/podinfo", "cluster"),
        (Source::Flagger, "prod/podinfo", "name"),
        (Source::Flagger, "prod/podium", "longer"),
        (Source::Flagger, "test/pods/and/more", "glob"),
        (Source::Flagger, "test/other", "space"),
        (Source::Flagger, "prod/other", "all"),
    ] {
        let selected = catalog.select(source, &application.parse().unwrap()).unwrap();
        assert_eq!(selected.pipeline.name, name, "{application}");
    }
}

#[test]
fn ties_and_taken_names_name_both_files() {
    let folder = folder(&[
        ("1.yaml", &with_selector("a", "{name: \"pod*\"}")),
        ("2.yaml", &with_selector("b", "{name: \"pod*x\"}")),
        ("3.yaml", &with_selector("b", "{name: other}")),
        ("4.yaml", b"apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  name: other\n"),
        ("5.yaml", &with_selector("c", "{name: \"pos*\", source: githup}")),
    ]);
    let faults = Catalog::load(folder.path(), &DEFAULTS).unwrap_err();
    let at = |name: &str| format!("{}/{name}", folder.path().display());
    let found: Vec<_> =
        faults.iter().map(|f| (f.file.clone(), f.line, f.column, f.message.clone(), f.hint.clone().unwrap())).collect();
    assert_eq!(found.len(), 4, "{found:#?}");
    assert_eq!(found[0].3, "the source \"githup\" is not known");
    assert_eq!((&found[0].0, found[0].1, found[0].2), (&at("5.yaml"), 5, 36));
    assert_eq!((&found[1].0, found[1].1, found[1].2), (&at("3.yaml"), 3, 18));
    assert!(found[1].4.contains(&format!("{}:3", at("2.yaml"))));
    assert_eq!((&found[2].0, found[2].1, found[2].2), (&at("2.yaml"), 5, 3));
    assert!(found[2].3.contains(&format!("{}:5", at("1.yaml"))));
    assert_eq!((&found[3].0, found[3].1, found[3].2), (&at("4.yaml"), 4, 3));
}

#[test]
fn selectors_that_cannot_both_match_are_no_tie() {
    for (one, other, tied) in [
        ("{api,web}", "{db,cache}", false),
        ("[ab]*", "[cd]*", false),
        ("a?", "a???", false),
        ("*-{dev,stage}", "*-{prod,live}", false),
        ("*-{dev,stage}", "*-{prod,stage}", true),
    ] {
        let folder = folder(&[
            ("1.yaml", &with_selector("a", &format!("{{name: {one:?}}}"))),
            ("2.yaml", &with_selector("b", &format!("{{name: {other:?}}}"))),
        ]);
        match Catalog::load(folder.path(), &DEFAULTS) {
            Ok(_) => assert!(!tied, "{one} {other}"),
            Err(faults) => {
                assert!(
                    tied && faults[0].message.starts_with("this could select the same applications as"),
                    "{faults:#?}"
                );
            }
        }
    }
}

#[test]
fn several_documents_stand_in_one_file() {
    let mut text = with_selector("a", "{name: a}");
    text.extend(b"---\n");
    text.extend(with_selector("b", "{name: b}"));
    text.extend(b"---\n");
    let folder = folder(&[("a.yaml", &text)]);
    assert_eq!(Catalog::load(folder.path(), &DEFAULTS).unwrap().0.len(), 2);
}

#[test]
fn directories_that_are_empty_or_not_there() {
    let folder = folder(&[]);
    let (catalog, warnings) = Catalog::load(folder.path(), &DEFAULTS).unwrap();
    assert!(catalog.is_empty() && warnings[0].message == "it holds no pipeline");
    let missing = Catalog::load(&folder.path().join("no"), &DEFAULTS).unwrap_err();
    assert!(missing[0].message.starts_with("it can't be listed"));
    std::os::unix::fs::symlink("nowhere", folder.path().join("link.yaml")).unwrap();
    let broken = Catalog::load(folder.path(), &DEFAULTS).unwrap_err();
    assert!(broken[0].message.starts_with("it can't be read: No such file"), "{broken:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Catalog::load(folder(&[("a.yaml", &bytes)]).path(), &DEFAULTS);
    }

    #[test]
    fn no_broken_pipeline_makes_the_loader_panic(at in 0usize..400, cut in 0usize..20, put in "[\\[\\]{}:,&*!|>'\"\\-\\n\\t a-z{é]{0,6}") {
        let text = script("pre-rollout", "        env: &e {A: text, F: {fromFile: token}}\n        run: |\n          a\n        onRollback: [undo]\n        timeout: 1h\n");
        let mut chars: Vec<char> = text.chars().collect();
        let start = at.min(chars.len());
        let end = (start + cut).min(chars.len());
        chars.splice(start..end, put.chars());
        let broken: String = chars.into_iter().collect();
        for fault in load(&broken).err().unwrap_or_default() {
            let _ = fault.to_string();
        }
        let _ = load(&pipecd(&broken));
    }
}

//! `stagehook webhooks`: what it prints can be pasted, and follows the pipeline.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{documents, schema};

const CALLERS: [&str; 6] = ["flagger", "argocd", "argo-rollouts", "flux", "github", "spinnaker"];

/// A pipeline file, and what is printed for it.
struct Pipelines {
    folder: TempDir,
}

impl Pipelines {
    fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.yaml"), text).unwrap();
        Self { folder }
    }

    fn run(&self, caller: &str, more: &[&str]) -> Output {
        let usual = ["webhooks", caller, "--pipeline", "p.yaml", "--url", "http://stagehook.stagehook/"];
        self.run_as(&[&usual, more].concat())
    }

    fn run_as(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stagehook"));
        command.env_clear().current_dir(self.folder.path()).args(arguments).output().unwrap()
    }

    fn text(&self, caller: &str, more: &[&str]) -> String {
        let output = self.run(caller, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn documents(&self, caller: &str, more: &[&str]) -> Vec<Value> {
        documents(&self.text(caller, more))
    }

    /// Code and standard error of what does not work.
    fn failure(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run_as(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

fn native(selector: &str, stages: &str) -> String {
    format!(
        "apiVersion: stagehook.dev/v1\nkind: Pipeline\nmetadata: {{name: shop}}\nspec:\n  selector: {selector}\n  \
         stages: [{stages}]\n"
    )
}

fn stage(id: &str, hook: &str, timeout: &str, undo: bool) -> String {
    let undo = if undo { ", onRollback: undo" } else { "" };
    format!("{{id: {id}, name: SCRIPT_RUN, hook: {hook}, with: {{run: x, timeout: {timeout}{undo}}}}}")
}

const SHOP: &str = "{namespace: test, name: shop}";

fn shop(stages: &[String]) -> Pipelines {
    Pipelines::of(&native(SHOP, &stages.join(", ")))
}

fn flagger(pipelines: &Pipelines) -> Vec<Value> {
    let [document] = pipelines.documents("flagger", &[]).try_into().unwrap();
    document["webhooks"].as_array().unwrap().clone()
}

fn of_type<'a>(webhooks: &'a [Value], hook: &str) -> &'a Value {
    webhooks.iter().find(|webhook| webhook["type"] == hook).unwrap_or_else(|| panic!("no {hook}"))
}

fn types(webhooks: &[Value]) -> Vec<&str> {
    webhooks.iter().map(|webhook| webhook["type"].as_str().unwrap()).collect()
}

#[test]
fn flaggers_timeouts_follow_the_stages() {
    let one = flagger(&shop(&[stage("a", "pre-rollout", "5m", false)]));
    let pre = of_type(&one, "pre-rollout");
    assert_eq!(pre["timeout"], "5m30s");
    assert_eq!(pre["url"], "http://stagehook.stagehook/hooks/flagger/pre-rollout?wait=5m15s");

    let wait = "{id: w, name: WAIT, hook: pre-rollout, with: {duration: 2h}}".to_owned();
    let more = flagger(&shop(&[stage("a", "pre-rollout", "5m", false), wait, stage("b", "pre-rollout", "90s", false)]));
    // 5m and 90s with 10s for the kill of each, 2h; and no hours: Flagger's schema wants minutes or seconds first.
    assert_eq!(of_type(&more, "pre-rollout")["timeout"], "127m10s");
}

#[test]
fn flaggers_report_of_the_end_waits_for_the_longer_of_both() {
    let undo =
        [stage("a", "pre-rollout", "5m", true), stage("b", "rollout", "1m", true), stage("c", "rollback", "1m", false)];
    let replay = flagger(&shop(&undo));
    // 5m, 1m and 1m with 10s each, and 10s for what still runs.
    assert_eq!(of_type(&replay, "post-rollout")["timeout"], "8m");
    let after = flagger(&shop(&[stage("a", "rollout", "1m", true), stage("b", "post-rollout", "20m", false)]));
    assert_eq!(of_type(&after, "post-rollout")["timeout"], "20m30s");
    assert!(of_type(&after, "post-rollout")["retries"].as_u64().unwrap() > 0, "it is told once");
}

#[test]
fn flagger_has_no_webhook_for_a_hook_without_stages() {
    let none = flagger(&shop(&[]));
    assert_eq!(types(&none), ["confirm-rollout", "rollback", "post-rollout", "event"]);
    let some = flagger(&shop(&[stage("a", "confirm-promotion", "1m", false)]));
    assert_eq!(types(&some), ["confirm-rollout", "rollback", "confirm-promotion", "post-rollout", "event"]);
    let question = of_type(&some, "rollback");
    assert_eq!(
        *question,
        json!({
            "name": "stagehook-rollback", "type": "rollback", "timeout": "10s",
            "url": "http://stagehook.stagehook/hooks/flagger/rollback",
        })
    );
}

#[test]
fn a_pipecd_file_has_the_hooks_of_its_stages() {
    let pipecd = Pipelines::of(
        "apiVersion: pipecd.dev/v1beta1\nkind: KubernetesApp\nspec:\n  name: shop\n  pipeline:\n    stages:\n      \
         - {name: SCRIPT_RUN, with: {run: x, timeout: 5m}}\n      - name: K8S_CANARY_ROLLOUT\n      \
         - {name: WAIT, with: {duration: 3m}}\n      - name: K8S_PRIMARY_ROLLOUT\n",
    );
    let webhooks = flagger(&pipecd);
    assert_eq!(types(&webhooks), ["confirm-rollout", "rollback", "pre-rollout", "rollout", "post-rollout", "event"]);
    assert_eq!(of_type(&webhooks, "pre-rollout")["timeout"], "5m30s");
    assert_eq!(of_type(&webhooks, "rollout")["timeout"], "3m20s");
    // It is selected in any namespace.
    assert!(pipecd.text("flux", &[]).contains("leaves <namespace> open"));
    assert_eq!(pipecd.documents("flux", &[])[1]["spec"]["eventSources"][0]["namespace"], "<namespace>");
    let told = pipecd.text("flux", &["--app", "test/shop"]);
    assert!(!told.contains("open: put"), "{told}");
}

#[test]
fn argocds_jobs_wait_as_long_as_the_stages_take() {
    let jobs = |timeout: &str| {
        let stages = [stage("a", "pre-rollout", timeout, true), stage("b", "confirm-promotion", "1m", false)];
        let documents = shop(&stages).documents("argocd", &[]);
        documents.into_iter().filter(|object| object["kind"] == "Job").collect::<Vec<_>>()
    };
    let phase = |job: &Value| job["metadata"]["annotations"]["argocd.argoproj.io/hook"].as_str().unwrap().to_owned();
    let short = jobs("5m");
    // No Sync: no stage runs on rollout. The end is told in any case.
    assert_eq!(short.iter().map(phase).collect::<Vec<_>>(), ["PreSync", "PostSync", "SyncFail"]);
    let command =
        |job: &Value| job["spec"]["template"]["spec"]["containers"][0]["args"][0].as_str().unwrap().to_owned();
    let seconds = |job: &Value| -> u64 {
        let command = command(job);
        let (_, rest) = command.split_once("--retry-max-time ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(seconds(&jobs("20m")[0]) - seconds(&short[0]), 15 * 60);
    for job in &short {
        assert!(job["spec"]["activeDeadlineSeconds"].as_u64().unwrap() > seconds(job) + 60, "{job}");
        assert!(command(job).contains("Idempotency-Key: $operation"), "{job}");
    }
    assert!(command(&short[0]).contains("'http://stagehook.stagehook/hooks/argocd/pre-rollout?wait=50s'"));
}

/// The conditions of the example are those that are printed, so that what is said of one holds for both.
#[test]
fn argocds_triggers_are_those_of_the_example() {
    let of_map = |text: &str| -> Vec<Value> {
        let maps = documents(text).into_iter().filter(|object| object["kind"] == "ConfigMap");
        let triggers = maps.map(|map| map["data"]["trigger.stagehook"].as_str().unwrap().to_owned());
        let [triggers] = triggers.collect::<Vec<_>>().try_into().unwrap();
        let [conditions] = documents(&triggers).try_into().unwrap();
        conditions.as_array().unwrap().clone()
    };
    let example = of_map(include_str!("../../examples/argocd/notifications.yaml"));
    let printed = of_map(&shop(&[stage("a", "rollout", "5m", true)]).text("argocd", &[]));
    assert_eq!(example, printed);
    let sent: Vec<_> = example.iter().map(|condition| condition["send"][0].as_str().unwrap()).collect();
    // on-sync-running would run the stages of rollout beside PreSync.
    assert_eq!(sent, ["stagehook-sync-failed", "stagehook-deployed", "stagehook-health-degraded"]);
    // The health right after a sync may be that of what ran before.
    assert!(example[1]["when"].as_str().unwrap().contains("operationState.finishedAt)).Minutes() >= 1"));
}

/// What stands in a ConfigMap is YAML again, and the body of a template JSON once its placeholders are filled in.
#[test]
fn the_notifications_are_sound_inside() {
    let pipelines = shop(&[stage("a", "rollout", "5m", true)]);
    for caller in ["argocd", "argo-rollouts"] {
        let documents = pipelines.documents(caller, &["--app", "eu:test/shop"]);
        let map = documents.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        let data = map["data"].as_object().unwrap();
        let mut sent = Vec::new();
        let mut defined = Vec::new();
        for (key, text) in data {
            let [inner] = super::documents(text.as_str().unwrap()).try_into().unwrap();
            if let Some(name) = key.strip_prefix("template.") {
                defined.push(name.to_owned());
                let webhook = &inner["webhook"]["stagehook"];
                let path = webhook["path"].as_str().unwrap();
                assert!(path.starts_with('/') && path.ends_with("?cluster=eu"), "{path}");
                let body = filled_in(webhook["body"].as_str().unwrap());
                let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
                assert!(body["event"].as_str().unwrap().starts_with("on-"), "{body}");
            } else if key.starts_with("trigger.") {
                for condition in inner.as_array().unwrap() {
                    sent.push(condition["send"][0].as_str().unwrap().to_owned());
                    if caller == "argocd" {
                        assert!(condition["oncePer"].as_str().unwrap().contains("operationState.startedAt"));
                    }
                }
            }
        }
        assert!(sent.len() >= 2 && sent.iter().all(|name| defined.contains(name)), "{sent:?} of {defined:?}");
    }
}

/// Go's templates, each that prints something as null.
fn filled_in(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").unwrap();
        let action = action.trim();
        out.push_str(before);
        if let Some(otherwise) = after.strip_prefix("{{ toJson .revision }}{{ else }}null{{ end }}") {
            assert!(action.starts_with("with "), "{action}");
            out.push_str("null");
            rest = otherwise;
            continue;
        }
        assert!(action.contains("toJson"), "this is not escaped: {action}");
        out.push_str("null");
        rest = after;
    }
    out + rest
}

#[test]
fn argo_rollouts_is_patient_for_the_longest_hook() {
    let limit = |stages: &[String]| {
        let documents = shop(stages).documents("argo-rollouts", &[]);
        let template = documents.iter().find(|object| object["kind"] == "AnalysisTemplate")?;
        let metric = &template["spec"]["metrics"][0];
        assert_eq!(metric["provider"]["web"]["timeoutSeconds"], 10);
        let url = "http://stagehook.stagehook/hooks/argo-rollouts/{{args.hook}}?wait=8s";
        assert_eq!(metric["provider"]["web"]["url"], url);
        metric["consecutiveErrorLimit"].as_u64()
    };
    // 310s in polls of 10s, and a minute more.
    assert_eq!(limit(&[stage("a", "rollout", "5m", false), stage("b", "confirm-promotion", "1m", false)]), Some(37));
    assert_eq!(limit(&[stage("a", "rollout", "1h", false)]), Some(367));
    assert_eq!(limit(&[stage("a", "rollback", "1h", false)]), None, "nothing is asked");
}

#[test]
fn spinnaker_has_a_stage_for_each_hook_and_says_when_an_hour_is_too_short() {
    let pipelines = shop(&[stage("a", "pre-rollout", "5m", false), stage("b", "rollout", "2h", true)]);
    let [document] = pipelines.documents("spinnaker", &[]).try_into().unwrap();
    let stages = document["webhook"]["preconfigured"].as_array().unwrap();
    let named: Vec<_> = stages.iter().map(|stage| stage["type"].as_str().unwrap()).collect();
    assert_eq!(
        named,
        ["pre-rollout", "rollout", "post-rollout", "rollback"].map(|hook| format!("stagehook-shop-{hook}"))
    );
    for stage in stages {
        assert_eq!(stage["customHeaders"]["Prefer"], json!(["respond-async"]));
        assert_eq!(stage["statusUrlResolution"], "locationHeader");
        let payload = stage["payload"].as_str().unwrap().replace("${#toJson(parameterValues['revision'])}", "null");
        let payload: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(payload, json!({"namespace": "test", "name": "shop", "revision": null}));
    }
    let text = pipelines.text("spinnaker", &[]);
    // The rollout and its rollback: 2h and 10s, or 20s, and what comes on top.
    assert_eq!(text.matches("stageTimeoutMs").count(), 2, "{text}");
    assert!(text.contains("\"stageTimeoutMs\": 7230000"), "{text}");
}

#[test]
fn github_is_told_where_to_call_and_never_the_secret() {
    let pipelines = Pipelines::of(&native("{namespace: production, name: octo/app}", ""));
    let [document] = pipelines.documents("github", &[]).try_into().unwrap();
    assert_eq!(document["payloadUrl"], "http://stagehook.stagehook/hooks/github");
    assert_eq!(document["events"], json!(["deployment", "deployment_status"]));
    let command = document["command"].as_str().unwrap();
    assert!(command.contains("gh api --method POST 'repos/octo/app/hooks'"), "{command}");
    let (_, rest) = command.split_once("<<'EOF' |\n").unwrap();
    let (json, _) = rest.split_once("\nEOF\n").unwrap();
    let hook: Value = serde_json::from_str(json).unwrap();
    assert_eq!(hook["config"]["content_type"], "json");
    assert_eq!(hook["config"]["secret"], Value::Null);
}

#[test]
fn github_sends_the_events_that_the_pipeline_maps() {
    let rules = "{push: {environment: production, hook: rollout}, release: {environment: production, hook: rollout}}";
    let text = native("{namespace: production, name: octo/app}", "") + "  sources: {github: " + rules + "}\n";
    let pipelines = Pipelines::of(&text);
    let [document] = pipelines.documents("github", &[]).try_into().unwrap();
    assert_eq!(document["events"], json!(["deployment", "deployment_status", "push", "release"]));
    let command = document["command"].as_str().unwrap();
    assert!(command.contains("\"push\",\n    \"release\"\n"), "{command}");
}

/// Names that YAML, a shell or JSON would take for something else.
#[test]
fn odd_names_stay_what_they_are() {
    for name in ["yes", "1.10", "null", "a'b\"c\\d", "octo/app", "#x", "{x}", "*x", "&x", "0x1f", "ümlaut"] {
        let pipelines = Pipelines::of(&native("{}", &stage("a", "pre-rollout", "5m", true)));
        let app = format!("no/{name}");
        for caller in CALLERS {
            let documents = pipelines.documents(caller, &["--app", &app]);
            for object in &documents {
                if caller != "flagger" && caller != "github" && caller != "spinnaker" {
                    assert_eq!(schema::check(object), Vec::<String>::new(), "{caller}: {name}");
                }
            }
            match caller {
                "flux" => {
                    assert_eq!(documents[1]["spec"]["eventSources"][0]["name"], name);
                    assert_eq!(documents[1]["spec"]["eventSources"][0]["namespace"], "no");
                }
                "spinnaker" => {
                    let payload = documents[0]["webhook"]["preconfigured"][0]["payload"].as_str().unwrap();
                    let payload = payload.replace("${#toJson(parameterValues['revision'])}", "null");
                    assert_eq!(serde_json::from_str::<Value>(&payload).unwrap()["name"], name);
                }
                "argocd" => assert_eq!(body_of_curl(&documents[0])["name"], name),
                _ => {}
            }
        }
    }
}

/// What the shell hands to curl.
fn body_of_curl(job: &Value) -> Value {
    let script = job["spec"]["template"]["spec"]["containers"][0]["args"][0].as_str().unwrap();
    let script = script.replace("exec curl", "last() { while [ $# -gt 2 ]; do shift; done; printf %s \"$1\"; }; last");
    let said = Command::new("/bin/sh").arg("-c").arg(script).env("JOB", "x-1").output().unwrap();
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn each_pipeline_of_a_file_is_printed_but_for_those_of_another_source() {
    let other = native("{source: argocd, name: other}", "").replace("name: shop", "name: other");
    let third = native("{namespace: test, name: third}", "").replace("name: shop", "name: third");
    let pipelines = Pipelines::of(&[native(SHOP, ""), other, third].join("---\n"));
    assert_eq!(pipelines.documents("flagger", &[]).len(), 2);
    assert_eq!(pipelines.documents("flagger", &["--app", "test/third"]).len(), 1);
    let line = "webhooks flagger --pipeline p.yaml --url http://b --app test/other";
    let (code, why) = pipelines.failure(&line.split(' ').collect::<Vec<_>>());
    assert_eq!((code, why.contains("no pipeline of p.yaml selects test/other")), (1, true), "{why}");
}

#[test]
fn what_can_not_be_used_is_said_with_its_place_and_is_exit_code_2() {
    for (hook, file, url, part) in [
        ("prerollout", "p.yaml", "http://b", "p.yaml:6:"),
        ("pre-rollout", "gone.yaml", "http://b", "gone.yaml"),
        ("pre-rollout", "p.yaml", "http://a:hunter2@b", "leave the credentials out"),
        ("pre-rollout", "p.yaml", "stagehook", "--url"),
    ] {
        let pipelines = shop(&[stage("a", hook, "5m", false)]);
        let (code, why) = pipelines.failure(&["webhooks", "flagger", "--pipeline", file, "--url", url]);
        assert_eq!(code, 2, "{why}");
        assert!(why.contains(part) && !why.contains("hunter2"), "{why}");
    }
}

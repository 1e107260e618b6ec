//! Replays: when they begin, what they run, and how they are answered.

use serde_json::json;

use crate::support::World;
use crate::support::pipelines::{SCRIPT, pipeline, stage, stage_with};
use crate::support::processes::is_alive;

#[tokio::test]
async fn a_rollback_never_begins_beside_a_living_forward_script() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    world.make_stubborn("migrate");
    let (mut forward, mut undo) = (world.gate("migrate"), world.gate("undo.migrate"));
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    let script = forward.entered().await;
    let report = client.hold_flagger("post-rollout", "Failed", "a1");
    let undoing = undo.entered().await;
    assert!(!is_alive(script), "{script:?} is alive beside {undoing:?}");
    // The ledger says the same: asked to stop, ended, and only then undone.
    let id = client.deployments().await[0]["id"].as_str().unwrap().to_owned();
    let kinds: Vec<_> =
        client.records(&id).await.iter().map(|r| r["event"]["type"].as_str().unwrap().to_owned()).collect();
    let tail: Vec<_> = kinds.iter().rev().take(4).rev().map(String::as_str).collect();
    assert_eq!(tail, ["rollbackStarted", "stopRequested", "stageFinished", "stageStarted"], "{kinds:?}");
    undo.open().await;
    report.answer().await.expect(200);
    held.answer().await.expect(501);
}

#[tokio::test]
async fn the_rollback_runs_what_was_recorded() {
    for deleted in [false, true] {
        let old = stage_with(
            "migrate",
            "pre-rollout",
            &json!({"onRollback": format!("{SCRIPT}; echo old >> $E2E_DIR/which")}),
        );
        let world = World::with_stages(&[old]).await;
        let client = world.client();
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        if deleted {
            world.remove_pipeline("podinfo.yaml");
        } else {
            let new = stage_with("other", "pre-rollout", &json!({"onRollback": "echo new >> $E2E_DIR/which"}));
            world.write_pipeline("podinfo.yaml", &pipeline(&[new]).to_string());
        }
        world.server().logged("loaded").await;
        client.flagger("post-rollout", "Failed", "a1").await.expect(200);
        assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
        assert_eq!(world.read("which"), "old\n");
        if deleted {
            client.flagger("pre-rollout", "Progressing", "a2").await.expect(404);
        }
    }
}

#[tokio::test]
async fn a_recorded_rollback_survives_a_restart_without_its_file() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    world.remove_pipeline("podinfo.yaml");
    world.start().await;
    world.client().flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn the_replay_goes_in_the_order_that_was_asked_for_and_ends_with_the_stages_for_rollback() {
    for (order, expected) in [
        ("pipeline", ["one", "two", "undo.one", "undo.two", "undo.page"]),
        ("reverse", ["one", "two", "undo.two", "undo.one", "undo.page"]),
    ] {
        let page = json!({"id": "page", "name": "SCRIPT_RUN", "hook": "rollback", "with": {"run": SCRIPT}});
        let mut ordered = pipeline(&[page, stage("one", "pre-rollout"), stage("two", "rollout")]);
        ordered["spec"]["rollback"] = json!({"order": order});
        let world = World::new().pipeline("podinfo.yaml", &ordered).started().await;
        let client = world.client();
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        client.flagger("rollout", "Progressing", "a1").await.expect(200);
        client.flagger("post-rollout", "Failed", "a1").await.expect(200);
        assert_eq!(world.starts(), expected);
    }
}

#[tokio::test]
async fn one_that_fails_does_not_stop_the_rest_unless_it_shall() {
    for (policy, expected) in [("continue", &["undo.one", "undo.two"][..]), ("stop", &["undo.one"][..])] {
        let mut pipeline = pipeline(&[stage("one", "pre-rollout"), stage("two", "pre-rollout")]);
        pipeline["spec"]["rollback"] = json!({"onFailure": policy});
        let world = World::new().pipeline("podinfo.yaml", &pipeline).started().await;
        let client = world.client();
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        world.fail("undo.one");
        let failed = client.flagger("post-rollout", "Failed", "a1").await.expect(501);
        assert!(failed.text.contains("stage one"), "{failed:?}");
        assert_eq!(world.starts()[2..], *expected);
        assert_eq!(client.deployments().await[0]["state"], "RollbackFailed");
    }
}

#[tokio::test]
async fn a_failed_stage_rolls_back_by_itself_where_the_pipeline_says_so() {
    let mut own = pipeline(&[stage("migrate", "pre-rollout")]);
    own["spec"]["onFailure"] = json!("rollback");
    let world = World::new().pipeline("podinfo.yaml", &own).started().await;
    let client = world.client();
    world.fail("migrate");
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(501).deployment();
    let deployment = world.reaches(&id, "RolledBack").await;
    assert_eq!(deployment["reason"], "StageFailed");
    world.mend("migrate");
    // It was undone here; Flagger does not know that yet, and must not get on.
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate", "migrate"]);
}

#[tokio::test]
async fn the_generic_rollback_tells_done_going_on_and_failed() {
    let world = World::with_stages(&[stage("one", "pre-rollout"), stage("two", "pre-rollout")]).await;
    let client = world.client();
    let nothing = client.generic("rollback", "").await.expect(200);
    assert_eq!(nothing.json()["verdict"], "approved");
    client.generic("pre-rollout", "v1").await.expect(200);
    client.generic("post-rollout", "v1").await.expect(200);
    world.fail("undo.two");
    let failed = client.generic("rollback", "").await.expect(501).json();
    assert_eq!(failed["verdict"], "rejected");
    assert!(failed["message"].as_str().unwrap().contains("two"), "{failed}");
    // Again: only what failed.
    world.mend("undo.two");
    let mut gate = world.gate("undo.two");
    let going = client.post("/hooks/generic/rollback?wait=20ms", &crate::support::http::generic("")).await.expect(202);
    let id = going.deployment();
    gate.entered().await;
    gate.open().await;
    world.reaches(&id, "RolledBack").await;
    client.generic("rollback", "").await.expect(200);
    assert_eq!(world.starts(), ["one", "two", "undo.one", "undo.two", "undo.two"]);
}

#[tokio::test]
async fn the_generic_rollback_names_what_only_others_have_told_of() {
    let world = World::with_stages(&[stage("one", "pre-rollout")]).await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    let unknown = client.generic("rollback", "").await.expect(404);
    assert!(unknown.text.contains(&id), "{unknown:?}");
    let mut named = crate::support::http::generic("");
    named["deployment"] = json!(id);
    client.post("/hooks/generic/rollback", &named).await.expect(200);
    assert_eq!(world.starts(), ["one", "undo.one"]);
    assert_eq!(client.deployment(&id).await["state"], "RolledBack");
    let stranger = json!({"namespace": "nobody", "name": "knows"});
    client.post("/hooks/generic/rollback", &stranger).await.expect(404);
}

#[tokio::test]
async fn a_stage_after_the_rollout_that_fails_undoes_nothing() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("notify", "post-rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.fail("notify");
    let id = client.flagger("post-rollout", "Succeeded", "a1").await.expect(501).deployment();
    let deployment = client.deployment(&id).await;
    assert_eq!((&deployment["state"], &deployment["reason"]), (&json!("Succeeded"), &json!("PostRolloutFailed")));
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "notify"]);
}

#[tokio::test]
async fn a_second_report_joins_the_replay() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let mut undo = world.gate("undo.migrate");
    let reports = [0, 1, 2].map(|_| client.hold_flagger("post-rollout", "Failed", "a1"));
    undo.entered().await;
    client.held_calls(3).await;
    // Meanwhile nothing of the application goes forward.
    let pending =
        client.hold("/hooks/flagger/pre-rollout?wait=20ms", &crate::support::http::flagger("Progressing", "a2"));
    pending.answer().await.expect(503);
    undo.open().await;
    for report in reports {
        report.answer().await.expect(200);
    }
    assert_eq!(world.starts().iter().filter(|key| *key == "undo.migrate").count(), 1);
}

#[tokio::test]
async fn the_rollback_sees_how_its_stage_ended() {
    let with = json!({
        "run": "echo \"level=42\" >> \"$STAGEHOOK_OUTPUT\"; exit 7",
        "onRollback": "echo \"$STAGEHOOK_FORWARD_STATUS $STAGEHOOK_FORWARD_EXIT_CODE $STAGEHOOK_OUTPUTS $SR_IS_ROLLBACK\" > $E2E_DIR/seen",
    });
    let world = World::with_stages(&[stage_with("migrate", "pre-rollout", &with)]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(501);
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    let seen = world.read("seen");
    assert!(seen.starts_with("Failed 7 ") && seen.contains("42") && seen.trim_end().ends_with(" true"), "{seen}");
}

#[tokio::test]
async fn a_report_that_may_not_wait_longer_passes_while_the_replay_goes_on() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let mut undo = world.gate("undo.migrate");
    let failed = crate::support::http::flagger("Failed", "a1");
    let going = client.post("/hooks/flagger/post-rollout?wait=20ms", &failed).await.expect(202);
    let id = going.deployment();
    undo.entered().await;
    assert_eq!(client.deployment(&id).await["state"], "RollingBack");
    undo.open().await;
    world.reaches(&id, "RolledBack").await;
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "undo.migrate"]);
}

#[tokio::test]
async fn what_a_script_left_in_the_background_is_dead_before_it_is_undone() {
    let daemon = r#"
        setsid sh -c 'trap "" TERM; echo $$ > "$E2E_DIR/daemon.in"; read -r _ < "$E2E_DIR/daemon.out"' > /dev/null 2>&1 &
        read -r _ < "$E2E_DIR/forward.out"
        exit 3
    "#;
    let world = World::with_stages(&[stage_with("migrate", "pre-rollout", &json!({"run": daemon}))]).await;
    let client = world.client();
    let (mut daemon, mut forward, mut undo) = (world.gate("daemon"), world.gate("forward"), world.gate("undo.migrate"));
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    let child = daemon.entered().await;
    forward.open().await;
    held.answer().await.expect(501);
    let report = client.hold_flagger("post-rollout", "Failed", "a1");
    undo.entered().await;
    assert!(!is_alive(child), "a child of the forward script is alive beside its rollback");
    undo.open().await;
    report.answer().await.expect(200);
}

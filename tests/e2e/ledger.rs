//! The ledger as operators meet it: locked, looked into, proven, shared by mistake.

use rusqlite::{Connection, OpenFlags};

use crate::support::World;
use crate::support::pipelines::stage;

async fn world() -> World {
    World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await
}

fn open(world: &World, flags: OpenFlags) -> Connection {
    Connection::open_with_flags(world.path().join("data/stagehook.db"), flags).unwrap()
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_started() {
    let world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let other = world.hold_the_ledger();
    let (refused, ready) = tokio::join!(client.flagger("rollout", "Progressing", "a1"), client.get("/readyz"));
    let refused = refused.expect(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    ready.expect(503);
    client.get("/healthz").await.expect(200);
    assert_eq!(world.starts(), ["migrate"]);
    drop(other);
    client.get("/readyz").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    world.verify();
}

#[tokio::test]
async fn an_end_that_cannot_be_recorded_yet_is_recorded_later_and_answered_only_then() {
    let world = world().await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let other = world.hold_the_ledger();
    gate.open().await;
    // The script is over when its last line is there; its end is not in the ledger.
    crate::support::poll::poll_until("the script is over", || async {
        world.journal().iter().any(|line| line.what == "end").then_some(())
    })
    .await;
    assert!(held.is_held());
    drop(other);
    held.answer().await.expect(200);
    world.verify();
}

#[tokio::test]
async fn a_held_call_is_told_that_the_ledger_cannot_be_written_and_the_next_gets_the_result() {
    let world = world().await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let other = world.hold_the_ledger();
    gate.open().await;
    let refused = held.answer().await.expect(503);
    assert!(refused.text.contains("ledger can't be written"), "{refused:?}");
    drop(other);
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate"]);
    world.verify();
}

#[tokio::test]
async fn it_can_be_looked_into_while_the_service_runs() {
    let world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let shell = open(&world, OpenFlags::SQLITE_OPEN_READ_ONLY);
    shell.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").unwrap_or_default();
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    drop(shell);
    world.verify();
}

#[tokio::test]
async fn the_program_proves_it_and_finds_what_was_changed() {
    let mut world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let head = world.command(&["ledger", "head", "--output", "json"]);
    assert!(head.status.success(), "{head:?}");
    std::fs::write(world.path().join("head.json"), &head.stdout).unwrap();
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    let proven = world.command(&["ledger", "verify", "--against", "head.json"]);
    assert!(proven.status.success(), "{proven:?}");
    world.stop().await;
    let proven = world.command(&["ledger", "verify"]);
    assert!(proven.status.success(), "{proven:?}");
    let other = open(&world, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let changed = other.execute("UPDATE records SET body = replace(body, 'Succeeded', 'Failed') WHERE seq = 4", []);
    assert_eq!(changed.unwrap(), 1);
    drop(other);
    let found = world.command(&["ledger", "verify"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
}

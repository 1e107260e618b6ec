//! A disk that is full or turns read-only under the running service, in a mount namespace of its own.
//!
//! The server's `data` (or `work`) folder is a tmpfs of a few hundred KiB that only it sees; the test reaches it through
//! `/proc/PID/root`, and it is gone with the server.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::World;
use crate::support::pipelines::{SCRIPT, pipeline, stage, stage_with};
use crate::support::poll::poll_until;

const ROOT: &[&str] = &["unshare", "--mount", "--", "sh", "-c", MOUNT, "sh"];
const PLAIN: &[&str] = &["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", MOUNT, "sh"];
/// Mounts `$SMALL`, and becomes the server.
const MOUNT: &str =
    r#"mkdir -p "$E2E_DIR/$SMALL" && mount -t tmpfs -o size="$SIZE",mode=700 tmpfs "$E2E_DIR/$SMALL" && exec "$@""#;

/// How to start a server with a small disk, where that can be done here.
fn launcher() -> Option<&'static [&'static str]> {
    let launcher = if rustix::process::geteuid().is_root() { ROOT } else { PLAIN };
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new(launcher[0])
        .args(&launcher[1..])
        .arg("true")
        .env("E2E_DIR", folder.path())
        .env("SMALL", "data")
        .env("SIZE", "64k")
        .status()
        .is_ok_and(|status| status.success());
    if made {
        return Some(launcher);
    }
    assert!(std::env::var_os("CI").is_none(), "unshare can't make a mount namespace here");
    eprintln!(
        "NOT TESTED: unshare can't make a mount namespace here (it takes util-linux, and root or user namespaces)"
    );
    None
}

/// A world whose server has `folder` on a disk of `size`.
fn small(folder: &str, size: &str) -> Option<World> {
    let world = World::new().launched_by(launcher()?);
    Some(world.variable("SMALL", folder).variable("SIZE", size))
}

/// What only the server sees.
fn inside(world: &World, name: &str) -> PathBuf {
    let root = format!("/proc/{}/root", world.server().pid().as_raw_nonzero());
    PathBuf::from(format!("{root}{}/{name}", world.path().display()))
}

/// Takes all the room that is left in a folder.
fn fill(world: &World, folder: &str) -> PathBuf {
    let path = inside(world, folder).join("ballast");
    let mut file = File::options().create(true).append(true).open(&path).unwrap();
    while file.write_all(&[0xA5; 4096]).is_ok() {}
    while file.write_all(&[0xA5]).is_ok() {}
    path
}

/// Proves a copy: SQLite follows the link to the server's root, and would look in the test's own.
fn verify(world: &World) {
    let copy = world.path().join("inside.db");
    for end in ["", "-wal"] {
        let name = inside(world, &format!("data/stagehook.db{end}"));
        std::fs::copy(name, format!("{}{end}", copy.display())).unwrap();
    }
    let report = stagehook::ledger::verify(&copy, None).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

fn stages() -> serde_json::Value {
    pipeline(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")])
}

#[tokio::test]
async fn nothing_starts_on_a_full_disk_and_all_goes_on_when_there_is_room() {
    let Some(world) = small("data", "3m") else { return };
    let world = world.pipeline("podinfo.yaml", &stages()).started().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let ballast = fill(&world, "data");
    // Room that SQLite has already taken in its WAL may still hold a record or two.
    let refused = poll_until("the disk is full", || async {
        let reply = client.generic("pre-rollout", "x").await;
        (reply.status != 200).then_some(reply)
    })
    .await
    .expect(503);
    let starts = world.starts();
    assert!(refused.text.contains("full") && refused.text.contains("free space on its disk"), "{refused:?}");
    for _ in 0..20 {
        client.flagger("rollout", "Progressing", "a1").await.expect(503);
    }
    let ready = client.get("/readyz").await.expect(503);
    assert!(ready.text.contains("free space on its disk") && ready.text.lines().count() == 1, "{ready:?}");
    assert!(client.get("/metrics").await.expect(200).text.contains("stagehook_ledger_writable 0"));
    assert_eq!(world.starts(), starts);
    std::fs::remove_file(ballast).unwrap();
    client.get("/readyz").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts().len(), starts.len() + 1);
    verify(&world);
}

/// What it held has no room in the file, and nobody has it but the service.
#[tokio::test]
async fn a_wal_that_is_removed_to_make_room_is_saved_when_there_is_room() {
    let Some(world) = small("data", "3m") else { return };
    let mut world = world.pipeline("podinfo.yaml", &stages()).started().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let ballast = fill(&world, "data");
    poll_until("the disk is full", || async { (client.generic("pre-rollout", "x").await.status != 200).then_some(()) })
        .await;
    let starts = world.starts();
    std::fs::remove_file(inside(&world, "data/stagehook.db-wal")).unwrap();
    for _ in 0..2 {
        let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
        assert!(refused.text.contains("-wal was removed") && refused.text.contains("free space"), "{refused:?}");
        let ready = client.get("/readyz").await.expect(503);
        assert!(ready.text.contains("do not stop it before"), "{ready:?}");
    }
    std::fs::remove_file(ballast).unwrap();
    let ready = client.get("/readyz").await.expect(503);
    assert!(ready.text.contains("what it held was saved into the file"), "{ready:?}");
    // The disk goes with the server.
    std::fs::create_dir(world.path().join("kept")).unwrap();
    std::fs::copy(inside(&world, "data/stagehook.db"), world.path().join("kept/stagehook.db")).unwrap();
    world.kill().await;
    let kept = world.path().join("kept/stagehook.db");
    let report = stagehook::ledger::verify(&kept, None).unwrap();
    assert!(report.is_sound() && report.records > 0, "{report:?}");
    let mut world = world.launched_by(&[]).set("/ledger/url", json!(format!("sqlite://{}", kept.display())));
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts().len(), starts.len() + 1);
    assert!(stagehook::ledger::verify(&kept, None).unwrap().is_sound());
}

#[tokio::test]
async fn an_end_that_has_no_room_is_kept_and_nobody_is_told_of_it_before_it_is_recorded() {
    let Some(world) = small("data", "3m") else { return };
    // More than what is left in the WAL could hold.
    let wordy = json!({"run": format!("head -c 300000 /dev/zero | tr '\\0' x; {SCRIPT}")});
    let pipeline = pipeline(&[stage_with("migrate", "pre-rollout", &wordy), stage("smoke", "rollout")]);
    let world = world.pipeline("podinfo.yaml", &pipeline).started().await;
    let client = world.client();
    let mut gate = world.gate("migrate");
    let held = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let ballast = fill(&world, "data");
    gate.open().await;
    let refused = held.answer().await.expect(503);
    assert!(refused.text.contains("free space on its disk"), "{refused:?}");
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(503);
    // It has its slot until its end is recorded: so what waits for room is bounded by what may run.
    let metrics = client.get("/metrics").await.expect(200).text;
    assert!(metrics.contains("stagehook_running_scripts 1"), "{metrics}");
    assert_eq!(world.starts(), ["migrate"]);
    std::fs::remove_file(ballast).unwrap();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    poll_until("the slots are free", || async {
        let metrics = client.get("/metrics").await.text;
        metrics.contains("stagehook_running_scripts 0").then_some(())
    })
    .await;
    verify(&world);
}

#[tokio::test]
async fn a_rollback_that_meets_a_full_disk_goes_on_by_itself() {
    let Some(world) = small("data", "3m") else { return };
    let wordy = json!({"onRollback": format!("head -c 300000 /dev/zero | tr '\\0' x; {SCRIPT}")});
    let one = stage_with("one", "pre-rollout", &wordy);
    let world = world.pipeline("podinfo.yaml", &pipeline(&[one, stage("two", "pre-rollout")])).started().await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    let mut gate = world.gate("undo.one");
    let report = client.hold_flagger("post-rollout", "Failed", "a1");
    gate.entered().await;
    let ballast = fill(&world, "data");
    gate.open().await;
    report.answer().await.expect(503);
    client.flagger("post-rollout", "Failed", "a1").await.expect(503);
    assert_eq!(world.starts(), ["one", "two", "undo.one"]);
    std::fs::remove_file(ballast).unwrap();
    // Nobody calls.
    world.reaches(&id, "RolledBack").await;
    assert_eq!(world.starts(), ["one", "two", "undo.one", "undo.two"]);
    verify(&world);
}

/// The other disk: the ledger can be written, and it says why the script can't be run.
#[tokio::test]
async fn a_full_disk_under_the_run_folders_is_the_end_of_a_run_and_not_of_the_service() {
    let Some(world) = small("work", "64k") else { return };
    let work = world.path().join("work");
    let world = world.set("/execution/workDir", json!(work)).pipeline("podinfo.yaml", &stages()).started().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let ballast = fill(&world, "work");
    client.get("/readyz").await.expect(200);
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(501);
    assert!(refused.text.contains("No space left on device"), "{refused:?}");
    std::fs::remove_file(ballast).unwrap();
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    world.verify();
}

#[tokio::test]
async fn a_ledger_on_a_read_only_disk_is_refused_at_the_start() {
    const READ_ONLY: &str = r#"mount -t tmpfs tmpfs "$E2E_DIR/data" && cp "$E2E_DIR/kept.db" "$E2E_DIR/data/stagehook.db" &&
        mount -o remount,ro "$E2E_DIR/data" && exec "$@""#;
    const ROOT: &[&str] = &["unshare", "--mount", "--", "sh", "-c", READ_ONLY, "sh"];
    const PLAIN: &[&str] = &["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", READ_ONLY, "sh"];
    if launcher().is_none() {
        return;
    }
    let mut world = World::new().pipeline("podinfo.yaml", &stages()).started().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    std::fs::copy(world.path().join("data/stagehook.db"), world.path().join("kept.db")).unwrap();
    let mut world = world.launched_by(if rustix::process::geteuid().is_root() { ROOT } else { PLAIN });
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    world.server().logged("error: ").await;
    let log = world.server().log();
    let said: Vec<_> = log.iter().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(said[..], [line] if line.contains("stagehook.db") && line.contains("Read-only")), "{log:?}");
    let mut world = world.launched_by(&[]);
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    world.verify();
}

/// As after a fault of the disk that the kernel answers with read-only: no write gets through, on open files neither. An
/// attribute does that to single files; a mount that has open files can't be made so by hand.
#[tokio::test]
async fn a_file_that_turns_read_only_stops_everything_until_it_is_writable() {
    let world = World::new().pipeline("podinfo.yaml", &stages()).started().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let attribute = |change: &str| {
        let mut command = Command::new("chattr");
        command.arg(change);
        command.args(["", "-wal"].map(|end| format!("{}{end}", world.path().join("data/stagehook.db").display())));
        command.output().is_ok_and(|output| output.status.success())
    };
    if !attribute("+i") {
        attribute("-i");
        assert!(std::env::var_os("CI").is_none(), "chattr can't make a file immutable here");
        eprintln!(
            "NOT TESTED: chattr can't make a file immutable here (it takes e2fsprogs, root, and a disk that knows it)"
        );
        return;
    }
    let refused = client.flagger("rollout", "Progressing", "a1").await;
    let ready = client.get("/readyz").await;
    let again = client.flagger("rollout", "Progressing", "a1").await;
    // Before anything may fail: else nobody could remove the folder.
    assert!(attribute("-i"));
    refused.expect(503);
    again.expect(503);
    let ready = ready.expect(503);
    assert!(ready.text.contains("ledger can't be written") && ready.text.lines().count() == 1, "{ready:?}");
    assert_eq!(world.starts(), ["migrate"]);
    client.get("/readyz").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    world.verify();
}

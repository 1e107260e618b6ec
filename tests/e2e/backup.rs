//! A copy of the ledger, taken while the service works, and what it is worth afterwards.

use std::path::{Path, PathBuf};

use serde_json::Value;
use stagehook::ledger::{Head, Kind, verify};

use crate::support::World;
use crate::support::pipelines::stage;
use crate::support::poll::poll_until;

fn ledger(world: &World) -> PathBuf {
    world.path().join("data/stagehook.db")
}

/// Takes a backup, and gives what was said about it.
fn backup(world: &World, file: &str) -> Value {
    let output = world.command(&["ledger", "backup", file, "--output", "json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn head_of(said: &Value) -> Head {
    serde_json::from_value(said["head"].clone()).unwrap()
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As docs/operations.md has it: the service is stopped, the file put in place, what belonged to the old one taken away.
fn restore(world: &World, file: &str) {
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", ledger(world).display()));
    }
    std::fs::copy(world.path().join(file), ledger(world)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_taken_under_load_is_of_one_moment_and_holds_nobody_up() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a0").await.expect(200);
    let earlier = world.command(&["ledger", "head"]);
    std::fs::write(world.path().join("earlier.json"), &earlier.stdout).unwrap();
    let load = tokio::spawn({
        let client = client.clone();
        async move {
            for n in 1.. {
                let revision = format!("a{n}");
                client.flagger("pre-rollout", "Progressing", &revision).await.expect(200);
                client.flagger("rollout", "Progressing", &revision).await.expect(200);
                client.flagger("post-rollout", if n % 3 == 0 { "Failed" } else { "Succeeded" }, &revision).await;
            }
        }
    });
    let mut records = 0;
    for n in 0..5 {
        let file = format!("copy-{n}.db");
        let made = {
            let world = &world;
            tokio::task::block_in_place(|| backup(world, &file))
        };
        // Between two copies work goes on.
        let more = made["records"].as_u64().unwrap();
        assert!(more >= records);
        records = more;
        poll_until("the load goes on", || async {
            let ledger = stagehook::ledger::head(&ledger(&world)).unwrap();
            (ledger.streams[0].seq > records).then_some(())
        })
        .await;
        for (arguments, path) in [
            (vec!["ledger", "verify", "--against", "earlier.json"], ledger(&world)),
            (vec!["ledger", "verify", "--against", "earlier.json"], world.path().join(&file)),
        ] {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_stagehook"))
                .args(arguments)
                .current_dir(world.path())
                .env_clear()
                .env("STAGEHOOK_LEDGER__URL", format!("sqlite://{}", path.display()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}: {output:?}", path.display());
        }
        let copy = world.path().join(&file);
        assert!(verify(&copy, Some(&head_of(&made))).unwrap().is_sound());
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&copy).unwrap()) & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&copy).unwrap().len(), made["bytes"].as_u64().unwrap());
    }
    assert!(records > 10, "there was a load: {records}");
    load.abort();
    let left: Vec<_> = std::fs::read_dir(world.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("copy-") && !name.ends_with(".db"))
        .collect();
    assert_eq!(left, [""; 0], "left beside the copies");
    world.verify();
    world.stop().await;
    // Of a ledger that nobody has open, too.
    let made = backup(&world, "last.db");
    assert!(verify(&ledger(&world), Some(&head_of(&made))).unwrap().is_sound());
}

#[tokio::test]
async fn a_restored_copy_goes_on_from_its_moment_and_an_earlier_head_tells_what_is_missing() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    let id = client.flagger("pre-rollout", "Progressing", "a1").await.expect(200).deployment();
    // In the middle of a script.
    let mut gate = world.gate("smoke");
    let held = client.hold_flagger("rollout", "Progressing", "a1");
    gate.entered().await;
    let made = backup(&world, "copy.db");
    gate.open().await;
    held.answer().await.expect(200);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    let newer = world.command(&["ledger", "head"]);
    std::fs::write(world.path().join("newer.json"), &newer.stdout).unwrap();
    world.kill().await;

    restore(&world, "copy.db");
    let output = world.command(&["ledger", "verify", "--against", "newer.json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("cut-tail"), "{output:?}");
    assert!(verify(&ledger(&world), Some(&head_of(&made))).unwrap().is_sound());
    world.start().await;
    let client = world.client();
    let deployment = client.deployment(&id).await;
    assert_eq!(deployment["state"], "Progressing");
    assert_eq!(deployment["runs"][1]["state"], "Interrupted", "{deployment:#}");
    // What was executed by then is known, so it is undone.
    client.flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke", "undo.migrate", "undo.smoke"]);
    world.verify();
}

#[tokio::test]
async fn a_wal_of_the_old_file_is_not_taken_up_by_a_restored_one() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    backup(&world, "copy.db");
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    world.kill().await;
    let wal = PathBuf::from(format!("{}-wal", ledger(&world).display()));
    let before = std::fs::read(&wal).unwrap();
    assert!(!before.is_empty());
    std::fs::copy(world.path().join("copy.db"), ledger(&world)).unwrap();
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2));
    let log = world.server().logged("error: ").await;
    assert!(log.contains("it is a backup, and") && log.contains("move -wal and -shm away"), "{log}");
    assert_eq!(std::fs::read(&wal).unwrap(), before);
    // Nor do the tools read one for the other.
    let output = world.command(&["ledger", "verify"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    restore(&world, "copy.db");
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    world.verify();
}

#[tokio::test]
async fn nothing_that_is_there_is_replaced_unasked_and_never_a_ledger() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let refused = |arguments: &[&str], part: &str| {
        let output = world.command(&[&["ledger", "backup"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let said = said(&output);
        assert!(said.contains(part) && said.lines().count() == 1, "{arguments:?}: {said}");
    };
    world.write("taken", "something");
    refused(&["taken"], "--force");
    assert_eq!(world.read("taken"), "something");
    refused(&["data/stagehook.db", "--force"], "a ledger lives there");
    std::os::unix::fs::symlink(ledger(&world), world.path().join("link.db")).unwrap();
    refused(&["link.db", "--force"], "it is the ledger itself");
    refused(&["data", "--force"], "no file");
    refused(&["none/copy.db"], "none/copy.db.partial");
    refused(&["/dev/full", "--force"], "no file");
    let forced = world.command(&["ledger", "backup", "taken", "--force"]);
    assert!(forced.status.success(), "{forced:?}");
    let text = String::from_utf8(forced.stdout).unwrap();
    assert!(text.contains("sound") && text.contains("digest "), "{text}");
    assert!(verify(&world.path().join("taken"), None).unwrap().is_sound());
    // What a killed one left is no hindrance, and what one that goes on holds is.
    std::fs::write(world.path().join("again.db.partial"), vec![0xA5; 100_000]).unwrap();
    let partial = std::fs::File::open(world.path().join("again.db.partial")).unwrap();
    partial.lock().unwrap();
    refused(&["again.db"], "another backup into it goes on");
    drop(partial);
    backup(&world, "again.db");
    assert!(!Path::new(&world.path().join("again.db.partial")).exists());
    world.verify();
}

/// By any name: what belongs to a ledger, and one whose name the copy would have while it is made.
#[tokio::test]
async fn what_belongs_to_a_ledger_is_never_replaced() {
    let world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let refused = |file: &str, part: &str| {
        let output = world.command(&["ledger", "backup", file, "--force"]);
        assert_eq!(output.status.code(), Some(2), "{file}: {output:?}");
        let said = said(&output);
        assert!(said.contains(part) && said.lines().count() == 1, "{file}: {said}");
    };
    for end in ["-wal", "-shm", "-journal", ".lock", ".partial"] {
        let file = format!("data/stagehook.db{end}");
        let before = std::fs::read(world.path().join(&file)).ok();
        refused(&file, "that name belongs to data/stagehook.db");
        // The WAL may have grown meanwhile.
        let after = std::fs::read(world.path().join(&file)).ok();
        assert_eq!(before.map(|bytes| bytes.len()), after.map(|bytes| bytes.len()), "{file}");
    }
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);

    // A stopped one: nothing but its lock file tells.
    let other = world.path().join("other.db.partial");
    drop(stagehook::ledger::Ledger::open(&other).unwrap());
    let before = std::fs::read(&other).unwrap();
    refused("other.db", "other.db.partial: a ledger lives there");
    assert_eq!(std::fs::read(&other).unwrap(), before);
    // And one that another program left with records in its WAL.
    let third = world.path().join("third.db.partial");
    std::fs::copy(&other, &third).unwrap();
    world.write("third.db.partial-wal", "records");
    refused("third.db", "third.db.partial: a ledger lives there");
    assert_eq!(world.read("third.db.partial-wal"), "records");
    // SQLite would roll it back into the copy.
    world.write("fourth.db-journal", "pages");
    refused("fourth.db", "a ledger lives there");
    world.verify();
}

#[tokio::test]
async fn the_ledger_itself_is_no_left_over() {
    let ledger = "sqlite://x.db.partial";
    let world = World::new().set("/ledger/url", serde_json::json!(ledger));
    let world =
        world.pipeline("podinfo.yaml", &crate::support::pipelines::pipeline(&[stage("migrate", "pre-rollout")]));
    let mut world = world.started().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    let path = world.path().join("x.db.partial");
    std::fs::remove_file(world.path().join("x.db.partial.lock")).unwrap();
    let before = std::fs::read(&path).unwrap();
    let output = world.command(&["ledger", "backup", "x.db"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("it is the ledger itself"), "{output:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// The copy is made anew, so that nothing of what is there lives on: neither its rights nor what it leads to.
#[tokio::test]
async fn a_left_over_is_used_for_nothing_and_what_is_none_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    let partial = world.path().join("copy.db.partial");
    world.write("copy.db.partial", "a left-over");
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o666)).unwrap();
    backup(&world, "copy.db");
    let mode = std::fs::metadata(world.path().join("copy.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_file(world.path().join("copy.db")).unwrap();

    let refused = |part: &str| {
        let output = world.command(&["ledger", "backup", "copy.db"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = said(&output);
        assert!(said.contains("copy.db.partial is ") && said.contains(part), "{said}");
        assert!(!world.path().join("copy.db").exists());
    };
    world.write("precious", "what is dear to somebody");
    std::os::unix::fs::symlink("precious", &partial).unwrap();
    refused("a symbolic link");
    std::fs::remove_file(&partial).unwrap();
    std::fs::hard_link(world.path().join("precious"), &partial).unwrap();
    refused("hard link");
    assert_eq!(world.read("precious"), "what is dear to somebody");
    std::fs::remove_file(&partial).unwrap();
    // To open one would be to wait for a writer.
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &partial, fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    refused("a fifo");
    std::fs::remove_file(&partial).unwrap();
    std::fs::create_dir(&partial).unwrap();
    refused("no regular file");
    std::fs::remove_dir(&partial).unwrap();
    backup(&world, "copy.db");
}

/// Before an upgrade the new program is to take a backup of what the old one wrote, and to prove the old backups.
#[tokio::test]
async fn a_ledger_of_an_older_format_is_proven_and_copied_as_it_is() {
    for version in [1, 2] {
        of_format(version).await;
    }
}

async fn of_format(version: i64) {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    let newer = world.path().join("newer.db");
    std::fs::rename(ledger(&world), &newer).unwrap();
    // As the first version wrote it.
    let shell = rusqlite::Connection::open(ledger(&world)).unwrap();
    shell.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    shell.execute_batch(include_str!("../../src/ledger/migrations/0001_records.sql")).unwrap();
    shell.execute("ATTACH ?1 AS newer", [newer.to_str().unwrap()]).unwrap();
    shell
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             DELETE FROM heartbeat; INSERT INTO heartbeat SELECT * FROM newer.heartbeat;
             INSERT INTO streams SELECT * FROM newer.streams; INSERT INTO records SELECT * FROM newer.records;
             INSERT INTO pipelines SELECT hash, json FROM newer.pipelines; INSERT INTO outputs SELECT * FROM newer.outputs;
             INSERT INTO runs SELECT * FROM newer.runs; INSERT INTO aliases SELECT * FROM newer.aliases;
             INSERT INTO deployments SELECT * FROM newer.deployments; DETACH newer",
        )
        .unwrap();
    if version == 2 {
        shell.execute_batch(include_str!("../../src/ledger/migrations/0002_pruning.sql")).unwrap();
    }
    shell.pragma_update(None, "user_version", version).unwrap();
    drop(shell);

    let before = std::fs::read(ledger(&world)).unwrap();
    for command in [&["ledger", "verify"][..], &["ledger", "head"]] {
        let output = world.command(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    let made = backup(&world, "copy.db");
    assert!(made["records"].as_u64().unwrap() > 4, "{made}");
    assert!(verify(&world.path().join("copy.db"), Some(&head_of(&made))).unwrap().is_sound());
    assert_eq!(std::fs::read(ledger(&world)).unwrap(), before, "it was changed");
    // What is wrong with it is found as well.
    let shell = rusqlite::Connection::open(world.path().join("copy.db")).unwrap();
    assert_eq!(shell.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), version);
    shell.execute("UPDATE records SET body = replace(body, 'Succeeded', 'Failed') WHERE seq = 4", []).unwrap();
    drop(shell);
    let found = verify(&world.path().join("copy.db"), None).unwrap();
    assert_eq!(found.findings[0].kind, Kind::Changed, "{found:?}");
    world.start().await;
    world.client().flagger("post-rollout", "Failed", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke", "undo.migrate", "undo.smoke"]);
    world.verify();
}

/// A copy of damage would pass for a backup until it is needed.
#[tokio::test]
async fn a_damaged_ledger_is_not_copied() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    let shell = rusqlite::Connection::open(ledger(&world)).unwrap();
    let changed = shell.execute("UPDATE records SET body = replace(body, 'Succeeded', 'Failed') WHERE seq = 4", []);
    assert_eq!(changed.unwrap(), 1);
    drop(shell);
    let output = world.command(&["ledger", "backup", "copy.db"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("changed flagger:test/podinfo record 4"), "{output:?}");
    assert!(said(&output).contains("not sound"), "{output:?}");
    assert!(!world.path().join("copy.db").exists() && !world.path().join("copy.db.partial").exists());
    assert_eq!(verify(&ledger(&world), None).unwrap().findings[0].kind, Kind::Changed);
}

#[tokio::test]
async fn one_that_is_broken_off_leaves_nothing() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout")]).await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    // Enough to be in the middle of. No record says so; but it does not come to that.
    let shell = rusqlite::Connection::open(ledger(&world)).unwrap();
    shell.execute("INSERT INTO outputs VALUES ('run_00000000000000000000000063', zeroblob(200000000))", []).unwrap();
    drop(shell);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_stagehook"))
        .args(["ledger", "backup", "copy.db"])
        .current_dir(world.path())
        .env_clear()
        .env("STAGEHOOK_CONFIG", world.path().join("stagehook.yaml"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let partial = world.path().join("copy.db.partial");
    poll_until("it has begun", || async {
        std::fs::metadata(&partial).is_ok_and(|partial| partial.len() > 1_000_000).then_some(())
    })
    .await;
    // Another one into the same file has no part in it, whatever ends that one.
    let second = world.command(&["ledger", "backup", "copy.db"]);
    assert!(said(&second).contains("another backup into it goes on"), "{second:?}");
    assert!(partial.exists());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        child.wait().unwrap();
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("broken off; copy.db was not written"), "{output:?}");
    assert!(!partial.exists() && !world.path().join("copy.db").exists());
}

//! The ledger's file is locked, damaged, replaced or taken away: nothing starts, the reason is said in one line, and all
//! goes on by itself when the fault is gone. Damage alone stays until a restart on a good file.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use stagehook::ledger::{Kind, head, verify};

use crate::support::World;
use crate::support::pipelines::{pipeline, pipeline_for, stage};
use crate::support::poll::within;

async fn world() -> World {
    World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await
}

/// The same with a second application, `test/other`.
async fn two_applications() -> World {
    World::new()
        .pipeline("podinfo.yaml", &pipeline(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]))
        .pipeline("other.yaml", &pipeline_for("test", "other", &[stage("long", "pre-rollout")]))
        .started()
        .await
}

fn ledger(world: &World) -> PathBuf {
    world.path().join("data/stagehook.db")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

fn shell(world: &World) -> rusqlite::Connection {
    rusqlite::Connection::open(ledger(world)).unwrap()
}

/// What the program says when it does not start.
async fn refused(world: &mut World) -> String {
    world.spawn();
    assert_eq!(world.server().exited().await.code(), Some(2), "{:?}", world.server().log());
    world.server().logged("error: ").await;
    let log = world.server().log();
    let said: Vec<_> = log.iter().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(said.len(), 1, "one line: {log:?}");
    said[0].clone()
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[tokio::test]
async fn a_lock_holds_nobody_up_for_long_and_a_probe_hardly_at_all() {
    let world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let other = world.hold_the_ledger();
    let began = Instant::now();
    // Decisions of one application come one after the other: were each to wait for the lock, these would take minutes.
    let calls: Vec<_> = (0..40).map(|_| client.hold_flagger("rollout", "Progressing", "a1")).collect();
    let probe = client.get("/readyz").await.expect(503);
    assert!(began.elapsed() < Duration::from_secs(4), "a probe took {:?}", began.elapsed());
    assert!(probe.text.contains("ledger can't be written"), "{probe:?}");
    for call in calls {
        let refused = call.answer().await.expect(503);
        assert!(refused.text.contains("another program holds its write lock"), "{refused:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(25), "40 calls took {:?}", began.elapsed());
    let began = Instant::now();
    let probe = client.get("/readyz").await.expect(503);
    assert!(probe.text.contains("locked") && probe.text.lines().count() == 1, "{probe:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "the reason is known, and took {:?}", began.elapsed());
    assert!(client.get("/metrics").await.expect(200).text.contains("stagehook_ledger_writable 0"));
    assert_eq!(world.starts(), ["migrate"]);
    drop(other);
    client.get("/readyz").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert!(client.get("/metrics").await.expect(200).text.contains("stagehook_ledger_writable 1"));
    world.verify();
}

/// SQLite finds nothing wrong with a row whose text was changed. The records' own hashes do.
#[tokio::test]
async fn a_changed_record_is_named_and_stops_everything_until_a_start_on_a_good_file() {
    let mut world = two_applications().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    client.flagger("post-rollout", "Succeeded", "a1").await.expect(200);
    let mut gate = world.gate("long");
    let other = json!({"name": "other", "namespace": "test", "phase": "Progressing", "checksum": "b1"});
    let held = client.hold("/hooks/flagger/pre-rollout", &other);
    gate.entered().await;
    let change = |from: &str, to: &str| {
        let sql = "UPDATE records SET body = replace(body, ?1, ?2) WHERE seq = 4 AND body LIKE '%' || ?1 || '%'
                   AND stream_id = (SELECT id FROM streams WHERE application = 'test/podinfo')";
        assert_eq!(shell(&world).execute(sql, [from, to]).unwrap(), 1);
    };
    change("\"Succeeded\"", "\"Cancelled\"");
    let refused = client.flagger("pre-rollout", "Progressing", "a2").await.expect(503);
    assert!(refused.text.contains("record 4 of flagger:test/podinfo is not what was written"), "{refused:?}");
    // The others as well, from memory or not.
    let refused = client.post("/hooks/flagger/pre-rollout", &other).await.expect(503);
    assert!(refused.text.contains("the ledger is damaged: record 4 of flagger:test/podinfo"), "{refused:?}");
    assert_eq!(refused.text.lines().count(), 1);
    let ready = client.get("/readyz").await.expect(503);
    assert!(ready.text.contains("not ready: the ledger is damaged: record 4"), "{ready:?}");
    let metrics = client.get("/metrics").await.expect(200).text;
    assert!(
        metrics.contains("stagehook_ledger_damaged 1") && metrics.contains("stagehook_ledger_writable 0"),
        "{metrics}"
    );
    client.get("/healthz").await.expect(200);
    gate.open().await;
    // It succeeded, and that can't be recorded: so nobody is told that it did.
    assert!(held.answer().await.expect(503).text.contains("damaged"));
    assert_eq!(world.starts(), ["migrate", "long"]);
    let found = verify(&ledger(&world), None).unwrap();
    assert!(found.findings.iter().any(|finding| (finding.kind, finding.seq) == (Kind::Changed, Some(4))), "{found:?}");
    // A good file again, and the process still holds it as damaged: it does not know what else was wrong.
    change("\"Cancelled\"", "\"Succeeded\"");
    client.get("/readyz").await.expect(503);
    world.restart().await;
    let client = world.client();
    client.get("/readyz").await.expect(200);
    client.flagger("pre-rollout", "Progressing", "a2").await.expect(200);
    // What became of the other script is not in the ledger, so nobody claims to know: it runs again.
    let again = client.hold("/hooks/flagger/pre-rollout", &other);
    gate.entered().await;
    gate.open().await;
    again.answer().await.expect(200);
    assert_eq!(world.starts(), ["migrate", "long", "migrate", "long"]);
    world.verify();
}

#[tokio::test]
async fn a_torn_page_is_named_and_stops_everything() {
    stopped_by(|path, good| {
        for page in (4096..good.len()).step_by(4096) {
            overwrite(path, page as u64, &[0xA5; 4096]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_file_that_was_cut_is_named_and_stops_everything() {
    stopped_by(|path, good| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(good.len() as u64 / 4096 / 4 * 4096).unwrap();
    })
    .await;
}

/// What is done to the file under the running service makes SQLite call it corrupt, for good.
async fn stopped_by(damage: impl Fn(&Path, &[u8])) {
    let mut world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    // All of it in the file itself, and every cache of it stale.
    shell(&world).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let good = std::fs::read(ledger(&world)).unwrap();
    damage(&ledger(&world), &good);
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(refused.text.contains("malformed"), "{refused:?}");
    let ready = client.get("/readyz").await.expect(503);
    assert!(ready.text.contains("the ledger is damaged") && ready.text.contains("malformed"), "{ready:?}");
    assert!(client.get("/metrics").await.expect(200).text.contains("stagehook_ledger_damaged 1"));
    assert_eq!(world.starts(), ["migrate"]);
    world.kill().await;
    let found = verify(&ledger(&world), None).unwrap();
    assert!(found.findings.iter().any(|finding| finding.kind == Kind::Database), "{found:?}");
    // Nothing was mended by itself, and nothing is begun anew.
    let said = self::refused(&mut world).await;
    assert!(said.contains("data/stagehook.db") && said.contains("malformed") && said.contains("verify"), "{said}");
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(&ledger(&world), end));
    }
    std::fs::write(ledger(&world), good).unwrap();
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    world.verify();
}

#[tokio::test]
async fn a_start_that_takes_up_a_changed_record_is_refused_and_says_which() {
    let mut world = world().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    for (change, part) in [
        (
            "UPDATE records SET body = replace(body, 'Succeeded', 'Cancelled') WHERE seq = 4",
            "record 4 of flagger:test/podinfo",
        ),
        ("DELETE FROM records WHERE seq = 3", "record 3 of flagger:test/podinfo is missing"),
        ("DELETE FROM records WHERE seq = 4", "flagger:test/podinfo does not hold its records 1 to 4"),
        (
            "UPDATE streams SET head_hash = replace(head_hash, 'a', 'b')",
            "flagger:test/podinfo does not hold its records",
        ),
        ("UPDATE pipelines SET json = replace(json, '1h', '2h')", "was changed"),
    ] {
        let good = std::fs::read(ledger(&world)).unwrap();
        assert_eq!(shell(&world).execute(change, []).unwrap(), 1, "{change}");
        let said = refused(&mut world).await;
        assert!(said.contains(part) && said.contains("run stagehook ledger verify"), "{change}: {said}");
        std::fs::write(ledger(&world), good).unwrap();
    }
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    world.verify();
}

/// Linked to a head that was changed, the next record would make the change part of the chain.
#[tokio::test]
async fn nothing_is_appended_to_a_record_that_its_head_does_not_name() {
    let world = world().await;
    let client = world.client();
    // Live, so it is in memory, and its end is not read again.
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let forged = "UPDATE streams SET head_hash = (SELECT hash FROM records WHERE seq = 2)";
    assert_eq!(shell(&world).execute(forged, []).unwrap(), 1);
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(
        refused.text.contains("record 4 of flagger:test/podinfo is not the one that its head names"),
        "{refused:?}"
    );
    client.get("/readyz").await.expect(503);
    assert_eq!(world.starts(), ["migrate"]);
}

#[tokio::test]
async fn a_file_that_is_away_is_waited_for_and_one_that_was_replaced_is_not_believed() {
    let world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let (data, away) = (world.path().join("data"), world.path().join("away"));
    std::fs::rename(&data, &away).unwrap();
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(refused.text.contains("put the file back"), "{refused:?}");
    assert!(client.get("/readyz").await.expect(503).text.contains("put the file back"));
    // An empty one in its place is no ledger that was lost.
    std::fs::create_dir(&data).unwrap();
    std::fs::write(ledger(&world), "").unwrap();
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(refused.text.contains("was replaced by another file"), "{refused:?}");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    client.get("/readyz").await.expect(200);
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    world.verify();
}

/// The descriptor of a removed WAL takes writes without a murmur, and they would die with the process.
#[tokio::test]
async fn a_wal_that_was_removed_is_noticed_and_loses_nothing() {
    for ends in [&["-wal", "-shm"][..], &["-wal"]] {
        let mut world = world().await;
        let client = world.client();
        client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
        removed_is_noticed(&mut world, ends).await;
    }
}

/// As above, and this process has written nothing yet: what was acknowledged before its start is in that WAL as well.
#[tokio::test]
async fn a_wal_that_was_removed_before_the_first_commit_is_noticed_and_loses_nothing() {
    let mut world = world().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.crash().await;
    removed_is_noticed(&mut world, &["-wal"]).await;
}

async fn removed_is_noticed(world: &mut World, ends: &[&str]) {
    let client = world.client();
    let acknowledged = head(&ledger(world)).unwrap();
    for end in ends {
        std::fs::remove_file(beside(&ledger(world), end)).unwrap();
    }
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(refused.text.contains("-wal was removed or replaced while it was open"), "{refused:?}");
    assert!(client.get("/readyz").await.expect(503).text.contains("what it held was saved"));
    world.kill().await;
    assert!(verify(&ledger(world), Some(&acknowledged)).unwrap().is_sound());
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    world.verify();
}

/// The WAL's locks are in it: beside another one the next program cuts the WAL, or writes into it, while the service does.
#[tokio::test]
async fn a_shm_that_was_removed_is_noticed_and_loses_nothing() {
    let mut world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let acknowledged = head(&ledger(&world)).unwrap();
    std::fs::remove_file(beside(&ledger(&world), "-shm")).unwrap();
    let refused = client.flagger("rollout", "Progressing", "a1").await.expect(503);
    assert!(refused.text.contains("-shm was removed or replaced while it was open"), "{refused:?}");
    let other = shell(&world);
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    for _ in 0..8 {
        other.execute("UPDATE heartbeat SET beats = beats + 1", []).unwrap();
    }
    assert!(client.get("/readyz").await.expect(503).text.contains("-shm was removed"));
    drop(other);
    // By its own idea of the WAL it would now copy the other's pages into places of its own.
    world.stop().await;
    let found = verify(&ledger(&world), Some(&acknowledged)).unwrap();
    assert!(found.is_sound(), "{found:?}");
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    assert_eq!(world.starts(), ["migrate", "smoke"]);
    world.verify();
}

/// Whoever closes a database as the last removes its WAL. Beside the service nobody is the last, so that a WAL that is not
/// there, or is another, is always a fault.
#[tokio::test]
async fn programs_that_come_and_go_take_no_wal_away() {
    let mut world = world().await;
    let files = |world: &World| {
        ["-wal", "-shm"].map(|end| {
            let file = std::fs::metadata(beside(&ledger(world), end)).unwrap();
            std::os::unix::fs::MetadataExt::ino(&file)
        })
    };
    for crashed in [false, true] {
        if crashed {
            world.crash().await;
        }
        let before = files(&world);
        for (n, hook) in ["pre-rollout", "rollout"].into_iter().enumerate() {
            let copy = format!("copy-{crashed}-{n}.db");
            for command in [&["ledger", "verify"][..], &["ledger", "head"], &["ledger", "backup", &copy]] {
                let output = world.command(command);
                assert!(output.status.success(), "{output:?}");
            }
            let other = shell(&world);
            other.execute("UPDATE heartbeat SET beats = beats + 1", []).unwrap();
            other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            drop(other);
            assert_eq!(files(&world), before);
            world.client().flagger(hook, "Progressing", "a1").await.expect(200);
            assert_eq!(files(&world), before);
        }
    }
    assert_eq!(world.starts(), ["migrate", "smoke", "smoke"]);
    world.verify();
}

#[tokio::test]
async fn what_is_no_ledger_of_this_version_is_refused_in_one_line_and_left_alone() {
    let mut world = world().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    world.stop().await;
    let path = ledger(&world);
    let good = std::fs::read(&path).unwrap();
    let cases: [(&str, &[u8], &str); 6] = [
        ("half of it", &good[..good.len() / 2 / 4096 * 4096], "malformed"),
        ("half a page", &good[..1000], "malformed"),
        ("another program's file", b"name,age\nann,34\n", "not a database"),
        ("a header of noise", &[&[0xA5; 100], &good[100..]].concat(), "not a database"),
        ("zeros", &vec![0; good.len()], "not a database"),
        ("a first page of noise", &[&good[..100], &[0xA5; 3996], &good[4096..]].concat(), "malformed"),
    ];
    for (what, bytes, reason) in cases {
        std::fs::write(&path, bytes).unwrap();
        let said = refused(&mut world).await;
        assert!(said.contains("data/stagehook.db") && said.contains(reason), "{what}: {said}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what} was changed");
    }
    std::fs::write(&path, &good).unwrap();
    shell(&world).execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(refused(&mut world).await.contains("use the newer stagehook that wrote it"));
    std::fs::remove_file(&path).unwrap();
    shell(&world).execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(refused(&mut world).await.contains("no stagehook ledger"));

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(refused(&mut world).await.contains("no regular file"));
    std::fs::remove_dir(&path).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(refused(&mut world).await.contains("no regular file"));
    std::fs::remove_file(&path).unwrap();

    // SQLite would delete the WAL of a file that is gone or empty, and begin anew as if nothing had been.
    std::fs::write(beside(&path, "-wal"), "what was acknowledged").unwrap();
    assert!(refused(&mut world).await.contains("it is not there, and"));
    std::fs::write(&path, "").unwrap();
    let said = refused(&mut world).await;
    assert!(
        said.contains("it is empty or cut, and") && said.contains("put the ledger that it belongs to back"),
        "{said}"
    );
    assert_eq!(std::fs::read(beside(&path, "-wal")).unwrap(), b"what was acknowledged");
    std::fs::remove_file(beside(&path, "-wal")).unwrap();

    std::fs::write(&path, good).unwrap();
    world.start().await;
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    world.verify();
}

/// By whatever name it comes.
#[tokio::test]
async fn a_second_service_is_refused_and_the_tools_are_not() {
    let mut world = world().await;
    world.client().flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let second = |name: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_stagehook"))
            .args(["serve", "--config"])
            .arg(world.path().join("stagehook.yaml"))
            .env_clear()
            .env("STAGEHOOK_LEDGER__URL", format!("sqlite://{}", world.path().join(name).display()))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().find(|line| line.starts_with("error: ")).unwrap().to_owned()
    };
    std::os::unix::fs::symlink(ledger(&world), world.path().join("link.db")).unwrap();
    std::os::unix::fs::symlink(world.path().join("data"), world.path().join("folder")).unwrap();
    for name in ["data/stagehook.db", "link.db", "folder/stagehook.db"] {
        assert!(second(name).contains("in use by another stagehook"), "{name}");
    }
    // Beside a hard link SQLite would put a WAL and locks of its own.
    std::fs::hard_link(ledger(&world), world.path().join("hard.db")).unwrap();
    assert!(second("hard.db").contains("2 names (hard links)"));
    std::fs::remove_file(world.path().join("hard.db")).unwrap();
    for command in [&["ledger", "verify"][..], &["ledger", "head"], &["ledger", "backup", "copy.db"]] {
        assert!(world.command(command).status.success(), "{command:?}");
    }
    world.client().flagger("rollout", "Progressing", "a1").await.expect(200);
    world.verify();
    world.stop().await;
}

/// What is left in a work folder is removed at the start, so a second service there would take the running scripts' files away.
#[tokio::test]
async fn a_second_service_with_the_same_work_folder_is_refused_and_the_first_is_not_disturbed() {
    let mut world = world().await;
    let mut gate = world.gate("migrate");
    let client = world.client();
    let call = client.hold_flagger("pre-rollout", "Progressing", "a1");
    gate.entered().await;
    let work = world.path().join("data/work");
    let files = || std::fs::read_dir(&work).unwrap().count();
    assert_eq!(files(), 1);
    let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_stagehook"))
        .args(["serve", "--config"])
        .arg(world.path().join("stagehook.yaml"))
        .env_clear()
        .env("STAGEHOOK_LEDGER__URL", format!("sqlite://{}", world.path().join("other/l.db").display()))
        .env("STAGEHOOK_EXECUTION__WORK_DIR", &work)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = within("the second one is refused", second.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let named = format!("execution.workDir {} is in use by another stagehook", work.display());
    assert!(said.contains(&named) && said.contains("(this one's ledger is ") && said.contains("other/l.db"), "{said}");
    assert_eq!(files(), 1);
    gate.open().await;
    call.result().await.unwrap().expect(200);
    // What is killed lets go of it.
    world.crash().await;
}

/// What a crash can do to the WAL: its end is missing or was never written. Its checksums drop that, and no more.
#[tokio::test]
async fn a_torn_wal_loses_its_end_alone_and_an_earlier_head_tells() {
    let mut world = world().await;
    let client = world.client();
    client.flagger("pre-rollout", "Progressing", "a1").await.expect(200);
    let acknowledged = head(&ledger(&world)).unwrap();
    let untouched = std::fs::metadata(beside(&ledger(&world), "-wal")).unwrap().len();
    client.flagger("rollout", "Progressing", "a1").await.expect(200);
    let later = head(&ledger(&world)).unwrap();
    world.kill().await;
    let path = ledger(&world);
    let (file, wal) = (std::fs::read(&path).unwrap(), std::fs::read(beside(&path, "-wal")).unwrap());
    let _ = std::fs::remove_file(beside(&path, "-shm"));
    let torn = |n: usize, bytes: &[u8]| {
        let copy = world.path().join(format!("torn-{n}.db"));
        std::fs::write(&copy, &file).unwrap();
        std::fs::write(beside(&copy, "-wal"), bytes).unwrap();
        copy
    };
    let whole = torn(0, &wal);
    assert!(verify(&whole, Some(&later)).unwrap().is_sound());
    let untouched = usize::try_from(untouched).unwrap();
    assert!(untouched > 0 && wal.len() > untouched, "both calls are in the WAL");
    let step = (wal.len() / 40).max(1) | 1;
    for (n, cut) in (untouched..wal.len()).step_by(step).enumerate() {
        // Cut there, or with one bit of it turned.
        let mut flipped = wal.clone();
        flipped[cut] ^= 0x10;
        for (kind, bytes) in [(1, &wal[..cut]), (2, &flipped[..])] {
            let copy = torn(n * 10 + kind, bytes);
            // Opened as by a start, which takes the WAL up.
            drop(stagehook::ledger::Ledger::open(&copy).unwrap());
            let kept = verify(&copy, Some(&acknowledged)).unwrap();
            assert!(kept.is_sound(), "at {cut} ({kind}): {kept:?}");
            let lost = verify(&copy, Some(&later)).unwrap();
            let all = lost.findings.iter().all(|finding| finding.kind == Kind::CutTail);
            assert!(all && !lost.findings.is_empty(), "at {cut} ({kind}): {lost:?}");
        }
    }
}

//! The ledger from outside: what it acknowledges stays, in order, whoever else writes, dies or tampers.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::{DeploymentId, Mint, RunId};
use stagehook::domain::loadtester::{Gate, Gates};
use stagehook::domain::names::{Revision, Source, StreamId};
use stagehook::domain::pipeline::PipelineHash;
use stagehook::domain::record::{
    About, Actor, Alias, CallKey, EndState, Ending, Event, Fact, Outcome, OutputDigest, Owner, Purpose, Record,
};
use stagehook::domain::summary::{State, Summary};
use stagehook::ledger::{Append, AppendError, Head, Kind, Ledger, LedgerError, ListQuery, head, verify};

const PIPELINE: &str = r#"{"name":"podinfo","file":"","directory":"/","labels":{},
    "rollback":{"order":"pipeline","onFailure":"continue"},"onSupersede":"rollback","onFailure":"wait","stages":[]}"#;
const OUTPUT: &[u8] = b"migrated\n";
/// SHA-256 of [`OUTPUT`].
const OUTPUT_SHA256: &str = "b0a1de67696fb59a924cd5f5b1d51f7e5bcc1352ac47cb9866ee66689c05bb4b";

fn stream(name: &str) -> StreamId {
    StreamId { source: Source::Flagger, application: format!("test/{name}").parse().unwrap() }
}

fn fact(deployment: Option<DeploymentId>, event: Event) -> Fact {
    Fact { at: "2026-01-02T03:04:05Z".parse().unwrap(), by: Actor::stagehook(), deployment, event }
}

fn note(text: impl Into<String>) -> Fact {
    fact(None, Event::Noted { message: text.into() })
}

fn mint(n: u128) -> Mint {
    Mint::new("2026-01-02T03:04:05Z".parse().unwrap(), n * 100)
}

fn dep(n: u128) -> DeploymentId {
    mint(n).deployment()
}

fn run(n: u128) -> RunId {
    mint(n).run()
}

fn summary(stream: &StreamId, id: DeploymentId, opened_seq: u64, state: State, live: bool) -> Summary {
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    Summary {
        id,
        application: stream.application.clone(),
        source: stream.source,
        revision: None,
        state,
        reason: None,
        opened_at: at,
        updated_at: at,
        ended_at: (!live).then_some(at),
        opened_seq,
        live,
    }
}

fn notes(stream: &StreamId, expected: u64, texts: &[&str]) -> Append {
    Append { facts: texts.iter().map(|text| note(*text)).collect(), ..Append::new(stream.clone(), expected) }
}

/// Opens deployment `n` after record `expected`, and finishes a run of it, or ends it: two records.
fn deployment(stream: &StreamId, expected: u64, n: u128, state: State, live: bool) -> Append {
    let mut ending = Ending::plain(Outcome::Succeeded, "exit code 0");
    ending.output = Some(OutputDigest { bytes: 9, kept: 9, sha256: OUTPUT_SHA256.to_owned() });
    let opened = Event::Opened {
        hook: Hook::PreRollout,
        revision: None,
        rollout: Some(format!("o{n}").parse().unwrap()),
        under: None,
        opening: None,
        pipeline: PipelineHash::of(PIPELINE),
        about: About::default(),
        question_asked: false,
        gates: Default::default(),
    };
    let (second, runs, outputs) = match state {
        State::Succeeded | State::RolledBack => {
            let state = if state == State::Succeeded { EndState::Succeeded } else { EndState::RolledBack };
            (Event::Ended { state, reason: None, skipped: Vec::new() }, Vec::new(), Vec::new())
        }
        _ => {
            let finished = Event::StageFinished { run: run(n), ending, awaited: true };
            (finished, vec![(run(n), dep(n))], vec![(run(n), OUTPUT.to_vec())])
        }
    };
    Append {
        facts: vec![fact(Some(dep(n)), opened), fact(Some(dep(n)), second)],
        summaries: vec![summary(stream, dep(n), expected + 1, state, live)],
        pipelines: vec![(PipelineHash::of(PIPELINE), PIPELINE.to_owned())],
        runs,
        outputs,
        ..Append::new(stream.clone(), expected)
    }
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/stagehook.db");
    Place { _dir: dir, path }
}

/// A closed ledger with one stream: a deployment (records 1 and 2) and notes up to record 6.
async fn filled() -> (Place, Head) {
    let place = place();
    let ledger = Ledger::open(&place.path).unwrap();
    let a = stream("a");
    ledger.append(deployment(&a, 0, 1, State::Progressing, true)).await.unwrap();
    ledger.append(notes(&a, 2, &["three", "four", "five", "six"])).await.unwrap();
    drop(ledger);
    let head = head(&place.path).unwrap();
    assert!(verify(&place.path, Some(&head)).unwrap().is_sound());
    (place, head)
}

fn tamper(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

type Found = (Kind, Option<u64>);

fn kinds(path: &Path, against: Option<&Head>) -> Vec<Found> {
    verify(path, against).unwrap().findings.iter().map(|finding| (finding.kind, finding.seq)).collect()
}

#[tokio::test]
async fn of_the_load_tester_only_what_is_live_and_the_last_word_on_its_gates_is_read() {
    let place = place();
    let ledger = Ledger::open(&place.path).unwrap();
    let stream = StreamId { source: Source::Loadtester, ..stream("a") };
    let read = async || seqs(&ledger.load(&stream, 8).await.unwrap().records);
    let set = || fact(None, Event::GateSet { gate: Gate::Gate, open: true, gates: Gates::default() });
    let append = async |expected, count| {
        let facts = (0..count).map(|_| set()).collect();
        ledger.append(Append { facts, ..Append::new(stream.clone(), expected) }).await.unwrap();
    };
    assert!(read().await.is_empty());
    append(0, 50).await;
    assert_eq!(read().await, [50], "without a deployment");
    ledger.append(deployment(&stream, 50, 1, State::Succeeded, false)).await.unwrap();
    assert_eq!(read().await, [51, 52], "an opening carries the gates");
    append(52, 48).await;
    assert_eq!(read().await, [100], "after one");
    ledger.append(deployment(&stream, 100, 2, State::Progressing, true)).await.unwrap();
    ledger.append(deployment(&stream, 102, 3, State::Succeeded, false)).await.unwrap();
    append(104, 1).await;
    assert_eq!(read().await, [101, 102, 103, 104, 105], "from the oldest that is live");
    assert!(verify(&place.path, None).unwrap().is_sound());
}

#[tokio::test]
async fn what_is_appended_is_there_after_a_restart() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open(&place.path).unwrap();
    let written = ledger.append(deployment(&a, 0, 1, State::Progressing, true)).await.unwrap();
    drop(ledger);

    let ledger = Ledger::open(&place.path).unwrap();
    let loaded = ledger.load(&a, 1).await.unwrap();
    assert_eq!((loaded.head, &loaded.records), (2, &written));
    assert_eq!(loaded.pipelines[&PipelineHash::of(PIPELINE)], PIPELINE);
    assert_eq!(ledger.find_run(run(1)).await.unwrap(), Some((a.clone(), dep(1))));
    assert_eq!(ledger.output(run(1)).await.unwrap().as_deref(), Some(OUTPUT));
    assert_eq!(ledger.live().await.unwrap(), [(a.clone(), dep(1))]);
    assert_eq!(ledger.sources_of(&a.application).await.unwrap(), [Source::Flagger]);
    assert_eq!(ledger.summary(dep(1)).await.unwrap(), Some(summary(&a, dep(1), 1, State::Progressing, true)));
    let stored = ledger.records(dep(1), 0, 10).await.unwrap();
    assert_eq!(stored[1].prev, stored[0].hash);
    let (found, of_deployment) = ledger.load_deployment(dep(1)).await.unwrap().unwrap();
    assert_eq!((found, of_deployment.records), (a, written));
    assert_eq!(ledger.load_deployment(dep(9)).await.unwrap(), None);
}

#[tokio::test]
async fn load_begins_at_the_oldest_that_is_live_or_kept() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open(&place.path).unwrap();
    for (n, live) in [(0, false), (1, true), (2, false), (3, false)] {
        let state = if live { State::Progressing } else { State::Succeeded };
        ledger.append(deployment(&a, n * 2, u128::from(n) + 1, state, live)).await.unwrap();
    }
    assert_eq!(seqs(&ledger.load(&a, 1).await.unwrap().records), [3, 4, 5, 6, 7, 8]);
    assert_eq!(ledger.load(&a, 4).await.unwrap().records.len(), 8);
    let ended =
        Append { summaries: vec![summary(&a, dep(2), 3, State::Succeeded, false)], ..Append::new(a.clone(), 8) };
    ledger.append(ended).await.unwrap();
    assert_eq!(seqs(&ledger.load(&a, 2).await.unwrap().records), [5, 6, 7, 8]);
    let none = ledger.load(&a, 0).await.unwrap();
    assert_eq!((none.head, none.records.len()), (8, 0));
}

#[tokio::test]
async fn the_newest_of_a_revision_is_found_however_far_back() {
    let place = place();
    let (a, b) = (stream("a"), stream("b"));
    let ledger = Ledger::open(&place.path).unwrap();
    let (one, two): (Revision, Revision) = ("v1".parse().unwrap(), "v2".parse().unwrap());
    for (n, revision) in [(0, &one), (1, &two), (2, &one), (3, &two), (4, &two)] {
        let mut append = deployment(&a, n * 2, u128::from(n) + 1, State::Succeeded, false);
        append.summaries[0].revision = Some(revision.clone());
        ledger.append(append).await.unwrap();
    }
    ledger.append(deployment(&b, 0, 9, State::Succeeded, false)).await.unwrap();
    assert_eq!(ledger.newest_of(&a, &one).await.unwrap(), Some(dep(3)));
    assert_eq!(ledger.newest_of(&a, &two).await.unwrap(), Some(dep(5)));
    assert_eq!(ledger.newest_of(&a, &"v3".parse().unwrap()).await.unwrap(), None);
    assert_eq!(ledger.newest_of(&b, &one).await.unwrap(), None);
}

#[tokio::test]
async fn a_conflict_names_the_head_and_writes_nothing() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open(&place.path).unwrap();
    ledger.append(notes(&a, 0, &["one", "two"])).await.unwrap();
    assert_eq!(ledger.append(notes(&a, 1, &["late"])).await, Err(AppendError::Conflict { head: 2 }));
    assert_eq!(ledger.append(notes(&a, 3, &["early"])).await, Err(AppendError::Conflict { head: 2 }));
    assert_eq!(ledger.load(&a, 1).await.unwrap().records.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_are_grouped_and_leave_no_gap() {
    let place = place();
    let ledger = Ledger::open(&place.path).unwrap();
    // A lock that a shell holds lets them all queue up, so that the grouping does not depend on the disk's pace.
    let shell = Connection::open(&place.path).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let pending: Vec<_> = (0..64)
        .map(|n| {
            (
                ledger.append(notes(&stream(&format!("s{n}")), 0, &["x", "y"])),
                ledger.append(notes(&stream("same"), 0, &["z"])),
            )
        })
        .collect();
    shell.execute_batch("COMMIT").unwrap();
    let (mut won, mut lost) = (0, 0);
    for (own, same) in pending {
        assert_eq!(seqs(&own.await.unwrap()), [1, 2]);
        match same.await {
            Ok(_) => won += 1,
            Err(AppendError::Conflict { head: 1 }) => lost += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((won, lost), (1, 63));
    assert!(ledger.commits() <= 3, "{} commits for 128 appends", ledger.commits());
    assert!(verify(&place.path, None).unwrap().is_sound());
}

#[tokio::test]
async fn a_dropped_future_takes_nothing_back() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open(&place.path).unwrap();
    drop(ledger.append(notes(&a, 0, &["one"])));
    assert_eq!(seqs(&ledger.append(notes(&a, 1, &["two"])).await.unwrap()), [2]);
}

#[tokio::test]
async fn a_copy_taken_while_it_is_open_holds_all_that_was_acknowledged() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open(&place.path).unwrap();
    ledger.append(deployment(&a, 0, 1, State::Progressing, true)).await.unwrap();
    ledger.append(notes(&a, 2, &["three"])).await.unwrap();
    let copy = place.path.with_file_name("copy.db");
    for end in ["", "-wal"] {
        let name = |path: &Path| format!("{}{end}", path.display());
        // A process of its own: closing the file in this one would drop SQLite's locks on it.
        assert!(Command::new("cp").args([name(&place.path), name(&copy)]).status().unwrap().success());
    }
    let crashed = Ledger::open(&copy).unwrap();
    assert_eq!(seqs(&crashed.load(&a, 1).await.unwrap().records), [1, 2, 3]);
    assert!(verify(&copy, Some(&head(&place.path).unwrap())).unwrap().is_sound());
}

#[tokio::test]
async fn a_shell_reads_beside_it_and_a_second_server_does_not_open() {
    let place = place();
    let ledger = Ledger::open(&place.path).unwrap();
    ledger.append(notes(&stream("a"), 0, &["one"])).await.unwrap();
    let shell = Connection::open(&place.path).unwrap();
    let n: i64 = shell.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 1);
    assert!(matches!(Ledger::open(&place.path), Err(LedgerError::InUse { .. })));
}

#[tokio::test]
async fn it_is_unavailable_while_a_fault_lasts_and_works_again_after() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open_waiting(&place.path, Duration::ZERO).unwrap();
    ledger.check_writable().await.unwrap();

    let shell = Connection::open(&place.path).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(ledger.check_writable().await.unwrap_err().contains("locked"));
    assert!(matches!(ledger.append(notes(&a, 0, &["no"])).await, Err(AppendError::Unavailable(_))));
    shell.execute_batch("ROLLBACK").unwrap();
    ledger.append(notes(&a, 0, &["one"])).await.unwrap();

    shell
        .execute_batch("CREATE TRIGGER fault BEFORE INSERT ON records BEGIN SELECT RAISE(ROLLBACK, 'fault'); END")
        .unwrap();
    assert!(matches!(ledger.append(notes(&a, 1, &["no"])).await, Err(AppendError::Unavailable(_))));
    shell.execute_batch("DROP TRIGGER fault").unwrap();
    ledger.append(notes(&a, 1, &["two"])).await.unwrap();

    let away = place.path.with_file_name("away.db");
    std::fs::rename(&place.path, &away).unwrap();
    assert!(matches!(ledger.append(notes(&a, 2, &["no"])).await, Err(AppendError::Unavailable(_))));
    std::fs::rename(&away, &place.path).unwrap();
    assert_eq!(seqs(&ledger.append(notes(&a, 2, &["three"])).await.unwrap()), [3]);
}

#[test]
fn a_newer_and_a_foreign_file_are_refused() {
    let place = place();
    drop(Ledger::open(&place.path).unwrap());
    tamper(&place.path, "PRAGMA user_version = 99");
    let error = Ledger::open(&place.path).unwrap_err().to_string();
    assert!(error.contains("format 99") && error.contains("newer stagehook"), "{error}");
    let foreign = place.path.with_file_name("foreign.db");
    tamper(&foreign, "CREATE TABLE t (x)");
    let before = std::fs::read(&foreign).unwrap();
    assert!(matches!(Ledger::open(&foreign), Err(LedgerError::Foreign { .. })));
    assert_eq!(std::fs::read(&foreign).unwrap(), before);
}

#[tokio::test]
async fn verify_names_what_was_done() {
    let cases: [(&str, &[Found]); 17] = [
        ("UPDATE records SET body = replace(body, 'four', 'FOUR') WHERE seq = 4", &[(Kind::Changed, Some(4))]),
        ("UPDATE records SET at = '2020-01-01T00:00:00Z' WHERE seq = 4", &[(Kind::Changed, Some(4))]),
        ("UPDATE records SET deployment = NULL WHERE seq = 2", &[(Kind::Changed, Some(2))]),
        ("DELETE FROM records WHERE seq = 4", &[(Kind::Missing, Some(5))]),
        (
            "UPDATE records SET seq = 99 WHERE seq = 3; UPDATE records SET seq = 3 WHERE seq = 5;
             UPDATE records SET seq = 5 WHERE seq = 99",
            &[(Kind::Swapped, Some(3)), (Kind::Swapped, Some(5))],
        ),
        ("DELETE FROM records WHERE seq > 4", &[(Kind::CutTail, Some(6))]),
        ("UPDATE pipelines SET json = '{}'", &[(Kind::Pipeline, Some(1))]),
        ("UPDATE outputs SET body = x'00'", &[(Kind::Output, Some(2))]),
        ("DELETE FROM outputs", &[(Kind::Output, Some(2))]),
        ("DELETE FROM deployments", &[(Kind::Projection, Some(1))]),
        ("UPDATE records SET deployment = CAST(x'ff' AS TEXT) WHERE seq = 2", &[(Kind::Changed, Some(2))]),
        ("INSERT INTO outputs VALUES ('run_00000000000000000000000063', x'6f6b')", &[(Kind::Output, None)]),
        ("DELETE FROM aliases", &[(Kind::Projection, None)]),
        ("UPDATE aliases SET deployment = 'dep_00000000000000000000000063'", &[(Kind::Projection, None)]),
        ("INSERT INTO aliases SELECT stream_id, 'rollout:o2', deployment FROM aliases", &[(Kind::Projection, None)]),
        (
            "INSERT INTO runs SELECT 'run_00000000000000000000000063', deployment, 1 FROM runs",
            &[(Kind::Projection, None)],
        ),
        (
            "INSERT INTO checkpoints VALUES (1, 9223372036854775807, '', '', 9223372036854775807, '')",
            &[(Kind::Changed, None), (Kind::Changed, Some(1))],
        ),
    ];
    for (sql, expected) in cases {
        let (place, _) = filled().await;
        tamper(&place.path, sql);
        assert_eq!(kinds(&place.path, None), expected, "{sql}");
    }
}

#[tokio::test]
async fn a_deployment_is_found_by_what_its_caller_calls_it_the_newest_first() {
    let (place, a, b) = (place(), stream("a"), stream("b"));
    let ledger = Ledger::open(&place.path).unwrap();
    ledger.append(deployment(&a, 0, 1, State::Succeeded, false)).await.unwrap();
    ledger.append(deployment(&a, 2, 2, State::Progressing, true)).await.unwrap();
    let key = CallKey { id: "k".to_owned(), stamp: None };
    let seen = |n| vec![fact(Some(dep(n)), Event::KeySeen { hook: Hook::Rollout, key: key.clone() })];
    let known = Alias::Key(Hook::Rollout, "k".to_owned());
    for n in [2, 1] {
        let expected = ledger.load(&a, 0).await.unwrap().head;
        ledger.append(Append { facts: seen(n), ..Append::new(a.clone(), expected) }).await.unwrap();
        assert_eq!(ledger.known_by(&a, &known).await.unwrap(), Some(dep(n)));
    }
    assert_eq!(ledger.known_by(&a, &Alias::Rollout("o2".parse().unwrap())).await.unwrap(), Some(dep(2)));
    assert_eq!(ledger.known_by(&a, &Alias::Key(Hook::PreRollout, "k".to_owned())).await.unwrap(), None);
    assert_eq!(ledger.known_by(&b, &known).await.unwrap(), None);
    drop(ledger);
    assert!(verify(&place.path, None).unwrap().is_sound());
}

#[tokio::test]
async fn a_character_of_replacement_is_no_place_to_hide_a_byte() {
    let place = place();
    let ledger = Ledger::open(&place.path).unwrap();
    ledger.append(notes(&stream("a"), 0, &["what was printed: \u{fffd}"])).await.unwrap();
    drop(ledger);
    assert_eq!(kinds(&place.path, None), []);
    tamper(&place.path, "UPDATE records SET body = CAST(unhex(replace(hex(body), 'EFBFBD', 'FF')) AS TEXT)");
    assert_eq!(kinds(&place.path, None), [(Kind::Changed, Some(1))]);
}

#[tokio::test]
async fn a_run_that_is_not_listed_is_found() {
    let place = place();
    let ledger = Ledger::open(&place.path).unwrap();
    let a = stream("a");
    let mut append = deployment(&a, 0, 1, State::Progressing, true);
    let started = Event::StageStarted {
        run: run(1),
        stage: "s".parse().unwrap(),
        purpose: Purpose::Forward { hook: Hook::PreRollout, pass: 1 },
        until: None,
        owner: Owner { instance: "i".into(), boot: "b".into() },
    };
    append.facts.insert(1, fact(Some(dep(1)), started));
    ledger.append(append).await.unwrap();
    drop(ledger);
    assert_eq!(kinds(&place.path, None), []);
    tamper(&place.path, "UPDATE runs SET deployment = 'dep_00000000000000000000000063'");
    assert_eq!(kinds(&place.path, None), [(Kind::Projection, Some(2))]);
}

#[tokio::test]
async fn a_tail_cut_with_its_head_is_found_only_against_an_earlier_head() {
    let (place, earlier) = filled().await;
    tamper(
        &place.path,
        "DELETE FROM records WHERE seq > 4;
         UPDATE streams SET head_seq = 4, head_hash = (SELECT hash FROM records WHERE seq = 4)",
    );
    assert_eq!(kinds(&place.path, None), []);
    assert_eq!(kinds(&place.path, Some(&earlier)), [(Kind::CutTail, Some(6))]);
    let mut forged = earlier;
    forged.streams[0].seq = 4;
    assert!(verify(&place.path, Some(&forged)).is_err());
}

#[tokio::test]
async fn a_first_record_beyond_one_needs_a_checkpoint() {
    let (place, earlier) = filled().await;
    tamper(
        &place.path,
        "INSERT INTO checkpoints SELECT stream_id, seq, hash, at, seq, '' FROM records WHERE seq = 2;
         DELETE FROM deployments; DELETE FROM runs; DELETE FROM outputs; DELETE FROM aliases; DELETE FROM records WHERE seq <= 2",
    );
    // It links, but nobody sealed it, and no pruning takes a stream's last deployment.
    assert_eq!(kinds(&place.path, Some(&earlier)), [(Kind::Changed, None), (Kind::Missing, None)]);
    tamper(&place.path, "DELETE FROM checkpoints");
    assert_eq!(kinds(&place.path, None), [(Kind::Missing, Some(3))]);
}

#[test]
fn damage_below_the_records_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert_eq!(kinds(&path, None), [(Kind::Database, None)]);
    assert!(verify(&dir.path().join("none.db"), None).is_err());
}

#[tokio::test]
async fn pages_meet_without_overlap() {
    let place = place();
    let a = stream("a");
    let ledger = Ledger::open(&place.path).unwrap();
    for n in 0..7_u64 {
        let state = if n % 2 == 0 { State::Succeeded } else { State::RolledBack };
        ledger.append(deployment(&a, n * 2, u128::from(n) + 1, state, false)).await.unwrap();
    }
    let mut query = ListQuery { application: Some(a.application.clone()), limit: 3, ..ListQuery::default() };
    let mut seen = Vec::new();
    loop {
        let page = ledger.list(&query).await.unwrap();
        seen.extend(page.deployments.iter().map(|summary| summary.id));
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=7).rev().map(dep).collect::<Vec<_>>());
    let query = ListQuery { state: Some(State::RolledBack), limit: 3, ..ListQuery::default() };
    let page = ledger.list(&query).await.unwrap();
    assert_eq!((page.deployments.len(), page.next), (3, None));
    let counts = ledger.counts().await.unwrap();
    assert!(counts.contains(&(State::Succeeded, 4)) && counts.contains(&(State::RolledBack, 3)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_appends_leave_what_a_map_would_hold(steps in prop::collection::vec((0..3_usize, 0..4_u64, 0..4_usize), 1..24)) {
        let place = place();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let ledger = Ledger::open(&place.path).unwrap();
            let mut model: [Vec<Record>; 3] = Default::default();
            for (which, back, count) in steps {
                let name = stream(&format!("s{which}"));
                let head = model[which].len() as u64;
                let expected = head.saturating_sub(back);
                let outcome = ledger.append(notes(&name, expected, &vec!["n"; count])).await;
                if expected == head {
                    model[which].extend(outcome.unwrap());
                } else {
                    assert_eq!(outcome, Err(AppendError::Conflict { head }));
                }
            }
            for (which, records) in model.iter().enumerate() {
                let loaded = ledger.load(&stream(&format!("s{which}")), 1).await.unwrap();
                assert_eq!(seqs(&loaded.records), (1..=records.len() as u64).collect::<Vec<_>>());
                assert_eq!(&loaded.records, records);
            }
            assert!(verify(&place.path, None).unwrap().is_sound());
        });
    }
}

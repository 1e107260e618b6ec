//! What the lists say is compared with what the records say, and a front that was cut is only one where pruning says so.

use stagehook::domain::hook::Hook;
use stagehook::domain::record::{CallKey, EndState, Event};
use stagehook::ledger::{Kind, StreamKey, head, verify};

use super::filler::seal;
use super::world::{KEEP, Site, ago, filler, stream};

/// Two that ended, one that was undone, one that is live; then pruned so that three records are left to go.
async fn filled(pruned: bool) -> Site {
    let site = Site::new();
    let mut filler = filler("a");
    for n in 0..6 {
        filler.whole(&format!("v{n}"), EndState::Succeeded);
    }
    let id = filler.whole("undone", EndState::RolledBack);
    filler.fact(Some(id), Event::KeySeen { hook: Hook::Rollout, key: CallKey { id: "k".into(), stamp: None } });
    for n in 7..12 {
        filler.whole(&format!("v{n}"), EndState::Succeeded);
    }
    let live = filler.open(Some("live".parse().unwrap()), Some("build-1".parse().unwrap()));
    filler.start(live);
    site.put(&mut filler).await;
    if pruned {
        let front = site.front(ago(90)).await;
        let cut = stagehook::ledger::Cut { until: front.groups[2].until, head: front.head };
        let step = site.step(Some(cut), 1).await.unwrap();
        assert_eq!((step.records, step.done), (1, false));
    }
    site.assert_sound();
    site
}

#[tokio::test]
async fn what_a_list_says_and_the_records_do_not_is_found() {
    let undone = "WHERE revision = 'undone'";
    let cases = [
        (
            format!("UPDATE deployments SET state = 'Succeeded' {undone}"),
            "the list says state Succeeded, the records RolledBack",
        ),
        (format!("UPDATE deployments SET reason = 'Requested' {undone}"), "reason Requested, the records Failed"),
        (format!("UPDATE deployments SET reason = NULL {undone}"), "reason nothing, the records Failed"),
        (format!("UPDATE deployments SET revision = 'done' {undone}"), "revision done, the records undone"),
        (format!("UPDATE deployments SET application = 'test/b' {undone}"), "application test/b, the records test/a"),
        (format!("UPDATE deployments SET source = 'flagger' {undone}"), "source flagger, the records generic"),
        (format!("UPDATE deployments SET ended_at = NULL {undone}"), "ended_at nothing, the records 20"),
        (format!("UPDATE deployments SET opened_at = 'x' {undone}"), "opened_at x, the records 20"),
        (format!("UPDATE deployments SET updated_at = 'x' {undone}"), "updated_at x, the records 20"),
        (format!("UPDATE deployments SET live = 1 {undone}"), "live 1, the records 0"),
        (
            "UPDATE deployments SET live = 0, state = 'Abandoned' WHERE revision = 'live'".into(),
            "live 0, the records 1",
        ),
        (
            "UPDATE state_counts SET n = n + 1 WHERE state = 'RolledBack'".into(),
            "are \"RolledBack\", and the counter says 2",
        ),
        ("DELETE FROM state_counts WHERE state = 'RolledBack'".into(), "are \"RolledBack\", and the counter says 0"),
        ("UPDATE pipelines SET pins = pins - 1".into(), "and its row says by"),
        ("DELETE FROM runs WHERE run = (SELECT max(run) FROM runs)".into(), "the list of runs does not have that"),
        (
            "INSERT INTO runs SELECT 'run_00000000000000000000000063', deployment, 1 FROM runs LIMIT 1".into(),
            "which no record started",
        ),
        ("DELETE FROM aliases WHERE alias = 'rollout:k'".into(), "is known by rollout:k"),
        (
            "UPDATE aliases SET deployment = (SELECT max(id) FROM deployments) WHERE alias = 'rollout:k'".into(),
            "is known by rollout:k",
        ),
        (
            "INSERT INTO aliases SELECT stream_id, 'id:build-2', deployment FROM aliases LIMIT 1".into(),
            "has id:build-2",
        ),
        ("INSERT INTO outputs VALUES ('run_00000000000000000000000063', x'6f6b')".into(), "and no record says so"),
        ("DELETE FROM deployments WHERE revision = 'undone'".into(), "and the list does not have that"),
    ];
    for pruned in [false, true] {
        for (sql, expected) in &cases {
            let site = filled(pruned).await;
            site.tamper(sql);
            let findings = site.verify().findings;
            assert!(findings.iter().any(|finding| finding.message.contains(expected)), "{sql}: {findings:#?}");
            assert!(
                findings.iter().all(|finding| matches!(finding.kind, Kind::Projection | Kind::Output)),
                "{findings:#?}"
            );
        }
    }
}

#[tokio::test]
async fn a_front_that_pruning_did_not_cut_is_found() {
    let link = |seq: u64| format!("SELECT stream_id, seq, hash, at, seq FROM records WHERE seq = {seq}");
    let cut = |seq: u64| {
        format!(
            "DELETE FROM outputs WHERE run IN (SELECT run FROM runs WHERE deployment IN
                 (SELECT id FROM deployments WHERE opened_seq <= {seq}));
             DELETE FROM runs WHERE deployment IN (SELECT id FROM deployments WHERE opened_seq <= {seq});
             DELETE FROM deployments WHERE opened_seq <= {seq}; DELETE FROM records WHERE seq <= {seq};"
        )
    };
    let cases = [
        ("without a checkpoint", cut(12), Kind::Missing, "records 1 to 12 are missing"),
        (
            "in the middle of one",
            format!("INSERT INTO checkpoints (stream_id, seq, hash, at, until) {}; {}", link(14), cut(14)),
            Kind::Missing,
            "whose beginning is gone",
        ),
        (
            "with a checkpoint of something else",
            format!(
                "INSERT INTO checkpoints (stream_id, seq, hash, at, until) {}; {} UPDATE checkpoints SET hash = '{}'",
                link(12),
                cut(12),
                "0".repeat(64)
            ),
            Kind::Changed,
            "does not follow record 12",
        ),
        (
            "with nothing left",
            format!(
                "INSERT INTO checkpoints (stream_id, seq, hash, at, until) {}; {} DELETE FROM aliases;",
                link(76),
                cut(76)
            ),
            Kind::Missing,
            "leaves the newest",
        ),
        (
            "more than there is was to go",
            format!(
                "INSERT INTO checkpoints (stream_id, seq, hash, at, until) {}; {} UPDATE checkpoints SET until = 99",
                link(12),
                cut(12)
            ),
            Kind::Missing,
            "leaves the newest",
        ),
    ];
    for (what, sql, kind, message) in cases {
        let site = filled(false).await;
        site.tamper(&sql);
        seal(&site.shell());
        let findings = site.verify().findings;
        let found = findings.iter().any(|finding| finding.kind == kind && finding.message.contains(message));
        assert!(found, "{what}: {findings:#?}");
    }
}

/// A wrong number in it would take what must stay, and what it took is all gone.
#[tokio::test]
async fn a_checkpoint_that_was_changed_is_found_and_nothing_is_pruned_by_it() {
    for change in [
        "until = 40",
        "until = until | (1 << 40)",
        "until = seq",
        "seq = seq + 1",
        "hash = 'x'",
        "at = 'x'",
        "seal = ''",
    ] {
        let site = filled(true).await;
        site.tamper(&format!("UPDATE checkpoints SET {change}"));
        let findings = site.verify().findings;
        assert!(findings.iter().any(|found| found.message.contains("what pruning took")), "{change}: {findings:#?}");
        let records = site.count("records");
        let refused = site.step(None, 100).await.unwrap_err().to_string();
        assert!(refused.contains("the checkpoint of generic:test/a is not what was written"), "{change}: {refused}");
        assert!(site.ledger.load(&stream("a"), KEEP).await.is_err(), "{change}");
        // Whoever looks for others is not kept from them.
        assert_eq!(
            site.ledger.prunable(StreamKey::default(), KEEP, Some(ago(90))).await.unwrap().streams,
            [site.key()]
        );
        assert_eq!(site.count("records"), records, "{change}");
    }
}

/// With a seal that fits: whoever made it, pruning takes whole deployments that are over.
#[tokio::test]
async fn a_checkpoint_that_condemns_what_must_stay_is_found() {
    for (until, message) in [
        ("(SELECT opened_seq FROM deployments WHERE revision = 'v7')", "which is being pruned: that takes whole"),
        ("(SELECT max(seq) FROM records)", "is being pruned, and is not over"),
    ] {
        let site = filled(true).await;
        site.tamper(&format!("UPDATE checkpoints SET until = {until}"));
        seal(&site.shell());
        let findings = site.verify().findings;
        assert!(findings.iter().any(|found| found.message.contains(message)), "{until}: {findings:#?}");
    }
}

#[tokio::test]
async fn an_earlier_head_from_before_the_cut_is_not_said_to_be_compared() {
    let site = Site::new();
    let mut filler = filler("a");
    filler.whole("v0", EndState::Succeeded);
    filler.whole("v1", EndState::Succeeded);
    site.put(&mut filler).await;
    let at_the_cut = head(&site.path).unwrap();
    filler.whole("v2", EndState::Succeeded);
    site.put(&mut filler).await;
    let after = head(&site.path).unwrap();
    for n in 3..10 {
        filler.whole(&format!("v{n}"), EndState::Succeeded);
    }
    site.put(&mut filler).await;
    site.prune(ago(90), 100).await;
    let told = |earlier| {
        let report = verify(&site.path, Some(earlier)).unwrap();
        assert!(report.is_sound(), "{:#?}", report.findings);
        assert_eq!(report.pruned, 1);
        report.not_compared
    };
    // Of the very last record that went the checkpoint has the hash.
    assert_eq!((told(&at_the_cut), told(&after)), (vec![], vec![]));
    filler.whole("v10", EndState::Succeeded);
    site.put(&mut filler).await;
    site.prune(ago(90), 100).await;
    assert_eq!(told(&at_the_cut), ["generic:test/a"]);
    assert_eq!(told(&after), [] as [String; 0]);

    site.tamper("UPDATE checkpoints SET hash = replace(hash, substr(hash, 1, 8), '00000000')");
    let findings = verify(&site.path, Some(&after)).unwrap().findings;
    assert!(
        findings.iter().any(|found| found.message.contains("is not the record of the earlier head")),
        "{findings:#?}"
    );
}

//! What goes from the front of a stream, and what stops it.

use proptest::prelude::*;
use stagehook::domain::hook::Hook;
use stagehook::domain::ids::DeploymentId;
use stagehook::domain::record::{Alias, CallKey, EndState, Event, Outcome};
use stagehook::domain::summary::State;
use stagehook::ledger::{AppendError, Cut, ListQuery, StreamKey, head, verify};

use super::filler::Filler;
use super::world::{KEEP, Site, ago, filler, now, stream};

fn noted() -> Event {
    Event::Noted { message: "told again".into() }
}

/// `count` whole deployments, one after the other.
fn whole(filler: &mut Filler, count: usize) -> Vec<DeploymentId> {
    (0..count).map(|n| filler.whole(&format!("v{n}"), EndState::Succeeded)).collect()
}

#[tokio::test]
async fn whole_deployments_go_with_all_they_have_and_the_rest_is_as_it_was() {
    let site = Site::new();
    let mut filler = filler("a");
    let ids = whole(&mut filler, 20);
    site.put(&mut filler).await;
    let runs: Vec<_> = ids.iter().map(|id| filler.folded().get(*id).unwrap().runs[0].id).collect();
    let earlier = head(&site.path).unwrap();
    let loaded = site.ledger.load(&stream("a"), KEEP).await.unwrap();

    let pruned = site.prune(ago(90), 10).await;
    assert_eq!((pruned.deployments, pruned.records, pruned.outputs, pruned.pipelines), (12, 72, 12, 0));
    assert_eq!(site.ledger.load(&stream("a"), KEEP).await.unwrap(), loaded, "decisions see what they saw before");
    let page = site.ledger.list(&ListQuery { limit: 100, ..ListQuery::default() }).await.unwrap();
    let listed: Vec<_> = page.deployments.iter().rev().map(|summary| summary.id).collect();
    assert_eq!(listed, ids[12..]);
    assert!(site.ledger.counts().await.unwrap().contains(&(State::Succeeded, 8)));
    for (id, run) in ids.iter().zip(&runs).take(12) {
        assert_eq!(site.ledger.load_deployment(*id).await.unwrap(), None);
        assert_eq!(site.ledger.summary(*id).await.unwrap(), None);
        assert_eq!(site.ledger.records(*id, 0, 9).await.unwrap(), []);
        assert_eq!(site.ledger.find_run(*run).await.unwrap(), None);
        assert_eq!(site.ledger.output(*run).await.unwrap(), None);
    }
    assert_eq!((site.count("records"), site.count("runs"), site.count("outputs")), (48, 8, 8));
    site.assert_sound();
    assert!(verify(&site.path, Some(&earlier)).unwrap().is_sound());

    whole(&mut filler, 1);
    assert_eq!(site.ledger.append(filler.append()).await.unwrap()[0].seq, 121, "the numbers go on");
    site.assert_sound();
    assert_eq!(site.front(ago(90)).await.groups.len(), 1, "and the ninth may go now");
}

#[tokio::test]
async fn what_is_young_or_live_or_newest_stops_it() {
    type Fill<'a> = &'a dyn Fn(&mut Filler);
    let old = |filler: &mut Filler, count| whole(filler, count).len();
    let cases: [(&str, usize, Fill); 8] = [
        ("the newest are kept", 0, &|f| assert_eq!(old(f, 8), 8)),
        ("one more than these may go", 1, &|f| assert_eq!(old(f, 9), 9)),
        ("not ended", 2, &|f| {
            old(f, 2);
            f.open(None, None);
            old(f, 20);
        }),
        ("ended within the time", 3, &|f| {
            old(f, 3);
            f.at = ago(89);
            old(f, 20);
        }),
        ("told of within the time", 1, &|f| {
            let ids = whole(f, 20);
            f.at = ago(1);
            f.fact(Some(ids[1]), noted());
        }),
        ("told of within the time, and others have come since", 1, &|f| {
            let ids = whole(f, 2);
            f.at = ago(1);
            f.fact(Some(ids[1]), noted());
            old(f, 20);
        }),
        ("a script without end", 1, &|f| {
            old(f, 1);
            let id = f.open(None, None);
            f.start(id);
            f.end(id, EndState::Succeeded);
            old(f, 20);
        }),
        ("a post-rollout that was called for again", 1, &|f| {
            old(f, 1);
            let id = f.whole("v", EndState::Succeeded);
            let called = Event::Called {
                hook: Hook::PostRollout,
                pass: 2,
                payload: Default::default(),
                about: Default::default(),
                unattended: false,
            };
            f.fact(Some(id), called);
            old(f, 20);
        }),
    ];
    for (what, expected, fill) in cases {
        let site = Site::new();
        let mut filler = filler("a");
        fill(&mut filler);
        site.put(&mut filler).await;
        let pruned = site.prune(ago(90), 50).await;
        assert_eq!(pruned.deployments, expected as u64, "{what}");
        site.assert_sound();
    }
}

#[tokio::test]
async fn what_stands_between_each_other_goes_together_or_not_at_all() {
    let site = Site::new();
    let mut filler = filler("a");
    let (one, two) = (filler.open(None, None), filler.open(None, None));
    filler.end(one, EndState::Succeeded);
    let three = filler.open(None, None);
    filler.end(two, EndState::Succeeded);
    filler.end(three, EndState::Succeeded);
    whole(&mut filler, 3);
    filler.fact(Some(one), noted());
    whole(&mut filler, 5);
    site.put(&mut filler).await;
    assert_eq!(site.front(ago(90)).await.groups, [], "the first was told of after a kept one was opened");
    whole(&mut filler, 3);
    site.put(&mut filler).await;
    let front = site.front(ago(90)).await;
    assert_eq!(front.groups.iter().map(|group| group.deployments.len()).collect::<Vec<_>>(), [6]);
    assert_eq!(site.prune(ago(90), 3).await.deployments, 6);
    site.assert_sound();
}

#[tokio::test]
async fn facts_of_the_stream_go_along_and_are_carried() {
    let site = Site::new();
    let mut filler = filler("a");
    filler.fact(None, Event::QuestionAsked);
    whole(&mut filler, 2);
    filler.fact(None, noted());
    whole(&mut filler, 8);
    filler.fact(None, noted());
    site.put(&mut filler).await;
    let pruned = site.prune(ago(90), 1).await;
    assert_eq!((pruned.deployments, pruned.records), (2, 14));
    let loaded = site.ledger.load(&stream("a"), KEEP).await.unwrap();
    let first = &loaded.records[0].fact.event;
    assert!(matches!(first, Event::Opened { question_asked: true, .. }), "{first:?}");
    site.assert_sound();
}

#[tokio::test]
async fn after_every_step_it_is_sound_and_a_crash_goes_on_where_it_was() {
    let mut site = Site::new();
    let mut filler = filler("a");
    filler.output = vec![b'x'; 50_000];
    whole(&mut filler, 3);
    let rollout = || Some("build-7".parse().unwrap());
    let (one, two) = (filler.open(None, rollout()), filler.open(None, rollout()));
    for id in [one, two] {
        filler
            .fact(Some(id), Event::KeySeen { hook: Hook::Rollout, key: CallKey { id: format!("{id}"), stamp: None } });
        let run = filler.start(id);
        filler.finish(id, run, Outcome::Succeeded);
        filler.end(id, EndState::Succeeded);
    }
    whole(&mut filler, 8);
    site.put(&mut filler).await;
    let earlier = head(&site.path).unwrap();
    let front = site.front(ago(90)).await;
    let mut cut = front.groups.last().map(|group| Cut { until: group.until, head: front.head });
    let mut steps = 0;
    loop {
        let pruned = site.step(cut.take(), 3).await.unwrap();
        // One record, and what it has beside it.
        assert!(pruned.records <= 3 && pruned.outputs <= 1, "{pruned:?}");
        steps += 1;
        site.assert_sound();
        assert!(verify(&site.path, Some(&earlier)).unwrap().is_sound());
        // What is condemned is gone for whoever asks, although some of it is still there.
        for id in [one, two] {
            assert_eq!(site.ledger.load_deployment(id).await.unwrap(), None);
            assert_eq!(site.ledger.records(id, 0, 9).await.unwrap(), []);
        }
        if pruned.done {
            break;
        }
        site = site.reopen();
        let found = site.ledger.prunable(StreamKey::default(), KEEP, None).await.unwrap();
        assert_eq!(found.streams, [site.key()], "what was begun is gone on with, whatever the settings say now");
    }
    assert!(steps > 8, "{steps} steps");
    assert_eq!((site.count("deployments"), site.count("aliases"), site.count("outputs")), (8, 0, 8));
    assert_eq!(site.ledger.prunable(StreamKey::default(), KEEP, None).await.unwrap().streams, []);
}

#[tokio::test]
async fn a_name_that_is_a_newer_ones_by_now_stays() {
    let site = Site::new();
    let mut filler = filler("a");
    let rollout = || Some("build-7".parse().unwrap());
    let (old, new) = (filler.open(None, rollout()), filler.open(None, rollout()));
    filler.end(old, EndState::RolledBack);
    filler.end(new, EndState::Succeeded);
    whole(&mut filler, 7);
    site.put(&mut filler).await;
    assert_eq!(
        site.prune(ago(90), 100).await.deployments,
        0,
        "the newer one is kept, and stands before the end of the old"
    );
    let again = filler.open(None, rollout());
    whole(&mut filler, 7);
    site.put(&mut filler).await;
    assert_eq!(site.prune(ago(90), 100).await.deployments, 9);
    let known = Alias::Rollout("build-7".parse().unwrap());
    assert_eq!(site.ledger.known_by(&stream("a"), &known).await.unwrap(), Some(again));
    site.assert_sound();
}

#[tokio::test]
async fn a_pipeline_goes_with_the_last_deployment_that_pins_it_in_any_stream() {
    let site = Site::new();
    let mut a = filler("a");
    let pins = ["one", "one", "shared", "two"].map(|name| {
        let hash = a.pin(name);
        whole(&mut a, 1);
        hash
    });
    a.pin("now");
    whole(&mut a, 8);
    site.put(&mut a).await;
    let mut b = Filler::new(stream("b"), 2, ago(365));
    b.pin("shared");
    whole(&mut b, 1);
    site.put(&mut b).await;
    let pruned = site.prune(ago(90), 100).await;
    assert_eq!((pruned.deployments, pruned.pipelines), (4, 2));
    let left = |hash: String| {
        site.shell().query_row("SELECT pins FROM pipelines WHERE hash = ?1", [hash], |row| row.get::<_, i64>(0))
    };
    assert!(left(pins[0].to_string()).is_err() && left(pins[3].to_string()).is_err());
    assert_eq!(left(pins[2].to_string()).unwrap(), 1);
    site.assert_sound();
    assert!(site.ledger.load(&stream("b"), KEEP).await.is_ok());
    // And one that comes again is there again.
    a.pin("one");
    whole(&mut a, 1);
    site.put(&mut a).await;
    site.assert_sound();
}

#[tokio::test]
async fn an_append_about_what_was_pruned_meanwhile_is_made_again() {
    let site = Site::new();
    let mut filler = filler("a");
    let ids = whole(&mut filler, 12);
    site.put(&mut filler).await;
    // Somebody has read the oldest, and decides to undo it.
    filler.end(ids[0], EndState::RolledBack);
    let late = filler.append();
    let front = site.front(ago(90)).await;
    let cut = Cut { until: front.groups[3].until, head: front.head };
    // One step, which leaves most of it in the file.
    let pruned = site.step(Some(cut), 1).await.unwrap();
    assert!(!pruned.done);
    let mut of_another = late.clone();
    of_another.summaries.retain(|summary| summary.id != ids[0]);
    assert_eq!(site.ledger.append(late.clone()).await, Err(AppendError::Conflict { head: 72 }));
    while !site.step(None, 100).await.unwrap().done {}
    assert_eq!(site.ledger.append(late).await, Err(AppendError::Conflict { head: 72 }));
    site.assert_sound();
}

#[tokio::test]
async fn what_was_called_about_since_the_look_is_not_pruned() {
    let site = Site::new();
    let mut filler = filler("a");
    let ids = whole(&mut filler, 12);
    site.put(&mut filler).await;
    let front = site.front(ago(90)).await;
    let cut = |group: usize| Cut { until: front.groups[group].until, head: front.head };
    filler.at = now();
    filler.end(ids[2], EndState::RolledBack);
    site.put(&mut filler).await;
    let head = filler.head();
    assert_eq!(site.step(Some(cut(3)), 100).await, Err(AppendError::Conflict { head }));
    assert_eq!(site.step(Some(cut(2)), 100).await, Err(AppendError::Conflict { head }));
    assert_eq!(site.count("records"), head, "nothing was removed");
    assert_eq!(site.step(Some(cut(1)), 100).await.unwrap().deployments, 2, "what is before it may go");
    assert_eq!(site.prune(ago(90), 100).await.deployments, 0);
    site.assert_sound();
    let all = Cut { until: filler.head(), head: filler.head() };
    assert!(site.step(Some(all), 100).await.is_err(), "no stream loses its newest deployment, whoever asks");
}

#[tokio::test]
async fn what_was_changed_is_not_removed_with_what_shows_it() {
    for sql in [
        "UPDATE records SET body = replace(body, 'v1', 'v9') WHERE seq = 7",
        "UPDATE records SET hash = prev WHERE seq = 8",
        "DELETE FROM records WHERE seq = 9",
        "UPDATE deployments SET live = 1, ended_at = NULL WHERE opened_seq = 7",
        "DELETE FROM deployments WHERE opened_seq = 7",
    ] {
        let site = Site::new();
        let mut filler = filler("a");
        whole(&mut filler, 12);
        site.put(&mut filler).await;
        let front = site.front(ago(90)).await;
        site.tamper(sql);
        let before = site.kinds();
        assert!(!before.is_empty(), "{sql}");
        let mut cut = front.groups.last().map(|group| Cut { until: group.until, head: front.head });
        let refused = loop {
            match site.step(cut.take(), 3).await {
                Ok(pruned) => assert!(!pruned.done, "{sql}"),
                Err(why) => break why.to_string(),
            }
        };
        assert!(refused.contains("ledger verify"), "{refused}");
        assert_eq!(site.kinds(), before, "{sql}");
    }
}

/// What a stream is made of: small moves that leave deployments open, between each other, old and young.
#[derive(Clone, Debug)]
enum Move {
    Open,
    Run(usize),
    End(usize),
    Note(usize),
    OfTheStream,
    Days(i64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => Just(Move::Open),
        2 => (0..9_usize).prop_map(Move::Run),
        6 => (0..4_usize).prop_map(Move::End),
        1 => (0..12_usize).prop_map(Move::Note),
        1 => Just(Move::OfTheStream),
        1 => (1..20_i64).prop_map(Move::Days),
    ];
    prop::collection::vec(one, 1..120)
}

/// The furthest cut that the rule allows, found by trying every one.
fn furthest(filler: &Filler, facts: &[(u64, Option<DeploymentId>)], before: jiff::Timestamp) -> u64 {
    let deployments = &filler.folded().deployments;
    let kept = deployments.len().saturating_sub(KEEP);
    let may_go = |at: usize| {
        let d = &deployments[at];
        at < kept && !d.is_live() && d.end().is_some_and(|end| end.at < before) && d.updated_at < before
    };
    let fits = |cut: u64| {
        deployments.iter().enumerate().all(|(at, d)| {
            let own = || facts.iter().filter(|(_, of)| *of == Some(d.id)).map(|(seq, _)| *seq);
            own().all(|seq| seq > cut) || own().all(|seq| seq <= cut) && may_go(at)
        })
    };
    // Something of a deployment has to go, else there is nothing to cut.
    let Some(first) = deployments.first().map(|d| d.opened_seq) else { return 0 };
    (first..=filler.head()).rev().find(|cut| fits(*cut)).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cut_is_the_furthest_that_takes_whole_old_deployments(moves in moves(), rows in 1..40_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let site = Site::new();
            let mut filler = filler("a");
            let mut facts = Vec::new();
            let mut known = Vec::new();
            for step in moves {
                let back = |n: usize| known.len().checked_sub(n + 1).map(|at| known[at]);
                match step {
                    Move::Open => known.push(filler.open(None, None)),
                    Move::Run(n) => if let Some(id) = back(n) {
                        let run = filler.start(id);
                        filler.finish(id, run, Outcome::Succeeded);
                    },
                    Move::End(n) => if let Some(id) = back(n) { filler.end(id, EndState::RolledBack) },
                    Move::Note(n) => if let Some(id) = back(n) { filler.fact(Some(id), noted()) },
                    Move::OfTheStream => filler.fact(None, noted()),
                    Move::Days(days) => filler.at += jiff::SignedDuration::from_hours(24 * days),
                }
            }
            let append = filler.append();
            facts.extend(append.facts.iter().zip(1..).map(|(fact, seq)| (seq, fact.deployment)));
            if facts.is_empty() {
                return;
            }
            site.ledger.append(append).await.unwrap();
            let before = ago(300);
            let loaded = site.ledger.load(&stream("a"), KEEP).await.unwrap();
            let live = site.ledger.live().await.unwrap();
            let pruned = site.prune(before, rows).await;
            assert_eq!(pruned.records, furthest(&filler, &facts, before));
            assert_eq!(site.ledger.load(&stream("a"), KEEP).await.unwrap(), loaded);
            assert_eq!(site.ledger.live().await.unwrap(), live);
            site.assert_sound();
        });
    }
}

//! Proof that what is asked of a ledger costs the same in a large one as in a small one: the steps of SQLite's machine
//! are counted, which no other program on the machine changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rusqlite::Connection;

use super::filler::Filler;
use super::{ListQuery, append, file, list, prune, read};
use crate::domain::record::{Alias, EndState};
use crate::domain::summary::State;

/// A ledger with so many deployments in each of two streams, and in as many streams of one.
struct Site {
    connection: Connection,
    steps: Arc<AtomicU64>,
    filler: Filler,
    folder: tempfile::TempDir,
}

const OLD: &str = "2025-06-01T00:00:00Z";

impl Site {
    fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        drop(super::Ledger::open(&path).unwrap());
        let mut connection = file::writer(&path, super::BUSY).unwrap();
        connection.execute_batch("PRAGMA synchronous = OFF; BEGIN").unwrap();
        let at: Timestamp = OLD.parse().unwrap();
        let stream = |name: String| super::StreamId {
            source: crate::domain::names::Source::Generic,
            application: format!("test/{name}").parse().unwrap(),
        };
        for n in 0..count as u64 {
            let mut filler = Filler::new(stream(format!("one-{n}")), n + 10, at);
            filler.whole("v", EndState::Succeeded);
            append::apply(&connection, filler.append()).ok().unwrap();
        }
        let mut filler = Filler::new(stream("many".into()), 1, at);
        for n in 0..count {
            let state = if n % 10 == 0 { EndState::RolledBack } else { EndState::Succeeded };
            let id = filler.open(Some(format!("v{n}").parse().unwrap()), Some(format!("r{n}").parse().unwrap()));
            let run = filler.start(id);
            filler.finish(id, run, crate::domain::record::Outcome::Succeeded);
            filler.end(id, state);
            if n % 500 == 499 {
                append::apply(&connection, filler.append()).ok().unwrap();
                filler.forget(8);
            }
        }
        let live = filler.open(None, None);
        filler.start(live);
        append::apply(&connection, filler.append()).ok().unwrap();
        connection.execute_batch("COMMIT").unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&steps);
        connection
            .progress_handler(
                1,
                Some(move || {
                    count.fetch_add(1, Ordering::Relaxed);
                    false
                }),
            )
            .unwrap();
        Self { connection, steps, filler, folder }
    }

    /// What everything that a service asks costs, by name.
    fn costs(&mut self) -> Vec<(&'static str, u64)> {
        let stream = self.filler.folded().id.clone();
        let current = self.filler.folded().current().unwrap();
        let (id, run) = (current.id, current.runs[0].id);
        let before = OLD.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(24 * 200);
        let page = |application: bool, state, cursor| ListQuery {
            application: application.then(|| stream.application.clone()),
            state,
            limit: 50,
            cursor,
        };
        let mut costs = Vec::new();
        let mut measure = |name, ask: &mut dyn FnMut(&Connection)| {
            let began = self.steps.load(Ordering::Relaxed);
            ask(&self.connection);
            costs.push((name, self.steps.load(Ordering::Relaxed) - began));
        };
        measure("load", &mut |c| drop(read::load(c, &stream, 8).unwrap()));
        measure("load, only what is live", &mut |c| drop(read::load(c, &stream, 0).unwrap()));
        measure("load_deployment", &mut |c| assert!(read::load_deployment(c, id).unwrap().is_some()));
        measure("newest_of", &mut |c| {
            assert!(read::newest_of(c, &stream, &"v3".parse().unwrap()).unwrap().is_some());
        });
        measure("known_by", &mut |c| {
            assert!(read::known_by(c, &stream, &Alias::Rollout("r3".parse().unwrap())).unwrap().is_some());
        });
        measure("records", &mut |c| assert!(!read::records(c, id, 0, 10).unwrap().is_empty()));
        measure("find_run", &mut |c| assert!(read::find_run(c, run).unwrap().is_some()));
        measure("output", &mut |c| assert!(read::output(c, run).unwrap().is_none()));
        measure("live", &mut |c| assert_eq!(read::live(c).unwrap().len(), 1));
        measure("sources_of", &mut |c| drop(read::sources_of(c, &stream.application).unwrap()));
        measure("summary", &mut |c| assert!(list::summary(c, id).unwrap().is_some()));
        measure("counts", &mut |c| drop(list::counts(c).unwrap()));
        for application in [false, true] {
            for state in [None, Some(State::RolledBack), Some(State::Progressing), Some(State::Abandoned)] {
                for cursor in [None, Some(id)] {
                    measure("list", &mut |c| drop(list::list(c, &page(application, state, cursor)).unwrap()));
                }
            }
        }
        // A page of streams is looked at, however many there are.
        measure("prunable", &mut |c| {
            assert!(prune::prunable(c, Default::default(), 8, Some(before)).unwrap().streams.len() <= 256);
        });
        measure("an append", &mut |c| {
            self.filler.end(id, EndState::Succeeded);
            drop(append::apply(c, self.filler.append()).ok().unwrap());
        });
        let key: i64 = self.connection.query_row("SELECT max(id) FROM streams", [], |row| row.get(0)).unwrap();
        let mut groups = Vec::new();
        let mut measure = |name, ask: &mut dyn FnMut(&Connection)| {
            let began = self.steps.load(Ordering::Relaxed);
            ask(&self.connection);
            costs.push((name, self.steps.load(Ordering::Relaxed) - began));
        };
        measure("front", &mut |c| {
            let front = prune::front(c, key.into(), 8, before, 50).unwrap();
            groups.push((front.groups[40].until, front.head));
        });
        measure("a step of pruning", &mut |c| {
            let (until, head) = groups[0];
            let cut = Some(prune::Cut { until, head });
            let step = prune::Step { stream: key.into(), cut, rows: 200, at: before };
            assert!(!prune::step(c, &step).ok().unwrap().done);
        });
        costs
    }
}

#[test]
fn a_large_ledger_is_asked_for_the_price_of_a_small_one() {
    // More than a page of everything in both, so that the answers are of one size.
    let small = Site::new(600).costs();
    let large = Site::new(std::env::var("STAGEHOOK_TEST_DEPLOYMENTS").map_or(10_000, |n| n.parse().unwrap())).costs();
    for ((name, few), (_, many)) in small.iter().zip(&large) {
        // A deeper tree costs comparisons, and those are no steps: what is left is chance.
        assert!(*many <= few + few / 10 + 20, "{name}: {few} steps in a small ledger, {many} in a large one");
        assert!(*few > 0, "{name}");
    }
}

#[test]
fn opening_reads_nothing_of_what_is_in_it() {
    let Site { folder, connection, .. } = Site::new(2_000);
    drop(connection);
    let path = folder.path().join("x.db");
    let size = std::fs::metadata(&path).unwrap().len();
    let read = |path: &std::path::Path| {
        let connection = file::reader(path, super::BUSY).unwrap();
        super::schema::refuse_others(&connection, path).ok().unwrap();
        read::live(&connection).unwrap();
        // Pages that were not in the cache, and so were read.
        let mut misses = 0;
        let mut high = 0;
        // SAFETY: the handle is that of the connection, which lives, and the numbers are this function's own.
        unsafe {
            rusqlite::ffi::sqlite3_db_status(
                connection.handle(),
                rusqlite::ffi::SQLITE_DBSTATUS_CACHE_MISS,
                &mut misses,
                &mut high,
                0,
            );
        }
        misses
    };
    let pages = read(&path);
    assert!(pages < 20 && size > 2_000_000, "{pages} pages were read of {size} bytes");
}

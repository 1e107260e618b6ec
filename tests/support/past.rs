//! A ledger with a past: deployments of long ago in several streams, as the service would have written them, and what
//! must be left of them once `ledger.retain` has taken what it may.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use stagehook::domain::names::{Source, StreamId};
use stagehook::domain::record::EndState;
use stagehook::ledger::{Head, Ledger, head};

use super::http::Client;
use super::poll::DEADLINE;

#[path = "../../src/ledger/filler.rs"]
#[expect(dead_code, reason = "others use more of it")]
mod filler;

use filler::Filler;

/// How many of the newest stay.
const KEEP: usize = 8;

/// The records of each deployment: numbers, hashes and bodies.
type Records = BTreeMap<String, Vec<(i64, String, String)>>;

/// What was there before the service was first started.
pub struct Past {
    database: PathBuf,
    /// All of it.
    records: Records,
    /// The deployments that must stay, oldest first.
    pub stay: Vec<String>,
    /// Those that must go.
    pub go: Vec<String>,
    /// Where it ended.
    pub head: Head,
}

impl Past {
    /// Fills a ledger that is not there yet. Nobody holds it once this is over.
    pub async fn write(database: &Path) -> Self {
        let ledger = Ledger::open(database).unwrap();
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        for (salt, name) in (1..).zip(["ended", "live", "few"]) {
            let application = format!("old/{name}").parse().unwrap();
            let id = StreamId { source: Source::Generic, application };
            let mut filler = Filler::new(id, salt, "2020-01-01T00:00:00Z".parse().unwrap());
            let whole = |filler: &mut Filler, count: usize| -> Vec<String> {
                let ends = [EndState::Succeeded, EndState::RolledBack, EndState::Succeeded].into_iter().cycle();
                ends.take(count).enumerate().map(|(n, end)| filler.whole(&format!("v{n}"), end).to_string()).collect()
            };
            match name {
                "ended" => {
                    let mut ended = whole(&mut filler, 24 + KEEP);
                    stay.extend(ended.split_off(24));
                    go.extend(ended);
                }
                // What is live stays, and with it whatever came after it.
                "live" => {
                    go.extend(whole(&mut filler, 3));
                    stay.push(filler.open(Some("live".parse().unwrap()), None).to_string());
                    stay.extend(whole(&mut filler, 10));
                }
                _ => stay.extend(whole(&mut filler, KEEP)),
            }
            ledger.append(filler.append()).await.unwrap();
        }
        drop(ledger);
        let database = database.to_owned();
        let head = head(&database).unwrap();
        let mut past = Self { records: BTreeMap::new(), database, stay, go, head };
        past.records = past.read();
        past.stay.sort();
        past.go.sort();
        past
    }

    /// Whether all that may go is gone.
    pub fn is_pruned(&self) -> bool {
        let cuts = "SELECT count(*) FROM checkpoints WHERE until = seq";
        let cuts: i64 = self.open().query_row(cuts, [], |row| row.get(0)).unwrap();
        cuts == 2
    }

    /// Nothing of it is gone.
    pub fn assert_untouched(&self) {
        let left = self.read();
        assert!(self.records.iter().all(|(id, records)| left.get(id) == Some(records)));
    }

    /// Nobody finds what went, and everybody what stays; the rest is as it was.
    pub async fn assert_pruned(&self, client: &Client) {
        assert!(self.is_pruned());
        let left = self.read();
        for id in &self.stay {
            assert_eq!(left.get(id), self.records.get(id), "{id} was to stay as it was");
        }
        assert!(self.go.iter().all(|id| !left.contains_key(id)));
        assert_eq!(self.listed(client).await, self.stay);
        for id in &self.go {
            client.get(&format!("/api/v1/deployments/{id}")).await.expect(404);
        }
    }

    /// What the API lists of it, oldest first.
    pub async fn listed(&self, client: &Client) -> Vec<String> {
        let old = |listed: &Value| listed["application"].as_str().unwrap().starts_with("old/");
        let listed = client.deployments().await;
        let mut ids: Vec<_> =
            listed.iter().filter(|listed| old(listed)).map(|it| it["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    fn open(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let ledger = Connection::open_with_flags(&self.database, flags).unwrap();
        ledger.busy_timeout(DEADLINE).unwrap();
        ledger
    }

    fn read(&self) -> Records {
        let ledger = self.open();
        let mut all = Records::new();
        let sql =
            "SELECT deployment, seq, hash, body FROM records WHERE deployment IS NOT NULL ORDER BY stream_id, seq";
        let mut statement = ledger.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)))).unwrap();
        for row in rows {
            let (id, record): (String, _) = row.unwrap();
            all.entry(id).or_default().push(record);
        }
        all
    }
}

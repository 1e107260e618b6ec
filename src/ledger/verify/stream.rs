//! One stream: every record's own hash, its link to the one before, its number, and the end.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::content::{At, Content, exact, lossy};
use super::listing::Listing;
use super::{Kind, Report};
use crate::domain::record::Fact;
use crate::ledger::head::StreamHead;
use crate::ledger::{chain, checkpoint, schema};

/// The most broken records of a stream that are compared with each other to tell a swap from a change.
const COMPARED: usize = 64;

pub(super) struct Stream {
    id: i64,
    pub(super) name: String,
    head: Link,
    checkpoint: Option<Link>,
    /// Up to where pruning is under way.
    until: i64,
    /// Whether the checkpoint is what was written, as far as its version can tell.
    sealed: bool,
}

/// A record's number and hash.
#[derive(Clone)]
struct Link {
    seq: i64,
    hash: String,
}

/// A record as it is stored, believed in nothing.
struct Stored {
    seq: i64,
    deployment: Option<String>,
    at: String,
    prev: String,
    hash: String,
    body: String,
}

/// Looks at every stream, by their id.
pub(super) fn each(
    connection: &Connection,
    mut look: impl FnMut(&Stream) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare("SELECT id, source || ':' || application, head_seq, head_hash FROM streams ORDER BY id")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let version = usize::try_from(version).unwrap_or_default();
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let id: i64 = row.get(0)?;
        let name = lossy(row.get_ref(1)?);
        let head = Link { seq: row.get(2)?, hash: lossy(row.get_ref(3)?) };
        let mut stream = Stream { id, name, head, checkpoint: None, until: 0, sealed: true };
        stream.read_checkpoint(connection, version)?;
        look(&stream)?;
    }
    Ok(())
}

/// Records whose stream is gone; foreign keys forbid it, a shell need not.
pub(super) fn strays(connection: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT stream_id, count(*) FROM records WHERE stream_id NOT IN (SELECT id FROM streams) GROUP BY stream_id",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (id, n): (i64, i64) = (row.get(0)?, row.get(1)?);
        report.find(Kind::Missing, None, None, format!("stream {id} is gone, and {n} records belong to it"));
    }
    Ok(())
}

impl Stream {
    fn read_checkpoint(&mut self, connection: &Connection, version: usize) -> rusqlite::Result<()> {
        let (until, seal) = match version {
            ..2 => ("seq", "''"),
            2 => ("until", "''"),
            schema::SEALED.. => ("until", "seal"),
        };
        let sql = format!("SELECT seq, hash, at, {until}, {seal} FROM checkpoints WHERE stream_id = ?1");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query([self.id])?;
        let Some(row) = found.next()? else { return Ok(()) };
        let link = Link { seq: row.get(0)?, hash: lossy(row.get_ref(1)?) };
        self.until = row.get(3)?;
        let seal = checkpoint::seal(&self.name, link.seq, &link.hash, &lossy(row.get_ref(2)?), self.until);
        self.sealed = version < schema::SEALED || seal == lossy(row.get_ref(4)?);
        self.checkpoint = Some(link);
        Ok(())
    }

    pub(super) fn walk(
        &self,
        connection: &Connection,
        earlier: Option<&StreamHead>,
        content: &mut Content,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "SELECT seq, deployment, at, prev, hash, body FROM records WHERE stream_id = ?1 ORDER BY seq",
        )?;
        let mut found = statement.query([self.id])?;

        // What the first record must follow: nothing, or what pruning took last.
        let mut last = self.checkpoint.clone().unwrap_or_else(|| Link { seq: 0, hash: hex::encode(chain::START) });
        let mut broken: Vec<Stored> = Vec::new();
        let mut last_broken = false;
        let mut earlier_seen = earlier.is_some_and(|earlier| self.is_pruned(earlier, report));
        let mut listing = Listing::new(self.id, &self.name, self.checkpoint.as_ref().map(|_| self.until));
        report.pruned += u64::from(self.checkpoint.is_some());
        if !self.sealed {
            let message = "the checkpoint, which says what pruning took, is not what was written".to_owned();
            report.find(Kind::Changed, Some(&self.name), None, message);
        }
        while let Some(row) = found.next()? {
            let stored = Stored::from(row)?;
            report.records += 1;
            let intact = stored.hash_at(&self.name, stored.seq) == stored.hash;
            let findings = report.findings.len();
            self.place(&last, &stored, intact && !last_broken, report);
            if !intact || report.findings.len() > findings {
                listing.tear();
            }
            if let Some(earlier) = earlier.filter(|earlier| as_number(stored.seq) == Some(earlier.seq)) {
                earlier_seen = true;
                if stored.hash != earlier.hash {
                    self.find(report, Kind::Changed, stored.seq, "it is not the record of the earlier head");
                }
            }
            last = Link { seq: stored.seq, hash: stored.hash.clone() };
            last_broken = !intact;
            if intact {
                self.body(connection, &stored, content, &mut listing, report)?;
            } else if broken.len() < COMPARED {
                broken.push(stored);
            } else {
                self.find(report, Kind::Changed, stored.seq, CHANGED);
            }
        }
        listing.end(report);
        self.name_broken(&broken, report);
        self.end(&last, earlier.filter(|_| !earlier_seen), report);
        Ok(())
    }

    /// Whether a record stands where it must. A link that is broken beside a broken record is not told twice.
    fn place(&self, last: &Link, stored: &Stored, trusted: bool, report: &mut Report) {
        let next = last.seq.saturating_add(1);
        if stored.seq > next {
            let message = format!("{} missing before it", range(next, stored.seq - 1));
            self.find(report, Kind::Missing, stored.seq, message);
        } else if stored.seq <= last.seq {
            self.find(report, Kind::Changed, stored.seq, format!("it is older than the checkpoint at {}", last.seq));
        } else if trusted && stored.prev != last.hash {
            let message = format!("it does not follow record {} as that is now: one of both was replaced", last.seq);
            self.find(report, Kind::Changed, stored.seq, message);
        }
    }

    /// What the columns beside the body say, and what the body names.
    fn body(
        &self,
        connection: &Connection,
        stored: &Stored,
        content: &mut Content,
        listing: &mut Listing<'_>,
        report: &mut Report,
    ) -> rusqlite::Result<()> {
        let fact: Fact = match serde_json::from_str(&stored.body) {
            Ok(fact) => fact,
            Err(error) => {
                self.find(report, Kind::Changed, stored.seq, format!("its body is no record of this version: {error}"));
                return Ok(());
            }
        };
        if stored.at != fact.at.to_string() {
            let message = format!("its column at says {}, its body {}", stored.at, fact.at);
            self.find(report, Kind::Changed, stored.seq, message);
            listing.tear();
        }
        let deployment = fact.deployment.map(|id| id.to_string());
        if stored.deployment != deployment {
            let none = || "none".to_owned();
            let message = format!(
                "its column deployment says {}, its body {}",
                stored.deployment.clone().unwrap_or_else(none),
                deployment.unwrap_or_else(none)
            );
            self.find(report, Kind::Changed, stored.seq, message);
            listing.tear();
        }
        let Some(seq) = as_number(stored.seq) else { return Ok(()) };
        let at = At { stream_id: self.id, stream: &self.name, seq };
        let pipeline = content.of(connection, &at, &fact, report)?;
        listing.take(connection, &at, &fact, pipeline, content, report)
    }

    /// Tells a record in another's place from one that was changed.
    fn name_broken(&self, broken: &[Stored], report: &mut Report) {
        for stored in broken {
            // Moved as a whole: its hash still fits the number that it had, which is another broken one's or, where
            // the rest was shifted, the next.
            let near = [stored.seq.saturating_sub(1), stored.seq.saturating_add(1)];
            let moved = near
                .into_iter()
                .chain(broken.iter().map(|other| other.seq))
                .find(|seq| *seq != stored.seq && stored.hash_at(&self.name, *seq) == stored.hash);
            // Only the bodies were exchanged.
            let exchanged = || {
                broken.iter().find(|other| {
                    other.seq != stored.seq && hash(&self.name, &other.prev, other.seq, &stored.body) == other.hash
                })
            };
            match moved.or_else(|| exchanged().map(|other| other.seq)) {
                Some(seq) => {
                    self.find(report, Kind::Swapped, stored.seq, format!("it holds what was written as record {seq}"));
                }
                None => self.find(report, Kind::Changed, stored.seq, CHANGED),
            }
        }
    }

    fn end(&self, last: &Link, earlier: Option<&StreamHead>, report: &mut Report) {
        if last.seq < self.head.seq {
            let message = format!("{} missing at the end", range(last.seq + 1, self.head.seq));
            self.find(report, Kind::CutTail, self.head.seq, message);
        } else if last.seq > self.head.seq || last.hash != self.head.hash {
            let message = format!("the stream's head says record {} with another hash or number", self.head.seq);
            self.find(report, Kind::Projection, last.seq, message);
        }
        // One that is not beyond the end is in a gap, which was told.
        if let Some(earlier) = earlier.filter(|earlier| as_number(last.seq).is_none_or(|last| earlier.seq > last)) {
            let message = format!("the earlier head has record {}, and the stream ends at {}", earlier.seq, last.seq);
            report.find(Kind::CutTail, Some(&self.name), Some(earlier.seq), message);
        }
    }

    /// Whether the earlier head's record went with the pruned front, where only the very last can be compared.
    fn is_pruned(&self, earlier: &StreamHead, report: &mut Report) -> bool {
        let Some(checkpoint) = &self.checkpoint else { return false };
        let Some(seq) = as_number(checkpoint.seq).filter(|seq| earlier.seq <= *seq) else { return false };
        if earlier.seq < seq {
            report.not_compared.push(self.name.clone());
        } else if earlier.hash != checkpoint.hash {
            self.find(report, Kind::Changed, checkpoint.seq, "the checkpoint is not the record of the earlier head");
        }
        true
    }

    fn find(&self, report: &mut Report, kind: Kind, seq: i64, message: impl Into<String>) {
        report.find(kind, Some(&self.name), as_number(seq), message);
    }
}

impl Stored {
    fn from(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            deployment: match row.get_ref(1)? {
                ValueRef::Null => None,
                text => Some(lossy(text)),
            },
            at: lossy(row.get_ref(2)?),
            prev: lossy(row.get_ref(3)?),
            hash: lossy(row.get_ref(4)?),
            body: exact(row.get_ref(5)?),
        })
    }

    /// The hash that it would have as record `seq`; empty where its own columns allow none.
    fn hash_at(&self, stream: &str, seq: i64) -> String {
        hash(stream, &self.prev, seq, &self.body)
    }
}

const CHANGED: &str = "it was changed: its hash does not fit its content";

fn hash(stream: &str, prev: &str, seq: i64, body: &str) -> String {
    match (chain::parse(prev), as_number(seq)) {
        (Some(prev), Some(seq)) => hex::encode(chain::link(&prev, stream, seq, body)),
        _ => String::new(),
    }
}

fn as_number(seq: i64) -> Option<u64> {
    u64::try_from(seq).ok()
}

fn range(from: i64, to: i64) -> String {
    if from == to { format!("record {from} is") } else { format!("records {from} to {to} are") }
}

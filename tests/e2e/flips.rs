//! One bit of the ledger's file is turned, anywhere: whatever then reads otherwise than before is found by `verify`.
//!
//! A sample of the bytes: 500, or as many as `STAGEHOOK_FLIPS` says.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use stagehook::ledger::{Cut, Ledger, Step, StreamKey};

use crate::support::World;
use crate::support::pipelines::stage;

/// What is in a file as far as anything depends on it, or why it can't be read. The tables are read without their indexes,
/// which are nobody's truth; a readiness check's heartbeat says nothing.
fn content(path: &Path) -> Result<Vec<String>, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let tables = [
        "type, name, tbl_name, sql FROM sqlite_schema ORDER BY 2",
        "id, source, application, head_seq, head_hash FROM streams NOT INDEXED ORDER BY 1",
        "stream_id, seq, deployment, at, prev, hash, body FROM records NOT INDEXED ORDER BY 1, 2",
        "* FROM checkpoints NOT INDEXED ORDER BY 1",
        "* FROM pipelines NOT INDEXED ORDER BY 1",
        "run, body FROM outputs NOT INDEXED ORDER BY 1",
        "run, deployment, stream_id FROM runs NOT INDEXED ORDER BY 1",
        "stream_id, alias, deployment FROM aliases NOT INDEXED ORDER BY 1, 2",
        "* FROM deployments NOT INDEXED ORDER BY 1",
        "state, n FROM state_counts NOT INDEXED ORDER BY 1",
    ];
    let mut all = Vec::new();
    for table in tables {
        let mut statement = connection.prepare(&format!("SELECT {table}"))?;
        let columns = statement.column_count();
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let mut line = String::new();
            for at in 0..columns {
                let value = match row.get_ref(at)? {
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => hex::encode(bytes),
                    other => format!("{other:?}"),
                };
                line.push_str(&value);
                line.push(' ');
            }
            all.push(line);
        }
    }
    Ok(all)
}

/// Leaves the first stream in the middle of a cut: what pruning goes by is read as well.
async fn begin_to_prune(file: &Path) {
    let ledger = Ledger::open(file).unwrap();
    let (stream, long_after) = (StreamKey::from(1), "2100-01-01T00:00:00Z".parse().unwrap());
    let front = ledger.front(stream, 1, long_after, 10).await.unwrap();
    let cut = Some(Cut { until: front.groups[0].until, head: front.head });
    let pruned = ledger.prune(Step { stream, cut, rows: 1, at: long_after }).await.unwrap();
    assert!(pruned.records > 0 && !pruned.done, "{pruned:?}");
}

#[tokio::test]
async fn a_turned_bit_that_changes_what_is_read_is_found() {
    let mut world = World::with_stages(&[stage("migrate", "pre-rollout"), stage("smoke", "rollout")]).await;
    let client = world.client();
    world.fail("smoke");
    for revision in ["a1", "a2"] {
        client.flagger("pre-rollout", "Progressing", revision).await.expect(200);
        client.flagger("rollout", "Progressing", revision).await.expect(501);
        client.flagger("post-rollout", "Failed", revision).await.expect(200);
    }
    client.generic("pre-rollout", "b1").await.expect(200);
    let call = serde_json::json!({"name": "podinfo", "namespace": "test", "revision": "b1"});
    client.with("Idempotency-Key", "once").post("/hooks/generic/post-rollout", &call).await.expect(200);
    world.stop().await;
    let file = world.path().join("data/stagehook.db");
    let copy = world.path().join("flipped.db");
    begin_to_prune(&file).await;
    let good = std::fs::read(&file).unwrap();
    let before = content(&file).unwrap();
    assert!(before.len() > 60, "{}", before.len());

    let wanted = std::env::var("STAGEHOOK_FLIPS").map_or(500, |number| number.parse().unwrap());
    // Most zeros are the room between rows, and nobody reads it.
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let step = (used.len() / wanted).max(1);
    let (mut found, mut harmless) = (0, 0);
    for (n, at) in used.into_iter().step_by(step).enumerate() {
        let bit = 1 << (n % 8);
        let mut bytes = good.clone();
        bytes[at] ^= bit;
        std::fs::write(&copy, &bytes).unwrap();
        let report = stagehook::ledger::verify(&copy, None);
        if report.as_ref().map_or(true, |report| !report.is_sound()) {
            found += 1;
            continue;
        }
        let after = content(&copy).unwrap_or_default();
        let other = after.iter().zip(&before).find(|(after, before)| after != before);
        assert!(other.is_none() && after.len() == before.len(), "bit {bit:#x} of byte {at} is not found: {other:?}");
        harmless += 1;
    }
    assert!(found > harmless, "{found} found, {harmless} harmless");
    eprintln!("{found} found, {harmless} harmless");
}

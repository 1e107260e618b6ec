//! Proof that no statement of the ledger reads a large table from end to end: each is explained by SQLite itself.
//!
//! The statements are taken from the sources, so that a new one is looked at without anybody's thinking of it.

use rusqlite::Connection;

/// What grows with the ledger.
const LARGE: [&str; 8] =
    ["records", "streams", "deployments", "runs", "outputs", "aliases", "pipelines", "checkpoints"];

/// The sources of whatever a service asks of its ledger. `verify` and `head` read everything, and say so.
const SOURCES: [(&str, &str); 8] = [
    ("append", include_str!("append.rs")),
    ("checkpoint", include_str!("checkpoint.rs")),
    ("list", include_str!("list.rs")),
    ("prune", include_str!("prune.rs")),
    ("read", include_str!("read.rs")),
    ("rows", include_str!("rows.rs")),
    ("schema", include_str!("schema.rs")),
    ("writer", include_str!("writer.rs")),
];

/// What may walk a table, or a part of it, and why.
const ALLOWED: [(&str, &str); 4] = [
    // Once, where a file of an older version is opened.
    ("SELECT c.stream_id, s.source || ':' || s.application", "SCAN c"),
    // Cut by a LIMIT: a page of the newest.
    ("SELECT * FROM deployments WHERE 1", "SCAN deployments"),
    // Once at a start without `retain`, beside the service: one row for each stream that was ever pruned.
    ("SELECT stream_id FROM checkpoints WHERE until > seq", "SCAN checkpoints"),
    // An index of nothing but what is live.
    ("WHERE d.live = 1", "SCAN d USING COVERING INDEX deployments_live"),
];

/// The string literals of a source before its tests that are statements.
fn statements(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    // No literal with SQL holds an escaped quote: one that did would not be explained, and fail below.
    for literal in code.split('"').skip(1).step_by(2) {
        let words = literal.split_whitespace().collect::<Vec<_>>().join(" ");
        if ["SELECT ", "INSERT ", "UPDATE ", "DELETE "].iter().any(|verb| words.starts_with(verb)) {
            found.push(words.replace("{}", "*"));
        }
    }
    found
}

#[test]
fn no_statement_reads_a_large_table_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    drop(super::Ledger::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    let mut explained = 0;
    for (file, source) in SOURCES {
        for sql in statements(source) {
            explained += 1;
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut plan = statement.raw_query();
            while let Some(row) = plan.next().unwrap() {
                let step: String = row.get(3).unwrap();
                let allowed = ALLOWED.iter().any(|(of, may)| sql.contains(of) && step.starts_with(may));
                let scans = step.starts_with("SCAN ") && names_a_large_table(&sql, &step);
                assert!(allowed || !scans, "{file}: {step}\n{sql}");
            }
        }
    }
    assert!(explained >= 40, "{explained} statements were found: the sources are not read as they should be");
}

/// Whether a step is about a table that grows, by its name or the name that the statement gives it.
fn names_a_large_table(sql: &str, step: &str) -> bool {
    let Some(name) = step.split_whitespace().nth(1) else { return false };
    let given = |table: &&str| sql.contains(&format!("{table} {name}"));
    LARGE.contains(&name) || LARGE.iter().any(given)
}

#[test]
fn it_would_be_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    drop(super::Ledger::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    for sql in ["SELECT count(*) FROM records r WHERE r.at > 'x'", "DELETE FROM outputs WHERE body = x'00'"] {
        let step: String = connection.query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get(3)).unwrap();
        assert!(step.starts_with("SCAN ") && names_a_large_table(sql, &step), "{step}");
    }
}

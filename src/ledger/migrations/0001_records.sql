-- The truth: one row a record, never updated. `body` is the exact JSON that was hashed; `at` and `deployment`
-- repeat parts of it for queries and for people, and verify compares them with it.
CREATE TABLE streams (
    id          INTEGER PRIMARY KEY,
    source      TEXT    NOT NULL,
    application TEXT    NOT NULL,
    head_seq    INTEGER NOT NULL,
    head_hash   TEXT    NOT NULL,
    UNIQUE (application, source)
) STRICT;

CREATE TABLE records (
    stream_id  INTEGER NOT NULL REFERENCES streams (id),
    seq        INTEGER NOT NULL,
    deployment TEXT,
    at         TEXT    NOT NULL,
    prev       TEXT    NOT NULL,
    hash       TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    PRIMARY KEY (stream_id, seq)
) STRICT;
CREATE INDEX records_of_deployment ON records (deployment, seq) WHERE deployment IS NOT NULL;

-- Where pruning cut the front of a stream: the last record that is gone, so that the first one left still links.
CREATE TABLE checkpoints (
    stream_id INTEGER PRIMARY KEY REFERENCES streams (id),
    seq       INTEGER NOT NULL,
    hash      TEXT    NOT NULL,
    at        TEXT    NOT NULL
) STRICT;

-- Content that records name by its hash.
CREATE TABLE pipelines (
    hash TEXT PRIMARY KEY,
    json TEXT NOT NULL
) STRICT;

CREATE TABLE outputs (
    run  TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;

-- Projections: written in the transaction of the records that they repeat.
CREATE TABLE runs (
    run        TEXT    PRIMARY KEY,
    deployment TEXT    NOT NULL,
    stream_id  INTEGER NOT NULL REFERENCES streams (id)
) STRICT, WITHOUT ROWID;

-- By what else callers name a deployment: their own id of a rollout, the key of a call. The newest that has it.
CREATE TABLE aliases (
    stream_id  INTEGER NOT NULL REFERENCES streams (id),
    alias      TEXT    NOT NULL,
    deployment TEXT    NOT NULL,
    PRIMARY KEY (stream_id, alias)
) STRICT, WITHOUT ROWID;

-- An id sorts by the time it was opened, so every list is a walk down an index that ends in it.
CREATE TABLE deployments (
    id          TEXT    PRIMARY KEY,
    stream_id   INTEGER NOT NULL REFERENCES streams (id),
    application TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    revision    TEXT,
    state       TEXT    NOT NULL,
    reason      TEXT,
    opened_at   TEXT    NOT NULL,
    updated_at  TEXT    NOT NULL,
    ended_at    TEXT,
    opened_seq  INTEGER NOT NULL,
    live        INTEGER NOT NULL CHECK (live IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE INDEX deployments_of_stream ON deployments (stream_id, opened_seq);
CREATE INDEX deployments_of_revision ON deployments (stream_id, revision, opened_seq);
CREATE INDEX deployments_of_application ON deployments (application, id);
CREATE INDEX deployments_in_state ON deployments (state, id);
CREATE INDEX deployments_of_application_in_state ON deployments (application, state, id);
CREATE INDEX deployments_live ON deployments (stream_id, opened_seq) WHERE live = 1;

-- Counting a million rows for every scrape of the metrics would not do.
CREATE TABLE state_counts (
    state TEXT    PRIMARY KEY,
    n     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER deployments_counted AFTER INSERT ON deployments BEGIN
    INSERT INTO state_counts (state, n) VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER deployments_recounted AFTER UPDATE OF state ON deployments WHEN old.state <> new.state BEGIN
    UPDATE state_counts SET n = n - 1 WHERE state = old.state;
    INSERT INTO state_counts (state, n) VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER deployments_uncounted AFTER DELETE ON deployments BEGIN
    UPDATE state_counts SET n = n - 1 WHERE state = old.state;
END;

-- What a readiness check writes, so that "can be written" is tried and not guessed.
CREATE TABLE heartbeat (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    beats INTEGER NOT NULL
) STRICT;
INSERT INTO heartbeat (id, beats) VALUES (1, 0);

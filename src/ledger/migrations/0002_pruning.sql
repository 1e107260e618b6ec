-- Pruning goes in small steps: everything up to `until` is condemned at once, and `seq` follows it, step by step.
ALTER TABLE checkpoints ADD COLUMN until INTEGER NOT NULL DEFAULT 0;

-- How many deployments of the ledger pin it: the last one that is pruned takes it along.
ALTER TABLE pipelines ADD COLUMN pins INTEGER NOT NULL DEFAULT 0;
UPDATE pipelines SET pins = counted.n FROM (
    SELECT r.body ->> '$.event.pipeline' AS hash, count(*) AS n
    FROM deployments d JOIN records r ON r.stream_id = d.stream_id AND r.seq = d.opened_seq
    GROUP BY 1
) AS counted WHERE counted.hash = pipelines.hash;

-- A hash of the row: by a wrong `until` pruning would take what must stay.
ALTER TABLE checkpoints ADD COLUMN seal TEXT NOT NULL DEFAULT '';

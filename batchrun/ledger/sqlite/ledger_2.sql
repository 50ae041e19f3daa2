-- Schema step 2: rounds, why an attempt was no success, what its Run was given, and what it costs in the end.

ALTER TABLE attempt ADD COLUMN round INTEGER NOT NULL DEFAULT 1;
ALTER TABLE attempt ADD COLUMN cause TEXT;
-- As the platform said it; the next rung of a ladder starts from here.
ALTER TABLE attempt ADD COLUMN memory_mb INTEGER;
ALTER TABLE attempt ADD COLUMN timeout_s INTEGER;
-- Most that the Run may cost, taken out of the budget with the intent; NULL where nothing bounds it.
ALTER TABLE attempt ADD COLUMN reserved_usd REAL;
-- platform or derived; NULL where cost_usd is.
ALTER TABLE attempt ADD COLUMN cost_source TEXT;
-- 0 while the platform can still change the cost.
ALTER TABLE attempt ADD COLUMN cost_is_final INTEGER NOT NULL DEFAULT 0;

-- No Run belongs to two attempts: the ledger itself keeps this promise.
CREATE UNIQUE INDEX run_of_attempt ON attempt (run_id) WHERE run_id IS NOT NULL;
-- Runs whose cost is to be read again.
CREATE INDEX open_cost ON attempt (finished_at)
    WHERE cost_is_final = 0 AND state = 'ended' AND run_id IS NOT NULL;

-- A job's cost is the sum of its attempts'.
ALTER TABLE job DROP COLUMN cost_usd;

-- How a job ended in rounds before its current one.
CREATE TABLE past_round (
    job_id INTEGER NOT NULL REFERENCES job (id),
    round INTEGER NOT NULL,
    -- When the round began; for the current one, job.admitted_at says it.
    admitted_at REAL NOT NULL,
    settled_at REAL NOT NULL,
    outcome TEXT NOT NULL,
    error_type TEXT,
    error_message TEXT,
    items_count INTEGER,
    PRIMARY KEY (job_id, round)
) WITHOUT ROWID;

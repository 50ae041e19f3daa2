-- Schema step 4: the attempts' table with its states checked one by one, its columns otherwise as steps 1 to 3 left them.
-- For `IN` with three words, SQLite builds a temporary table for every row that is written: a fifth of all statements'
-- time. A check cannot be altered, so the rows are copied once.

CREATE TABLE attempt_4 (
    job_id INTEGER NOT NULL REFERENCES job (id),
    attempt_no INTEGER NOT NULL,
    mark TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state = 'intended' OR state = 'bound' OR state = 'ended'),
    intended_at REAL NOT NULL,
    platform_time REAL,
    run_id TEXT,
    status TEXT,
    started_at REAL,
    finished_at REAL,
    cost_usd REAL,
    items_offset INTEGER NOT NULL DEFAULT 0,
    items_count INTEGER NOT NULL DEFAULT 0,
    round INTEGER NOT NULL DEFAULT 1,
    cause TEXT,
    memory_mb INTEGER,
    timeout_s INTEGER,
    reserved_usd REAL,
    cost_source TEXT,
    cost_is_final INTEGER NOT NULL DEFAULT 0,
    abort_type TEXT,
    abort_message TEXT,
    PRIMARY KEY (job_id, attempt_no)
) WITHOUT ROWID;
INSERT INTO attempt_4 SELECT * FROM attempt;
DROP TABLE attempt;
ALTER TABLE attempt_4 RENAME TO attempt;

-- As in step 2; they were dropped with the table.
CREATE UNIQUE INDEX run_of_attempt ON attempt (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX open_cost ON attempt (finished_at)
    WHERE cost_is_final = 0 AND state = 'ended' AND run_id IS NOT NULL;

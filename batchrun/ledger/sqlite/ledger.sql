-- The tables of version 4. Times are seconds since 1970 UTC. One process writes; others read through the write-ahead log.

-- Facts of the batch: names and JSON forms stand in facts.py.
CREATE TABLE batch (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The committed length of each output file, in bytes; what lies beyond was never committed.
CREATE TABLE output (
    name TEXT PRIMARY KEY,
    length INTEGER NOT NULL
) WITHOUT ROWID;

-- Admitted when it has no outcome, else settled. A bad line has no key and claims none.
CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    key TEXT UNIQUE,
    digest BLOB NOT NULL,
    line INTEGER NOT NULL,
    variant INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    length INTEGER NOT NULL,
    "group" TEXT,
    round INTEGER NOT NULL DEFAULT 1,
    admitted_at REAL NOT NULL,
    due_at REAL,
    settled_at REAL,
    outcome TEXT,
    error_type TEXT,
    error_message TEXT,
    items_count INTEGER
);

-- When the file is read again, a bad line is known by its position.
CREATE UNIQUE INDEX bad_line ON job (line, variant) WHERE key IS NULL;

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

CREATE TABLE attempt (
    job_id INTEGER NOT NULL REFERENCES job (id),
    attempt_no INTEGER NOT NULL,
    mark TEXT NOT NULL,
    -- For `IN` with three words, SQLite builds a temporary table for every row that is written.
    state TEXT NOT NULL CHECK (state = 'intended' OR state = 'bound' OR state = 'ended'),
    intended_at REAL NOT NULL,
    -- The platform's clock as last seen before the request was sent.
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
    -- As the platform said it; the next rung of a ladder starts from here.
    memory_mb INTEGER,
    timeout_s INTEGER,
    -- Most that the Run may cost, taken out of the budget with the intent; NULL where nothing bounds it.
    reserved_usd REAL,
    -- platform or derived; NULL where cost_usd is.
    cost_source TEXT,
    -- 0 while the platform can still change the cost.
    cost_is_final INTEGER NOT NULL DEFAULT 0,
    -- Why the Run is aborted by us, noted before the abort is sent; NULL where it is not.
    abort_type TEXT,
    abort_message TEXT,
    PRIMARY KEY (job_id, attempt_no)
) WITHOUT ROWID;

-- No Run belongs to two attempts: the ledger itself keeps this promise.
CREATE UNIQUE INDEX run_of_attempt ON attempt (run_id) WHERE run_id IS NOT NULL;
-- Runs whose cost is to be read again.
CREATE INDEX open_cost ON attempt (finished_at)
    WHERE cost_is_final = 0 AND state = 'ended' AND run_id IS NOT NULL;

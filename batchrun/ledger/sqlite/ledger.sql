-- Schema step 1. Times are seconds since 1970 UTC. One process writes; others read through the write-ahead log.

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
    items_count INTEGER,
    cost_usd REAL
);

-- When the file is read again, a bad line is known by its position.
CREATE UNIQUE INDEX bad_line ON job (line, variant) WHERE key IS NULL;

CREATE TABLE attempt (
    job_id INTEGER NOT NULL REFERENCES job (id),
    attempt_no INTEGER NOT NULL,
    mark TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('intended', 'bound', 'ended')),
    intended_at REAL NOT NULL,
    -- The platform's clock as last seen before the request was sent; it, not ours, dates Runs.
    platform_time REAL,
    run_id TEXT,
    status TEXT,
    started_at REAL,
    finished_at REAL,
    cost_usd REAL,
    items_offset INTEGER NOT NULL DEFAULT 0,
    items_count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, attempt_no)
) WITHOUT ROWID;

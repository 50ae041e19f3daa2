-- The server's state. `doc` columns hold the object as the API shows it; the other columns are for searching.
-- Times are wall milliseconds since the epoch.

CREATE TABLE account (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE tasks (
    seq  INTEGER PRIMARY KEY,
    id   TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    doc  BLOB NOT NULL
);

CREATE TABLE runs (
    seq         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    act_id      TEXT NOT NULL,
    task_id     TEXT,
    status      TEXT NOT NULL,
    started_ms  INTEGER NOT NULL,
    -- Properties that the API does not show: ad-hoc webhooks, restartOnError.
    extras      BLOB,
    doc         BLOB NOT NULL
);
CREATE INDEX runs_by_start ON runs (started_ms);
CREATE INDEX runs_by_task  ON runs (task_id, started_ms) WHERE task_id IS NOT NULL;
CREATE INDEX runs_by_actor ON runs (act_id, started_ms);
CREATE INDEX runs_live     ON runs (id) WHERE status IN ('READY', 'RUNNING', 'TIMING-OUT', 'ABORTING');

-- The process group of a live Run. The start time shows whether the pid is still the same process.
CREATE TABLE processes (
    run_id     TEXT PRIMARY KEY,
    pid        INTEGER NOT NULL,
    start_time TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE logs (
    run_id TEXT NOT NULL,
    chunk  INTEGER NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (run_id, chunk)
) WITHOUT ROWID;

-- Datasets, key-value stores and request queues.
CREATE TABLE storages (
    seq         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL,
    name        TEXT COLLATE NOCASE,
    run_id      TEXT,
    act_id      TEXT,
    created_ms  INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    count       INTEGER NOT NULL DEFAULT 0,
    clean_count INTEGER NOT NULL DEFAULT 0,
    writes      INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX storages_by_name ON storages (kind, name) WHERE name IS NOT NULL;

CREATE TABLE items (
    storage INTEGER NOT NULL,
    position INTEGER NOT NULL,
    body    BLOB NOT NULL,
    PRIMARY KEY (storage, position)
) WITHOUT ROWID;

CREATE TABLE stored_values (
    storage      INTEGER NOT NULL,
    key          TEXT NOT NULL,
    content_type TEXT NOT NULL,
    body         BLOB NOT NULL,
    PRIMARY KEY (storage, key)
) WITHOUT ROWID;

-- `place` orders pending requests: the front counts down, the end counts up. NULL once handled.
CREATE TABLE requests (
    storage         INTEGER NOT NULL,
    id              TEXT NOT NULL,
    place           INTEGER,
    locked_by       TEXT,
    locked_until_ms INTEGER NOT NULL DEFAULT 0,
    doc             BLOB NOT NULL,
    PRIMARY KEY (storage, id)
) WITHOUT ROWID;
CREATE INDEX requests_pending ON requests (storage, place) WHERE place IS NOT NULL;

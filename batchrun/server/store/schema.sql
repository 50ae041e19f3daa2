-- The server's state. `doc` columns hold the object as the API shows it; the other columns are for searching.
-- Times are wall milliseconds since the epoch.

CREATE TABLE account (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE tasks (
    seq     INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    name    TEXT NOT NULL COLLATE NOCASE,
    doc     BLOB NOT NULL,
    UNIQUE (user_id, name)
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
    doc         BLOB NOT NULL,
    user_id     TEXT NOT NULL DEFAULT '',
    -- The time when its usage becomes final; NULL while it is live and once it is final.
    settle_ms   INTEGER
);
CREATE INDEX runs_by_start  ON runs (user_id, started_ms);
CREATE INDEX runs_by_task   ON runs (task_id, started_ms) WHERE task_id IS NOT NULL;
CREATE INDEX runs_by_actor  ON runs (act_id, started_ms);
CREATE INDEX runs_live      ON runs (id) WHERE status IN ('READY', 'RUNNING', 'TIMING-OUT', 'ABORTING');
CREATE INDEX runs_unsettled ON runs (settle_ms) WHERE settle_ms IS NOT NULL;

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
    bytes       INTEGER NOT NULL DEFAULT 0,
    user_id     TEXT NOT NULL DEFAULT '',
    reads       INTEGER NOT NULL DEFAULT 0,
    lists       INTEGER NOT NULL DEFAULT 0,
    deletes     INTEGER NOT NULL DEFAULT 0,
    -- Of a request queue: its first client, and whether it has had others.
    client      TEXT,
    is_shared   INTEGER NOT NULL DEFAULT 0,
    access      TEXT
);
CREATE UNIQUE INDEX storages_by_name ON storages (user_id, kind, name) WHERE name IS NOT NULL;

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

-- The usage of an account, by day (UTC) and usage item.
CREATE TABLE usage (
    user_id  TEXT NOT NULL,
    day      TEXT NOT NULL,
    name     TEXT NOT NULL,
    quantity REAL NOT NULL,
    usd      REAL NOT NULL,
    PRIMARY KEY (user_id, day, name)
) WITHOUT ROWID;

CREATE TABLE webhooks (
    seq             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    user_id         TEXT NOT NULL,
    idempotency_key TEXT,
    -- Of an ad-hoc webhook: its Run.
    run_id          TEXT,
    doc             BLOB NOT NULL
);
CREATE INDEX webhooks_by_run ON webhooks (run_id) WHERE run_id IS NOT NULL;
CREATE UNIQUE INDEX webhooks_by_key ON webhooks (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- One call of a webhook, with all its tries. `next_ms`: the time of the next try; NULL once it has succeeded or failed.
CREATE TABLE dispatches (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    user_id    TEXT NOT NULL,
    webhook_id TEXT NOT NULL,
    next_ms    INTEGER,
    doc        BLOB NOT NULL
);
CREATE INDEX dispatches_by_webhook ON dispatches (webhook_id, seq);
CREATE INDEX dispatches_by_user    ON dispatches (user_id, seq);
CREATE INDEX dispatches_due        ON dispatches (next_ms) WHERE next_ms IS NOT NULL;

-- The builds of Actors: a number, and the digest of the Actor's files.
CREATE TABLE builds (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    act_id     TEXT NOT NULL,
    number     TEXT NOT NULL,
    digest     TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    doc        BLOB NOT NULL,
    UNIQUE (act_id, number)
);

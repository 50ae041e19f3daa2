-- Several accounts instead of one; usage, webhooks, builds; read counts of storages.

ALTER TABLE runs ADD COLUMN user_id TEXT NOT NULL DEFAULT '';
-- The time when its usage becomes final; NULL while it is live and once it is final.
ALTER TABLE runs ADD COLUMN settle_ms INTEGER;
UPDATE runs SET user_id = coalesce((SELECT value FROM account WHERE name = 'user_id'), '');
DROP INDEX runs_by_start;
CREATE INDEX runs_by_start  ON runs (user_id, started_ms);
CREATE INDEX runs_unsettled ON runs (settle_ms) WHERE settle_ms IS NOT NULL;

ALTER TABLE storages ADD COLUMN user_id TEXT NOT NULL DEFAULT '';
ALTER TABLE storages ADD COLUMN reads   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE storages ADD COLUMN lists   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE storages ADD COLUMN deletes INTEGER NOT NULL DEFAULT 0;
-- Of a request queue: its first client, and whether it has had others.
ALTER TABLE storages ADD COLUMN client    TEXT;
ALTER TABLE storages ADD COLUMN is_shared INTEGER NOT NULL DEFAULT 0;
ALTER TABLE storages ADD COLUMN access TEXT;
UPDATE storages SET user_id = coalesce((SELECT value FROM account WHERE name = 'user_id'), '');
DROP INDEX storages_by_name;
CREATE UNIQUE INDEX storages_by_name ON storages (user_id, kind, name) WHERE name IS NOT NULL;

ALTER TABLE tasks RENAME TO tasks_1;
CREATE TABLE tasks (
    seq     INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    name    TEXT NOT NULL COLLATE NOCASE,
    doc     BLOB NOT NULL,
    UNIQUE (user_id, name)
);
INSERT INTO tasks (seq, id, user_id, name, doc)
    SELECT seq, id, coalesce((SELECT value FROM account WHERE name = 'user_id'), ''), name, doc FROM tasks_1;
DROP TABLE tasks_1;

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

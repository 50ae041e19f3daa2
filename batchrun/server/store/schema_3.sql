-- The numbers of storages are never given again: a request that is under way may hold that of a deleted one.

ALTER TABLE storages RENAME TO storages_2;
DROP INDEX storages_by_name;
CREATE TABLE storages (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
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
INSERT INTO storages SELECT * FROM storages_2;
DROP TABLE storages_2;
CREATE UNIQUE INDEX storages_by_name ON storages (user_id, kind, name) WHERE name IS NOT NULL;

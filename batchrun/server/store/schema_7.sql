-- Deleted storages whose contents are still to be removed. They have no row in `storages` any more.
CREATE TABLE deleted_storages (
    storage INTEGER PRIMARY KEY,
    kind    TEXT NOT NULL
);

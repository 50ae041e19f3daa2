-- What an earlier version wrote for a storage while it was deleted has a number that no storage has. No new one gets it.

INSERT INTO sqlite_sequence (name, seq)
    SELECT 'storages', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'storages');
UPDATE sqlite_sequence SET seq = max(
    seq,
    (SELECT coalesce(max(storage), 0) FROM items),
    (SELECT coalesce(max(storage), 0) FROM stored_values),
    (SELECT coalesce(max(storage), 0) FROM requests)
) WHERE name = 'storages';

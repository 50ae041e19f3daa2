-- Schema step 9: the storages that the Run of an attempt names, as JSON; NULL if no other attempt follows, for then they
-- stand in the record's `run`.

ALTER TABLE attempt ADD COLUMN storages TEXT;

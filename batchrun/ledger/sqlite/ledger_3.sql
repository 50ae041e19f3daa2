-- Schema step 3: why a Run is aborted by us, noted before the abort is sent; NULL where it is not.

ALTER TABLE attempt ADD COLUMN abort_type TEXT;
ALTER TABLE attempt ADD COLUMN abort_message TEXT;

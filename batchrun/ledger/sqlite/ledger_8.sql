-- Schema step 8: whether the line of a job is one with `@replaces`. Earlier lines with its key are replaced by it.

ALTER TABLE job ADD COLUMN replaces INTEGER NOT NULL DEFAULT 0;

-- Schema step 7: the lines that repeat the job of another line, so that each is counted once, however often it is read.

CREATE TABLE duplicate (
    line INTEGER NOT NULL,
    variant INTEGER NOT NULL,
    job_id INTEGER NOT NULL REFERENCES job (id),
    PRIMARY KEY (line, variant)
) WITHOUT ROWID;

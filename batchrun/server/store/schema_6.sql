-- Runs of an Actor are counted and listed for one account.
DROP INDEX runs_by_actor;
CREATE INDEX runs_by_actor ON runs (act_id, user_id, started_ms);

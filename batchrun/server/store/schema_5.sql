-- What began a chain: the first Run whose webhook started another one, or the dispatch of a test. NULL: no webhook did.
ALTER TABLE runs ADD COLUMN chain TEXT;
CREATE INDEX runs_by_chain ON runs (chain) WHERE chain IS NOT NULL;

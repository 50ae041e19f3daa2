-- Schema step 6: the Runs' clock, which need not be the one in the answers' Date headers.

-- By the Runs' clock: no Run of the attempt began earlier. NULL where an earlier version has noted the attempt.
-- `platform_time` is the last Date header before the request, by whatever clock.
ALTER TABLE attempt ADD COLUMN not_before REAL;

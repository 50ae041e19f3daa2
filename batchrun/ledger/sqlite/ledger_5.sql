-- Schema step 5: the exit code that a failure reports. Before, it stood at the end of the message only.

ALTER TABLE job ADD COLUMN exit_code INTEGER;
ALTER TABLE past_round ADD COLUMN exit_code INTEGER;

-- The messages stay. In `blocked (exit code 91)`, `said` ends before the bracket and `head` before the number.
UPDATE job SET exit_code = (
    SELECT CAST(substr(said, length(head) + 1) AS INTEGER) * iif(head GLOB '*-', -1, 1)
    FROM (SELECT said, rtrim(said, '0123456789') AS head
        FROM (SELECT substr(error_message, 1, length(error_message) - 1) AS said))
    WHERE head GLOB '* (exit code ' OR head GLOB '* (exit code -'
) WHERE error_message GLOB '* (exit code *[0-9])';
UPDATE past_round SET exit_code = (
    SELECT CAST(substr(said, length(head) + 1) AS INTEGER) * iif(head GLOB '*-', -1, 1)
    FROM (SELECT said, rtrim(said, '0123456789') AS head
        FROM (SELECT substr(error_message, 1, length(error_message) - 1) AS said))
    WHERE head GLOB '* (exit code ' OR head GLOB '* (exit code -'
) WHERE error_message GLOB '* (exit code *[0-9])';

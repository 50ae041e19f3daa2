"""What ended over time: jobs by outcome, jobs reopened by a retry, and what their Runs have cost."""

from datetime import datetime

from batchrun.ledger.sqlite.connection import Connection
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What ended in each of some intervals that follow one another; first of all, what ended before them."""

    succeeded: list[int]
    #: Jobs with another outcome.
    failed: list[int]
    #: Jobs that were reopened for another round, by the same two kinds of outcomes.
    reopened_succeeded: list[int]
    reopened_failed: list[int]
    #: Costs of the Runs that ended.
    cost_usd: list[float]


class DoneOverTime:
    """The ends of jobs and Runs in a ledger, over time."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def flow(self, began_at: datetime, interval_s: float, intervals: int) -> Flow:
        """Return what ended in each interval, of all rounds; what ended after the last one is left out."""
        given = {"began": began_at.timestamp(), "interval": interval_s, "intervals": intervals}
        place = "CASE WHEN at < :began THEN 0 ELSE 1 + CAST((at - :began) / :interval AS INTEGER) END"
        settled = (
            "SELECT settled_at AS at, outcome FROM job WHERE outcome IS NOT NULL"
            " UNION ALL SELECT settled_at, outcome FROM past_round"
        )
        # When the round after it began.
        reopened = (
            "SELECT coalesce(next.admitted_at, job.admitted_at) AS at, past.outcome FROM past_round AS past"
            " JOIN job ON job.id = past.job_id"
            " LEFT JOIN past_round AS next ON next.job_id = past.job_id AND next.round = past.round + 1"
        )
        succeeded, failed, cost_usd = [0] * (intervals + 1), [0] * (intervals + 1), [0.0] * (intervals + 1)
        reopened_succeeded, reopened_failed = [0] * (intervals + 1), [0] * (intervals + 1)
        for moments, successes, others in (
            (settled, succeeded, failed),
            (reopened, reopened_succeeded, reopened_failed),
        ):
            rows = self._db.execute(
                f"SELECT {place} AS number, total(outcome = 'succeeded'), count(*) FROM ({moments})"
                " GROUP BY number HAVING number <= :intervals",
                given,
            )
            with self._db.decoding():
                for number, success_count, count in rows:
                    successes[number], others[number] = int(success_count), count - int(success_count)
        costs = self._db.execute(
            f"SELECT {place} AS number, total(cost_usd) FROM (SELECT finished_at AS at, cost_usd FROM attempt"
            " WHERE state = 'ended' AND finished_at IS NOT NULL) GROUP BY number HAVING number <= :intervals",
            given,
        )
        with self._db.decoding():
            for number, usd in costs:
                cost_usd[number] = usd
        return Flow(
            succeeded=succeeded,
            failed=failed,
            reopened_succeeded=reopened_succeeded,
            reopened_failed=reopened_failed,
            cost_usd=cost_usd,
        )

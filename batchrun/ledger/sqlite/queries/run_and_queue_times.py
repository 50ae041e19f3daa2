"""How long Runs took, and how long jobs waited for their first Run: distributions.

SQLite computes them, in memory that does not grow with the batch. A million jobs take some seconds.
"""

from collections.abc import Sequence
from enum import StrEnum

from batchrun.ledger.sqlite.connection import Connection
from batchrun.runtime.fast_dataclasses import dataclass


class Duration(StrEnum):
    """The lengths of time that are measured, of all rounds; 0 if two clocks disagree about the order of their ends."""

    #: From the start of a Run to its end, of each Run that has ended.
    RUN = "run"
    #: From a job's admission, or the beginning of its round, to the start of its first Run in that round.
    QUEUE = "queue"


_SECONDS = {
    Duration.RUN: (
        "SELECT max(0.0, finished_at - started_at) AS seconds FROM attempt"
        " WHERE started_at IS NOT NULL AND finished_at IS NOT NULL"
    ),
    Duration.QUEUE: (
        "SELECT max(0.0, min(attempt.intended_at) - coalesce(past_round.admitted_at, job.admitted_at)) AS seconds"
        " FROM attempt JOIN job ON job.id = attempt.job_id"
        " LEFT JOIN past_round ON past_round.job_id = attempt.job_id AND past_round.round = attempt.round"
        " WHERE attempt.started_at IS NOT NULL GROUP BY attempt.job_id, attempt.round"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The distribution of some lengths of time, in seconds."""

    count: int
    shortest_s: float
    longest_s: float
    mean_s: float
    #: Percentiles, by their per cent.
    percentiles: dict[int, float]


class Durations:
    """The lengths of time in a ledger."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def spread(self, duration: Duration, per_cents: Sequence[int]) -> Spread | None:
        """Return a distribution with exact percentiles by nearest rank; None if there is no such length of time."""
        count, shortest, longest, mean = self._db.execute(
            f"SELECT count(*), min(seconds), max(seconds), avg(seconds) FROM ({_SECONDS[duration]})"
        ).fetchone()
        if not count:
            return None
        ranks = {per_cent: max(1, -(-count * per_cent // 100)) for per_cent in per_cents}
        marks = ", ".join("?" * len(ranks))
        found = dict(
            self._db.execute(
                "SELECT rank, seconds FROM (SELECT row_number() OVER (ORDER BY seconds) AS rank, seconds"
                f" FROM ({_SECONDS[duration]})) WHERE rank IN ({marks})",
                tuple(ranks.values()),
            )
        )
        percentiles = {per_cent: found[rank] for per_cent, rank in ranks.items()}
        return Spread(count=count, shortest_s=shortest, longest_s=longest, mean_s=mean, percentiles=percentiles)

    def histogram(self, duration: Duration, edges: Sequence[float]) -> list[int]:
        """Count lengths of time between ascending edges, in seconds; the first and last count include all outside."""
        inner = edges[1:-1]
        bucket = _bucket(0, len(inner))
        given = {f"edge_{number}": edge for number, edge in enumerate(inner)}
        rows = dict(
            self._db.execute(f"SELECT {bucket} AS bucket, count(*) FROM ({_SECONDS[duration]}) GROUP BY 1", given)
        )
        return [rows.get(number, 0) for number in range(len(inner) + 1)]


def _bucket(first: int, last: int) -> str:
    """Return the expression that finds the bucket of `seconds`, `first` to `last`, by halving."""
    if first == last:
        return str(first)
    middle = (first + last) // 2
    below, above = _bucket(first, middle), _bucket(middle + 1, last)
    return f"CASE WHEN seconds < :edge_{middle} THEN {below} ELSE {above} END"

"""How many Runs were live over time: when any was, and how many on average."""

from datetime import datetime
from itertools import accumulate

from batchrun.ledger.sqlite.connection import Connection
from batchrun.ledger.sqlite.row_values import time_of

#: The time in which each Run was live; until a given time if it has not ended.
_LIVE = (
    "SELECT started_at AS began, max(started_at, coalesce(finished_at, :until)) AS ended FROM attempt"
    " WHERE started_at IS NOT NULL"
)


class LiveRunsOverTime:
    """The live Runs in a ledger, over time."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def stretches(self, until: datetime, min_idle_s: float, max_stretches: int) -> list[tuple[datetime, datetime]]:
        """Return the stretches of time with live Runs, in order.

        Args:
            until: the end of Runs that have not ended.
            min_idle_s: shorter times without a live Run do not end a stretch.
            max_stretches: if there are more, those with the shortest times between them are joined.
        """
        given = {"until": until.timestamp()}
        first, last = self._db.execute(f"SELECT min(began), max(ended) FROM ({_LIVE})", given).fetchone()
        if first is None:
            return []
        idle = self._db.execute(
            "SELECT idle_from, began FROM (SELECT began, max(ended) OVER"
            f" (ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS idle_from FROM ({_LIVE}))"
            " WHERE began - idle_from > :min_idle ORDER BY began - idle_from DESC LIMIT :gaps",
            {**given, "min_idle": min_idle_s, "gaps": max_stretches - 1},
        )
        gaps = sorted(idle.fetchall())
        begins, ends = [first, *(end for _, end in gaps)], [*(begin for begin, _ in gaps), last]
        with self._db.decoding():
            return [(time_of(begin), time_of(end)) for begin, end in zip(begins, ends, strict=True)]

    def averages(self, began_at: datetime, interval_s: float, intervals: int, until: datetime) -> list[float]:
        """Return the average number of live Runs in each of some intervals that follow one another.

        Runs that have not ended count as live until `until`.
        """
        began = began_at.timestamp()
        given = {"began": began, "interval": interval_s, "until": until.timestamp()}
        starts, ends = (self._changes(moment, given, intervals) for moment in ("began", "ended"))
        level = float(
            self._db.execute(
                f"SELECT count(*) FROM ({_LIVE}) WHERE began < :began AND ended >= :began",
                {"began": began, "until": until.timestamp()},
            ).fetchone()[0]
        )
        changes = [begun[0] - ended[0] for begun, ended in zip(starts, ends, strict=True)]
        levels = accumulate(changes, initial=level)
        # A Run that starts within an interval counts for the rest of it.
        return [
            max(0.0, before + begun[1] - ended[1]) for before, begun, ended in zip(levels, starts, ends, strict=False)
        ]

    def _changes(self, moment: str, given: dict[str, float], intervals: int) -> list[tuple[int, float]]:
        """Return the number of Runs that began or ended in each interval, and the sum of the parts of it after that."""
        rows = self._db.execute(
            f"SELECT number, count(*), sum(number + 1 - place) FROM (SELECT place, CAST(place AS INTEGER) AS number"
            f" FROM (SELECT ({moment} - :began) / :interval AS place FROM ({_LIVE})) WHERE place >= 0)"
            " WHERE number < :intervals GROUP BY number",
            {**given, "intervals": intervals},
        )
        found = {number: (count, left) for number, count, left in rows}
        return [found.get(number, (0, 0.0)) for number in range(intervals)]

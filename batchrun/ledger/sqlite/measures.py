"""Measures of the times in a ledger: durations of Runs, waits of jobs, and the number of live Runs over time.

SQLite computes them all, in memory that does not grow with the batch. A million jobs take some seconds.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from itertools import accumulate

from batchrun.ledger.sqlite.connection import Connection
from batchrun.ledger.sqlite.row_values import time_of
from batchrun.model import JobKey, Outcome, RunId, RunStatus
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
#: The time in which each Run was live; until a given time if it has not ended.
_LIVE = (
    "SELECT started_at AS began, max(started_at, coalesce(finished_at, :until)) AS ended FROM attempt"
    " WHERE started_at IS NOT NULL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The distribution of some lengths of time, in seconds."""

    count: int
    shortest_s: float
    longest_s: float
    mean_s: float
    #: Percentiles, by their per cent.
    percentiles: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The first and the last moment of a batch."""

    #: The admission of its first job.
    began_at: datetime
    #: The latest time in the ledger, on this machine's clock or the platform's.
    last_noted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRun:
    """One of the Runs that took longest."""

    key: JobKey
    group: str | None
    run_id: RunId
    status: RunStatus | None
    run_s: float
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A Run of an open job that is not known to have ended."""

    key: JobKey
    line: int
    group: str | None
    attempt_no: int
    run_id: RunId
    started_at: datetime | None
    memory_mb: int | None
    #: The Run's own time limit.
    timeout_s: int | None
    #: As the platform said last; None: unknown.
    cost_usd: float | None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCount:
    """The number of jobs in one group."""

    group: str | None
    outcomes: dict[Outcome, int]
    open_jobs: int

    @property
    def jobs(self) -> int:
        """All jobs of the group."""
        return self.open_jobs + sum(self.outcomes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The number of attempts of all rounds."""

    #: Attempts that started a Run.
    runs: int
    #: Attempts that were not the first of their job in its round.
    repeated: int


class Measures:
    """Reads measures from an open ledger; `LedgerReader.measures` returns them."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def times(self) -> Times | None:
        """Return the first and the last moment of the batch; None if nothing was admitted yet."""
        began, last = self._db.execute(
            "SELECT min(admitted_at), max(max(admitted_at), coalesce(max(settled_at), 0)) FROM job"
        ).fetchone()
        # The first admission of a job in a later round stands in its first round.
        earlier = self._db.execute("SELECT min(admitted_at) FROM past_round").fetchone()[0]
        of_runs = self._db.execute("SELECT max(max(intended_at), coalesce(max(finished_at), 0)) FROM attempt")
        if began is None:
            return None
        noted = of_runs.fetchone()[0] or 0.0
        return Times(began_at=time_of(min(began, earlier or began)), last_noted_at=time_of(max(last, noted)))

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

    def live_stretches(self, until: datetime, min_idle_s: float, max_stretches: int) -> list[tuple[datetime, datetime]]:
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
        return [(time_of(begin), time_of(end)) for begin, end in zip(begins, ends, strict=True)]

    def live_runs(self, began_at: datetime, interval_s: float, intervals: int, until: datetime) -> list[float]:
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

    def slowest(self, limit: int) -> list[SlowRun]:
        """Return the Runs that took longest, longest first."""
        rows = self._db.execute(
            'SELECT job.key, job."group", attempt.run_id, attempt.status, attempt.finished_at - attempt.started_at'
            " AS run_s, attempt.cost_usd FROM attempt JOIN job ON job.id = attempt.job_id"
            " WHERE run_s IS NOT NULL ORDER BY run_s DESC, job.id LIMIT ?",
            (limit,),
        )
        return [
            SlowRun(
                key=JobKey(row[0]),
                group=row[1],
                run_id=RunId(row[2]),
                status=RunStatus(row[3]) if row[3] is not None else None,
                run_s=max(0.0, row[4]),
                cost_usd=row[5],
            )
            for row in rows
        ]

    def open_runs(self, offset: int, limit: int, search: str = "") -> tuple[list[OpenRun], int]:
        """Return some Runs of open jobs, those that started first at the top, and the number of all.

        Args:
            offset: Runs to leave out.
            limit: most Runs to return.
            search: a Run's id, or a part of a job's key or group; empty: all.
        """
        of_open = (
            "FROM attempt JOIN job ON job.id = attempt.job_id WHERE attempt.state = 'bound' AND attempt.attempt_no > 0"
            " AND job.outcome IS NULL AND (:search = '' OR run_id = :search OR instr(lower(job.key), lower(:search))"
            " OR instr(lower(coalesce(job.\"group\", '')), lower(:search)))"
        )
        rows = self._db.execute(
            'SELECT job.key, job.line, job."group", attempt_no, run_id, started_at, memory_mb, timeout_s, cost_usd'
            f" {of_open} ORDER BY started_at IS NULL, started_at, run_id LIMIT :limit OFFSET :offset",
            {"search": search, "limit": limit, "offset": offset},
        )
        found = [
            OpenRun(
                key=JobKey(row[0]),
                line=row[1],
                group=row[2],
                attempt_no=row[3],
                run_id=RunId(row[4]),
                started_at=time_of(row[5]) if row[5] is not None else None,
                memory_mb=row[6],
                timeout_s=row[7],
                cost_usd=row[8],
            )
            for row in rows
        ]
        total: int = self._db.execute(f"SELECT count(*) {of_open}", {"search": search}).fetchone()[0]
        return found, total

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
            for number, success_count, count in rows:
                successes[number], others[number] = int(success_count), count - int(success_count)
        costs = self._db.execute(
            f"SELECT {place} AS number, total(cost_usd) FROM (SELECT finished_at AS at, cost_usd FROM attempt"
            " WHERE state = 'ended' AND finished_at IS NOT NULL) GROUP BY number HAVING number <= :intervals",
            given,
        )
        for number, usd in costs:
            cost_usd[number] = usd
        return Flow(
            succeeded=succeeded,
            failed=failed,
            reopened_succeeded=reopened_succeeded,
            reopened_failed=reopened_failed,
            cost_usd=cost_usd,
        )

    def attempts(self) -> Attempts:
        """Count the attempts."""
        made, runs, first = self._db.execute(
            "SELECT count(*), count(run_id), (SELECT count(*) FROM (SELECT 1 FROM attempt GROUP BY job_id, round))"
            " FROM attempt"
        ).fetchone()
        return Attempts(runs=runs, repeated=made - first)

    def rounds(self) -> list[dict[Outcome, int]]:
        """Return the number of jobs that were settled in each round, by outcome, from round 1 on."""
        rows = self._db.execute(
            "SELECT round, outcome, count(*) FROM (SELECT round, outcome FROM job WHERE outcome IS NOT NULL"
            " UNION ALL SELECT round, outcome FROM past_round) GROUP BY 1, 2"
        ).fetchall()
        last = max((row[0] for row in rows), default=0)
        found: list[dict[Outcome, int]] = [{} for _ in range(last)]
        for number, outcome, count in rows:
            found[number - 1][Outcome(outcome)] = count
        return found

    def largest_groups(self, limit: int) -> list[GroupCount]:
        """Return the groups with the most jobs. Jobs without a group form one of them; bad lines belong to none."""
        rows = self._db.execute(
            'WITH largest AS (SELECT "group" AS name FROM job WHERE key IS NOT NULL GROUP BY 1'
            ' ORDER BY count(*) DESC, 1 LIMIT ?) SELECT "group", outcome, count(*) FROM job'
            ' JOIN largest ON largest.name IS job."group" WHERE key IS NOT NULL GROUP BY 1, 2',
            (limit,),
        )
        groups: dict[str | None, dict[Outcome | None, int]] = {}
        for name, outcome, count in rows:
            groups.setdefault(name, {})[Outcome(outcome) if outcome is not None else None] = count
        counted = [
            GroupCount(
                group=name,
                outcomes={outcome: count for outcome, count in of_group.items() if outcome is not None},
                open_jobs=of_group.get(None, 0),
            )
            for name, of_group in groups.items()
        ]
        return sorted(counted, key=lambda each: -each.jobs)

    def count_groups(self) -> int:
        """Return the number of named groups."""
        count: int = self._db.execute('SELECT count(DISTINCT "group") FROM job').fetchone()[0]
        return count


def _bucket(first: int, last: int) -> str:
    """Return the expression that finds the bucket of `seconds`, `first` to `last`, by halving."""
    if first == last:
        return str(first)
    middle = (first + last) // 2
    below, above = _bucket(first, middle), _bucket(middle + 1, last)
    return f"CASE WHEN seconds < :edge_{middle} THEN {below} ELSE {above} END"

"""The ledger's tables as they are read, by their writer or another process beside it: synchronous functions."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from batchrun.errors import DamagedLedger, LedgerError
from batchrun.ledger.facts import IDENTITY, Fact
from batchrun.ledger.protocol import (
    Duplicate,
    MarkedAttempt,
    Money,
    OpenCost,
    OpenJob,
    SettledJob,
    Totals,
)
from batchrun.ledger.sqlite.connection import Connection, is_blank, is_missing, open_connection
from batchrun.ledger.sqlite.queries.batch_times import Times, times_of
from batchrun.ledger.sqlite.queries.cost_groups import CostGroups
from batchrun.ledger.sqlite.queries.done_over_time import DoneOverTime
from batchrun.ledger.sqlite.queries.failed_jobs import FailedJobs
from batchrun.ledger.sqlite.queries.foreign_values import foreign_value
from batchrun.ledger.sqlite.queries.largest_groups import GroupCounts
from batchrun.ledger.sqlite.queries.live_runs_over_time import LiveRunsOverTime
from batchrun.ledger.sqlite.queries.open_runs import OpenRuns
from batchrun.ledger.sqlite.queries.round_counts import RoundCounts, checked_round
from batchrun.ledger.sqlite.queries.run_and_queue_times import Durations
from batchrun.ledger.sqlite.queries.slowest_runs import SlowRun, slowest_runs_of
from batchrun.ledger.sqlite.row_values import (
    ATTEMPT_COLUMNS,
    SETTLED_COLUMNS,
    attempt_of,
    cost_source_of,
    settled_job_of,
    time_of,
)
from batchrun.ledger.sqlite.schema_version import check_schema
from batchrun.model import (
    CLOCK_DOUBT,
    RUN_UNREADABLE,
    Attempt,
    AttemptState,
    JobId,
    JobKey,
    JsonObject,
    Mark,
    Outcome,
    Position,
    RunId,
    read_json,
)
from batchrun.output.layout import LEDGER
from batchrun.policy.failure_cause import failure_id

T = TypeVar("T")

_OPEN_JOBS = (
    'SELECT id, key, digest, line, variant, "offset", length, round, admitted_at, due_at FROM job WHERE outcome IS NULL'
)
#: Whether a job has an attempt in its round, or waits for one.
IS_BEGUN = (
    "(due_at IS NOT NULL OR EXISTS (SELECT 1 FROM attempt WHERE attempt.job_id = job.id AND attempt.round = job.round))"
)


class LedgerReader:
    """The ledger of one batch for readers; `open_for_reading` opens it."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._db.create_function("failure_id", 4, failure_id, deterministic=True)
        row = self._db.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()
        self._last_job_id: int = row[0]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside be of one moment, although another process writes."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def fact(self, fact: Fact[T]) -> T | None:
        row = self._db.execute("SELECT value FROM batch WHERE name = ?", (fact.name,)).fetchone()
        with self._db.decoding():
            noted = None if row is None else read_json(row[0])
            return None if noted is None else fact.from_json(noted)

    def check(self) -> None:
        """Check the whole file; takes seconds for a million jobs.

        Raises:
            DamagedLedger: It contradicts itself.
        """
        (found,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise DamagedLedger(f"{self._db.file}: is damaged ({found})")

    def check_types(self) -> None:
        """Check that each value has the type of its column; takes a second for a million jobs.

        Raises:
            DamagedLedger: Another program has written to it.
        """
        if (found := foreign_value(self._db)) is not None:
            raise self._db.damage(found)

    def all_facts(self) -> dict[str, str]:
        """Return all facts as JSON, by name."""
        return dict(self._db.execute("SELECT name, value FROM batch").fetchall())

    def names_of(self, job_ids: Sequence[JobId]) -> dict[JobId, tuple[JobKey, int]]:
        """Return the keys and lines of jobs."""
        marks = ",".join("?" * len(job_ids))
        rows = self._db.execute(f"SELECT id, key, line FROM job WHERE id IN ({marks})", job_ids).fetchall()
        return {job_id: (key, line) for job_id, key, line in rows}

    def digest_of(self, key: JobKey) -> bytes | None:
        """Return the digest of a job's content; None: there is no such job."""
        row = self._db.execute("SELECT digest FROM job WHERE key = ?", (key,)).fetchone()
        return row[0] if row is not None else None

    def position_of(self, run_id: RunId) -> Position | None:
        """Return where a Run's job is in the job file; None: no attempt has this Run."""
        row = self._db.execute(
            'SELECT line, variant, "offset", length FROM attempt JOIN job ON job.id = job_id WHERE run_id = ?',
            (run_id,),
        ).fetchone()
        if row is None:
            return None
        return Position(line=row[0], variant=row[1], offset=row[2], length=row[3])

    def id_of(self, key: JobKey) -> JobId | None:
        """Return the job with a key; None if there is none."""
        row = self._db.execute("SELECT id FROM job WHERE key = ?", (key,)).fetchone()
        return None if row is None else JobId(row[0])

    def rows_of(self, table: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Return the columns and the rows of a table."""
        cursor = self._db.execute(f"SELECT * FROM {table}")
        return [column[0] for column in cursor.description], iter(cursor)

    def output_lengths(self) -> dict[str, int]:
        """Return the committed length of each output file, in bytes."""
        return dict(self._db.execute("SELECT name, length FROM output"))

    def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        rows = self._db.execute(
            "SELECT job_id, attempt_no, run_id, started_at, finished_at, coalesce(reserved_usd, cost_usd), cost_usd,"
            " cost_source FROM attempt"
            " WHERE cost_is_final = 0 AND state = 'ended' AND run_id IS NOT NULL AND finished_at < ?"
            " ORDER BY finished_at LIMIT ?",
            (ended_before.timestamp(), limit),
        )
        return [
            OpenCost(
                job_id=JobId(row[0]),
                attempt_no=row[1],
                run_id=RunId(row[2]),
                started_at=time_of(row[3]),
                finished_at=time_of(row[4]),
                reserved_usd=row[5],
                cost_usd=row[6],
                cost_source=cost_source_of(row[7]),
            )
            for row in rows
        ]

    def money(self) -> Money:
        """Return the spending of the batch so far."""
        spent, reserved, open_runs, known_costs, most_excess = self._db.execute(
            "SELECT total(CASE WHEN cost_is_final THEN coalesce(cost_usd, reserved_usd) END),"
            " total(CASE WHEN NOT cost_is_final THEN coalesce(reserved_usd, cost_usd) END),"
            # A live Run without a reservation gets one when it is taken up. A second Run has none.
            " total(NOT cost_is_final AND (state = 'ended' OR reserved_usd IS NOT NULL) AND attempt_no > 0),"
            " total(cost_is_final AND cost_usd IS NOT NULL AND reserved_usd IS NOT NULL AND attempt_no > 0),"
            " max(iif(attempt_no > 0, cost_usd - reserved_usd, 0))"
            # An attempt that ended without a Run has started none.
            " FROM attempt WHERE state != 'ended' OR run_id IS NOT NULL"
        ).fetchone()
        return Money(
            spent_usd=spent,
            reserved_usd=reserved,
            open_runs=int(open_runs),
            known_costs=int(known_costs),
            most_excess_usd=max(0.0, most_excess or 0.0),
        )

    def open_jobs(self) -> list[OpenJob]:
        return self._decoded_jobs(self._db.execute(f"{_OPEN_JOBS} ORDER BY id").fetchall())

    def open_job(self, job_id: JobId) -> OpenJob:
        (job,) = self._decoded_jobs(self._db.execute(f"{_OPEN_JOBS} AND id = ?", (job_id,)).fetchall())
        return job

    def begun_jobs(self) -> list[OpenJob]:
        rows = self._db.execute(f"{_OPEN_JOBS} AND {IS_BEGUN} ORDER BY id").fetchall()
        return self._decoded_jobs(rows)

    def unbegun_jobs(self, after: JobId, limit: int) -> list[OpenJob]:
        rows = self._db.execute(
            f"{_OPEN_JOBS} AND NOT {IS_BEGUN} AND id > ? ORDER BY id LIMIT ?", (after, limit)
        ).fetchall()
        return self._decoded_jobs(rows)

    def _decoded_jobs(self, rows: Sequence[Sequence[Any]]) -> list[OpenJob]:
        with self._db.decoding():
            return [self._open_job(row) for row in rows]

    def _open_job(self, row: Sequence[Any]) -> OpenJob:
        return OpenJob(
            id=JobId(row[0]),
            key=JobKey(row[1]),
            digest=row[2],
            position=Position(line=row[3], variant=row[4], offset=row[5], length=row[6]),
            round=row[7],
            admitted_at=time_of(row[8]),
            due_at=time_of(row[9]) if row[9] is not None else None,
            attempts=tuple(self.attempts(JobId(row[0]))),
        )

    def settled_jobs(self, round: int) -> Iterator[SettledJob]:  # noqa: A002 - the ledger's own word
        """Yield the jobs and bad lines that were settled in a round, in order of admission and in one pass."""
        rows = self._db.execute(
            f"SELECT {SETTLED_COLUMNS} FROM job JOIN job AS it USING (id)"
            " WHERE it.round = :round AND it.outcome IS NOT NULL"
            f" UNION ALL SELECT {SETTLED_COLUMNS} FROM past_round AS it JOIN job ON job.id = it.job_id"
            " WHERE it.round = :round ORDER BY 1",
            {"round": round},
        )
        with self._db.decoding():
            yield from map(settled_job_of, rows)

    def settled_id(self, key: JobKey | None, line: int, round: int) -> JobId | None:  # noqa: A002 - likewise
        """Return the job of a record, by key and round, or by line for a bad line; None if there is none."""
        if key is None:
            row = self._db.execute("SELECT id FROM job WHERE key IS NULL AND line = ?", (line,)).fetchone()
        else:
            row = self._db.execute(
                "SELECT id FROM job WHERE key = :key AND (round = :round AND outcome IS NOT NULL"
                " OR EXISTS (SELECT 1 FROM past_round AS past WHERE past.job_id = job.id AND past.round = :round))",
                {"key": key, "round": round},
            ).fetchone()
        return JobId(row[0]) if row is not None else None

    def last_round(self) -> int:
        """Return the highest round of all jobs."""
        row = self._db.execute("SELECT max(round) FROM job").fetchone()
        with self._db.decoding():
            return checked_round(row[0] or 1)

    def duplicates(self) -> Iterator[Duplicate]:
        """Yield the lines whose jobs are those of other lines, in their order, in one pass."""
        rows = self._db.execute(
            "SELECT duplicate.line, key, job.line FROM duplicate JOIN job ON job.id = job_id"
            " ORDER BY duplicate.line, duplicate.variant"
        )
        return (Duplicate(line=line, key=JobKey(key), repeats=first) for line, key, first in rows)

    def attempts(self, job_id: JobId) -> list[Attempt]:
        """Return a job's attempts, in order."""
        rows = self._db.execute(
            f"SELECT {ATTEMPT_COLUMNS} FROM attempt"
            # Numbers below 0 are those of second Runs.
            " WHERE job_id = ? AND attempt_no > 0 ORDER BY attempt_no",
            (job_id,),
        )
        with self._db.decoding():
            return [attempt_of(row) for row in rows]

    def has_attempt(self, key: str | None, attempt_no: int) -> bool:
        """Return whether a job has an attempt with this number."""
        rows = self._db.execute(
            "SELECT 1 FROM job JOIN attempt ON attempt.job_id = job.id WHERE job.key = ? AND attempt.attempt_no = ?",
            (key, attempt_no),
        )
        return rows.fetchone() is not None

    def known_runs(self, run_ids: Collection[RunId]) -> set[RunId]:
        rows = self._db.execute(
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM attempt WHERE run_id = value)",
            (orjson.dumps(list(run_ids)).decode(),),
        )
        return {RunId(row[0]) for row in rows}

    def attempts_marked(self, marks: Collection[Mark]) -> dict[Mark, MarkedAttempt]:
        rows = self._db.execute(
            "SELECT mark, job.key, state, run_id FROM attempt JOIN job ON job.id = job_id"
            " WHERE mark IN (SELECT value FROM json_each(?)) AND attempt_no > 0",
            (orjson.dumps(list(marks)).decode(),),
        )
        return {
            Mark(mark): MarkedAttempt(job_key=JobKey(key), state=AttemptState(state), run_id=run_id and RunId(run_id))
            for mark, key, state, run_id in rows
        }

    def first_start(self) -> datetime | None:
        """Return the time on the Runs' clock before which no Run of any attempt can have begun; None: there is none."""
        (at,) = self._db.execute(
            "SELECT min(coalesce(not_before, min(intended_at, coalesce(platform_time, intended_at)) - ?)) FROM attempt"
            " WHERE attempt_no > 0",
            (CLOCK_DOUBT.total_seconds(),),
        ).fetchone()
        return None if at is None else time_of(at)

    def bound_runs(self) -> list[RunId]:
        rows = self._db.execute("SELECT run_id FROM attempt WHERE state = 'bound' ORDER BY job_id, attempt_no")
        return [RunId(row[0]) for row in rows]

    def given_up_runs(self) -> list[RunId]:
        """Return the Runs of settled jobs that could not be followed to their end: they may be live."""
        rows = self._db.execute(
            "SELECT run_id FROM job JOIN attempt ON attempt.job_id = job.id AND attempt.round = job.round"
            f" WHERE job.error_type = '{RUN_UNREADABLE}' AND attempt.state = 'bound' ORDER BY job_id"
        )
        return [RunId(row[0]) for row in rows]

    def open_beyond(self, count: int) -> int:
        """Return the number of open jobs that were admitted after the first `count` jobs."""
        row = self._db.execute("SELECT count(*) FROM job WHERE outcome IS NULL AND id > ?", (count,)).fetchone()
        return int(row[0])

    def count_jobs(self) -> int:
        """Return the number of all jobs, bad lines among them."""
        return int(self._db.execute("SELECT count(*) FROM job").fetchone()[0])

    @property
    def is_empty(self) -> bool:
        """True if no line of the job file was admitted yet."""
        return self._last_job_id == 0

    def totals(self) -> Totals:
        """Add up all jobs."""
        items, empty, open_jobs = self._db.execute(
            "SELECT total(items_count), total(outcome = 'succeeded' AND items_count = 0), total(outcome IS NULL)"
            " FROM job"
        ).fetchone()
        earlier_items, earlier_records = self._db.execute(
            "SELECT total(items_count), count(*) FROM past_round"
        ).fetchone()
        costs = self.costs.total()
        second_runs = self._db.execute("SELECT count(*) FROM attempt WHERE attempt_no < 0").fetchone()[0]
        live, in_doubt = self._db.execute(
            "SELECT total(attempt.state = 'bound'), total(attempt.state = 'intended')"
            " FROM job JOIN attempt ON attempt.job_id = job.id WHERE job.outcome IS NULL AND attempt.state != 'ended'"
        ).fetchone()
        return Totals(
            items=int(items + earlier_items),
            earlier_records=earlier_records,
            empty_successes=int(empty),
            cost_usd=costs.cost_usd,
            unknown_costs=costs.unknown_costs,
            open_costs=costs.open_costs,
            open_jobs=int(open_jobs),
            live_runs=int(live),
            in_doubt=int(in_doubt),
            second_runs=second_runs,
        )

    @property
    def costs(self) -> CostGroups:
        """What ended Runs have cost."""
        return CostGroups(self._db)

    @property
    def failed_jobs(self) -> FailedJobs:
        """Jobs that did not succeed."""
        return FailedJobs(self._db)

    @property
    def open_runs(self) -> OpenRuns:
        """Runs of open jobs that are not known to have ended."""
        return OpenRuns(self._db)

    @property
    def durations(self) -> Durations:
        """How long Runs took, and how long jobs waited."""
        return Durations(self._db)

    @property
    def live_runs(self) -> LiveRunsOverTime:
        """How many Runs were live over time."""
        return LiveRunsOverTime(self._db)

    @property
    def done(self) -> DoneOverTime:
        """What ended over time."""
        return DoneOverTime(self._db)

    @property
    def groups(self) -> GroupCounts:
        """The groups with the most jobs, and how many jobs each has."""
        return GroupCounts(self._db)

    @property
    def rounds(self) -> RoundCounts:
        """What each round settled, and how many attempts were made."""
        return RoundCounts(self._db)

    def slowest_runs(self, limit: int) -> list[SlowRun]:
        """Return the Runs that took longest, longest first."""
        return slowest_runs_of(self._db, limit)

    def times(self) -> Times | None:
        """Return the first and the last moment of the batch; None if nothing was admitted yet."""
        return times_of(self._db)

    def count_outcomes(self) -> dict[Outcome, int]:
        """Return the number of settled jobs by outcome."""
        rows = self._db.execute(
            # The most frequent outcome is counted apart, which saves sorting a million rows.
            "SELECT outcome, count(*) FROM job WHERE outcome = 'succeeded' HAVING count(*)"
            " UNION ALL SELECT outcome, count(*) FROM job WHERE outcome != 'succeeded' GROUP BY outcome"
        )
        with self._db.decoding():
            return {Outcome(outcome): count for outcome, count in rows}


@contextmanager
def open_for_reading(directory: Path) -> Iterator[LedgerReader]:
    """Open a batch's ledger for reading, even while another process writes it.

    Raises:
        LedgerError: There is none, or it is damaged.
    """
    file = directory / LEDGER
    if is_missing(file):
        raise LedgerError(f"{directory}: holds no ledger; {_advice(directory)}")
    with open_connection(file, mode="ro") as connection:
        check_schema(connection, file)
        yield LedgerReader(connection)


def is_begun(directory: Path) -> bool:
    """True if a ledger in this directory, of whatever version, has admitted a line."""
    file = directory / LEDGER
    if is_blank(file):
        return False
    with open_connection(file, mode="ro") as connection:
        return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM job)").fetchone()[0])


def begun_identity(directory: Path) -> JsonObject | None:
    """Return what identifies the batch of a ledger in this directory, of whatever version; None: no batch is begun."""
    if not is_begun(directory):
        return None
    with open_connection(directory / LEDGER, mode="ro") as connection:
        row = connection.execute("SELECT value FROM batch WHERE name = ?", (IDENTITY.name,)).fetchone()
    return {} if row is None else IDENTITY.from_json(read_json(row[0]))


def _advice(directory: Path) -> str:
    if directory.is_file():
        return f"a batch is named by its output directory, like {directory.with_suffix('.out').name}"
    return "is it the output directory of a batch?"

"""The ledger's tables as plain synchronous functions over one SQLite connection.

The writer calls them inside `transaction()`; readers (`open_for_reading`) look on beside a running batch. Wall
time is stamped here and nowhere else. It knows nothing of files, HTTP or the event loop.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from batchrun.errors import LedgerError
from batchrun.ledger.connection import Connection, apply_schema_steps, open_connection
from batchrun.ledger.rows import Known, OpenJob, SettledJob, Settlement, Totals
from batchrun.model import (
    Attempt,
    AttemptState,
    BadLine,
    Job,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Place,
    Run,
    RunId,
    RunStatus,
)

FILE_NAME = "ledger.sqlite3"


class Ledger:
    """One batch's ledger; open it with `open_ledger` or `open_for_reading`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        row = self._db.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()
        self._last_job_id: int = row[0]
        self._now = 0.0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what happens inside as one, durably, or none of it; everything in it bears one time."""
        self._now = datetime.now(UTC).timestamp()
        last_job_id = self._last_job_id
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._last_job_id = last_job_id
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def fact(self, name: str) -> Any:
        """Return a fact about the batch, or None."""
        row = self._db.execute("SELECT value FROM batch WHERE name = ?", (name,)).fetchone()
        return None if row is None else orjson.loads(row[0])

    def note_fact(self, name: str, value: Any) -> None:
        """Note a fact about the batch (JSON), in place of what was noted before."""
        self._db.execute(
            "INSERT INTO batch VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (name, orjson.dumps(value).decode()),
        )

    def output_lengths(self) -> dict[str, int]:
        """Return how long each output file is good, by name."""
        return dict(self._db.execute("SELECT name, length FROM output"))

    def note_output_lengths(self, lengths: dict[str, int]) -> None:
        """Note how long output files are good from here on."""
        self._db.executemany(
            "INSERT INTO output VALUES (?, ?) ON CONFLICT DO UPDATE SET length = excluded.length",
            lengths.items(),
        )

    def admit(self, job: Job) -> "OpenJob | Known":
        """Note a job that is to be carried out, unless its key stands in the ledger already."""
        job_id = self._insert_job(job.key, job.digest, job.place, job.group)
        if job_id is None:
            return self._known(job)
        return OpenJob(
            id=job_id,
            key=job.key,
            digest=job.digest,
            place=job.place,
            round=1,
            admitted_at=_time(self._now),
            due_at=None,
            attempts=(),
        )

    def _known(self, job: Job) -> Known:
        digest, line, variant = self._db.execute(
            "SELECT digest, line, variant FROM job WHERE key = ?", (job.key,)
        ).fetchone()
        return Known(
            is_same_line=(line, variant) == (job.place.line, job.place.variant),
            is_same_content=digest == job.digest,
            line=line,
        )

    def admit_bad_line(self, bad_line: BadLine) -> JobId | None:
        """Note a bad line, without a key; None when it was noted before."""
        return self._insert_job(None, b"", bad_line.place, None)

    def _insert_job(self, key: JobKey | None, digest: bytes, place: Place, group: str | None) -> JobId | None:
        job_id = self._last_job_id + 1
        is_new = self._db.execute(
            'INSERT INTO job (id, key, digest, line, variant, "offset", length, "group", admitted_at)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (job_id, key, digest, place.line, place.variant, place.offset, place.length, group, self._now),
        ).rowcount
        if not is_new:
            return None
        self._last_job_id = job_id
        return JobId(job_id)

    def postpone(self, job_id: JobId, wait_s: float) -> None:
        """Note that a job is not to be tried again for `wait_s` seconds."""
        self._db.execute("UPDATE job SET due_at = ? WHERE id = ?", (self._now + wait_s, job_id))

    def settle(self, job_id: JobId, settlement: Settlement) -> None:
        """Note a job's outcome, once per round."""
        changed = self._db.execute(
            "UPDATE job SET settled_at = ?, outcome = ?, error_type = ?, error_message = ?, items_count = ?,"
            " cost_usd = ? WHERE id = ? AND outcome IS NULL",
            (
                self._now,
                settlement.outcome,
                settlement.error_type,
                settlement.error_message,
                settlement.items_count,
                settlement.cost_usd,
                job_id,
            ),
        ).rowcount
        if changed != 1:
            raise LedgerError(f"job {job_id} is settled already: this is a bug, please report it")

    def intend(self, job_id: JobId, attempt_no: int, mark: Mark, platform_time: datetime | None) -> Attempt:
        """Note an attempt before its start request is sent."""
        self._db.execute(
            "INSERT INTO attempt (job_id, attempt_no, mark, state, intended_at, platform_time)"
            " VALUES (?, ?, ?, 'intended', ?, ?)",
            (job_id, attempt_no, mark, self._now, platform_time.timestamp() if platform_time is not None else None),
        )
        return Attempt(
            attempt_no=attempt_no,
            mark=mark,
            state=AttemptState.INTENDED,
            intended_at=_time(self._now),
            platform_time=platform_time,
        )

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        """Take back an intent whose request certainly started nothing."""
        self._db.execute(
            "DELETE FROM attempt WHERE job_id = ? AND attempt_no = ? AND state = 'intended'",
            (job_id, attempt_no),
        )

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        """Note the id of the Run that an attempt started."""
        self._db.execute(
            "UPDATE attempt SET state = 'bound', run_id = ?, started_at = ? WHERE job_id = ? AND attempt_no = ?",
            (run.id, run.started_at.timestamp(), job_id, attempt_no),
        )

    def end(self, job_id: JobId, attempt_no: int, run: Run | None) -> None:
        """Note how an attempt ended; without a Run, that it started none or that its Run is gone."""
        self._db.execute(
            "UPDATE attempt SET state = 'ended', status = ?, finished_at = ?, cost_usd = ?"
            " WHERE job_id = ? AND attempt_no = ?",
            (
                run.status if run is not None else None,
                run.finished_at.timestamp() if run is not None and run.finished_at is not None else None,
                run.cost_usd if run is not None else None,
                job_id,
                attempt_no,
            ),
        )

    def note_items(self, job_id: JobId, attempt_no: int, items_offset: int, items_count: int) -> None:
        """Note up to where an attempt's dataset stands in the item file, and how many lines it has there."""
        self._db.execute(
            "UPDATE attempt SET items_offset = ?, items_count = ? WHERE job_id = ? AND attempt_no = ?",
            (items_offset, items_count, job_id, attempt_no),
        )

    def open_jobs(self) -> list[OpenJob]:
        """Return the jobs that are admitted and not settled, in order of admission."""
        rows = self._db.execute(
            'SELECT id, key, digest, line, variant, "offset", length, round, admitted_at, due_at'
            " FROM job WHERE outcome IS NULL ORDER BY id"
        ).fetchall()
        return [
            OpenJob(
                id=JobId(row[0]),
                key=JobKey(row[1]),
                digest=row[2],
                place=Place(line=row[3], variant=row[4], offset=row[5], length=row[6]),
                round=row[7],
                admitted_at=_time(row[8]),
                due_at=_time(row[9]) if row[9] is not None else None,
                attempts=tuple(self.attempts(JobId(row[0]))),
            )
            for row in rows
        ]

    def settled_jobs(self) -> Iterator[SettledJob]:
        """Yield the settled jobs and bad lines in order of admission, one pass."""
        rows = self._db.execute(
            'SELECT id, key, line, variant, "offset", length, digest, "group", round, admitted_at, outcome,'
            " error_type, error_message, items_count, cost_usd FROM job WHERE outcome IS NOT NULL ORDER BY id"
        )
        for row in rows:
            yield SettledJob(
                id=JobId(row[0]),
                key=JobKey(row[1]) if row[1] is not None else None,
                place=Place(line=row[2], variant=row[3], offset=row[4], length=row[5]),
                digest=row[6],
                group=row[7],
                round=row[8],
                admitted_at=_time(row[9]),
                settlement=Settlement(
                    outcome=Outcome(row[10]),
                    error_type=row[11],
                    error_message=row[12],
                    items_count=row[13],
                    cost_usd=row[14],
                ),
            )

    def settled_id(self, key: JobKey | None, line: int) -> JobId | None:
        """Return the row of the settled job that a record reports: by key, or by line for a bad line."""
        if key is None:
            row = self._db.execute("SELECT id FROM job WHERE key IS NULL AND line = ?", (line,)).fetchone()
        else:
            row = self._db.execute("SELECT id FROM job WHERE key = ? AND outcome IS NOT NULL", (key,)).fetchone()
        return JobId(row[0]) if row is not None else None

    def forget_items(self, job_id: JobId) -> None:
        """Note that no items of an open job are in the item file, so that they are collected from the beginning."""
        self._db.execute("UPDATE attempt SET items_offset = 0, items_count = 0 WHERE job_id = ?", (job_id,))

    def attempts(self, job_id: JobId) -> list[Attempt]:
        """Return a job's attempts, in order."""
        rows = self._db.execute(
            "SELECT attempt_no, mark, state, run_id, status, intended_at, started_at, finished_at, cost_usd,"
            " items_offset, items_count, platform_time FROM attempt WHERE job_id = ? ORDER BY attempt_no",
            (job_id,),
        )
        return [_attempt(row) for row in rows]

    def run_ids_since(self, since: datetime) -> set[RunId]:
        """Return the ids of all noted Runs that began at `since` or later, by the platform's clock."""
        rows = self._db.execute("SELECT run_id FROM attempt WHERE started_at >= ?", (since.timestamp(),))
        return {RunId(row[0]) for row in rows}

    @property
    def is_empty(self) -> bool:
        """Whether no line of the job file was admitted yet."""
        return self._last_job_id == 0

    def totals(self) -> Totals:
        """Add up all jobs."""
        items, empty, cost, unknown, open_jobs = self._db.execute(
            "SELECT total(items_count), total(outcome = 'succeeded' AND items_count = 0), total(cost_usd),"
            " total(outcome NOT IN ('invalid', 'rejected') AND cost_usd IS NULL), total(outcome IS NULL) FROM job"
        ).fetchone()
        (live,) = self._db.execute(
            "SELECT count(*) FROM job JOIN attempt ON attempt.job_id = job.id"
            " WHERE job.outcome IS NULL AND attempt.state != 'ended'"
        ).fetchone()
        return Totals(
            items=int(items),
            empty_successes=int(empty),
            cost_usd=cost,
            unknown_costs=int(unknown),
            open_jobs=int(open_jobs),
            live_runs=live,
        )

    def slowest(self) -> tuple[JobKey, float] | None:
        """Return the key of the job with the longest Run, and its seconds."""
        row = self._db.execute(
            "SELECT job.key, attempt.finished_at - attempt.started_at AS run_s FROM attempt"
            " JOIN job ON job.id = attempt.job_id WHERE run_s IS NOT NULL ORDER BY run_s DESC LIMIT 1"
        ).fetchone()
        return None if row is None else (JobKey(row[0]), row[1])

    def count_outcomes(self) -> dict[Outcome, int]:
        """Return how many jobs are settled, by outcome."""
        rows = self._db.execute("SELECT outcome, count(*) FROM job WHERE outcome IS NOT NULL GROUP BY outcome")
        return {Outcome(outcome): count for outcome, count in rows}


def _attempt(row: Sequence[Any]) -> Attempt:
    return Attempt(
        attempt_no=row[0],
        mark=Mark(row[1]),
        state=AttemptState(row[2]),
        run_id=RunId(row[3]) if row[3] is not None else None,
        status=RunStatus(row[4]) if row[4] is not None else None,
        intended_at=_time(row[5]),
        started_at=_time(row[6]) if row[6] is not None else None,
        finished_at=_time(row[7]) if row[7] is not None else None,
        cost_usd=row[8],
        items_offset=row[9],
        items_count=row[10],
        platform_time=_time(row[11]) if row[11] is not None else None,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextmanager
def open_ledger(directory: Path) -> Iterator[Ledger]:
    """Open a batch's ledger for writing; made if it is missing. One process at a time (see `lock`).

    Raises:
        LedgerError: it cannot be opened, is damaged, or was written by a newer batchrun.
    """
    file = directory / FILE_NAME
    with open_connection(file, mode="rwc") as connection:
        # A record must not outlive its note: every commit reaches the disk before it counts.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        apply_schema_steps(connection, file)
        yield Ledger(connection)


@contextmanager
def open_for_reading(directory: Path) -> Iterator[Ledger]:
    """Open a batch's ledger for looking on, also while another process writes it.

    Raises:
        LedgerError: there is none, or it is damaged.
    """
    file = directory / FILE_NAME
    if not file.exists():
        raise LedgerError(f"{directory}: holds no ledger; is it the output directory of a batch?")
    with open_connection(file, mode="ro") as connection:
        yield Ledger(connection)


def is_begun(directory: Path) -> bool:
    """Whether a ledger in this directory has admitted anything."""
    if not (directory / FILE_NAME).exists():
        return False
    with open_for_reading(directory) as ledger:
        return not ledger.is_empty

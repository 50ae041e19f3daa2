"""The ledger's tables as one process writes them: synchronous functions, each called inside `transaction()`.

The verbs are described in `ledger/protocol.py`. Wall time is stamped here and nowhere else. Nothing here knows of
files, HTTP or the event loop.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from batchrun.errors import LedgerError
from batchrun.ledger.facts import LOG_POSITION, Fact
from batchrun.ledger.protocol import FinalCost, Known, OpenJob, Settlement
from batchrun.ledger.shared_commits import Commit, CommitLog, FileGrowth
from batchrun.ledger.sqlite.connection import Connection, open_connection
from batchrun.ledger.sqlite.queries.failed_jobs import SELECTED, parameters
from batchrun.ledger.sqlite.reader import IS_BEGUN, LedgerReader
from batchrun.ledger.sqlite.schema_version import apply_schema_steps
from batchrun.model import (
    Attempt,
    BadLine,
    CostSource,
    Intent,
    Job,
    JobId,
    JobKey,
    JsonObject,
    Mark,
    Outcome,
    Position,
    Problem,
    Run,
    Selection,
    write_json,
)
from batchrun.output.layout import LEDGER
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import make_private_file, refuse_opened_elsewhere

T = TypeVar("T")


class LedgerTables(LedgerReader):
    """The ledger of one batch for its writer; `open_ledger` opens it."""

    def __init__(self, connection: Connection, log: CommitLog | None = None) -> None:
        super().__init__(connection)
        #: Where each commit is noted before it happens here; None: this machine alone has the batch.
        self.log = log
        if log is not None:
            connection.changes = []
        self._write = connection.writer()
        self._write_many = connection.many_writer()
        #: The time of the transaction, as a value and in seconds since 1970 as the tables have it.
        self._at = datetime.now(UTC)
        self._now = self._at.timestamp()
        #: True if the shared log has a part of the transaction.
        self._is_shared = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._at = datetime.now(UTC)
        self._now = self._at.timestamp()
        last_job_id = self._last_job_id
        try:
            with self._db.explaining():
                self._write("BEGIN IMMEDIATE", ())
                yield
                self.share({})
                self._write("COMMIT", ())
        except BaseException:
            self._last_job_id = last_job_id
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if self._db.changes is not None:
                self._db.changes.clear()
            if self.log is not None and self._is_shared:
                self.log.refuse_more()
            raise
        finally:
            self._is_shared = False

    def share(self, files: Mapping[str, FileGrowth]) -> None:
        """Append what the transaction has changed so far, and what it appends to output files, to the shared log.

        Raises:
            Superseded: Another owner has taken the batch over.
            OutputError: The log is out of reach, and the process is about to end.
        """
        changes = self._db.changes
        if self.log is None or not changes:
            return
        position = self.log.append(Commit(changes=changes, files=files))
        self._is_shared = True
        self.note_fact(LOG_POSITION, position)
        changes.clear()

    def note_fact(self, fact: Fact[T], value: T | None) -> None:
        self.note_json(fact.name, write_json(None if value is None else fact.to_json(value)).decode())

    def note_json(self, name: str, value: str) -> None:
        """Note a fact as JSON."""
        self._db.execute(
            "INSERT INTO batch VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
        )

    def note_output_lengths(self, lengths: dict[str, int]) -> None:
        """Note the committed lengths of output files, in bytes."""
        self._db.executemany(
            "INSERT INTO output VALUES (?, ?) ON CONFLICT DO UPDATE SET length = excluded.length",
            lengths.items(),
        )

    def admit(self, job: Job) -> OpenJob | Known:
        """Note a new job, or return the job that has its key."""
        job_id = self._insert_job(job.key, job.digest, job.position, job.group)
        if job_id is None:
            return self._known(job)
        if job.replaces:
            self._write("UPDATE job SET replaces = 1 WHERE id = ?", (job_id,))
        return OpenJob(
            id=job_id,
            key=job.key,
            digest=job.digest,
            position=job.position,
            round=1,
            admitted_at=self._at,
            due_at=None,
            attempts=(),
        )

    def _known(self, job: Job) -> Known:
        digest, line, variant, replaces = self._db.execute(
            "SELECT digest, line, variant, replaces FROM job WHERE key = ?", (job.key,)
        ).fetchone()
        return Known(
            is_same_line=(line, variant) == (job.position.line, job.position.variant),
            is_same_content=digest == job.digest,
            line=line,
            replaces=bool(replaces),
        )

    def replace(self, job: Job, held: Collection[JobId] | None) -> tuple[OpenJob, Outcome | None] | None:
        """Give the job that has a line's key that line and its content; return it, and the outcome that it had.

        None: it is under way, or was when the line was first read. Open jobs in `held` are not, if they have no
        attempt; None: no open job without one is.
        """
        at = job.position
        job_id, outcome, is_begun, was_refused = self._db.execute(
            f"SELECT id, outcome, {IS_BEGUN},"
            " EXISTS (SELECT 1 FROM job AS bad WHERE bad.key IS NULL AND bad.line = ? AND bad.variant = ?)"
            " FROM job WHERE key = ?",
            (at.line, at.variant, job.key),
        ).fetchone()
        if was_refused:
            return None
        if outcome is not None:
            self._begin_round("id = :id", {"id": job_id})
        elif is_begun or (held is not None and job_id not in held):
            return None
        self.move(job_id, job)
        return self.open_job(job_id), None if outcome is None else Outcome(outcome)

    def move(self, job_id: JobId, job: Job) -> None:
        """Give a job the line and the content of one that replaces its own."""
        at = job.position
        self._write(
            "INSERT OR IGNORE INTO duplicate"
            " SELECT line, variant, id FROM job WHERE id = ? AND (line, variant) != (?, ?)",
            (job_id, at.line, at.variant),
        )
        self._write(
            'UPDATE job SET digest = ?, line = ?, variant = ?, "offset" = ?, length = ?, "group" = ?, replaces = 1'
            " WHERE id = ?",
            (job.digest, at.line, at.variant, at.offset, at.length, job.group, job_id),
        )

    def note_duplicate(self, job: Job) -> bool:
        """Note a line whose job is that of another line; return False if it was noted before."""
        noted = self._write(
            "INSERT OR IGNORE INTO duplicate SELECT ?, ?, id FROM job WHERE key = ?",
            (job.position.line, job.position.variant, job.key),
        )
        return noted.rowcount == 1

    def admit_bad_line(self, bad_line: BadLine) -> JobId | None:
        """Note a bad line, without a key; return None if it was noted before."""
        return self._insert_job(None, b"", bad_line.position, None)

    def _insert_job(self, key: JobKey | None, digest: bytes, position: Position, group: str | None) -> JobId | None:
        job_id = self._last_job_id + 1
        is_new = self._write(
            'INSERT INTO job (id, key, digest, line, variant, "offset", length, "group", admitted_at)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (job_id, key, digest, position.line, position.variant, position.offset, position.length, group, self._now),
        ).rowcount
        if not is_new:
            return None
        self._last_job_id = job_id
        return JobId(job_id)

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        if ended is not None:
            self._end(job_id, ended)
        self._write("UPDATE job SET due_at = ? WHERE id = ?", (self._now + wait_s, job_id))

    def settle(self, job_id: JobId, ended: Attempt | None, settlement: Settlement) -> None:
        """Note an attempt's end and its job's outcome; the record itself is written by `Journal.settle`."""
        if ended is not None:
            self._end(job_id, ended)
        changed = self._write(
            "UPDATE job SET settled_at = ?, outcome = ?, items_count = ? WHERE id = ? AND outcome IS NULL",
            (self._now, str(settlement.outcome), settlement.items_count, job_id),
        ).rowcount
        if changed != 1:
            raise self._db.damage(f"job {job_id} is settled already")
        if settlement.error_type is not None:
            self._write(
                "UPDATE job SET error_type = ?, error_message = ?, exit_code = ? WHERE id = ?",
                (settlement.error_type, settlement.error_message, settlement.exit_code, job_id),
            )

    def reopen(self, selection: Selection) -> int:
        return self._begin_round(SELECTED, parameters(selection))

    def _begin_round(self, where: str, selected: dict[str, Any]) -> int:
        self._db.execute(
            "INSERT INTO past_round"
            " (job_id, round, admitted_at, settled_at, outcome, error_type, error_message, exit_code, items_count)"
            " SELECT id, round, admitted_at, settled_at, outcome, error_type, error_message, exit_code, items_count"
            f" FROM job WHERE {where}",
            selected,
        )
        return self._db.execute(
            "UPDATE job SET round = round + 1, admitted_at = :now, due_at = NULL, settled_at = NULL, outcome = NULL,"
            f" error_type = NULL, error_message = NULL, exit_code = NULL, items_count = NULL WHERE {where}",
            {**selected, "now": self._now},
        ).rowcount

    def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        self._write(
            "INSERT INTO attempt"
            " (job_id, attempt_no, round, mark, state, intended_at, platform_time, not_before, reserved_usd)"
            " VALUES (?, ?, ?, ?, 'intended', ?, ?, ?, ?)",
            (
                job_id,
                intent.attempt_no,
                intent.round,
                intent.mark,
                self._now,
                _timestamp(intent.platform_time),
                _timestamp(intent.not_before),
                intent.reserved_usd,
            ),
        )
        return intent.noted_at(self._at)

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        self._write(
            "DELETE FROM attempt WHERE job_id = ? AND attempt_no = ? AND state = 'intended'",
            (job_id, attempt_no),
        )

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        started_at = run.started_at.timestamp() if run.started_at is not None else None
        try:
            self._write(
                "UPDATE attempt SET state = 'bound', run_id = ?, started_at = ? WHERE job_id = ? AND attempt_no = ?",
                (run.id, started_at, job_id, attempt_no),
            )
        except sqlite3.IntegrityError as error:
            raise LedgerError(
                f"{self._db.file}: a start was answered with Run {run.id}, which an earlier start of this batch was"
                " answered with. The platform gives ids twice, or something on the way sends old answers again. The"
                " ledger is whole: the same command looks for the Run of that start"
            ) from error

    def note_reservation(self, job_id: JobId, attempt_no: int, usd: float) -> None:
        self._write(
            "UPDATE attempt SET reserved_usd = ? WHERE job_id = ? AND attempt_no = ?", (usd, job_id, attempt_no)
        )

    def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        self._write(
            "UPDATE attempt SET abort_type = ?, abort_message = ? WHERE job_id = ? AND attempt_no = ?",
            (problem.type, problem.message, job_id, attempt_no),
        )

    def deny(self, job_id: JobId, attempt_no: int) -> None:
        """Note that an attempt in doubt has started no Run: a person says so.

        Raises:
            LedgerError: It is not in doubt.
        """
        changed = self._write(
            "UPDATE attempt SET state = 'ended' WHERE job_id = ? AND attempt_no = ? AND state = 'intended'",
            (job_id, attempt_no),
        ).rowcount
        if changed != 1:
            raise self._db.damage(f"attempt {attempt_no} of job {job_id} is not in doubt")

    def _end(self, job_id: JobId, attempt: Attempt) -> None:
        changed = self._write(
            "UPDATE attempt SET state = 'ended', status = ?, cause = ?, memory_mb = ?, timeout_s = ?, finished_at = ?,"
            " storages = ?, cost_usd = ?, cost_source = ?, cost_is_final = ?"
            " WHERE job_id = ? AND attempt_no = ? AND state != 'ended'",
            (
                _word(attempt.status),
                _word(attempt.cause),
                attempt.memory_mb,
                attempt.timeout_s,
                _timestamp(attempt.finished_at),
                _json(attempt.storages),
                attempt.cost_usd,
                _noted_source(attempt.cost_source),
                int(attempt.cost_is_final),
                job_id,
                attempt.attempt_no,
            ),
        ).rowcount
        if changed != 1:
            raise self._db.damage(f"an attempt of job {job_id} has ended already")

    def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        self._db.executemany(
            "UPDATE attempt SET cost_usd = ?, cost_source = ?, cost_is_final = 1 WHERE job_id = ? AND attempt_no = ?",
            [(each.cost_usd, _noted_source(each.source), each.job_id, each.attempt_no) for each in costs],
        )

    def note_second_run(self, mark: Mark, run: Run, ended_at: datetime) -> None:
        """Note it as an attempt with a number below 0, which is that of none."""
        self._write(
            "INSERT INTO attempt (job_id, attempt_no, round, mark, state, intended_at, run_id, status, started_at,"
            " finished_at, cost_usd, cost_source, reserved_usd)"
            " SELECT job_id, (SELECT min(0, min(attempt_no)) - 1 FROM attempt AS other WHERE other.job_id = it.job_id),"
            " round, mark, 'ended', intended_at, ?, ?, ?, ?, ?, ?, 0 FROM attempt AS it"
            " WHERE mark = ? AND attempt_no > 0"
            " ON CONFLICT DO NOTHING",
            (
                run.id,
                _word(run.status),
                _timestamp(run.started_at or ended_at),
                _timestamp(ended_at),
                run.cost_usd,
                _noted_source(run.cost_source),
                mark,
            ),
        )

    def note_items(self, job_id: JobId, attempt_no: int, items_offset: int, items_count: int) -> None:
        """Note how many stored items of an attempt's dataset are read, and how many lines they are in the item file."""
        self._write(
            "UPDATE attempt SET items_offset = ?, items_count = ? WHERE job_id = ? AND attempt_no = ?",
            (items_offset, items_count, job_id, attempt_no),
        )

    def forget_open_items(self) -> None:
        """Note that the item file has no items of the open jobs' current rounds: all are to be collected again."""
        self._db.execute(
            "UPDATE attempt SET items_offset = 0, items_count = 0 WHERE EXISTS"
            " (SELECT 1 FROM job WHERE id = job_id AND outcome IS NULL AND job.round = attempt.round)"
        )

    def restore_round(
        self,
        job_id: JobId,
        number: int,
        *,
        admitted_at: datetime,
        settled_at: datetime | None = None,
        settlement: Settlement | None = None,
    ) -> None:
        """Note a round of a job, settled or open, in a ledger that is rebuilt; a job's rounds come in order."""
        self._write(
            "INSERT INTO past_round"
            " (job_id, round, admitted_at, settled_at, outcome, error_type, error_message, exit_code, items_count)"
            " SELECT id, round, admitted_at, settled_at, outcome, error_type, error_message, exit_code, items_count"
            " FROM job WHERE id = ? AND round < ? AND outcome IS NOT NULL",
            (job_id, number),
        )
        self._write(
            "UPDATE job SET round = ?, admitted_at = ?, settled_at = ?, outcome = ?, error_type = ?, error_message = ?,"
            " exit_code = ?, items_count = ? WHERE id = ?",
            (
                number,
                admitted_at.timestamp(),
                _timestamp(settled_at),
                _word(settlement.outcome) if settlement is not None else None,
                settlement.error_type if settlement is not None else None,
                settlement.error_message if settlement is not None else None,
                settlement.exit_code if settlement is not None else None,
                settlement.items_count if settlement is not None else None,
                job_id,
            ),
        )

    def restore_attempt(self, job_id: JobId, attempt: Attempt) -> None:
        """Note an attempt as it stands, in a ledger that is rebuilt; it replaces one with the same number."""
        self._write(
            "INSERT OR REPLACE INTO attempt (job_id, attempt_no, round, mark, state, run_id, status, cause, memory_mb,"
            " timeout_s, intended_at, platform_time, not_before, started_at, finished_at, storages, reserved_usd,"
            " cost_usd, cost_source, cost_is_final)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                job_id,
                attempt.attempt_no,
                attempt.round,
                attempt.mark,
                str(attempt.state),
                attempt.run_id,
                _word(attempt.status),
                _word(attempt.cause),
                attempt.memory_mb,
                attempt.timeout_s,
                attempt.intended_at.timestamp(),
                _timestamp(attempt.platform_time),
                _timestamp(attempt.not_before),
                _timestamp(attempt.started_at),
                _timestamp(attempt.finished_at),
                _json(attempt.storages),
                attempt.reserved_usd,
                attempt.cost_usd,
                _noted_source(attempt.cost_source),
                int(attempt.cost_is_final),
            ),
        )


def _noted_source(source: CostSource) -> str | None:
    return None if source is CostSource.UNKNOWN else str(source)


def _timestamp(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _json(value: JsonObject | None) -> str | None:
    return None if value is None else write_json(value).decode()


def _word(case: StrEnum | None) -> str | None:
    """Return a case as a plain string: for any other type, SQLite first searches for an adapter, in vain."""
    return None if case is None else str(case)


@contextmanager
def open_ledger(directory: Path, name: str = LEDGER, log: CommitLog | None = None) -> Iterator[LedgerTables]:
    """Open a batch's ledger for writing, and create it if it is missing: one process at a time, which holds the lock.

    Args:
        directory: of the batch.
        name: of the file; another name for a ledger that is to replace the batch's.
        log: where each commit is noted before it happens here; None: nowhere.

    Raises:
        OutputError: It cannot be opened, is damaged, was written by a newer batchrun, or has a log that is not given.
    """
    with open_tables(directory, name, log) as ledger:
        if log is None and ledger.fact(LOG_POSITION) is not None:
            raise LedgerError(
                f"{directory}: this batch has a shared log, and another machine may have taken it over. Name the log"
                " in the batch file ([replica] url) and use `batchrun run`"
            )
        yield ledger


@contextmanager
def open_tables(directory: Path, name: str = LEDGER, log: CommitLog | None = None) -> Iterator[LedgerTables]:
    """Open a ledger as `open_ledger` does, also one that follows a shared log."""
    with open_writable(directory, name) as connection:
        yield LedgerTables(connection, log)


@contextmanager
def open_writable(directory: Path, name: str = LEDGER) -> Iterator[Connection]:
    """Open the connection of a ledger that is written, with its tables."""
    file = directory / name
    with explaining(file):
        make_private_file(file)  # SQLite gives the files beside it its mode
    with open_connection(file, mode="rwc") as connection:
        # Every commit reaches the disk before it counts: no record may outlive its note.
        (journal_mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        with connection.explaining():
            apply_schema_steps(connection, file)
        with explaining(file):
            refuse_opened_elsewhere(file, journal_mode)
        yield connection

"""The Runs of open jobs that are not known to have ended, in pages."""

from datetime import datetime

from batchrun.ledger.sqlite.connection import Connection
from batchrun.ledger.sqlite.row_values import time_of
from batchrun.model import JobKey, RunId
from batchrun.runtime.fast_dataclasses import dataclass


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


class OpenRuns:
    """The open Runs in a ledger."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def page(self, offset: int, limit: int, search: str = "") -> tuple[list[OpenRun], int]:
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

"""The Runs that took longest, of all rounds."""

from batchrun.ledger.sqlite.connection import Connection
from batchrun.model import JobKey, RunId, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRun:
    """One of the Runs that took longest."""

    key: JobKey
    group: str | None
    run_id: RunId
    status: RunStatus | None
    run_s: float
    cost_usd: float | None


def slowest_runs_of(connection: Connection, limit: int) -> list[SlowRun]:
    """Return the Runs that took longest, longest first; live Runs are not among them."""
    rows = connection.execute(
        'SELECT job.key, job."group", attempt.run_id, attempt.status, attempt.finished_at - attempt.started_at'
        " AS run_s, attempt.cost_usd FROM attempt JOIN job ON job.id = attempt.job_id"
        " WHERE run_s IS NOT NULL AND job.key IS NOT NULL ORDER BY run_s DESC, job.id LIMIT ?",
        (limit,),
    )
    with connection.decoding():
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

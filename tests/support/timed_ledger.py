"""A ledger whose Runs began and ended at given seconds, for tests of what is read from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import Attempt, AttemptState, CostSource, Intent, JobId, Mark, Run, RunId, RunStatus
from tests.support.memory_ledger import make_job

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNTIL = AT + timedelta(seconds=1000)


def make_run(run_id: str = "r1", status: RunStatus = RunStatus.SUCCEEDED, cost_usd: float | None = 0.5) -> Run:
    """Return a Run that took ten seconds."""
    return Run(
        id=RunId(run_id),
        status=status,
        dataset_id=None,
        store_id=None,
        started_at=AT,
        finished_at=AT + timedelta(seconds=10),
        cost_usd=cost_usd,
        user_agent=None,
        fields={},
    )


def make_ended(run: Run, attempt_no: int = 1, **changes: Any) -> Attempt:
    """Return the attempt of a Run that has ended."""
    return replace(
        Attempt(
            attempt_no=attempt_no,
            mark=Mark("m"),
            state=AttemptState.ENDED,
            run_id=run.id,
            status=run.status,
            intended_at=AT,
            started_at=run.started_at,
            finished_at=run.finished_at,
            cost_usd=run.cost_usd,
            cost_source=CostSource.UNKNOWN if run.cost_usd is None else CostSource.PLATFORM,
        ),
        **changes,
    )


@contextmanager
def holding(directory: Path, spans: list[tuple[float, float | None]]) -> Iterator[LedgerReader]:
    """Open a ledger of jobs with one Run each, from and to given seconds after AT; None if it is live."""
    with open_ledger(directory) as ledger, ledger.transaction():
        for line, (began, ended) in enumerate(spans, 1):
            ledger.admit(make_job(line))
            carry(ledger, JobId(line), 1, began, ended)
    with open_for_reading(directory) as reader:
        yield reader


def carry(
    ledger: LedgerTables,
    job_id: JobId,
    attempt_no: int,
    began: float,
    ended: float | None,
    round: int = 1,  # noqa: A002 - the ledger's own word
) -> None:
    run = replace(
        make_run(f"r{job_id}-{attempt_no}"),
        started_at=AT + timedelta(seconds=began),
        finished_at=AT + timedelta(seconds=ended) if ended is not None else None,
    )
    ledger.intend(job_id, Intent(attempt_no=attempt_no, round=round, mark=Mark("m")))
    ledger.bind(job_id, attempt_no, run)
    intended_at = (AT + timedelta(seconds=began)).timestamp()
    ledger._db.execute("UPDATE attempt SET intended_at = ? WHERE attempt_no = ?", (intended_at, attempt_no))
    if ended is not None:
        ledger.postpone(job_id, make_ended(run, attempt_no), 0)

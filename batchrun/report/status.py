"""Where a batch stands, read beside whoever runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchrun.ledger.ledger import Ledger, open_for_reading
from batchrun.ledger.lock import holder
from batchrun.ledger.rows import OpenJob
from batchrun.model import Attempt, AttemptState, Ending, JobId, JobKey, Summary
from batchrun.report.summary import summary_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An attempt whose start request was not answered."""

    job_id: JobId
    job_key: JobKey
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A batch at one moment."""

    #: The process that works on it; None when none does.
    pid: int | None
    summary: Summary
    #: Jobs waiting for their next attempt or for a slot.
    waiting: int
    doubts: list[Doubt]


def read_status(directory: Path) -> Status:
    """Read an output directory's ledger, also while another process writes it.

    Raises:
        LedgerError: there is none, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return status_of(ledger, directory)


def status_of(ledger: Ledger, directory: Path) -> Status:
    """Return where the batch of an open ledger stands."""
    pid = holder(directory)
    summary = summary_of(ledger, directory, Ending.INTERRUPTED)
    if pid is None and not summary.open_jobs:
        summary = replace(summary, ending=Ending.FINISHED)
    waiting = max(0, summary.open_jobs - summary.live_runs - summary.in_doubt)
    return Status(pid=pid, summary=summary, waiting=waiting, doubts=doubts_of(ledger.begun_jobs()))


def doubts_of(open_jobs: Sequence[OpenJob]) -> list[Doubt]:
    """Return the attempts among open jobs whose start was not answered."""
    return [
        Doubt(job_id=job.id, job_key=job.key, attempt=last)
        for job in open_jobs
        if job.attempts and (last := job.attempts[-1]).state is AttemptState.INTENDED
    ]

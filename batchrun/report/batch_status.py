"""The status and the Summary of a batch, read from its ledger; another process may be running the batch meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from batchrun.ledger.facts import ABORTED, CONFIG, DUPLICATES, JOB_COUNT, TRIPS, WAIT, WATCHED_S
from batchrun.ledger.protocol import NotedWait, OpenJob
from batchrun.ledger.sqlite.queries.slowest_runs import SlowRun
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.model import Attempt, AttemptState, Ending, JobId, JobKey, Mark, Summary
from batchrun.output.lock import holder
from batchrun.runtime.fast_dataclasses import dataclass

#: A start request that was sent so long ago has no answer: a client waits 30 s for a connection and 30 s for an answer.
LONGEST_ANSWER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An attempt whose start request was not answered."""

    job_id: JobId
    job_key: JobKey
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """How much of a budget is used, in US dollars."""

    limit_usd: float
    spent_usd: float
    #: Reserved for Runs that are live, or whose cost is not final.
    reserved_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LastTrip:
    """Why the breaker last stopped the batch, or a group of it."""

    group: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status of a batch at one moment."""

    #: The process that runs the batch; None: no process does.
    pid: int | None
    summary: Summary
    #: Jobs waiting for their next attempt or for a slot.
    waiting: int
    doubts: list[Doubt]
    #: Doubts whose answer was lost, so that the platform is asked for their Runs. A process may still get the others'.
    lost_answers: int
    #: Approximate number of jobs in the job file; None: unknown, since counting them would be slow.
    jobs_in_file: int | None
    #: None: the batch was last opened without a budget.
    budget: BudgetUse | None
    #: Of the last process in which the breaker tripped.
    trips: list[LastTrip]
    #: What the process waits for; None: it goes on, or there is no process.
    wait: NotedWait | None


def read_status(directory: Path) -> Status:
    """Return the status of an output directory, also while another process runs its batch."""
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return status_of(ledger, directory)


def status_of(ledger: LedgerReader, directory: Path) -> Status:
    """Return the status of the batch of an open ledger."""
    pid = holder(directory)
    summary = summary_of(ledger, directory, Ending.INTERRUPTED)
    if pid is None and not summary.open_jobs:
        summary = replace(summary, ending=Ending.FINISHED)
    waiting = max(0, summary.open_jobs - summary.live_runs - summary.in_doubt)
    doubts = doubts_of(ledger.begun_jobs())
    return Status(
        pid=pid,
        summary=summary,
        waiting=waiting,
        doubts=doubts,
        lost_answers=len(doubts) if pid is None else _lost_answers(doubts, ledger.fact(WATCHED_S) or {}),
        jobs_in_file=ledger.fact(JOB_COUNT),
        budget=_budget_use(ledger),
        trips=[LastTrip(group=trip.group, reason=trip.reason) for trip in ledger.fact(TRIPS) or []],
        wait=_wait_of(ledger, pid),
    )


def _wait_of(ledger: LedgerReader, pid: int | None) -> NotedWait | None:
    """Return what a process waits for; what an earlier process noted last is history."""
    noted = ledger.fact(WAIT)
    return noted if noted is not None and noted.pid == pid else None


def _budget_use(ledger: LedgerReader) -> BudgetUse | None:
    limits = (ledger.fact(CONFIG) or {}).get("limits")
    limit_usd = limits.get("budget_usd") if isinstance(limits, dict) else None
    if not isinstance(limit_usd, int | float):
        return None
    money = ledger.money()
    return BudgetUse(limit_usd=limit_usd, spent_usd=money.spent_usd, reserved_usd=money.reserved_usd)


def doubts_of(open_jobs: Sequence[OpenJob]) -> list[Doubt]:
    """Return the attempts among open jobs whose start was not answered."""
    return [
        Doubt(job_id=job.id, job_key=job.key, attempt=last)
        for job in open_jobs
        if job.attempts and (last := job.attempts[-1]).state is AttemptState.INTENDED
    ]


def _lost_answers(doubts: Sequence[Doubt], watched_s: Mapping[Mark, float]) -> int:
    """Return how many doubts are no open requests: their Runs are watched for, or they are too old to be answered."""
    now = datetime.now(UTC)
    attempts = [each.attempt for each in doubts]
    return sum(each.mark in watched_s or now - each.intended_at > LONGEST_ANSWER for each in attempts)


def read_summary(directory: Path, ending: Ending) -> Summary:
    """Return the Summary of an output directory."""
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return summary_of(ledger, directory, ending)


def summary_of(ledger: LedgerReader, directory: Path, ending: Ending) -> Summary:
    """Return the Summary of an open ledger."""
    totals, outcomes, duplicates = ledger.totals(), ledger.count_outcomes(), ledger.fact(DUPLICATES) or 0
    job_count, known = ledger.fact(JOB_COUNT), sum(outcomes.values()) + totals.open_jobs + duplicates
    given_up = set(ledger.given_up_runs())
    if aborted := ledger.fact(ABORTED):
        over = set(aborted).intersection(ledger.bound_runs()) - given_up
        totals = replace(totals, live_runs=totals.live_runs - len(over))
        given_up.difference_update(aborted)
    return Summary(
        **asdict(totals),
        ending=ending,
        outcomes=outcomes,
        duplicates=duplicates,
        out_dir=str(directory),
        given_up_runs=len(given_up),
        unread_jobs=None if job_count is None else max(0, job_count - known),
    )


def slowest_run(directory: Path) -> SlowRun | None:
    """Return the Run that took longest; None if no Run has ended."""
    with open_for_reading(directory) as ledger:
        return next(iter(ledger.slowest_runs(1)), None)

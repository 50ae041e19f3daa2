"""The status of the worker and of its batches, the same for HTTP, command line, page and metrics."""

from collections import Counter
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from batchrun.maintenance.retry_selection import WantedJobs
from batchrun.model import Outcome
from batchrun.version import __version__
from batchrun.worker.attention import attention_words
from batchrun.worker.batch_list import BatchGroup, ListRow, eta_s, open_budget_usd
from batchrun.worker.fleet.fleet import LEFT_ALONE
from batchrun.worker.submission import (
    CANCELLABLE,
    PAUSABLE,
    RESUMABLE,
    RETRYABLE,
    BatchCounts,
    BatchState,
    StopCause,
    Submission,
    SubmissionId,
)
from batchrun.worker.worker import Worker


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


#: Header of an answer with a log: the piece of the log that it begins with.
LOG_PIECE = "X-Log-Piece"
#: Type of the error with which a worker answers that has not read its fleet's list yet, or cannot reach the store.
FLEET_UNREACHABLE = "fleet-unreachable"


class JobCounts(_View):
    """Jobs of a batch."""

    total: int | None
    """Approximate number of jobs in the file; null: unknown."""
    settled: int
    succeeded: int
    postponed: int
    """Jobs that wait for their next attempt."""
    in_doubt: int
    """Starts without an answer: their Runs may exist."""


class BatchView(_View):
    """The status of a batch."""

    id: SubmissionId
    name: str
    state: BatchState
    reason: str
    """Why it is in that state, in words; empty if that needs none."""
    cause: StopCause | None
    """What has stopped it, in the state `stopped`; null in other states."""
    worker: str | None
    """The worker of the fleet that carries it out, in words; null: this one, or none."""
    shards: int | None
    """The number of parts in which a fleet carries it out; null: it is not divided."""
    weight: float
    priority: int
    profile: str | None
    task: str | None
    """The task it runs; null while it is not open."""
    created_at: datetime
    begun_at: datetime | None
    ended_at: datetime | None
    jobs: JobCounts
    outcomes: dict[Outcome, int]
    live_runs: int
    """Runs that are live or, while it is open, being started."""
    max_concurrent_runs: int | None
    """Max Runs of this batch live at once; null while it is not open."""
    start_rate: float | None
    """Max starts per second of this batch; null while it is not open."""
    items: int
    """Items of its settled jobs."""
    cost_usd: float
    """Known costs in US dollars; while it is open, of its settled jobs."""
    budget_usd: float | None
    """Its own budget in US dollars; null: it has none, or it is not open."""
    settled_per_s: float | None
    """Settled jobs per second, over the last half minute."""
    eta_s: float | None
    """Seconds until it is done at that rate; while it is being paused or cancelled, until it rests; null: unknown."""
    attention: str
    """Why it needs a person; empty if it does not."""
    can: list[str]
    """What can be done with it now: pause, resume, cancel, retry, delete."""
    keeps_results: bool
    """True if deleting it leaves its results, which are in the spool."""
    waits: str
    """What it waits for, once nothing of it has started or ended for ten seconds; empty otherwise."""
    out_dir: str
    notices: list[str]
    """Notices for people, newest last."""


class RetryRequest(_View):
    """Which jobs to retry: those that match every field; without any, all that did not succeed."""

    model_config = ConfigDict(extra="forbid")

    outcomes: list[str] | None = None
    """Default: all but succeeded."""
    error_types: list[str] | None = None
    groups: list[str] | None = None
    keys: list[str] | None = None
    failures: list[str] | None = None
    """Causes: ids of `failures`."""
    tripped: bool = False
    """Only the jobs for which the breaker tripped last."""
    dry_run: bool = False
    """Answer with these jobs as ShownFailures, and retry none."""

    @property
    def wanted(self) -> WantedJobs:
        """The jobs."""
        return WantedJobs(**self.model_dump(exclude={"dry_run"}))


class ResolveRequest(_View):
    """Which Run a start in doubt has started."""

    model_config = ConfigDict(extra="forbid")

    key: str
    """Of the job."""
    run_id: str | None
    """One of the candidates; null: it started none, and the job is started again."""


class RetryView(_View):
    """What a retry has reopened."""

    jobs: int
    """Jobs that get another round; 0: none matches, or the order was given before."""
    batch: BatchView


class BatchPage(_View):
    """Some batches, newest first."""

    items: list[BatchView]
    total: int
    """The number of all batches that match."""
    groups: dict[BatchGroup, int]
    """The number of all batches in each group, whether they match or not."""


class SlotView(_View):
    """Slots for live Runs, of all batches together."""

    used: int
    limit: int | None
    memory_mb: int
    max_memory_mb: int | None


class BudgetView(_View):
    """The budget of all batches together, in US dollars."""

    limit_usd: float | None
    spent_usd: float
    reserved_usd: float


class RateView(_View):
    """Rates of all batches together."""

    settled_per_s: float
    """Settled jobs per second, over the last half minute."""
    requests_per_s: float | None
    """Requests to the platform per second, likewise; null: there was none."""
    max_requests_per_s: float
    """`limits.request_rate`."""
    held_back_s: float
    """Seconds for which no request is sent, because the platform has refused some as too many."""
    open_polls: int
    """Requests that wait for the end of a Run."""
    max_open_polls: int


class DiskView(_View):
    """The disk of the data directory, in bytes."""

    free: int
    total: int


class WorkerView(_View):
    """The status of the worker."""

    version: str
    began_at: datetime
    platform: str
    """Address of the platform, or "embedded"."""
    is_ready: bool
    why_not_ready: str
    """Why batches cannot be submitted or run now; empty if they can."""
    is_draining: bool
    outage: str
    """Why the platform cannot be reached; empty while it can."""
    live_runs: int
    slots: SlotView
    budget: BudgetView | None
    """Null: all batches together have no budget."""
    rates: RateView | None
    """Null until the platform has answered."""
    disk: DiskView | None
    """Null until it is read."""
    data_dir: str
    batches: dict[BatchState, int]
    """The number of batches in each state."""
    attention: int
    """The number of batches that need a person."""


class NotifyView(_View):
    """Who is notified of what happens to batches and worker."""

    targets: dict[str, str]
    """Where each way to reach people leads, by its name: `webhook`, `command`."""
    events: list[str]
    waiting: int
    """Notifications that are not delivered yet."""
    trouble: str
    """Why the last try failed; empty if it did not."""


class NotifyTestView(_View):
    """What came of a test."""

    results: dict[str, str]
    """Why the test was not taken, by the name of the way; empty: it was."""


def notify_view(worker: Worker) -> NotifyView:
    """Return who is notified."""
    notifier = worker.notifier
    return NotifyView(
        targets=notifier.targets,
        events=list(notifier.config.events),
        waiting=notifier.waiting,
        trouble=notifier.trouble,
    )


def batch_view(worker: Worker, submission: Submission) -> BatchView:
    """Return the status of a batch."""
    runner = worker.runners.get(submission.id)
    counts = runner.counts() if runner is not None else submission.counts
    carrier = worker.fleet.carrier_words(submission.id) if worker.fleet is not None else ""
    is_from_before = worker.fleet is not None and worker.fleet.is_from_before(submission.id)
    left_alone = LEFT_ALONE if is_from_before and not submission.state.is_over else ""
    batch = runner.batch if runner is not None else None
    per_s = worker.per_s(submission.id)
    budget_usd = open_budget_usd(worker, submission.id)
    return BatchView.model_construct(
        id=submission.id,
        name=submission.name,
        state=submission.state,
        reason=left_alone or submission.reason or carrier,
        cause=submission.cause if submission.state is BatchState.STOPPED else None,
        worker=carrier or None,
        shards=submission.shards,
        weight=submission.weight,
        priority=submission.priority,
        profile=submission.profile,
        task=batch.opening.task.label if batch is not None else None,
        created_at=submission.created_at,
        begun_at=submission.begun_at,
        ended_at=submission.ended_at,
        jobs=JobCounts.model_construct(
            total=None if counts.jobs is None else max(counts.jobs, counts.settled),
            settled=counts.settled,
            succeeded=counts.outcomes.get(Outcome.SUCCEEDED, 0),
            postponed=counts.postponed,
            in_doubt=counts.in_doubt,
        ),
        outcomes=counts.outcomes,
        live_runs=counts.live_runs,
        max_concurrent_runs=batch.max_concurrent_runs if batch is not None else None,
        start_rate=batch.start_rate if batch is not None else None,
        items=counts.items,
        cost_usd=counts.cost_usd,
        budget_usd=budget_usd,
        settled_per_s=per_s,
        eta_s=eta_s(submission.state, counts, per_s),
        attention=attention_words(submission, counts, budget_usd),
        can=_can(submission.state, counts),
        keeps_results=submission.spooled is not None,
        waits=batch.waits if batch is not None else "",
        out_dir=str(worker.directory.out_dir(submission)),
        notices=list(runner.notices) if runner is not None else [],
    )


def _can(state: BatchState, counts: BatchCounts) -> list[str]:
    orders = {"pause": PAUSABLE, "resume": RESUMABLE, "cancel": CANCELLABLE}
    if counts.failed:
        orders["retry"] = RETRYABLE
    found = [order for order, states in orders.items() if state in states]
    return found if state.is_under_way else [*found, "delete"]


def worker_view(worker: Worker, rows: list[ListRow]) -> WorkerView:
    """Return the status of the worker, with the numbers of its `list_rows`."""
    pool = worker.account.shared.pool if worker.account is not None else None
    counts = Counter(row.submission.state for row in rows)
    attention = sum(row.needs_attention for row in rows)
    return WorkerView.model_construct(
        version=__version__,
        began_at=worker.began_at,
        platform=worker.config.api.base_url,
        is_ready=worker.is_ready,
        why_not_ready=worker.why_not_ready,
        is_draining=worker.is_draining,
        outage=worker.outage,
        live_runs=worker.live_runs,
        slots=SlotView.model_construct(
            # Without permits that wait for a start.
            used=worker.live_runs + pool.kept if pool is not None else 0,
            limit=pool.limit if pool is not None else None,
            memory_mb=pool.used_memory_mb if pool is not None else 0,
            max_memory_mb=pool.memory_mb if pool is not None else None,
        ),
        budget=_budget_view(worker),
        rates=_rate_view(worker),
        disk=_disk_view(worker.disk.room),
        data_dir=str(worker.directory.path),
        batches={state: counts[state] for state in BatchState if state in counts},
        attention=attention,
    )


def _budget_view(worker: Worker) -> BudgetView | None:
    budget = worker.budget
    if budget.limit_usd is None:
        return None
    return BudgetView.model_construct(
        limit_usd=budget.limit_usd, spent_usd=budget.spent_usd + budget.gone_usd, reserved_usd=budget.reserved_usd
    )


def _rate_view(worker: Worker) -> RateView | None:
    if worker.account is None:
        return None
    shared, client = worker.account.shared, worker.account.client
    return RateView.model_construct(
        settled_per_s=sum(runner.speed.per_s() or 0.0 for runner in worker.runners.values()),
        requests_per_s=worker.request_speed.per_s(),
        max_requests_per_s=worker.config.limits.request_rate,
        held_back_s=client.account.closed_s,
        open_polls=shared.polls.open_polls,
        max_open_polls=shared.polls.count,
    )


def _disk_view(disk_bytes: tuple[int, int] | None) -> DiskView | None:
    if disk_bytes is None:
        return None
    free, total = disk_bytes
    return DiskView.model_construct(free=free, total=total)

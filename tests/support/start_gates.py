"""Parts of the engine, each alone: gates, permits and queues whose other limits are no obstacle."""

from datetime import UTC, datetime

from batchrun.apify.throttle import Throttle
from batchrun.engine.account_counters import AccountCounters
from batchrun.engine.child_pool import ChildPool
from batchrun.engine.limits.account_capacity import AccountCapacity
from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Permits
from batchrun.engine.limits.slot_use import SlotMeter
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.progress import Progress
from batchrun.engine.start_queue import StartQueue
from batchrun.engine.start_terms import StartTerms
from batchrun.engine.work import Terms, Work
from batchrun.ledger.protocol import OpenJob
from batchrun.model import Job, JobId, RunOptions
from batchrun.policy.token_bucket import Contenders, TokenBucket, Tokens
from batchrun.runtime.change_signal import ChangeSignal
from tests.support.memory_ledger import make_job
from tests.support.scripted_api import retries, without_budget

#: Live Runs that no test reaches.
MANY = 1_000_000


def gate_of(
    rate_per_s: float = 1e6,
    burst: int = 1,
    *,
    bucket: Tokens | None = None,
    throttle: Throttle | None = None,
    contenders: Contenders | None = None,
) -> StartGate:
    """Return a gate whose rate is no obstacle unless one is given."""
    capacity = AccountCapacity(AccountPool(MANY), MANY)
    tokens = TokenBucket(rate_per_s=rate_per_s, burst=burst) if bucket is None else bucket
    meter = SlotMeter(lambda: MANY, lambda: False, AccountCounters())
    contenders = Contenders() if contenders is None else contenders
    return StartGate(tokens, capacity, ChangeSignal(), meter, contenders, rank=tuple, throttle=throttle)


def permits_over(
    gate: StartGate, count: int = MANY, *, pool: AccountPool | None = None, changed: ChangeSignal | None = None
) -> Permits:
    """Return this many permits over a gate, or those that a pool gives."""
    return Permits(pool or AccountPool(count), gate, changed or ChangeSignal())


def queue_over(
    permits: Permits,
    *,
    reservations: CostReservations | None = None,
    chunks_ready: int = 1,
    changed: ChangeSignal | None = None,
) -> StartQueue:
    """Return a start queue over these permits, without weights; without cost reservations, there is no budget.

    `changed` is what the permits notify, if a test waits for a permit of others.
    """
    reservations = without_budget() if reservations is None else reservations
    changed = ChangeSignal() if changed is None else changed
    reservations.budget.subscribe(changed.notify)
    return StartQueue(
        permits=permits,
        gate=gate_of(),
        reservations=reservations,
        terms=StartTerms(Terms(options=RunOptions(), retry=retries()), reservations),
        children=ChildPool(permits),
        weights={},
        progress=Progress(),
        changed=changed,
        chunks_ready=chunks_ready,
    )


def work_of(job: Job | None = None) -> Work:
    """Return a job that was admitted and not begun."""
    job = make_job() if job is None else job
    noted = OpenJob(
        id=JobId(job.position.line),
        key=job.key,
        digest=job.digest,
        position=job.position,
        round=1,
        admitted_at=datetime.now(UTC),
        due_at=None,
        attempts=(),
    )
    return Work(job=job, open=noted)

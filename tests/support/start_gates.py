"""Start gates and permits whose other limits are no obstacle."""

from batchrun.apify.throttle import Throttle
from batchrun.engine.limits.account_capacity import AccountCapacity
from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.permits import Permit, Permits
from batchrun.engine.limits.start_gate import StartGate
from batchrun.policy.token_bucket import Contenders, TokenBucket, Tokens
from batchrun.runtime.changed import Changed

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
    return StartGate(tokens, capacity, Changed(), throttle=throttle, contenders=contenders)


def permits_over(gate: StartGate, count: int = MANY) -> Permits:
    """Return this many permits over a gate."""
    return Permits(AccountPool(count), gate, Changed())


async def next_start(gate: StartGate) -> Permit | None:
    """Return a permit that the gate lets start now; None once it is shut."""
    permit = await permits_over(gate).acquire()
    assert permit is not None, "there are many"
    return permit if await permit.may_start() else None

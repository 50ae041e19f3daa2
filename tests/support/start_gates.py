"""Start gates and permits whose other limits are no obstacle."""

from batchrun.apify.throttle import Throttle
from batchrun.engine.instruments import Instruments
from batchrun.engine.limits.account_capacity import AccountCapacity
from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.permits import Permits
from batchrun.engine.limits.slot_use import SlotMeter
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
    meter = SlotMeter(lambda: MANY, lambda: False, Instruments())
    contenders = Contenders() if contenders is None else contenders
    return StartGate(tokens, capacity, Changed(), meter, contenders, rank=tuple, throttle=throttle)


def permits_over(gate: StartGate, count: int = MANY) -> Permits:
    """Return this many permits over a gate."""
    return Permits(AccountPool(count), gate, Changed())

"""The start rate on a machine whose timers fire late, measured by the server's rate limiter."""

import anyio
import pytest

from batchrun.apify.throttle import Throttle
from batchrun.policy.token_bucket import TokenBucket, burst_of
from batchrun.server.accounts.rate_limits import PER_START, RateLimits
from batchrun.server.error_answers import ErrorAnswer
from tests.support.start_gates import gate_of
from tests.support.virtual_time import LateTimersLoop

#: Length of a measurement, in seconds of virtual time.
FOR_S = 20.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Use a loop whose timers fire late."""
    return "asyncio", {"loop_factory": LateTimersLoop}


async def started_at(rate_per_s: float, for_s: float) -> list[float]:
    """Return the times of starts while more starts wait than the rate allows."""
    gate, at = gate_of(rate_per_s, burst_of(rate_per_s)), list[float]()

    async def keep_starting() -> None:
        while (start := await gate.next_start()) is not None:
            at.append(anyio.current_time())
            gate.over(start)

    async with anyio.create_task_group() as children:
        for _ in range(20):
            children.start_soon(keep_starting)
        await anyio.sleep(for_s)
        children.cancel_scope.cancel()
    return at


@pytest.mark.parametrize("rate_per_s", [5, 30, 60, 200, 380])
async def test_late_timers_cost_less_than_two_percent_of_the_rate(rate_per_s: float) -> None:
    """Over twenty seconds it is at least 98 % of the configured one; at no time is it more than a burst above that."""
    at = await started_at(rate_per_s, FOR_S)
    assert len(at) >= 0.98 * rate_per_s * FOR_S
    allowed = [rate_per_s * time + burst_of(rate_per_s) + 1e-9 for time in at]
    assert all(number <= most for number, most in enumerate(allowed, 1))


async def test_the_servers_own_limit_is_never_met() -> None:
    """At the default rate no start exceeds the documented limit, although late starts leave together."""
    refused = 0
    limits = RateLimits(anyio.current_time, is_enforced=True)
    gate = gate_of(bucket=TokenBucket.below_limit(PER_START))

    async def keep_starting() -> None:
        nonlocal refused
        while (start := await gate.next_start()) is not None:
            try:
                limits.admit("account", "task", PER_START)
            except ErrorAnswer:
                refused += 1
            gate.over(start)

    with anyio.move_on_after(FOR_S):
        await keep_starting()
    assert refused == 0


async def test_the_accounts_rate_is_kept_as_exactly() -> None:
    """Late timers do not slow the rate of all requests."""
    throttle, passed = Throttle(TokenBucket(rate_per_s=30)), 0

    async def keep_reading() -> None:
        nonlocal passed
        while True:
            await throttle.take_token()
            passed += 1

    with anyio.move_on_after(FOR_S):
        async with anyio.create_task_group() as children:
            for _ in range(5):
                children.start_soon(keep_reading)
    assert 0.98 * 30 * FOR_S <= passed <= 30 * FOR_S + 1

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import aiohttp
import anyio
import pytest

from batchrun.apify.client import ApifyClient
from batchrun.apify.throttle import Throttle
from batchrun.model import RunId
from batchrun.policy.token_bucket import TokenBucket


def throttle_of(rate_per_s: float = 10, burst: int = 1) -> Throttle:
    """Return a throttle."""
    return Throttle(TokenBucket(rate_per_s=rate_per_s, burst=burst))


async def turns(throttle: Throttle, n: int) -> list[float]:
    """Let n pass; return when each did."""
    at = list[float]()

    async def pass_one() -> None:
        await throttle.turn()
        at.append(anyio.current_time())

    async with anyio.create_task_group() as children:
        for _ in range(n):
            children.start_soon(pass_one)
    return at


async def test_requests_pass_at_the_rate() -> None:
    """One interval apart, after the burst."""
    assert await turns(throttle_of(10, burst=3), 6) == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


async def test_a_closure_holds_back_those_who_wait_already() -> None:
    """Nobody passes before it ends, whatever was reserved."""
    throttle, at = throttle_of(10), list[float]()
    async with anyio.create_task_group() as children:

        async def wait() -> None:
            at.extend(await turns(throttle, 20))

        children.start_soon(wait)
        await anyio.sleep(0.25)
        throttle.refused(60)
    assert [each for each in at if 0.25 < each < 60.25] == []
    assert len(at) == 20


async def test_after_a_closure_the_rate_is_kept() -> None:
    """Reservations of before and of after together are no faster than the bucket allows."""
    throttle, at = throttle_of(10), list[float]()
    async with anyio.create_task_group() as children:

        async def wait() -> None:
            at.extend(await turns(throttle, 40))

        children.start_soon(wait)
        await anyio.sleep(0.05)
        throttle.refused(0.5)
    assert min(later - earlier for earlier, later in pairwise(sorted(at))) >= 0.1 - 1e-9


async def test_refusals_of_one_moment_are_one() -> None:
    """Those that were under way when the bucket closed neither lengthen nor restart the closure."""
    throttle = throttle_of()
    for retry_after_s in (5.0, 50.0, None):
        throttle.refused(retry_after_s)
    assert await turns(throttle, 1) == [5.0]


async def test_refusals_in_a_row_wait_longer_and_a_success_begins_anew() -> None:
    """0.5 s doubling to 30 s, spread; what passes resets it."""
    throttle, waits = throttle_of(1e6), list[float]()
    for _ in range(10):
        begun = anyio.current_time()
        throttle.refused(None)
        await throttle.turn()
        waits.append(anyio.current_time() - begun)
    assert 0.5 <= waits[0] <= 1.0
    assert 15 <= waits[-1] <= 30
    throttle.passed()
    begun = anyio.current_time()
    throttle.refused(None)
    await throttle.turn()
    assert 0.5 <= anyio.current_time() - begun <= 1.0


async def test_cancelled_while_waiting_only_its_token_is_gone() -> None:
    """The others go on."""
    throttle = throttle_of(1)
    await throttle.turn()
    with anyio.move_on_after(0.5):
        await throttle.turn()
    assert await turns(throttle, 1) == [2.0]


class _Response:
    status = 429
    headers: Mapping[str, str] = {}

    async def read(self) -> bytes:
        return b""


class _AlwaysTooMany:
    """A session on which every answer is 429."""

    def __init__(self) -> None:
        self.requests = 0

    @asynccontextmanager
    async def request(self, *_: Any, **__: Any) -> AsyncIterator[_Response]:
        self.requests += 1
        await anyio.lowlevel.checkpoint()
        yield _Response()


@pytest.mark.parametrize("method", ["get_run", "abort_run"])
async def test_a_refused_request_is_repeated_with_growing_waits(method: str) -> None:
    """Ten minutes of 429 make some dozens of requests, and no storm."""
    session = _AlwaysTooMany()
    client = ApifyClient(cast("aiohttp.ClientSession", session), "http://api", request_rate_per_s=1000)
    with anyio.move_on_after(600):
        await getattr(client, method)(RunId("r"))
    assert 10 <= session.requests <= 60

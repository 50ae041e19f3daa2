from itertools import pairwise

import anyio
import pytest

from batchrun.apify.throttle import AnnouncedLimit, Throttle
from batchrun.policy.token_bucket import TokenBucket


def throttle_of(rate_per_s: float = 10, burst: int = 1) -> Throttle:
    """Return a throttle."""
    return Throttle(TokenBucket(rate_per_s=rate_per_s, burst=burst))


async def turns(throttle: Throttle, n: int) -> list[float]:
    """Let n pass; return when each did."""
    at = list[float]()

    async def pass_one() -> None:
        await throttle.take_token()
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
        await throttle.take_token()
        waits.append(anyio.current_time() - begun)
    assert 0.5 <= waits[0] <= 1.0
    assert 15 <= waits[-1] <= 30
    throttle.passed()
    begun = anyio.current_time()
    throttle.refused(None)
    await throttle.take_token()
    assert 0.5 <= anyio.current_time() - begun <= 1.0


async def test_cancelled_while_waiting_nothing_is_gone() -> None:
    """A thousand that give up cost the next one no time."""
    throttle = throttle_of(1)
    await throttle.take_token()
    with anyio.move_on_after(0.5):
        await turns(throttle, 1000)
    assert await turns(throttle, 2) == [1.0, 2.0]


async def test_who_waits_is_not_overtaken() -> None:
    """A turn that could be taken at once is not, while somebody waits for it."""
    throttle, order = throttle_of(1), list[str]()
    await throttle.take_token()

    async def wait() -> None:
        await throttle.take_token()
        order.append("first")

    async with anyio.create_task_group() as children:
        children.start_soon(wait)
        await anyio.sleep(0.5)
        assert not throttle.try_take_token()
        await throttle.take_token()
        order.append("second")
    assert order == ["first", "second"]


async def test_an_announced_limit_slows_and_never_speeds_up() -> None:
    """Lower than what was assumed, 95 % of it are used; higher, what was asked for stays the most."""
    throttle = throttle_of(10)
    throttle.stay_below(4)
    assert await turns(throttle, 3) == pytest.approx([0, 1 / 3.8, 2 / 3.8])
    throttle.stay_below(400)
    begun = anyio.current_time()
    assert [at - begun for at in await turns(throttle, 3)] == pytest.approx([1 / 3.8, 1 / 3.8 + 0.1, 1 / 3.8 + 0.2])


def test_an_announcement_is_read_once() -> None:
    """The same text again is no news, and what is no number of requests is none."""
    learned = list[float]()
    limit = AnnouncedLimit("list", learned.append)
    for text in (None, "60", "60", "60", "0", "-5", "many", "1e3", "", "99999999999", "60", "400", None, "400"):
        limit.note(text)
    assert learned == [60, 60, 400]

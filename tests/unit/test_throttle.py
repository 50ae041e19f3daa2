from itertools import pairwise

import anyio
import pytest

from batchrun.apify.throttle import AnnouncedLimit, Throttle
from batchrun.policy.token_bucket import TokenBucket


def throttle_of(rate_per_s: float = 10, burst: int = 1) -> Throttle:
    """Return a throttle."""
    return Throttle(TokenBucket(rate_per_s=rate_per_s, burst=burst))


async def token_times(throttle: Throttle, n: int) -> list[float]:
    """Take n tokens; return the time of each."""
    at = list[float]()

    async def pass_one() -> None:
        await throttle.take_token()
        at.append(anyio.current_time())

    async with anyio.create_task_group() as children:
        for _ in range(n):
            children.start_soon(pass_one)
    return at


async def closed_meanwhile(throttle: Throttle, n: int, after_s: float, closed_s: float) -> list[float]:
    """Take n tokens while the throttle is closed after some seconds, for some; return the time of each."""
    at = list[float]()

    async def wait() -> None:
        at.extend(await token_times(throttle, n))

    async with anyio.create_task_group() as children:
        children.start_soon(wait)
        await anyio.sleep(after_s)
        throttle.refused(closed_s)
    return at


async def test_requests_pass_at_the_rate() -> None:
    """After the burst, one interval apart."""
    assert await token_times(throttle_of(10, burst=3), 6) == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


async def test_a_closed_bucket_holds_waiting_requests_back() -> None:
    """No token is handed out before the closure ends, also to requests that waited before it began."""
    at = await closed_meanwhile(throttle_of(10), 20, 0.25, 60)
    assert [each for each in at if 0.25 < each < 60.25] == []
    assert len(at) == 20


async def test_after_a_closure_the_rate_is_kept() -> None:
    """Requests from before and after the closure together keep the interval."""
    at = await closed_meanwhile(throttle_of(10), 40, 0.05, 0.5)
    assert min(later - earlier for earlier, later in pairwise(sorted(at))) >= 0.1 - 1e-9


async def test_refusals_while_the_bucket_is_closed_do_not_count() -> None:
    """Their requests were sent before the closure; they neither lengthen nor restart it."""
    throttle = throttle_of()
    for retry_after_s in (5.0, 50.0, None):
        throttle.refused(retry_after_s)
    assert await token_times(throttle, 1) == [5.0]


async def test_refusals_in_a_row_wait_longer_until_a_success() -> None:
    """The wait doubles from 0.5 s to 30 s, with a random spread; a success resets it."""
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


async def test_a_cancelled_wait_takes_no_token() -> None:
    """After a thousand cancelled waits the next request waits no longer."""
    throttle = throttle_of(1)
    await throttle.take_token()
    with anyio.move_on_after(0.5):
        await token_times(throttle, 1000)
    assert await token_times(throttle, 2) == [1.0, 2.0]


async def test_requests_pass_in_the_order_of_their_arrival() -> None:
    """A free token is not handed out at once while another request waits for it."""
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
    """95 % of a lower limit are used; a higher one leaves the configured rate as it is."""
    throttle = throttle_of(10)
    throttle.stay_below(4)
    assert await token_times(throttle, 3) == pytest.approx([0, 1 / 3.8, 2 / 3.8])
    throttle.stay_below(400)
    begun = anyio.current_time()
    assert [at - begun for at in await token_times(throttle, 3)] == pytest.approx(
        [1 / 3.8, 1 / 3.8 + 0.1, 1 / 3.8 + 0.2]
    )


def test_an_announced_limit_is_reported_once() -> None:
    """A repeated text is not reported, nor is one that is not a positive number."""
    learned = list[float]()
    limit = AnnouncedLimit("list", learned.append)
    for text in (None, "60", "60", "60", "0", "-5", "many", "1e3", "", "99999999999", "60", "400", None, "400"):
        limit.note(text)
    assert learned == [60, 60, 400]


async def test_a_changed_rate_holds_at_once_and_never_exceeds_the_announced_one() -> None:
    """A request that waits for its token gets it by the new rate."""
    throttle = throttle_of(0.001)
    await throttle.take_token()
    at = list[float]()

    async def wait() -> None:
        at.extend(await token_times(throttle, 3))

    async with anyio.create_task_group() as children:
        children.start_soon(wait)
        await anyio.sleep(1)
        throttle.change_rate(10)
    assert at == pytest.approx([1, 1.1, 1.2], abs=0.11)
    throttle.stay_below(2)
    throttle.change_rate(10)
    at = await token_times(throttle, 3)
    assert [later - earlier for earlier, later in pairwise(at)] == pytest.approx([1 / 1.9] * 2, rel=0.01)

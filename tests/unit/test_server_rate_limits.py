"""The server's rate limits, on a clock that the test sets."""

import tracemalloc

import pytest

from batchrun.server.accounts.rate_limits import RateLimits
from batchrun.server.error_answers import ErrorAnswer


def _admitted(limits: RateLimits, resource: str, per_s: int, tries: int, who: str = "me") -> int:
    count = 0
    for _ in range(tries):
        try:
            limits.admit(who, resource, per_s)
        except ErrorAnswer:
            continue
        count += 1
    return count


def test_a_refusal_says_which_limit_it_is() -> None:
    """429 `rate-limit-exceeded`, with the number."""
    limits = RateLimits(lambda: 0.0, is_enforced=True)
    assert _admitted(limits, "a", 40, 40) == 40
    with pytest.raises(ErrorAnswer, match="rate limit of 40 requests per second") as caught:
        limits.admit("me", "a", 40)
    assert (caught.value.status, caught.value.type) == (429, "rate-limit-exceeded")


def test_one_second_worth_may_come_at_once_and_then_the_rate_holds() -> None:
    """60 at once, none more, then 60 per second; another resource has its own."""
    now = 100.0
    limits = RateLimits(lambda: now, is_enforced=True)
    assert _admitted(limits, "a", 60, 100) == 60
    assert _admitted(limits, "b", 60, 100) == 60
    now += 0.5
    assert _admitted(limits, "a", 60, 100) == 30
    now += 1000
    assert _admitted(limits, "a", 60, 100) == 60


def test_a_refused_request_does_not_count() -> None:
    """However many are refused, the next second is as if they had not been."""
    now = 0.0
    limits = RateLimits(lambda: now, is_enforced=True)
    assert _admitted(limits, "a", 400, 5000) == 400
    now += 1
    assert _admitted(limits, "a", 400, 5000) == pytest.approx(400, abs=1)


def test_resources_that_rest_are_forgotten() -> None:
    """A million Runs read once each do not stay in memory."""
    now = 0.0
    limits = RateLimits(lambda: now, is_enforced=True)
    for number in range(50_000):
        now += 0.01
        limits.admit("me", f"run{number}", 60)
    assert len(limits._full_at) <= 10_001


def test_long_names_of_resources_are_not_kept() -> None:
    """A stranger may name any; of 1,000 with 10,000 characters each, less than a tenth of their bytes stays."""
    limits = RateLimits(lambda: 0.0, is_enforced=True)
    tracemalloc.start()
    try:
        for number in range(1000):
            limits.admit(f"stranger {number}", f"logs/{number:010000d}", 60)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_one_account_takes_nothing_from_another() -> None:
    """Neither of a resource that each has (its list of tasks), nor of the sum per minute."""
    limits = RateLimits(lambda: 0.0, is_enforced=True)
    assert _admitted(limits, "actor-tasks/", 60, 100) == 60
    assert _admitted(limits, "actor-tasks/", 60, 100, who="bob") == 60
    assert sum(_admitted(limits, f"run{number}", 400, 400) for number in range(700)) == 250_000 - 60
    assert _admitted(limits, "another", 400, 400, who="bob") == 400

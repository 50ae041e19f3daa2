"""The breaker of a batch in shards, as a worker counts for it by what it sees on the page."""

import random

import pytest

from batchrun.policy.breaker import BreakerLimits
from batchrun.worker.fleet.shard_breaker import ShardWindow

FRACTION = BreakerLimits(max_failed=0.5, window=50)
NUMBER = BreakerLimits(max_failed=10, is_fraction=False, window=50)


def sums(chance: random.Random, jobs: int, failing: float) -> list[dict[str, tuple[int, int]]]:
    """Return the sums of four parts as a worker sees them, while jobs are settled at random."""
    now, seen = {f"p{n}": (0, 0) for n in range(4)}, []
    for _ in range(jobs):
        part = f"p{chance.randrange(4)}"
        settled, failed = now[part]
        now[part] = settled + 1, failed + (chance.random() < failing)
        if chance.random() < 0.2:
            seen.append(dict(now))
    return seen


@pytest.mark.parametrize(
    ("limits", "failing", "trips"),
    [(FRACTION, 0.2, False), (FRACTION, 0.8, True), (NUMBER, 0.05, False), (NUMBER, 0.5, True)],
)
def test_the_breaker_counts_the_last_jobs_of_all_parts(limits: BreakerLimits, failing: float, trips: bool) -> None:
    """It trips soon after jobs begin to fail, although no part has settled a window of them, and names the numbers."""
    chance, window = random.Random(4), ShardWindow()
    begin = sums(chance, 400, 0.0)
    for each in begin:
        window.note(each, 0, {})
        assert not window.reason_to_trip(limits)
    for number, each in enumerate(sums(chance, 100, failing)):
        window.note({part: (begin[-1][part][0] + a, begin[-1][part][1] + b) for part, (a, b) in each.items()}, 0, {})
        if reason := window.reason_to_trip(limits):
            assert trips, (number, reason)
            assert "jobs of all shards did not succeed" in reason
            return
    assert not trips


def test_a_window_begins_anew_with_each_resuming() -> None:
    """What had failed before does not count; nor do old sums of a part that has changed its owner."""
    window = ShardWindow()
    window.note({"p0": (60, 60)}, 0, {})
    assert "60 of the last 60" in window.reason_to_trip(FRACTION)
    for settled, failed in ((0, 0), (100, 60)):
        window.note({"p0": (settled, failed)}, 3, {"p0": (60, 60)})
    assert not window.reason_to_trip(FRACTION)

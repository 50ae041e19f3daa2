"""When the breaker trips: fractions and counts, per batch and per group, and successes without items."""

import pytest

from batchrun.config.breaker_settings import BreakerConfig, breaker_limits
from batchrun.model import Items, JobKey, Outcome, Record
from batchrun.policy.breaker import SAME_RUNS, Breaker, SameItems, Trip


def trips(watching: Breaker, outcomes: str, group: str | None = None) -> list[tuple[int, Trip]]:
    """Note jobs: f failed, r rejected, s succeeded with items, e without, n with items not counted, i invalid."""
    found = []
    names = {"f": Outcome.FAILED, "r": Outcome.REJECTED, "i": Outcome.INVALID}
    items = {"s": Items(count=3, dataset_id=None), "e": Items(count=0, dataset_id=None)}
    for number, letter in enumerate(outcomes, 1):
        key = None if letter == "i" else JobKey(f"{group}-{number}")
        outcome = names.get(letter, Outcome.SUCCEEDED)
        record = Record(key=key, line=number, outcome=outcome, items=items.get(letter), group=group)
        if (trip := watching.note(record)) is not None:
            found.append((number, trip))
    return found


def watch(**config: object) -> Breaker:
    """Return a breaker as configured."""
    return Breaker(breaker_limits(BreakerConfig.model_validate(config)))


@pytest.mark.parametrize(
    ("config", "outcomes", "at"),
    [
        # By default: half of the last fifty, once there are fifty.
        ({}, "f" * 49, []),
        ({}, "f" * 50, [50]),
        ({}, "s" * 25 + "f" * 25, [50]),
        ({}, "s" * 26 + "f" * 24, []),
        ({}, "s" * 1000 + "f" * 25, [1025]),
        ({}, "fs" * 500, [50]),
        ({}, "fss" * 500, []),
        # What the platform rejected counts; what is no job does not.
        ({}, "r" * 50, [50]),
        ({}, "i" * 500, []),
        # A number counts at once.
        ({"max_failed": 3, "window": 10}, "fff", [3]),
        ({"max_failed": 3, "window": 4}, "fsfsfsfs", []),
        ({"max_failed": 1}, "ssf", [3]),
        ({"max_failed": 1.0, "window": 5}, "ffff" + "s" + "fffff", [10]),
        ({"max_failed": "off"}, "f" * 1000, []),
        # Successes without items, after some that had any.
        ({}, "e" * 1000, []),
        ({}, "s" + "e" * 25, [26]),
        ({}, "s" + "e" * 24 + "s" + "e" * 24, []),
        ({}, "s" + "n" * 100, []),
        ({"empty_in_a_row": "off"}, "s" + "e" * 100, []),
    ],
)
def test_when_it_trips(config: dict[str, object], outcomes: str, at: list[int]) -> None:
    """Each row: the configuration, the jobs as they settle, and the jobs at which it trips."""
    assert [number for number, _ in trips(watch(**config), outcomes)] == at


def test_a_group_trips_alone() -> None:
    """The batch and its other groups go on."""
    watching = watch(max_failed=0.5, window=10)
    found = []
    for _ in range(10):
        assert trips(watching, "sss", "good") == []
        found += trips(watching, "f", "bad")
    ((_, trip),) = found
    assert (trip.group, trip.reason) == ("bad", "10 of the last 10 jobs did not succeed")


def test_the_trip_says_what_happened_and_to_which_jobs() -> None:
    """It has a reason in words, and the keys of the window."""
    ((_, trip),) = trips(watch(window=4), "ssffff")
    assert trip.reason == "2 of the last 4 jobs did not succeed"
    assert trip.keys == ("None-1", "None-2", "None-3", "None-4")


def test_a_trip_for_empty_jobs_names_all_of_them() -> None:
    """Also those from before the window."""
    ((_, trip),) = trips(watch(window=2, empty_in_a_row=5), "s" + "e" * 5)
    assert set(trip.keys) == {f"None-{number}" for number in range(2, 7)}
    assert "5 successes in a row" in trip.reason
    assert trip.is_for_empty


def brought(count: int, content: int, outcome: Outcome = Outcome.SUCCEEDED) -> Record:
    items = Items(count=count, dataset_id=None, content=content)
    return Record(key=JobKey("k"), line=1, outcome=outcome, items=items)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([brought(2, 7)] * (SAME_RUNS - 1), 0),
        ([brought(2, 7)] * SAME_RUNS * 3, 1),
        ([brought(2, 7), brought(2, 7, Outcome.FAILED)] * SAME_RUNS, 1),
        ([brought(2, 7)] * (SAME_RUNS - 1) + [brought(2, 8)] + [brought(2, 7)] * SAME_RUNS, 0),
        ([brought(2, 7)] * (SAME_RUNS - 1) + [brought(3, 7)], 0),
        ([brought(0, 7)] * SAME_RUNS, 0),
        ([brought(2, 0)] * SAME_RUNS, 0),
    ],
)
def test_items_that_are_all_the_same_are_said_once(records: list[Record], said: int) -> None:
    """At the 25th success, if no success before it brought others; no items are no sign, nor are unknown ones."""
    watch = SameItems()
    assert [watch.note(record) for record in records].count(True) == said

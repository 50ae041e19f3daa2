"""Which waiting job goes next: fair between groups, and never starving what is large."""

from collections import Counter

import pytest

from batchrun.policy.fair_queue import MAX_OWED, MAX_SKIPS, FairQueue, Fit


def always(_: object) -> Fit:
    """Let everything fit."""
    return Fit.YES


def queue_of(groups: dict[str | None, int], weights: dict[str | None, float] | None = None) -> FairQueue[str]:
    """Return a queue with so many jobs of each group, the groups one after the other."""
    queue: FairQueue[str] = FairQueue(weights or {})
    for group, count in groups.items():
        for number in range(count):
            queue.push(f"{group}-{number}", group)
    return queue


def take(queue: FairQueue[str], count: int) -> list[str]:
    """Take so many jobs, all of which fit."""
    taken = [queue.take(always) for _ in range(count)]
    return [job for job in taken if job is not None]


def test_without_groups_it_is_first_come_first_served() -> None:
    """And empty at the end."""
    queue = queue_of({None: 5})
    assert take(queue, 9) == [f"None-{number}" for number in range(5)]
    assert (len(queue), queue.take(always)) == (0, None)


def test_groups_take_turns_wherever_they_stand_in_the_file() -> None:
    """A thousand jobs of one group before it do not hold up the other."""
    queue = queue_of({"a": 1000, "b": 10})
    assert Counter(job[0] for job in take(queue, 20)) == {"a": 10, "b": 10}


@pytest.mark.parametrize("weights", [{"a": 3.0}, {"a": 1.5, "b": 0.5}])
def test_weights_are_shares(weights: dict[str | None, float]) -> None:
    """Three to one, over any stretch."""
    counts = Counter(job[0] for job in take(queue_of({"a": 400, "b": 400}, weights), 400))
    assert (counts["a"], counts["b"]) == (300, 100)


def test_a_group_that_comes_late_gets_no_turns_for_the_time_before() -> None:
    """It takes turns from now on."""
    queue = queue_of({"a": 300})
    take(queue, 100)
    for number in range(100):
        queue.push(f"b-{number}", "b")
    assert Counter(job[0] for job in take(queue, 20))["b"] in (10, 11)


def test_a_group_with_a_weight_remembers_what_it_had_while_it_has_no_job() -> None:
    """Its jobs come one at a time, and it has one of four starts all the same, not each that comes."""
    queue = queue_of({"a": 1000}, {"a": 3.0, "b": 1.0})
    taken = list[str]()
    for number in range(400):
        if queue.short.keys() & {"b"}:
            queue.push(f"b-{number}", "b")
        taken += take(queue, 1)
    assert Counter(job[0] for job in taken) == {"a": 300, "b": 100}


@pytest.mark.parametrize(("missed", "made_up_for"), [(30, 30), (1000, MAX_OWED)])
def test_starts_that_a_group_with_a_weight_missed_are_made_up_for(missed: int, made_up_for: int) -> None:
    """Not more than so many: a group that comes late does not hold up the others for long."""
    queue = queue_of({"a": 1, "b": 5000}, {"a": 1.0, "b": 1.0})
    take(queue, 2 + missed)
    for number in range(2000):
        queue.push(f"a-{number}", "a")
    counts = Counter(job[0] for job in take(queue, 1000))
    assert counts["a"] == pytest.approx((1000 + made_up_for) / 2, abs=1)


def test_groups_with_a_weight_are_short_of_jobs_until_they_have_their_share_of_the_next() -> None:
    """Of ten starts: eight and three, rounded up; again when one is taken; never again when they are dropped."""
    queue: FairQueue[str] = FairQueue({"a": 3.0, "b": 1.0}, depth=10)
    short = list[list[str | None]]()
    for job in [*["a"] * 8, *["b"] * 3]:
        short.append(list(queue.short))
        queue.push(job, job)
    assert short == [["a", "b"]] * 8 + [["b"]] * 3
    assert (list(queue.short), take(queue, 1), list(queue.short)) == ([], ["a"], ["a"])
    queue.drop("a")
    assert list(queue.short) == []


def test_a_group_that_is_full_holds_up_nobody_else() -> None:
    """Its jobs stay in their order."""
    queue = queue_of({"a": 3, "b": 2})
    full = {"a"}

    def fit(job: str) -> Fit:
        return Fit.GROUP_IS_FULL if job[0] in full else Fit.YES

    assert [queue.take(fit) for _ in range(3)] == ["b-0", "b-1", None]
    full.clear()
    assert [queue.take(fit) for _ in range(3)] == ["a-0", "a-1", "a-2"]


def test_small_jobs_fill_the_room_that_a_large_one_cannot_use() -> None:
    """Those behind it in its own group, too."""
    queue = queue_of({None: 4})
    large = {"None-0", "None-2"}
    assert [queue.take(lambda job: Fit.TOO_LARGE if job in large else Fit.YES) for _ in range(3)] == [
        "None-1", "None-3", None,
    ]  # fmt: skip
    assert take(queue, 2) == ["None-0", "None-2"]


def test_a_large_job_is_not_starved() -> None:
    """Passed over so often, it makes all others wait until it fits; after it, the rest goes on in order."""
    queue = queue_of({None: 1 + 2 * MAX_SKIPS})

    def small_only(job: str) -> Fit:
        return Fit.TOO_LARGE if job == "None-0" else Fit.YES

    taken = [queue.take(small_only) for _ in range(MAX_SKIPS + 5)]
    assert sum(job is not None for job in taken) == MAX_SKIPS
    assert take(queue, 3) == ["None-0", f"None-{MAX_SKIPS + 1}", f"None-{MAX_SKIPS + 2}"]


def test_what_is_due_again_goes_before_its_group() -> None:
    """Not before other groups' turns."""
    queue = queue_of({"a": 2})
    queue.push("again", "a", is_first=True)
    assert take(queue, 3) == ["again", "a-0", "a-1"]


def test_a_dropped_group_is_gone() -> None:
    """With whoever of it the others had to wait for."""
    queue = queue_of({"a": 2, "b": 1})
    assert queue.take(lambda job: Fit.TOO_LARGE if job[0] == "a" else Fit.YES) == "b-0"
    assert (queue.drop("a"), queue.drop("a"), len(queue)) == (["a-0", "a-1"], [], 0)
    queue.push("b-1", "b")
    assert take(queue, 1) == ["b-1"]


def test_who_is_waited_for_is_found_wherever_it_stands() -> None:
    """Behind jobs that are due again, and behind other groups' turns."""
    queue: FairQueue[str] = FairQueue({})
    queue.push("large", "a")
    for number in range(100):
        queue.push(f"a{number}", "a")
        queue.push(f"b{number}", "b")
    for _ in range(MAX_SKIPS):
        queue.take(lambda job: Fit.TOO_LARGE if job == "large" else Fit.YES)
    queue.push("due again", "a", is_first=True)
    queue.push("late", "c")
    assert queue.take(lambda job: Fit.TOO_LARGE if job == "large" else Fit.YES) is None
    assert queue.take(always) == "large"

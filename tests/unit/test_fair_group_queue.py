"""Which waiting job goes next: fair between groups, without starving large jobs."""

from collections import Counter

import pytest

from batchrun.policy.fair_group_queue import MAX_OWED, MAX_SKIPS, FairGroupQueue, Fit


def always(_: object) -> Fit:
    """Let every job fit."""
    return Fit.YES


def queue_of(groups: dict[str | None, int], weights: dict[str | None, float] | None = None) -> FairGroupQueue[str]:
    """Return a queue with this number of jobs of each group, group after group."""
    queue: FairGroupQueue[str] = FairGroupQueue(weights or {})
    for group, count in groups.items():
        for number in range(count):
            queue.push(f"{group}-{number}", group)
    return queue


def take(queue: FairGroupQueue[str], count: int) -> list[str]:
    """Take this number of jobs, all of which fit."""
    taken = [queue.take(always) for _ in range(count)]
    return [job for job in taken if job is not None]


def test_without_groups_it_is_first_come_first_served() -> None:
    """It is empty at the end."""
    queue = queue_of({None: 5})
    assert take(queue, 9) == [f"None-{number}" for number in range(5)]
    assert (len(queue), queue.take(always)) == (0, None)


def test_groups_alternate_wherever_they_are_in_the_file() -> None:
    """A thousand earlier jobs of one group do not hold up the other."""
    queue = queue_of({"a": 1000, "b": 10})
    assert Counter(job[0] for job in take(queue, 20)) == {"a": 10, "b": 10}


@pytest.mark.parametrize("weights", [{"a": 3.0}, {"a": 1.5, "b": 0.5}])
def test_weights_divide_the_starts(weights: dict[str | None, float]) -> None:
    """Three to one, over any stretch."""
    counts = Counter(job[0] for job in take(queue_of({"a": 400, "b": 400}, weights), 400))
    assert (counts["a"], counts["b"]) == (300, 100)


def test_a_late_group_is_owed_nothing_for_the_time_before() -> None:
    """It alternates from now on."""
    queue = queue_of({"a": 300})
    take(queue, 100)
    for number in range(100):
        queue.push(f"b-{number}", "b")
    assert Counter(job[0] for job in take(queue, 20))["b"] in (10, 11)


def test_a_group_with_a_weight_remembers_what_it_had_while_it_has_no_job() -> None:
    """Its jobs come one at a time, and it still has one of four starts, not a start for each."""
    queue = queue_of({"a": 1000}, {"a": 3.0, "b": 1.0})
    taken = list[str]()
    for number in range(400):
        if queue.short.keys() & {"b"}:
            queue.push(f"b-{number}", "b")
        taken += take(queue, 1)
    assert Counter(job[0] for job in taken) == {"a": 300, "b": 100}


@pytest.mark.parametrize(("missed", "made_up_for"), [(30, 30), (1000, MAX_OWED)])
def test_starts_that_a_group_with_a_weight_missed_are_made_up_for(missed: int, made_up_for: int) -> None:
    """At most MAX_OWED of them: a late group does not hold up the others for long."""
    queue = queue_of({"a": 1, "b": 5000}, {"a": 1.0, "b": 1.0})
    take(queue, 2 + missed)
    for number in range(2000):
        queue.push(f"a-{number}", "a")
    counts = Counter(job[0] for job in take(queue, 1000))
    assert counts["a"] == pytest.approx((1000 + made_up_for) / 2, abs=1)


def test_groups_with_a_weight_are_short_of_jobs_until_they_have_their_part_of_the_next() -> None:
    """Of ten starts: eight and three, rounded up; short again when one is taken; never when they are dropped."""
    queue: FairGroupQueue[str] = FairGroupQueue({"a": 3.0, "b": 1.0}, depth=10)
    short = list[list[str | None]]()
    for job in [*["a"] * 8, *["b"] * 3]:
        short.append(list(queue.short))
        queue.push(job, job)
    assert short == [["a", "b"]] * 8 + [["b"]] * 3
    assert (list(queue.short), take(queue, 1), list(queue.short)) == ([], ["a"], ["a"])
    queue.drop("a")
    assert list(queue.short) == []


def test_a_full_group_holds_up_no_other() -> None:
    """Its jobs stay in their order."""
    queue = queue_of({"a": 3, "b": 2})
    full = {"a"}

    def fit(job: str) -> Fit:
        return Fit.GROUP_IS_FULL if job[0] in full else Fit.YES

    assert [queue.take(fit) for _ in range(3)] == ["b-0", "b-1", None]
    full.clear()
    assert [queue.take(fit) for _ in range(3)] == ["a-0", "a-1", "a-2"]


def test_small_jobs_use_the_memory_that_a_large_one_cannot() -> None:
    """Those after it in its group, too."""
    queue = queue_of({None: 4})
    large = {"None-0", "None-2"}
    assert [queue.take(lambda job: Fit.TOO_LARGE if job in large else Fit.YES) for _ in range(3)] == [
        "None-1", "None-3", None,
    ]  # fmt: skip
    assert take(queue, 2) == ["None-0", "None-2"]


def test_a_large_job_is_not_starved() -> None:
    """After MAX_SKIPS skips all others wait until it fits; then the rest goes on in order."""
    queue = queue_of({None: 1 + 2 * MAX_SKIPS})

    def small_only(job: str) -> Fit:
        return Fit.TOO_LARGE if job == "None-0" else Fit.YES

    taken = [queue.take(small_only) for _ in range(MAX_SKIPS + 5)]
    assert sum(job is not None for job in taken) == MAX_SKIPS
    assert take(queue, 3) == ["None-0", f"None-{MAX_SKIPS + 1}", f"None-{MAX_SKIPS + 2}"]


def test_a_retried_job_goes_before_its_group() -> None:
    """Not before other groups."""
    queue = queue_of({"a": 2})
    queue.push("again", "a", is_first=True)
    assert take(queue, 3) == ["again", "a-0", "a-1"]


def test_a_dropped_group_is_gone() -> None:
    """So is its large job for which the others had to wait."""
    queue = queue_of({"a": 2, "b": 1})
    assert queue.take(lambda job: Fit.TOO_LARGE if job[0] == "a" else Fit.YES) == "b-0"
    assert (queue.drop("a"), queue.drop("a"), len(queue)) == (["a-0", "a-1"], [], 0)
    queue.push("b-1", "b")
    assert take(queue, 1) == ["b-1"]


def test_removed_jobs_are_gone_and_the_others_stay_in_their_order() -> None:
    """A group without jobs is forgotten, and no job waits for a removed one."""
    queue = queue_of({"a": 3, "b": 1})
    assert queue.take(lambda _: Fit.TOO_LARGE) is None
    assert sorted(queue.remove(lambda job: job in ("a-0", "b-0"))) == ["a-0", "b-0"]
    assert (len(queue), take(queue, 2), queue.take(always)) == (2, ["a-1", "a-2"], None)
    queue.push("b1", "b")
    assert take(queue, 1) == ["b1"]


def test_a_large_job_is_found_wherever_it_is() -> None:
    """After retried jobs of its group, and after other groups."""
    queue: FairGroupQueue[str] = FairGroupQueue({})
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

"""Which jobs start when not all can: limits of groups, limits of memory, and groups that the breaker has stopped."""

from collections import Counter

import anyio
import orjson
import pytest

from batchrun.engine.notices import BreakerTripped
from batchrun.ledger.facts import TRIPS
from batchrun.model import Job, Outcome, RunOptions, RunStatus
from batchrun.policy.breaker import BreakerLimits
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job
from tests.support.scripted_api import Engine, Plan, ScriptedApi


def grouped(*groups: tuple[str, int]) -> ListSource:
    """Return a source with a number of jobs of each group, one group after the other."""
    names = [name for name, count in groups for _ in range(count)]
    return ListSource(make_job(line, group=name) for line, name in enumerate(names, 1))


def sized(*sizes_mb: int) -> ListSource:
    """Return a source of jobs that ask for so much memory each."""
    return ListSource([
        make_job(line, options=RunOptions(memory_mb=size_mb)) for line, size_mb in enumerate(sizes_mb, 1)
    ])  # fmt: skip


def group_of(api: ScriptedApi, source: ListSource) -> list[str | None]:
    """Return the group of each start, in order."""
    by_body = {job.body: job.group for job in source.given if isinstance(job, Job)}
    return [by_body[post.body] for post in api.posts]


async def test_a_group_with_a_limit_leaves_the_other_slots_to_others() -> None:
    """Five of the first group at once, though thousands of its jobs stand before all others; all are carried out."""
    api, source = ScriptedApi(Plan(run_s=10)), grouped(("a", 2000), ("b", 100))
    engine = Engine(api, WatchedLedger(), source, slots=20, group_limits={"a": 5})
    with anyio.move_on_after(10 + 100 / 15 * 10 + 1):
        await engine.run()
    counts = Counter(group_of(api, source)[:20])
    assert (counts["a"], counts["b"]) == (5, 15)
    assert Counter(group_of(api, source))["b"] == 100
    assert engine.permits._live_in_group["a"] <= 5


async def test_looking_for_a_job_that_fits_reads_no_more_than_a_window() -> None:
    """A file of one full group is not read into memory."""
    source = grouped(("a", 50_000))
    engine = Engine(ScriptedApi(Plan(run_s=1e6)), WatchedLedger(), source, slots=20, group_limits={"a": 5})
    with anyio.move_on_after(100):
        await engine.run()
    assert 9_000 <= source.pulled <= 11_000


async def test_groups_share_by_weight() -> None:
    """Two to one in starts, where both have enough to do."""
    source = ListSource([make_job(line, group="ab"[line % 2]) for line in range(1, 601)])
    api = ScriptedApi(Plan(run_s=10))
    with anyio.move_on_after(101):
        await Engine(api, WatchedLedger(), source, slots=9, weights={"a": 2.0}).run()
    counts = Counter(group_of(api, source)[:90])
    assert counts["a"] == pytest.approx(60, abs=6)


async def test_memory_is_never_overbooked_and_packed_full() -> None:
    """Runs of mixed sizes: together never more than there is, and nearly always as much."""
    sizes = [128 << (line % 5) for line in range(200)]
    source, used = sized(*sizes), list[int]()
    api = ScriptedApi(Plan(run_s=10))
    engine = Engine(api, WatchedLedger(on_note=lambda _: used.append(engine.permits.reserved_mb)), source,
                    slots=100, memory_mb=8192)  # fmt: skip
    records = await engine.run()
    assert (len(records), max(used)) == (200, 8192)
    assert anyio.current_time() <= sum(sizes) / 8192 * 10 * 1.25


async def test_a_large_run_among_small_ones_is_started() -> None:
    """An endless stream of small jobs does not starve it."""
    source = sized(512, 4096, *[512] * 400)
    api = ScriptedApi(Plan(run_s=10))
    engine = Engine(api, WatchedLedger(), source, slots=50, memory_mb=4096)
    with anyio.move_on_after(300):
        await engine.run()
    large = next(number for number, post in enumerate(api.posts) if post.options.memory_mb == 4096)
    assert large <= 100


async def test_a_run_above_all_memory_is_rejected_without_a_request() -> None:
    """The platform would say `not now` for ever."""
    api = ScriptedApi(Plan(run_s=1))
    engine = Engine(api, WatchedLedger(), sized(512, 8192, 512), memory_mb=4096, terms={"max_memory_mb": 4096})
    records = {record.line: record for record in await engine.run()}
    assert [records[line].outcome for line in (1, 2, 3)] == [
        Outcome.SUCCEEDED, Outcome.REJECTED, Outcome.SUCCEEDED,
    ]  # fmt: skip
    error = records[2].error
    assert error is not None
    assert (error.type, len(api.posts)) == ("memory-never-available", 2)


async def test_memory_that_comes_free_is_used_at_once() -> None:
    """The next Run begins at the instant in which one ends."""
    api = ScriptedApi(Plan(run_s=10))
    await Engine(api, WatchedLedger(), sized(*[1024] * 6), slots=50, memory_mb=2048, start_rate=1e9).run()
    assert api.begun_at == pytest.approx([0, 0, 10, 10, 20, 20], abs=1e-6)


async def test_the_breaker_stops_starts_and_leaves_the_rest_open() -> None:
    """What runs is followed to its end; the trip is noted with its jobs."""
    api, ledger = ScriptedApi(Plan(run_s=1, status=RunStatus.FAILED)), WatchedLedger()
    engine = Engine(api, ledger, grouped(("a", 500)), slots=4, limits=BreakerLimits(max_failed=0.5, window=20))
    records = await engine.run()
    assert len(records) == len(api.posts) <= 24
    assert (engine.scheduler.has_tripped, [trip.group for trip in ledger.fact(TRIPS) or ()]) == (True, [None])
    assert [type(notice) for notice in engine.progress.notices.take()] == [BreakerTripped]


async def test_a_group_that_trips_is_left_and_the_others_go_on() -> None:
    """Its jobs stay open, also those that are due again; the others are all carried out."""
    source = ListSource([make_job(line, group="bad" if line % 4 == 0 else "good") for line in range(1, 401)])

    def plan(n: int) -> Plan:
        is_bad = orjson.loads(api.posts[n - 1].body)["line"] % 4 == 0
        return Plan(run_s=1, status=RunStatus.FAILED if is_bad else RunStatus.SUCCEEDED)

    api, ledger = ScriptedApi(plan), WatchedLedger()
    engine = Engine(api, ledger, source, slots=10, limits=BreakerLimits(max_failed=0.7, window=10))
    records = await engine.run()
    groups = Counter(record.group for record in records)
    assert (groups["good"], [trip.group for trip in ledger.fact(TRIPS) or ()]) == (300, ["bad"])
    assert 10 <= groups["bad"] < 30
    assert engine.progress.left_open == 100 - groups["bad"]

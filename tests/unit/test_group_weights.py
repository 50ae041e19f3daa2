"""Weights of groups in the engine: their parts of the starts, and how far the file is read ahead for them."""

from collections import Counter
from collections.abc import Callable, Mapping

import anyio
import pytest

from batchrun.config.groups_settings import GroupConfig, group_limits, group_weights
from batchrun.engine.start_queue import FAIR_DEPTH, MAX_CHUNK, MAX_LOOK_AHEAD, MIN_CHUNK
from batchrun.model import RunStatus
from batchrun.policy.breaker import BreakerLimits
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi


def grouped(count: int, group_of: Callable[[int], str]) -> ListSource:
    """Return a source of this many jobs; a job's override holds its group."""
    return ListSource(
        make_job(n, body=b'{"group":"%s","n":%d}' % (group_of(n).encode(), n), group=group_of(n))
        for n in range(1, count + 1)
    )


def groups_started(api: ScriptedApi, first: int | None = None, *, after: int = 0) -> Counter[str]:
    """Return how many of the first starts each group had, except the starts at the very head."""
    return Counter(post.body.split(b'"')[3].decode() for post in api.posts[after:first])


async def started(
    source: ListSource, weights: Mapping[str | None, float], *, starts: int, after: int = 0
) -> Counter[str]:
    """Start this many Runs of a second or two over a ledger that syncs in 5 ms; return their groups."""
    enough = anyio.Event()

    def plan(n: int) -> Plan:
        if n == starts:
            enough.set()
        return Plan(run_s=1 + n % 3 / 2)

    api = ScriptedApi(plan)
    engine = Engine(api, WatchedLedger(sync_s=0.005), source, slots=64, weights=weights, start_rate=380)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await enough.wait()
        children.cancel_scope.cancel()
    return groups_started(api, starts, after=after)


async def test_weights_are_shares_of_groups_that_alternate_in_the_file() -> None:
    """Groups with weights 3 and 1 alternate in the file; the first 600 starts are three to one within 1 %."""
    source = grouped(20_000, lambda n: "ab"[n % 2])
    counts = await started(source, {"a": 3.0, "b": 1.0}, starts=600)
    assert counts["a"] == pytest.approx(450, rel=0.01)
    assert source.pulled <= 900 + 2 * FAIR_DEPTH + 2 * MAX_CHUNK  # as far as it takes, not to the limit


async def test_weights_are_shares_where_starts_are_far_faster_than_the_file_is_read() -> None:
    """At thousands of starts per second, a group catches up on the starts it missed while it had no job ready."""
    source = grouped(1_500, lambda n: "ab"[n % 2])
    api = ScriptedApi(Plan(run_s=0.001))
    engine = Engine(
        api, WatchedLedger(sync_s=0.005), source, slots=64, weights={"a": 3.0, "b": 1.0}, start_rate=1e6, burst=64
    )
    await engine.run()
    assert groups_started(api, 600)["a"] == pytest.approx(450, rel=0.05)


async def test_a_heavier_group_that_comes_second_in_the_file_gets_its_share() -> None:
    """A group of weight 3 that begins after 2,000 lines has three of four starts as soon as it is read."""
    source = grouped(4_000, lambda n: "b" if n <= 2000 else "a")
    counts = await started(source, {"a": 3.0, "b": 1.0}, starts=700, after=200)
    assert counts["a"] == pytest.approx(375, rel=0.05)


async def test_a_group_beyond_the_look_ahead_gets_its_share_once_it_comes_near() -> None:
    """A group behind 10,500 lines starts once 500 of them are started, and then at three to one."""
    source = grouped(12_000, lambda n: "b" if n <= 10_500 else "a")
    counts = await started(source, {"a": 3.0, "b": 1.0}, starts=1000)
    assert counts["a"] == pytest.approx(375, rel=0.1)


async def test_many_groups_each_get_their_share() -> None:
    """Fifty groups with weights 1 to 5, in blocks of 100 lines, each get their part within two starts."""
    weights: dict[str | None, float] = {f"g{n}": 1.0 + n % 5 for n in range(50)}
    source = grouped(15_000, lambda n: f"g{(n - 1) // 100 % 50}")
    counts = await started(source, weights, starts=950, after=200)
    shares = {str(group): 750 * weight / sum(weights.values()) for group, weight in weights.items()}
    assert {group: share for group, share in shares.items() if abs(counts[group] - share) > 2} == {}


async def test_a_group_with_a_limit_does_not_have_the_file_read_for_it() -> None:
    """While all the Runs of its limit are live, a group needs no more jobs."""
    source = grouped(20_000, lambda n: "a" if n % 100 == 1 else "b")
    api = ScriptedApi(lambda n: Plan(run_s=1e9) if b'"a"' in api.posts[n - 1].body else Plan(run_s=1))
    engine = Engine(
        api, WatchedLedger(), source, slots=10, weights={"a": 100.0, "b": 1.0}, group_limits={"a": 2}, start_rate=1e6
    )
    with anyio.move_on_after(50):
        await engine.run()
    assert groups_started(api, 10_000)["a"] == 2
    assert source.pulled <= len(api.posts) + 2 * MAX_CHUNK + 200


async def test_a_missing_group_has_the_file_read_ahead_to_the_limit() -> None:
    """The file is read ahead to the limit, further with each start, and in chunks of at least 32 lines on average."""
    source = grouped(30_000, lambda _: "b")
    api, ledger = ScriptedApi(Plan(run_s=100)), WatchedLedger(sync_s=0.005)
    engine = Engine(api, ledger, source, slots=10, weights={"never": 3.0})
    with anyio.move_on_after(950):
        await engine.run()
    assert len(api.posts) == 100
    assert MAX_LOOK_AHEAD <= source.pulled <= MAX_LOOK_AHEAD + 100 + MAX_CHUNK
    assert sum(note.startswith("admit") for note in ledger.notes) <= source.pulled / 32 + 1


async def test_large_jobs_are_read_ahead_as_far_as_memory_allows() -> None:
    """Jobs of a megabyte are read ahead up to 32 MB and one chunk."""
    body = b'"%s"' % (b"x" * (1 << 20))
    source = numbered(300, body=body, group="b")
    engine = Engine(ScriptedApi(Plan(run_s=1e6)), WatchedLedger(), source, slots=2, weights={"never": 1.0})
    with anyio.move_on_after(100):
        await engine.run()
    assert 32 <= source.pulled <= 32 + 2 * MIN_CHUNK


async def test_reading_on_for_a_group_holds_up_no_start() -> None:
    """While a slow disk takes ten seconds to admit the jobs read ahead, the first jobs have started."""
    source = grouped(10_000, lambda n: "b" if n <= 9000 else "a")
    api = ScriptedApi(Plan(run_s=1000))
    engine = Engine(api, WatchedLedger(sync_s=0.03), source, slots=32, weights={"a": 3.0})
    with anyio.move_on_after(5):
        await engine.run()
    assert (len(api.posts), source.pulled < 10_000) == (32, True)


async def test_without_weights_the_file_is_not_read_ahead() -> None:
    """Groups without weights, with or without limits, cause no reading ahead."""
    source = grouped(20_000, lambda n: "ab"[n % 2])
    engine = Engine(ScriptedApi(Plan(run_s=1e9)), WatchedLedger(), source, slots=2, group_limits={"a": 5})
    with anyio.move_on_after(100):
        await engine.run()
    assert source.pulled <= 100


async def test_a_group_that_the_breaker_stopped_is_not_read_for() -> None:
    """A group that the breaker has stopped causes no reading ahead."""

    def plan(n: int) -> Plan:
        return Plan(run_s=1, status=RunStatus.FAILED if b'"a"' in api.posts[n - 1].body else RunStatus.SUCCEEDED)

    source = grouped(40_000, lambda n: "a" if n <= 20_000 and n % 2 else "b")
    api = ScriptedApi(plan)
    limits = BreakerLimits(max_failed=0.6, is_fraction=True, window=10)
    engine = Engine(api, WatchedLedger(), source, slots=2, weights={"a": 1.0}, limits=limits)
    with anyio.move_on_after(60):
        await engine.run()
    assert (engine.scheduler.has_tripped, engine.scheduler.stopped_for) == (True, None)
    assert len(api.posts) >= 100
    assert source.pulled <= 4 * MAX_CHUNK + 2 * len(api.posts)


def test_only_weights_that_were_set_are_weights() -> None:
    """A group with only a limit has weight 1 and causes no reading ahead."""
    groups = {"a": GroupConfig(weight=1.0), "b": GroupConfig(max_concurrent_runs=5)}
    assert (group_weights(groups), group_limits(groups)) == ({"a": 1.0}, {"b": 5})

"""Live Runs with "auto": the account's limits, what its refusals teach, and how well the slots are used."""

from collections import Counter
from itertools import pairwise
from typing import Any

import anyio
import pytest

from batchrun.account.limits_watch import LimitsWatch, WatchedLimit
from batchrun.apify.wire import AccountLimits
from batchrun.engine.limits.account_capacity import MAX_GROWN_SLOTS
from batchrun.policy.full_account import stride
from batchrun.policy.leave_free import Allowance
from tests.support.memory_ledger import WatchedLedger, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error

SYNC_S = 0.005


def engine_of(api: ScriptedApi, n: int, **settings: Any) -> Engine:
    """Return an engine with the default start rate, over a ledger as slow as a disk."""
    chosen: dict[str, Any] = {"slots": "auto", "start_rate": 380, "burst": 19, **settings}
    return Engine(api, WatchedLedger(sync_s=SYNC_S), numbered(n), **chosen)


def live_at(api: ScriptedApi, at: float, run_s: float) -> int:
    """Return how many Runs of length `run_s` were live at a time."""
    return sum(1 for began in api.begun_at if began <= at < began + run_s)


def refill_waits(api: ScriptedApi, slots: int, run_s: float, until: float) -> list[float]:
    """Return the wait from the end of each Run, until a time, to the start of the Run that replaced it."""
    begun = sorted(api.begun_at)
    ends = [at + run_s for at in begun if at + run_s < until]
    return [begin - end for end, begin in zip(ends, begun[slots:], strict=False)]


@pytest.mark.parametrize("run_s", [20, pytest.param(60, marks=pytest.mark.long)])
async def test_slots_are_used_and_refilled(run_s: int) -> None:
    """In an account of 256 Runs, 99.5 % of the slots' time is Runs, and each slot is refilled within 50 ms."""
    api = ScriptedApi(Plan(run_s=run_s, answer_after_s=0.02), capacity=256)
    engine = engine_of(api, 256 * 4)
    await engine.run()
    assert (len(engine.records), api.peak) == (256 * 4, 256)
    begin, end = 4.0, max(api.begun_at)
    busy = sum(max(0.0, min(end, at + run_s) - max(begin, at)) for at in api.begun_at)
    assert busy / (256 * (end - begin)) >= 0.995
    assert 0.99 <= (engine.meter.use.fraction or 0) <= 1
    waits = refill_waits(api, 256, run_s, end)
    assert (len(waits) >= 600, max(waits) <= 0.05) == (True, True)
    assert (engine.meter.refill.quantile(0.5) or 1) <= 0.02
    assert (engine.meter.refill.quantile(0.99) or 1) <= 0.05


async def test_the_meter_agrees_with_the_platform() -> None:
    """Runs of 1 s at 10 starts per second use half of 20 slots, and each free slot waits for the next token."""
    api = ScriptedApi(Plan(run_s=1))
    engine = engine_of(api, 400, slots=20, start_rate=10, burst=1)
    await engine.run()
    assert engine.meter.use.fraction == pytest.approx(0.5, abs=0.02)
    assert engine.meter.refill.quantile(0.5) == pytest.approx(0.1, rel=0.1)


async def test_a_hidden_limit_is_found_from_two_and_held() -> None:
    """Without a shown limit it begins with two Runs, finds the limit of 37 in seconds, and is rarely refused."""
    api = ScriptedApi(Plan(run_s=20, answer_after_s=0.05), capacity=37)
    api.tells_limits = False
    engine = engine_of(api, 37 * 12)
    await engine.run()
    assert (api.begun_at[1] - api.begun_at[0] < 0.1, api.peak) == (True, 37)
    assert live_at(api, 3.0, 20) == 37
    begin, end = 3.0, max(api.begun_at)
    busy = sum(max(0.0, min(end, at + 20) - max(begin, at)) for at in api.begun_at)
    assert busy / (37 * (end - begin)) >= 0.98
    assert_no_herd(api, 37)


@pytest.mark.parametrize("slots", [64, 256])
@pytest.mark.parametrize(("limit", "answer_after_s"), [(37, 0.05), (37, 0.15), (120, 0.15)])
async def test_few_starts_meet_a_hidden_limit_below_the_configured_number(
    slots: int, limit: int, answer_after_s: float
) -> None:
    """At most 8 starts, or an eighth of the limit, are refused together; after that, one per second."""
    api = ScriptedApi(Plan(run_s=20, answer_after_s=answer_after_s), capacity=limit)
    api.tells_limits = False
    engine = engine_of(api, limit * 3, slots=slots)
    await engine.run()
    assert api.peak == min(slots, limit)
    assert live_at(api, 3.0, 20) == min(slots, limit)
    assert_no_herd(api, limit)


def assert_no_herd(api: ScriptedApi, limit: int) -> None:
    """Check that few starts were refused when the limit was met, and at most one per second after that."""
    met_at = api.refused_at[0] if api.refused_at else 0.0
    first = [at for at in api.refused_at if at < met_at + 0.5]
    assert len(first) <= stride(limit)
    assert min((b - a for a, b in pairwise(api.refused_at[max(0, len(first) - 1) :])), default=1.0) >= 1.0


async def test_probing_for_a_limit_costs_little() -> None:
    """With answers after 150 ms, the full rate of 380 starts per second is reached within three seconds, and holds."""
    api = ScriptedApi(Plan(run_s=1, answer_after_s=0.15))
    await engine_of(api, 1600, slots=1024).run()
    first, second, third, *later = [sum(1 for at in api.begun_at if s <= at < s + 1) for s in range(5)]
    assert (first >= 50, second >= 100, third >= 250, min(later) >= 379) == (True, True, True, True)


async def test_a_configured_number_never_exceeds_the_accounts_limit() -> None:
    """With 256 configured in an account of 37 that others use, too, no start is refused."""
    api = ScriptedApi(lambda n: Plan(run_s=10 + n % 7, answer_after_s=0.05), capacity=37)
    api.others = 10
    engine = engine_of(api, 1000, slots=256)
    limits = list[int]()
    with anyio.move_on_after(90):
        async with anyio.create_task_group() as children:
            children.start_soon(engine.run)
            for others in (10, 0):
                api.others = others
                await anyio.sleep(20)
                limits.append(engine.permits.limit)
            children.cancel_scope.cancel()
    assert (api.refused_at, limits, api.peak) == ([], [27, 37], 37)


async def test_a_configured_number_below_the_accounts_limit_is_kept() -> None:
    """The engine uses no more Runs than configured, however many the account has."""
    api = ScriptedApi(Plan(run_s=5), capacity=100)
    await engine_of(api, 200, slots=7).run()
    assert api.peak == 7


async def test_growth_ends_at_the_largest_documented_account() -> None:
    """On a platform that shows no limit and refuses nothing, live Runs stay at 256."""
    api = ScriptedApi(Plan(run_s=100))
    engine = engine_of(api, 1000)
    with anyio.move_on_after(50):
        await engine.run()
    assert api.live == MAX_GROWN_SLOTS


async def test_others_come_and_go() -> None:
    """In an account of 25 with one Run left free, our Runs give way to others' Runs and come back."""
    api = ScriptedApi(Plan(run_s=5), capacity=25)
    engine = engine_of(api, 2000, leave_free=1)
    ours = dict[float, int]()

    async def look(at: float) -> None:
        await anyio.sleep(at - anyio.current_time())
        ours[at] = api.live

    with anyio.move_on_after(100):
        async with anyio.create_task_group() as children:
            children.start_soon(engine.run)
            await look(10)
            api.others = 15
            await look(25)  # seen twice, and then those that were live have ended
            api.others = 24
            await look(45)
            api.others = 0
            await look(49.5)  # seen at once
            children.cancel_scope.cancel()
    assert ours == {10: 24, 25: 9, 45: 1, 49.5: 24}


async def test_others_cause_at_most_one_refused_start_per_second_if_limits_cannot_be_read() -> None:
    """If limits cannot be read, the engine probes a shared account at most once per second.

    A start that takes the place of an ended Run of ours needs no probe: it is refused where others took that place.
    """
    api = ScriptedApi(lambda n: Plan(run_s=10 + n % 7, answer_after_s=0.05), capacity=25)
    api.tells_limits = False
    engine = engine_of(api, 2000)
    with anyio.move_on_after(150):
        async with anyio.create_task_group() as children:
            children.start_soon(engine.run)
            await anyio.sleep(30)
            api.others = 20
            await anyio.sleep(60)
            assert 4 <= api.live <= 5  # one may have ended just now
            api.others = 0
            await anyio.sleep(15)
            assert 23 <= api.live <= 25
            children.cancel_scope.cancel()
    later = Counter(at for at in api.refused_at if at > 2)
    assert later.total() <= 40
    # A probe may have been due just before or after the first place that the others took.
    assert sum(at - before < 1 for before, at in pairwise(later)) <= 2
    for before, at in pairwise(later):
        ended = sum(before < end <= at for end in api.ends_at)
        assert later[at] <= ended + 1, "more starts than places came free, beside the probe"


async def test_counters_that_lag_take_no_slot_away() -> None:
    """A hundred Runs of ours that end together, and that the platform still counts, are not taken for others' Runs."""
    api = ScriptedApi(Plan(run_s=20), capacity=100)
    api.counter_lag_s = 1.9
    engine = engine_of(api, 5000)
    least = list[int]()
    with anyio.move_on_after(40):
        async with anyio.create_task_group() as children:
            children.start_soon(engine.run)
            await anyio.sleep(5)
            engine.shared.stay_below(10)  # so that the places they leave stay empty for a while
            while True:
                await anyio.sleep(0.5)
                least.append(engine.permits.limit)
    assert min(least) == 100


async def test_a_limit_that_changes_is_followed_within_seconds() -> None:
    """A larger limit is used at once, a smaller one as soon as Runs end."""
    api = ScriptedApi(Plan(run_s=1), capacity=5)
    engine = engine_of(api, 5000, leave_free=1)
    with anyio.move_on_after(60):
        async with anyio.create_task_group() as children:
            children.start_soon(engine.run)
            await anyio.sleep(10)
            assert api.live == 4
            api.capacity = 40
            await anyio.sleep(3)
            assert api.live == 39
            api.capacity = 3
            await anyio.sleep(4)
            assert api.live == 2
            children.cancel_scope.cancel()


async def test_refused_readings_become_rare_and_the_last_reading_holds() -> None:
    """In an hour of refusals the limits are read some eighty times."""
    api = ScriptedApi(Plan(run_s=30), capacity=10)
    engine = engine_of(api, 100_000)
    with anyio.move_on_after(3600):
        async with anyio.create_task_group() as children:
            children.start_soon(_watch, engine)
            await anyio.sleep(3)
            api.errors["get_limits"] = [api_error(403)] * 1000
            await anyio.sleep_forever()
    assert engine.permits.limit == 10
    assert 70 <= len(api.limit_reads) <= 100


async def _watch(engine: Engine) -> None:
    async with engine.watching():
        await anyio.sleep_forever()


def _unwatched() -> WatchedLimit:
    return WatchedLimit(allowance=Allowance(leave_free=0, least=0), own=lambda: 0, on_change=lambda _: None)


async def test_each_change_of_our_memory_is_reported_once() -> None:
    """The part of the account's megabytes that is ours; None: the account does not show its memory."""
    api, told, own = ScriptedApi(), list[int | None](), 1024
    memory = WatchedLimit(allowance=Allowance(leave_free=512, least=128), own=lambda: own, on_change=told.append)
    watch = LimitsWatch(api, runs=_unwatched(), memory=memory)
    for allowed, used in (
        (8192, 1024),
        (8192, 1024),
        (8192, 5120),
        (8192, 6144),
        (8192, 1024),
        (1024, 1024),
        (None, 1),
    ):
        watch.note(AccountLimits(max_total_memory_mb=allowed, used_memory_mb=used), runs=0, memory_mb=own)
    assert told == [7680, 3584, 7680, 512, None]


async def test_runs_of_ours_that_end_after_a_reading_are_not_taken_for_others() -> None:
    """A reading that is judged again counts as ours what was ours when it was made, plus the Runs claimed since."""
    told, own = list[int | None](), 6
    runs = WatchedLimit(allowance=Allowance(leave_free=0, least=1), own=lambda: own, on_change=told.append)
    watch = LimitsWatch(ScriptedApi(), runs=runs, memory=_unwatched())
    watch.note(AccountLimits(max_concurrent_runs=10, live_runs=8), runs=6, memory_mb=0)
    own = 1
    watch.claim(0)
    watch.claim(2)
    assert told == [8, 10]


async def test_an_announced_limit_lowers_the_rate_of_a_batch() -> None:
    """The platform announces 100 starts per second: 95 is the batch's rate, and a slower batch keeps its own."""
    fast, slow = (engine_of(ScriptedApi(), 1, start_rate=rate) for rate in (380, 20))
    for engine in (fast, slow):
        engine.shared.stay_below(100)
    assert (fast.gate.rate_per_s, slow.gate.rate_per_s) == (95, 20)

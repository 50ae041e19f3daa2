"""Batches that share one account, each with its own engine, on virtual time; Runs are counted at the platform."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Demand, Permits
from batchrun.engine.shared_limits import SharedLimits
from batchrun.model import RunOptions
from batchrun.policy.budget import Budget
from batchrun.policy.run_cost import Prices
from batchrun.policy.token_bucket import BothBuckets, Contenders, TokenBucket
from batchrun.runtime.change_signal import ChangeSignal
from tests.support.memory_ledger import WatchedLedger, numbered
from tests.support.scripted_api import FAST, Engine, Plan, ScriptedApi
from tests.support.start_gates import gate_of
from tests.support.virtual_time import VirtualTimeLoop


def account(limit: int, *, memory_mb: int | None = None) -> SharedLimits:
    """Return an account whose only limit is its live Runs and their memory."""
    shared = SharedLimits(
        max_live_runs=limit,
        wanted=limit,
        max_open_polls=1000,
        starts_per_task_per_s=FAST,
        throttle=None,
        max_buffer_mb=256,
    )
    shared.pool.resize_memory(memory_mb)
    return shared


@dataclass
class Crew:
    """One account, and the batches in it."""

    shared: SharedLimits
    run_s: float = 20.0
    began: dict[str, list[float]] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    apis: list[ScriptedApi] = field(default_factory=list)
    peak: int = 0

    @property
    def live(self) -> int:
        """Live Runs of all batches, by the platform."""
        return sum(api.live for api in self.apis)

    async def run(
        self,
        name: str,
        jobs: int,
        *,
        slots: int = 1000,
        run_s: float | Callable[[int], float] | None = None,
        **given: Any,
    ) -> Engine:
        """Run a batch; `weight` and `priority` rank it, the other settings are the engine's."""
        priority = BatchPriority(weight=given.pop("weight", 1.0), priority=given.pop("priority", 0))
        self.began[name] = []

        def plan(n: int) -> Plan:
            self.began[name].append(anyio.current_time())
            self.peak = max(self.peak, self.live + 1)
            assert self.live < self.shared.pool.limit, "a Run too many"
            lives_s = run_s(n) if callable(run_s) else self.run_s if run_s is None else run_s
            return Plan(run_s=lives_s, cost_usd=0.0)

        api = ScriptedApi(plan)
        self.apis.append(api)
        options = RunOptions(memory_mb=given.pop("memory_mb", 128), max_total_charge_usd=0.1)
        source = numbered(jobs, options=options)
        stop_after_s = given.pop("stop_after_s", None)
        engine = Engine(api, WatchedLedger(), source, slots=slots, shared=self.shared, priority=priority, **given)
        async with anyio.create_task_group() as children:
            children.start_soon(self._stop_after, stop_after_s, engine)
            await engine.run()
            children.cancel_scope.cancel()
        self.ended[name] = anyio.current_time()
        engine.leave()
        return engine

    async def _stop_after(self, for_s: float | None, engine: Engine) -> None:
        if for_s is not None:
            await anyio.sleep(for_s)
            engine.scheduler.stop_starting()


async def side_by_side(*batches: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run all batches, and check that all end."""
    with anyio.fail_after(1e6):
        async with anyio.create_task_group() as children:
            for batch in batches:
                children.start_soon(batch)


def between(times: list[float], begin: float, end: float) -> int:
    """Count the times between two times."""
    return sum(begin <= at < end for at in times)


async def test_a_small_batch_behind_a_huge_one_gets_the_first_released_permit():
    """A batch of 10 behind one of 100,000, ten seconds later, has its first Run within a second and ends in 20.

    The huge one is stopped after a minute: what comes later shows nothing of the small one.
    """
    crew = Crew(account(64), run_s=7.0)

    async def small() -> None:
        await anyio.sleep(10)
        await crew.run("small", 10)

    await side_by_side(lambda: crew.run("huge", 100_000, stop_after_s=60), small)
    first_freed = min(at + crew.run_s for at in crew.began["huge"] if at + crew.run_s >= 10)
    assert crew.began["small"][0] - first_freed < 1
    assert crew.ended["small"] < 10 + 3 * crew.run_s
    two_lives = between(crew.began["huge"], 35, 49)
    assert two_lives == pytest.approx(2 * 64, abs=4), "it goes on with all permits"
    assert crew.peak == 64


async def test_weights_divide_the_permits():
    """A batch of weight 3 has three quarters of the starts while a batch of weight 1 has jobs, too."""
    crew = Crew(account(20), run_s=10.0)
    await side_by_side(lambda: crew.run("heavy", 300, weight=3.0), lambda: crew.run("light", 300))
    heavy, light = (between(crew.began[name], 50, 170) for name in ("heavy", "light"))
    assert heavy / light == pytest.approx(3, rel=0.1)


async def test_priority_comes_first_and_starves_no_batch():
    """The batch of higher priority has all permits but one; the other batch always has one live Run."""
    crew = Crew(account(10), run_s=10.0)
    await side_by_side(lambda: crew.run("high", 230, priority=5), lambda: crew.run("low", 50))
    assert between(crew.began["low"], 10, 200) == pytest.approx(19, abs=2)
    assert between(crew.began["high"], 10, 200) == pytest.approx(171, abs=10)


async def test_fewer_permits_than_batches_go_round():
    """With twelve batches and two permits, each batch has a Run within one round, at any priority."""
    crew = Crew(account(2), run_s=10.0)
    await side_by_side(*(lambda n=n: crew.run(f"batch-{n}", 20, priority=n % 3) for n in range(12)))
    for times in crew.began.values():
        assert between(times, 0, 70) >= 1
        assert max(b - a for a, b in pairwise(times)) < 140


async def test_a_batch_that_waits_for_its_own_rate_holds_no_idle_permits():
    """A batch with one start in twenty seconds holds one permit; the other batch has the rest."""
    crew = Crew(account(8), run_s=10.0)
    await side_by_side(lambda: crew.run("slow", 20, start_rate=0.05), lambda: crew.run("fast", 210))
    assert crew.ended["fast"] < 345


async def test_large_runs_get_the_memory_that_small_ones_would_take():
    """Large and small Runs share the memory; the large ones neither starve nor go first."""
    crew = Crew(account(100, memory_mb=4096), run_s=10.0)
    await side_by_side(lambda: crew.run("small", 300, memory_mb=128), lambda: crew.run("large", 4, memory_mb=4096))
    assert crew.ended["large"] < crew.ended["small"]
    assert crew.shared.pool.used_memory_mb == 0


async def test_money_that_one_batch_releases_lets_another_start():
    """One batch reserves a budget for three Runs; the other starts as soon as the costs are final."""
    crew, shared = Crew(account(10), run_s=5.0), Budget(0.3)

    def reservations() -> CostReservations:
        return CostReservations(
            Budget(0.3, shared=shared), Prices(model="PAY_PER_EVENT"), task_options=RunOptions(), is_strict=True
        )

    async def two() -> None:
        await anyio.sleep(1)
        await crew.run("two", 2, reservations=reservations())

    lives = lambda n: 5.0 if n < 3 else 200.0  # noqa: E731
    await side_by_side(lambda: crew.run("one", 3, run_s=lives, reservations=reservations()), two)
    assert len(crew.began["two"]) == 2
    assert max(crew.began["two"]) < 25


async def test_batches_of_one_task_keep_its_rate_together_and_other_tasks_do_not_wait():
    """Two batches of one task start ten Runs per second together; two batches of other tasks start ten each."""

    async def starts(shared: TokenBucket, contenders: Contenders, times: list[float]) -> None:
        gate = gate_of(bucket=BothBuckets(TokenBucket(rate_per_s=100), shared), contenders=contenders)
        while anyio.current_time() < 10:
            start = await gate.next_start()
            assert start is not None
            gate.started(start)
            times.append(anyio.current_time())

    same, one, other = ((TokenBucket(rate_per_s=10), Contenders()) for _ in range(3))
    counts: list[list[float]] = [[], [], [], []]
    async with anyio.create_task_group() as children:
        for (bucket, contenders), times in zip((same, same, one, other), counts, strict=True):
            children.start_soon(starts, bucket, contenders, times)
    assert len(counts[0] + counts[1]) == pytest.approx(100, abs=3)
    assert min(len(counts[0]), len(counts[1])) > 30
    assert [len(times) for times in counts[2:]] == [pytest.approx(100, abs=2)] * 2


async def test_a_rate_that_is_raised_holds_at_once():
    """A start that waits for a token of the slow rate gets one of the fast rate."""
    bucket = TokenBucket(rate_per_s=0.001)
    gate = gate_of(bucket=bucket)
    assert await gate.next_start() is not None

    async def raise_it() -> None:
        await anyio.sleep(5)
        bucket.change_rate(10, anyio.current_time())
        gate.wake()

    async with anyio.create_task_group() as children:
        children.start_soon(raise_it)
        assert await gate.next_start() is not None
    assert anyio.current_time() == pytest.approx(5, abs=0.2)


def permits_of(pool: AccountPool, batch: str, live: int) -> Permits:
    """Return the permits of a batch that has live Runs of an earlier process."""
    return Permits(pool, gate_of(), ChangeSignal(), batch=batch, kept=live)


async def test_permits_of_live_runs_are_kept_until_they_are_adopted():
    """A batch that is opened first gets none of the kept permits; a released permit is there for all batches."""
    pool = AccountPool(5)
    pool.keep("a", 3)
    pool.keep("b", 2)
    a = permits_of(pool, "a", live=3)
    assert not a.may_reserve()
    for _ in range(3):
        a.adopt(Demand())
    assert (pool.used, a.may_reserve()) == (5, False)
    pool.keep("b", 0)
    assert (pool.used, a.may_reserve()) == (3, True)
    a.keep_for_live_runs()
    a.leave()
    assert pool.used == 3
    permits_of(pool, "a", live=2).leave()
    assert pool.used == 0


ARRIVALS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.floats(0, 60),
            "jobs": st.integers(0, 40),
            "slots": st.sampled_from([1, 3, 1000]),
            "run_s": st.floats(0.1, 30),
            "weight": st.sampled_from([0.1, 1.0, 5.0]),
            "priority": st.integers(-1, 1),
            "memory_mb": st.sampled_from([128, 512, 2048]),
            "start_rate": st.sampled_from([0.5, 1000.0]),
            "stop_after_s": st.one_of(st.none(), st.floats(0, 50)),
        }
    ),
    max_size=8,
)


@settings(max_examples=10)
@given(ARRIVALS, st.integers(1, 12), st.sampled_from([None, 1024, 4096]))
def test_random_batches_all_end_and_no_permit_is_lost(arrivals, limit, memory_mb):
    """Random batches are stopped at random: each ends, the limit is never exceeded, and all permits are released."""
    backend = {"loop_factory": VirtualTimeLoop}
    anyio.run(_come_and_go, arrivals, limit, memory_mb, backend_options=backend)


async def _come_and_go(arrivals: list[dict[str, Any]], limit: int, memory_mb: int | None) -> None:
    crew = Crew(account(limit, memory_mb=memory_mb))

    async def arrive(number: int, given: dict[str, Any]) -> None:
        given = dict(given)
        await anyio.sleep(given.pop("at"))
        jobs, stop_after_s = given.pop("jobs"), given.pop("stop_after_s")
        engine = await crew.run(f"batch-{number}", jobs, stop_after_s=stop_after_s, **given)
        if stop_after_s is None:
            assert len(crew.began[f"batch-{number}"]) == jobs == len(engine.records)
        assert len(crew.began[f"batch-{number}"]) == len(engine.records)

    await side_by_side(*(lambda n=n, given=given: arrive(n, given) for n, given in enumerate(arrivals)))
    assert (crew.shared.pool.used, crew.shared.pool.used_memory_mb, crew.shared.capacity.live) == (0, 0, 0)

"""Hours of batches that come and go in one account, with faults, on virtual time: nothing piles up."""

import gc
import random
from itertools import count

import anyio
import pytest

from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.engine.shared_limits import SharedLimits
from batchrun.model import RunStatus
from tests.support.memory_ledger import WatchedLedger, numbered
from tests.support.scripted_api import FAST, TASK, Engine, Plan, ScriptedApi, api_error, busy, lost_answer, retries

HOUR_S = 3600.0
#: Between two batches, on average; and their jobs, at most.
INTERVAL_S = 240.0
MAX_JOBS = 30


def _plan(chance: random.Random) -> Plan:
    """Return what becomes of one start: one in five meets a fault."""
    luck = chance.random()
    if luck < 0.03:
        return Plan(error=lost_answer(), effects=1, effect_after_s=chance.uniform(0, 5), run_s=30)
    if luck < 0.05:
        return Plan(error=lost_answer(), effects=0)
    if luck < 0.10:
        return Plan(error=api_error(429))
    if luck < 0.15:
        return Plan(error=busy())
    status = RunStatus.FAILED if luck < 0.2 else RunStatus.SUCCEEDED
    return Plan(run_s=chance.uniform(1, 300), status=status)


def _objects() -> int:
    """Count batchrun's own objects that are alive."""
    gc.collect()
    return sum(str(type(each).__module__).startswith("batchrun") for each in gc.get_objects())


@pytest.mark.parametrize("hours", [1, pytest.param(24, marks=pytest.mark.long)])
async def test_hours_of_batches_leave_nothing_behind(hours: int) -> None:
    """15 batches an hour, some stopped in the middle: when the last has ended, as many objects as after one hour's."""
    chance = random.Random(1)
    shared = SharedLimits(
        max_live_runs=40, wanted=40, max_open_polls=1000, starts_per_task_per_s=FAST, throttle=None, max_buffer_mb=256
    )
    pool, capacity, contenders = shared.pool, shared.capacity, shared.contenders(TASK)
    carried_out, numbers = [0, 0], count()

    async def carry_out() -> None:
        priority = BatchPriority(weight=chance.choice([1.0, 4.0]), priority=chance.choice([0, 0, 1]))
        api = ScriptedApi(lambda _: _plan(chance), ids=f"batch-{next(numbers)}")
        source = numbered(chance.randint(1, MAX_JOBS))
        engine = Engine(api, WatchedLedger(), source, slots=40, shared=shared, priority=priority, retry=retries(2))
        with anyio.move_on_after(chance.choice([60, 1e6, 1e6, 1e6])) as scope:
            await engine.run()
        engine.leave()
        told = [each.run_id for record in engine.records for each in record.attempts if each.run_id is not None]
        assert len(told) == len(set(told))
        if not scope.cancelled_caught:
            assert sorted(told) == sorted(api.run_ids)
            carried_out[0] += 1
        carried_out[1] += len(engine.records)

    async def carry_out_for(duration_s: float) -> None:
        ends_at = anyio.current_time() + duration_s
        async with anyio.create_task_group() as children:
            while anyio.current_time() < ends_at:
                children.start_soon(carry_out)
                await anyio.sleep(chance.expovariate(1 / INTERVAL_S))

    await carry_out_for(HOUR_S)
    after_an_hour = _objects()
    await carry_out_for(hours * HOUR_S)
    assert carried_out[0] > 8 * hours
    assert carried_out[1] > 120 * hours
    assert _objects() <= after_an_hour
    assert (pool.used, pool.used_memory_mb, capacity.live) == (0, 0, 0)
    assert (len(pool._members), len(pool._kept), len(capacity._gates)) == (0, 0, 0)
    assert (len(contenders._waiting), len(contenders._last)) == (0, 0)

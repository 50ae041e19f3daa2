"""Permits: each is reserved, adopted or transferred, and released once."""

import anyio

from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.permits import Demand, Permit, Permits
from batchrun.engine.limits.start_gate import StartGate
from batchrun.policy.fair_group_queue import Fit
from batchrun.runtime.change_signal import ChangeSignal
from tests.support.start_gates import gate_of


def permits_in(
    pool: AccountPool, gate: StartGate | None = None, *, wanted: int | None = None, kept: int = 0
) -> Permits:
    """Return a batch's permits; its group "small" may have one live Run, its Runs 1,000 MB together."""
    gate = gate_of() if gate is None else gate
    return Permits(pool, gate, ChangeSignal(), wanted=wanted, memory_mb=1000, group_limits={"small": 1}, kept=kept)


async def acquired(permits: Permits) -> Permit:
    """Return a permit that must be free."""
    permit = await permits.acquire()
    assert permit is not None
    return permit


async def test_a_reserved_permit_counts_until_it_is_released_and_once_only() -> None:
    """Its memory, its group's Run and the account's Run come free with the first release; a second one does nothing."""
    pool = AccountPool(2)
    permits = permits_in(pool)
    permit = await acquired(permits)
    assert (permits.used, pool.used) == (1, 0)
    permit.reserve(Demand(600, "small"))
    assert (pool.used, pool.used_memory_mb, permits.is_full("small")) == (1, 600, True)
    permit.release()
    permit.release()
    assert (permits.used, pool.used, pool.used_memory_mb, permits.is_full("small")) == (0, 0, 0, False)


async def test_a_permit_without_a_job_is_released_without_a_reservation() -> None:
    """A child that finds no job returns what it has acquired, and nothing else."""
    pool = AccountPool(1)
    permits = permits_in(pool)
    (await acquired(permits)).release()
    assert (permits.used, pool.used) == (0, 0)


async def test_an_adopted_permit_is_beyond_all_limits_and_its_run_is_live() -> None:
    """A Run of an earlier process needs no free permit; it uses one that was kept for it."""
    pool, gate = AccountPool(1), gate_of()
    permits = permits_in(pool, gate, kept=1)
    adopted = [permits.adopt(Demand(800)), permits.adopt(Demand(800))]
    assert (permits.used, pool.used, pool.kept, gate.live) == (2, 2, 0, 2)
    for permit in adopted:
        permit.release()
    assert (permits.used, pool.used, gate.live) == (0, 0, 0)


async def test_a_transferred_permit_is_released_by_its_new_holder_only() -> None:
    """What the former holder does with it afterwards changes nothing; the started Run stays live."""
    pool, gate = AccountPool(1), gate_of()
    permit = await acquired(permits_in(pool, gate))
    permit.reserve(Demand())
    start = await permit.next_start()
    assert start is not None
    gate.started(start)
    heir = permit.transferred()
    permit.release()
    assert (pool.used, gate.live) == (1, 1)
    heir.release()
    assert (pool.used, gate.live) == (0, 0)


async def test_a_demand_fits_if_group_and_memory_have_it() -> None:
    """A full group comes first; the batch's first Run fits whatever its memory is."""
    permits = permits_in(AccountPool(9))
    assert permits.fit(Demand(5000)) is Fit.YES
    permit = await acquired(permits)
    permit.reserve(Demand(600, "small"))
    assert permits.fit(Demand(100, "small")) is Fit.GROUP_IS_FULL
    assert permits.fit(Demand(500)) is Fit.TOO_LARGE
    assert permits.fit(Demand(400)) is Fit.YES


async def test_closed_permits_end_every_wait() -> None:
    """Children that wait for a permit get None, and so do those that come later."""
    permits, got = permits_in(AccountPool(1)), list[Permit | None]()
    await acquired(permits)

    async def wait() -> None:
        got.append(await permits.acquire())

    async with anyio.create_task_group() as children:
        children.start_soon(wait)
        children.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        permits.close()
    assert got == [None, None]
    assert await permits.acquire() is None


async def test_the_limit_is_the_smaller_of_the_batchs_and_the_accounts() -> None:
    """Both may change while the batch runs."""
    pool = AccountPool(5)
    permits = permits_in(pool, wanted=3)
    assert permits.limit == 3
    pool.resize(2)
    assert permits.limit == 2
    permits.resize(None)
    pool.resize(4)
    assert permits.limit == 4

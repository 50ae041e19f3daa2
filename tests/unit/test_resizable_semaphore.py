import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.lowlevel import checkpoint

from batchrun.runtime.resizable_semaphore import ResizableSemaphore


async def take(units: ResizableSemaphore, got: list[object], name: object) -> None:
    """Wait for a unit and note who got it."""
    got.append(name if await units.acquire() else None)


async def take_free(units: ResizableSemaphore) -> None:
    """Take a unit that must be free."""
    assert await units.acquire()


@asynccontextmanager
async def queued(units: ResizableSemaphore, *names: object) -> AsyncIterator[list[object]]:
    """Have some wait for a unit, in this order; yield the names of those who got one. Leaving waits for all."""
    got = list[object]()
    async with anyio.create_task_group() as children:
        for name in names:
            children.start_soon(take, units, got, name)
        await anyio.wait_all_tasks_blocked()
        yield got


async def test_no_more_are_given_out_than_there_are() -> None:
    """The third of two waits until one is given back."""
    units = ResizableSemaphore(2)
    await take_free(units)
    await take_free(units)
    async with queued(units, "third") as got:
        assert (got, units.used) == ([], 2)
        units.release()
    assert (got, units.used) == (["third"], 2)


async def test_who_waited_longest_goes_first() -> None:
    """Units are handed out in order, and nobody who comes later slips in between."""
    units = ResizableSemaphore(1)
    await take_free(units)
    async with queued(units, 0, 1, 2, 3, 4) as got, anyio.create_task_group() as children:
        units.release()
        children.start_soon(take, units, got, "late")
        await anyio.wait_all_tasks_blocked()
        units.resize(10)
    assert got == [0, 1, 2, 3, 4, "late"]


async def test_a_released_unit_is_taken_without_any_time_passing() -> None:
    """Refill is an event, no timer."""
    units, at = ResizableSemaphore(1), list[float]()

    async def use() -> None:
        await take_free(units)
        at.append(anyio.current_time())
        await anyio.sleep(3)
        units.release()

    async with anyio.create_task_group() as children:
        for _ in range(4):
            children.start_soon(use)
    assert at == [0.0, 3.0, 6.0, 9.0]


async def test_a_larger_limit_wakes_as_many_as_there_are() -> None:
    """Growing from 1 to 3 lets two more in."""
    units = ResizableSemaphore(1)
    await take_free(units)
    async with queued(units, 0, 1, 2, 3, 4) as got:
        units.resize(3)
        await anyio.wait_all_tasks_blocked()
        assert (got, units.used) == ([0, 1], 3)
        units.close()


async def test_fewer_units_take_effect_as_they_are_given_back() -> None:
    """Nobody is thrown out, and nobody gets in before use is below the new limit."""
    units = ResizableSemaphore(3)
    for _ in range(3):
        await take_free(units)
    units.resize(1)
    async with queued(units, "next") as got:
        for n in range(3):
            await anyio.wait_all_tasks_blocked()
            assert (got, units.used) == ([], 3 - n)
            units.release()
    assert (got, units.used) == (["next"], 1)


async def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    """The next in line gets what would have been theirs."""
    units = ResizableSemaphore(1)
    await take_free(units)
    with anyio.move_on_after(5):
        await units.acquire()
    async with queued(units, "next") as got:
        units.release()
    assert (got, units.used) == (["next"], 1)


async def test_cancelled_while_it_is_handed_over_no_unit_is_lost() -> None:
    """Handed to one who is cancelled in the same instant, it goes to the next in line."""
    units, got, doomed = ResizableSemaphore(1), list[object](), list[asyncio.Task[None]]()

    async def take_and_be_cancelled() -> None:
        doomed.extend(task for task in [asyncio.current_task()] if task is not None)
        with suppress(asyncio.CancelledError):
            await take(units, got, "doomed")

    await take_free(units)
    async with anyio.create_task_group() as children:
        children.start_soon(take_and_be_cancelled)
        await anyio.wait_all_tasks_blocked()
        children.start_soon(take, units, got, "next")
        await anyio.wait_all_tasks_blocked()
        units.release()
        doomed[0].cancel()
    assert (got, units.used) == (["next"], 1)


async def test_closed_nobody_gets_a_unit_any_more() -> None:
    """Those who wait and those who come get none, and what is in use is still given back."""
    units = ResizableSemaphore(1)
    await take_free(units)
    async with queued(units, "waiting") as got:
        units.close()
        await take(units, got, "late")
    units.release()
    assert (got, units.used) == ([None, None], 0)


async def test_closed_while_a_unit_is_handed_over_it_is_not_lost() -> None:
    """The count of units in use stays true to the end."""
    units = ResizableSemaphore(1)
    await take_free(units)
    async with queued(units, "waiting") as got:
        units.release()
        units.close()
    await checkpoint()
    assert (got, units.used) == ([None], 0)

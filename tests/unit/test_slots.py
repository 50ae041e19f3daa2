import asyncio
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

from batchrun.engine.limits.slots import Slot, Slots


async def take(slots: Slots, got: list[object], name: object) -> None:
    """Wait for a slot and say who got it."""
    slot = await slots.acquire()
    got.append(name if slot is not None else None)


async def acquired(slots: Slots) -> Slot:
    """Return a slot that must be free."""
    slot = await slots.acquire()
    assert slot is not None
    return slot


async def test_no_more_are_given_out_than_there_are() -> None:
    """The third of two waits until one is given back."""
    slots, got = Slots(2), list[object]()
    first = await acquired(slots)
    await acquired(slots)
    async with anyio.create_task_group() as children:
        children.start_soon(take, slots, got, "third")
        await anyio.wait_all_tasks_blocked()
        assert (got, slots.used) == ([], 2)
        first.release()
    assert (got, slots.used) == (["third"], 2)


async def test_who_waited_longest_goes_first() -> None:
    """Slots are handed out in order, and nobody who comes later slips in between."""
    slots, got = Slots(1), list[object]()
    slot = await acquired(slots)
    async with anyio.create_task_group() as children:
        for name in range(5):
            children.start_soon(take, slots, got, name)
        await anyio.wait_all_tasks_blocked()
        slot.release()
        children.start_soon(take, slots, got, "late")
        await anyio.wait_all_tasks_blocked()
        slots.resize(10)
    assert got == [0, 1, 2, 3, 4, "late"]


async def test_a_slot_is_released_once_however_often_that_is_said() -> None:
    """A second release gives nothing back."""
    slots = Slots(2)
    slot = await acquired(slots)
    await acquired(slots)
    slot.release()
    slot.release()
    assert slots.used == 1


async def test_a_freed_slot_is_taken_without_any_time_passing() -> None:
    """Refill is an event, no timer."""
    slots, at = Slots(1), list[float]()

    async def use() -> None:
        slot = await acquired(slots)
        at.append(anyio.current_time())
        await anyio.sleep(3)
        slot.release()

    async with anyio.create_task_group() as children:
        for _ in range(4):
            children.start_soon(use)
    assert at == [0.0, 3.0, 6.0, 9.0]


async def test_more_slots_wake_as_many_as_there_are() -> None:
    """Growing from 1 to 3 lets two more in."""
    slots, got = Slots(1), list[object]()
    await acquired(slots)
    async with anyio.create_task_group() as children:
        for name in range(5):
            children.start_soon(take, slots, got, name)
        await anyio.wait_all_tasks_blocked()
        slots.resize(3)
        await anyio.wait_all_tasks_blocked()
        assert (got, slots.used) == ([0, 1], 3)
        children.cancel_scope.cancel()


async def test_fewer_slots_take_effect_as_they_are_given_back() -> None:
    """Nobody is thrown out, and nobody gets in before use is below the new limit."""
    slots, got = Slots(3), list[object]()
    held = [await acquired(slots) for _ in range(3)]
    slots.resize(1)
    async with anyio.create_task_group() as children:
        children.start_soon(take, slots, got, "next")
        for n, slot in enumerate(held):
            await anyio.wait_all_tasks_blocked()
            assert (got, slots.used) == ([], 3 - n)
            slot.release()
    assert (got, slots.used) == (["next"], 1)


async def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    """The next in line gets what would have been theirs."""
    slots, got = Slots(1), list[object]()
    slot = await acquired(slots)
    async with anyio.create_task_group() as children:
        with anyio.move_on_after(5):
            await slots.acquire()
        children.start_soon(take, slots, got, "next")
        await anyio.wait_all_tasks_blocked()
        slot.release()
    assert (got, slots.used) == (["next"], 1)


async def test_cancelled_while_it_is_handed_over_no_slot_is_lost() -> None:
    """Handed to one who is cancelled in the same instant, it goes to the next in line."""
    slots, got, doomed = Slots(1), list[object](), list[asyncio.Task[None]]()

    async def take_and_be_cancelled() -> None:
        doomed.extend(task for task in [asyncio.current_task()] if task is not None)
        with suppress(asyncio.CancelledError):
            await take(slots, got, "doomed")

    slot = await acquired(slots)
    async with anyio.create_task_group() as children:
        children.start_soon(take_and_be_cancelled)
        await anyio.wait_all_tasks_blocked()
        children.start_soon(take, slots, got, "next")
        await anyio.wait_all_tasks_blocked()
        slot.release()
        doomed[0].cancel()
    assert (got, slots.used) == (["next"], 1)


async def test_closed_nobody_gets_a_slot_any_more() -> None:
    """Those who wait and those who come get none, and what is in use is still given back."""
    slots, got = Slots(1), list[object]()
    slot = await acquired(slots)
    async with anyio.create_task_group() as children:
        children.start_soon(take, slots, got, "waiting")
        await anyio.wait_all_tasks_blocked()
        slots.close()
        children.start_soon(take, slots, got, "late")
    slot.release()
    assert (got, slots.used) == ([None, None], 0)


async def test_closed_while_a_slot_is_handed_over_it_is_not_lost() -> None:
    """The count of slots in use stays true to the end."""
    slots, got = Slots(1), list[object]()
    slot = await acquired(slots)
    async with anyio.create_task_group() as children:
        children.start_soon(take, slots, got, "waiting")
        await anyio.wait_all_tasks_blocked()
        slot.release()
        slots.close()
    await checkpoint()
    assert (got, slots.used) == ([None], 0)

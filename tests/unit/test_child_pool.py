"""Reusable children: one more is added only if it is useful."""

import anyio

from batchrun.engine.child_pool import ChildPool
from batchrun.engine.limits.account_pool import AccountPool
from batchrun.engine.limits.permits import Demand, Permits
from batchrun.runtime.change_signal import ChangeSignal
from tests.support.start_gates import gate_of


class Children:
    """A pool over some permits whose children do nothing but wait, idle or busy."""

    def __init__(self, permits: int) -> None:
        self.permits = Permits(AccountPool(permits), gate_of(), ChangeSignal())
        self.pool = ChildPool(self.permits)
        self.begun = 0
        self.end = anyio.Event()

    async def be_busy(self) -> None:
        """Count as busy until the end."""
        self.begun += 1
        await self.end.wait()

    async def be_idle(self) -> None:
        """Count as idle until the end."""
        self.begun += 1
        with self.pool.idling:
            await self.end.wait()


async def test_there_are_at_most_two_busy_children_per_permit() -> None:
    """With three permits, six of ten children are added."""
    children = Children(3)
    async with children.pool.open(children.be_busy):
        for _ in range(10):
            children.pool.add()
        await anyio.wait_all_tasks_blocked()
        children.end.set()
    assert children.begun == 6


async def test_no_child_is_added_while_another_is_idle() -> None:
    """The idle one takes the job."""
    children = Children(3)
    async with children.pool.open(children.be_idle):
        for _ in range(3):
            children.pool.add()
            await anyio.wait_all_tasks_blocked()
        children.end.set()
    assert children.begun == 1


async def test_a_child_that_pauses_makes_way_for_another() -> None:
    """With one permit and two busy children there is no third, unless one of the two pauses."""
    children = Children(1)

    async def pause_once() -> None:
        children.begun += 1
        if children.begun == 2:
            with children.pool.pausing():
                await anyio.sleep(5)
        await children.end.wait()

    async with children.pool.open(pause_once):
        children.pool.add()
        children.pool.add()
        children.pool.add()
        assert not children.pool.may_add
        await anyio.wait_all_tasks_blocked()
        assert children.begun == 3
        children.end.set()


async def test_a_child_that_ends_may_be_replaced() -> None:
    """Leaving the pool waits until all have ended."""
    children = Children(1)
    children.end.set()
    async with children.pool.open(children.be_busy):
        for _ in range(5):
            children.pool.add()
            await anyio.wait_all_tasks_blocked()
    assert children.begun == 5


async def test_another_is_coming_if_a_permit_is_free_or_taken_without_a_job() -> None:
    """This is what lets a batch keep its rank for the next permit."""
    children = Children(1)
    async with children.pool.open(children.be_busy):
        assert children.pool.is_another_coming
        permit = await children.permits.acquire()
        assert permit is not None
        assert children.pool.is_another_coming
        permit.reserve(Demand())
        assert not children.pool.is_another_coming
        children.end.set()

"""Slots: a resource, one for each Run that may be live; who frees one wakes the next at once.

A slot is taken first, and fitted out with what its job's Run needs besides: memory, and a place in its group.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio

from batchrun.engine.limits.account_pool import Member
from batchrun.policy.fair_queue import Fit


class Demand(NamedTuple):
    """What a Run takes beside a slot."""

    #: Megabytes; 0 where nobody knows.
    memory_mb: int = 0
    group: str | None = None


class Slot:
    """One place among `max_concurrent_runs`; released once, however often that is said."""

    __slots__ = ("_demand", "_slots")

    def __init__(self, slots: "Slots") -> None:
        self._slots: Slots | None = slots
        self._demand: Demand | None = None

    def fit_out(self, demand: Demand, *, is_live: bool = False) -> None:
        """Take what a Run needs, until the slot is released; `is_live` says that it is live already."""
        assert self._slots is not None, "a slot is fitted out before it is released"
        self._demand = demand
        self._slots.occupy(demand, is_live=is_live)

    def handed_over(self) -> "Slot":
        """Return the same slot for somebody else to release; released here, it stays taken."""
        assert self._slots is not None, "a slot is handed over before it is released"
        heir = Slot(self._slots)
        heir._demand = self._demand
        self._slots = None
        return heir

    def release(self) -> None:
        """Give the slot back, and what it was fitted out with."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back(self._demand)


class _Waiter:
    __slots__ = ("answered", "is_granted")

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.is_granted = False


class Slots:
    """A number of slots that can change while they are in use, handed out first come, first served.

    Args:
        limit: how many there are.
        memory_mb: memory of all live Runs together; None: any amount.
        group_limits: most live Runs of a group; others have no limit of their own.
        share: in what the batches of an account share; None: there are no others.
    """

    def __init__(
        self,
        limit: int,
        *,
        memory_mb: int | None = None,
        group_limits: Mapping[str, int] | None = None,
        share: Member | None = None,
    ) -> None:
        self.limit = limit
        self._share = share
        if share is not None:
            share.on_turn = self._call
        self.memory_mb = memory_mb
        self.used = 0
        #: Slots that are fitted out for a Run.
        self.occupied = 0
        self.used_memory_mb = 0
        #: Called when room has come free.
        self.on_room: Callable[[], None] = lambda: None
        self._group_limits = dict(group_limits or {})
        self._live_in_group: Counter[str] = Counter()
        self._is_closed = False
        self._waiting: deque[_Waiter] = deque()

    async def acquire(self) -> Slot | None:
        """Wait for a slot; None once no more are given out."""
        if self._is_closed:
            return None
        if not self._waiting and self.used < self.limit:
            self.used += 1
            return Slot(self)
        return Slot(self) if await self._is_handed_one() else None

    def seat(self, demand: Demand) -> Slot:
        """Give a slot to a Run that is live already, whether there is room for it or not."""
        self.used += 1
        slot = Slot(self)
        slot.fit_out(demand, is_live=True)
        return slot

    def _call(self) -> None:
        self.on_room()

    def is_our_turn(self) -> bool:
        """Whether one more Run may be live, of ours and of all batches; else `on_room` is called when it may."""
        if self.occupied >= self.limit:
            self.wait_no_more()  # the limit was lowered after the slot in hand was given out
            return False
        return self._share is None or self._share.ask()

    def want_more(self) -> None:
        """Let other batches know that the next job asks in a moment."""
        if self._share is not None:
            self._share.want_more()

    def pass_on(self) -> None:
        """Let other batches go first: none of the jobs that are ready fits."""
        if self._share is not None:
            self._share.pass_on()

    def wait_no_more(self) -> None:
        """Let other batches go first: no job is ready."""
        if self._share is not None:
            self._share.wait_no_more()

    def fit(self, demand: Demand) -> Fit:
        """Say whether a Run with this demand can be live beside the others."""
        if self.is_full(demand.group):
            return Fit.GROUP_IS_FULL
        # Where nothing of ours is live, the platform is to say whether there is room: our figures may be old.
        is_alone = self.used_memory_mb == 0
        if self.memory_mb is not None and not is_alone and self.used_memory_mb + demand.memory_mb > self.memory_mb:
            return Fit.TOO_LARGE
        if self._share is not None and not self._share.has_memory(demand.memory_mb):
            return Fit.TOO_LARGE
        return Fit.YES

    def is_full(self, group: str | None) -> bool:
        """Whether a group has all the live Runs that it may have."""
        limit = self._group_limits.get(group) if group is not None else None
        return limit is not None and group is not None and self._live_in_group[group] >= limit

    def occupy(self, demand: Demand, *, is_live: bool) -> None:
        """Note that a Run takes memory and a place in its group."""
        self.occupied += 1
        self.used_memory_mb += demand.memory_mb
        if demand.group in self._group_limits:
            self._live_in_group[demand.group] += 1
        if self._share is not None:
            self._share.take_up(demand.memory_mb) if is_live else self._share.take(demand.memory_mb)

    async def _is_handed_one(self) -> bool:
        waiter = _Waiter()
        self._waiting.append(waiter)
        try:
            await waiter.answered.wait()
        except BaseException:
            if waiter.is_granted:
                self.give_back()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        return self._is_wanted(waiter)

    def give_back(self, demand: Demand | None = None) -> None:
        """Take back one slot and hand it to who has waited longest."""
        self.used -= 1
        if demand is not None:
            self.occupied -= 1
            self.used_memory_mb -= demand.memory_mb
            if demand.group in self._group_limits:
                self._live_in_group[demand.group] -= 1
            if self._share is not None:
                self._share.give_back(demand.memory_mb)
            self.on_room()
        self._hand_out()

    def resize(self, limit: int) -> None:
        """Change how many there are; slots in use above a smaller limit run out as they are given back."""
        self.limit = limit
        self._hand_out()
        self.on_room()

    def resize_memory(self, memory_mb: int | None) -> None:
        """Change how much memory live Runs may take together."""
        self.memory_mb = memory_mb
        self.on_room()

    def close(self) -> None:
        """Give out no more slots; who waits gets none."""
        self._is_closed = True
        self.wait_no_more()
        while self._waiting:
            self._waiting.popleft().answered.set()

    def _is_wanted(self, waiter: _Waiter) -> bool:
        """Whether a waiter that woke has a slot and may still use it."""
        if waiter.is_granted and self._is_closed:
            self.give_back()
            return False
        return waiter.is_granted

    def _hand_out(self) -> None:
        while self._waiting and self.used < self.limit and not self._is_closed:
            self.used += 1
            waiter = self._waiting.popleft()
            waiter.is_granted = True
            waiter.answered.set()

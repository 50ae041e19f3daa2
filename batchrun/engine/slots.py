"""Slots: a resource, one for each Run that may be live; who frees one wakes the next at once."""

from collections import deque

import anyio


class Slot:
    """One place among `max_concurrent_runs`; released once, however often that is said."""

    __slots__ = ("_slots",)

    def __init__(self, slots: "Slots") -> None:
        self._slots: Slots | None = slots

    def release(self) -> None:
        """Give the slot back."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back()


class _Waiter:
    __slots__ = ("answered", "is_granted")

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.is_granted = False


class Slots:
    """A number of slots that can change while they are in use, handed out first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
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

    def give_back(self) -> None:
        """Take back one slot and hand it to who has waited longest."""
        self.used -= 1
        self._hand_out()

    def resize(self, limit: int) -> None:
        """Change how many there are; slots in use above a smaller limit run out as they are given back."""
        self.limit = limit
        self._hand_out()

    def close(self) -> None:
        """Give out no more slots; who waits gets none."""
        self._is_closed = True
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

"""A semaphore whose size can change while it is in use, first come, first served."""

from collections import deque

import anyio


class _Waiter:
    __slots__ = ("answered", "is_granted")

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.is_granted = False


class ResizableSemaphore:
    """Counts units in use, at most `limit`. A smaller limit takes effect as units are released."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._is_closed = False
        self._waiting: deque[_Waiter] = deque()

    async def acquire(self) -> bool:
        """Wait for a unit; False once the semaphore is closed. Cancelled, it takes none."""
        if self._is_closed:
            return False
        if not self._waiting and self.used < self.limit:
            self.used += 1
            return True
        return await self._wait_for_unit()

    def acquire_beyond_limit(self) -> None:
        """Take a unit at once, even above the limit."""
        self.used += 1

    def release(self) -> None:
        """Return one unit; the longest waiter gets it."""
        self.used -= 1
        self._hand_out()

    def resize(self, limit: int) -> None:
        """Change how many units there are."""
        self.limit = limit
        self._hand_out()

    def close(self) -> None:
        """Hand out no more units; all who wait get none."""
        self._is_closed = True
        while self._waiting:
            self._waiting.popleft().answered.set()

    async def _wait_for_unit(self) -> bool:
        waiter = _Waiter()
        self._waiting.append(waiter)
        try:
            await waiter.answered.wait()
        except BaseException:
            if waiter.is_granted:
                self.release()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        if waiter.is_granted and self._is_closed:
            self.release()
            return False
        return waiter.is_granted

    def _hand_out(self) -> None:
        while self._waiting and self.used < self.limit and not self._is_closed:
            self.used += 1
            waiter = self._waiting.popleft()
            waiter.is_granted = True
            waiter.answered.set()

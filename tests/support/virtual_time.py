"""A loop whose clock jumps to the next timer when nothing else is ready: an hour in a millisecond, exactly.

A thread at work does not hold this clock, and neither does a socket, hence neither belongs in unit tests.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class _JumpingSelector(selectors.BaseSelector):
    """Selects without waiting: the wait it is asked for is added to the loop's clock instead."""

    def __init__(self, late_s: Callable[[], float]) -> None:
        self._inner = selectors.DefaultSelector()
        self._late_s = late_s
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            # Children are ready; what sockets and threads bring is looked at when none is.
            return []
        ready = self._inner.select(0)
        if ready:
            return ready
        if timeout is None:
            # Nothing is ready and no timer is set: only another thread or a socket could go on.
            return self._inner.select(5) or self._stuck()
        self.now_s += timeout + self._late_s()
        return ready

    @staticmethod
    def _stuck() -> list[tuple[selectors.SelectorKey, int]]:
        raise RuntimeError("virtual time stands still: every child waits, and no timer is set")

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time; `time()` starts at 0."""

    def __init__(self, late_s: Callable[[], float] = lambda: 0.0) -> None:
        self._jumping = _JumpingSelector(late_s)
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._jumping.now_s

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which the loop does nothing, as when its process is stopped."""
        self._jumping.now_s += seconds


class LateTimersLoop(VirtualTimeLoop):
    """A loop as a busy machine makes it: each timer fires up to 10 ms late, and one in a hundred 40 ms."""

    def __init__(self) -> None:
        chance = random.Random(1)
        super().__init__(lambda: 0.04 if chance.random() < 0.01 else 0.01 * chance.random())

"""Reusable children: how many there are, and when one more is of use.

A child acquires a permit, carries a job one attempt further, releases the permit when the Run is terminal, collects and
settles, and takes the next job. Up to two children per permit let some collect while others run.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVarTuple

import anyio
from anyio.abc import TaskGroup

from batchrun.engine.limits.permits import Permits

#: Children that wait for a permit or a job at most: an idle child costs more memory than a new one costs time.
MAX_IDLE = 256
#: Children at most that only let time pass, beside two per permit: 400 starts per second for five seconds each.
MAX_PAUSED = 2000

Args = TypeVarTuple("Args")


class ChildPool:
    """The children of one batch.

    Args:
        permits: their number bounds that of the children.
    """

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._group: TaskGroup | None = None
        self._life: Callable[[], Awaitable[None]] | None = None
        self._count = 0
        self._idle = 0
        self._paused = 0

    @asynccontextmanager
    async def open(self, life: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Run children while the context lasts; leaving it waits until all have ended.

        Args:
            life: what each child does, from its first job to its last.
        """
        async with anyio.create_task_group() as self._group:
            self._life = life
            yield

    def start(self, function: Callable[[*Args], Coroutine[Any, Any, None]], *args: *Args) -> None:
        """Start a child that does one thing and does not count."""
        assert self._group is not None, "children are started while the pool is open"
        self._group.start_soon(function, *args)

    def add(self) -> None:
        """Add a child, if none is idle and there is use for one."""
        if self.may_add:
            self._count += 1
            self.start(self._live)

    async def _live(self) -> None:
        assert self._life is not None, "children live while the pool is open"
        try:
            await self._life()
        finally:
            self._count -= 1

    @property
    def may_add(self) -> bool:
        """Whether one more child is of use: none is idle, and there are fewer than two per permit."""
        busy = self._count - min(self._paused, MAX_PAUSED)
        return not self._idle and busy < 2 * self._permits.limit

    @property
    def may_idle(self) -> bool:
        """Whether a child that has no job may wait for one."""
        return self._idle < MAX_IDLE

    @property
    def is_another_coming(self) -> bool:
        """Whether another child has a permit without a job, or a child that is added now gets one."""
        permits = self._permits
        return permits.used > permits.reserved or (permits.used < permits.limit and self.may_add)

    @contextmanager
    def idling(self) -> Iterator[None]:
        """Count the calling child as idle."""
        self._idle += 1
        try:
            yield
        finally:
            self._idle -= 1

    async def pause(self, for_s: float) -> None:
        """Let time pass without counting as busy, so that another child can take jobs meanwhile."""
        self._paused += 1
        self.add()
        try:
            await anyio.sleep(for_s)
        finally:
            self._paused -= 1

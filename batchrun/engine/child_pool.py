"""Reusable children: how many there are, and when one more is useful.

A child acquires a permit, carries a job through one attempt, releases the permit when the Run is terminal, collects,
settles, and takes the next job. There are at most two children per permit, so that some can collect while others run.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVarTuple

import anyio
from anyio.abc import TaskGroup

from batchrun.engine.limits.permits import Permits
from batchrun.engine.progress import Ongoing

#: Max children that wait for a permit or a job: keeping one costs more memory than starting a new one costs time.
MAX_IDLE = 256
#: Max children that pause, beside two per permit: 400 starts per second, with a pause of five seconds after each Run.
MAX_PAUSED = 2000

Args = TypeVarTuple("Args")


class ChildPool:
    """The children of one batch.

    Args:
        permits: their limit bounds the number of children.
    """

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._group: TaskGroup | None = None
        self._life: Callable[[], Awaitable[None]] | None = None
        self._count = 0
        #: Entered by each child that waits for a permit or a job.
        self.idling = Ongoing()
        self._paused = 0

    @asynccontextmanager
    async def open(self, life: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Allow children while the context lasts; leaving it waits until all have ended.

        Args:
            life: what each child does, from its first job to its last.
        """
        async with anyio.create_task_group() as self._group:
            self._life = life
            yield

    def start(self, function: Callable[[*Args], Coroutine[Any, Any, None]], *args: *Args) -> None:
        """Start a child for one function; it does not count against the limit."""
        assert self._group is not None, "children are started while the pool is open"
        self._group.start_soon(function, *args)

    def add(self) -> None:
        """Add a child if one more is useful."""
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
        """Whether one more child is useful: none is idle, and there are fewer than two per permit."""
        busy = self._count - min(self._paused, MAX_PAUSED)
        return not self.idling.count and busy < 2 * max(
            1, self._permits.limit
        )  # one asks, also while there are no permits

    @property
    def may_idle(self) -> bool:
        """Whether a child without a job may wait for one."""
        return self.idling.count < MAX_IDLE

    @property
    def is_another_coming(self) -> bool:
        """Whether another child has a permit and no job, or a child that is added now would get a permit."""
        permits = self._permits
        return permits.used > permits.reserved or (permits.used < permits.limit and self.may_add)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Do not count the calling child as busy, so that another child can take jobs meanwhile."""
        self._paused += 1
        self.add()
        try:
            yield
        finally:
            self._paused -= 1

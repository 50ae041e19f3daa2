"""A few turns at once for many callers: each has one turn at a time, so that none's many requests hold up another's."""

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True)
class _Line:
    """The requests of one caller."""

    turn: anyio.Lock = field(default_factory=anyio.Lock)
    #: Those that wait, and the one whose turn it is.
    length: int = 0


class FairTurns:
    """Hands out turns, in order of arrival among the callers that have none.

    Args:
        at_once: max turns of all callers at once.
    """

    def __init__(self, at_once: int) -> None:
        self._turns = anyio.Semaphore(at_once)
        self._lines: dict[Hashable, _Line] = {}

    @asynccontextmanager
    async def turn(self, caller: Hashable) -> AsyncIterator[None]:
        """Wait for a caller's turn, and have it until the context ends."""
        line = self._lines.setdefault(caller, _Line())
        line.length += 1
        try:
            async with line.turn, self._turns:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[caller]

"""The last save of an Actor's state before the server stops, and what the Actor pushes around it.

A state that is saved while a push is under way may or may not count that push: Actors note an item before or after they
push it. So an Actor is asked to save when it pushes nothing, and again if it has begun a push before its state was
stored. From a good save on its pushes wait until the server has closed: the Actor makes them again with the next one.
A value that is stored while a push waits may be a later state, which counts that push: then the push goes on, and the
Actor is asked again.

The state of a crawler is its request queue: a request is marked as handled after its items are pushed. Its pushes wait
from a moment before the end on, in which the requests of earlier pushes are marked.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from batchrun.server.runs.actor_events import EventChannel

#: Seconds without a push before the Actor is asked: time to take in the answer to its last one.
_QUIET_S = 0.02
#: Seconds for the values of a state that come after the first one.
_STORE_MORE_S = 0.1


class LastSave:
    __slots__ = ("_asked", "_in_progress", "_pushed", "_quiet_at", "_spoiled", "_waiting", "has_handled")

    def __init__(self) -> None:
        self._asked: anyio.Event | None = None
        #: There is one from a good save on; set when the save turns out not to be good.
        self._spoiled: anyio.Event | None = None
        #: True if a push has begun since the Actor was asked.
        self._pushed = False
        self._in_progress = self._waiting = 0
        self._quiet_at = 0.0
        #: True once the Actor has marked a request as handled.
        self.has_handled = False

    @asynccontextmanager
    async def pushing(self) -> AsyncIterator[None]:
        """Surround a push of the Actor. After a good save it waits until the server has closed."""
        while self._spoiled is not None:
            self._waiting += 1
            try:
                await self._spoiled.wait()
            finally:
                self._waiting -= 1
        self._pushed = True
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1
            self._quiet_at = anyio.current_time() + _QUIET_S

    def note_stored(self) -> None:
        """Note that the Actor has stored a value: its state, if it was asked to save."""
        if self._asked is None:
            return
        if self._spoiled is not None and self._waiting:
            self._spoiled.set()
            self._spoiled = None
        elif self._spoiled is None and not self._pushed:
            self._spoiled = anyio.Event()
        self._asked.set()

    async def ask(self, events: EventChannel) -> None:
        """Ask the Actor to save its state until a save is good. An Actor without a pause, or a state, has none."""
        while True:
            await anyio.sleep(_QUIET_S / 4)
            if self._in_progress or anyio.current_time() < self._quiet_at:
                continue
            self._pushed, self._asked = False, anyio.Event()
            events.send("persistState", {"isMigrating": True})
            await self._asked.wait()
            if (spoiled := self._spoiled) is not None:
                with anyio.move_on_after(_STORE_MORE_S):
                    await spoiled.wait()
                if self._spoiled is not None:
                    return

    def hold(self) -> None:
        """Let pushes wait from now on, whatever is stored."""
        self._asked = None
        self._spoiled = self._spoiled or anyio.Event()

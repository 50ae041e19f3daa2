"""A budget of bytes for what is in memory between the platform and the disk: answers, and what is made of them.

Each user has a room in the budget, which grows and shrinks. A room that wants more than is left waits. An answer that
is larger than the whole budget is let in once all other rooms are empty or wait.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import anyio

from batchrun.errors import AnswerTooLarge

#: Bytes that are reserved for an answer of unknown size; most answers are smaller.
MIN_BODY_BYTES = 1 << 16

#: Returns whether a body that is being read may grow to a size in bytes.
Fits = Callable[[int], bool]
T = TypeVar("T")


class ByteBudget:
    """The bytes that all rooms may hold together."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        #: Rooms that hold something.
        self._rooms: set[Room] = set()
        #: Rooms that wait, each with the bytes that it is to hold.
        self._waiting: dict[Room, tuple[int, anyio.Event]] = {}

    @classmethod
    def of_megabytes(cls, total_mb: int) -> Self:
        """Return a budget of this many megabytes."""
        return cls(total_mb << 20)

    def room(self) -> "Room":
        """Return a new, empty room."""
        return Room(self)

    def take(self, room: "Room", size: int) -> bool:
        """Let a room hold this much, if it may."""
        if self._held - room.held + size > self.total and not self._is_alone(room):
            return False
        self.hold(room, size)
        return True

    def _is_alone(self, room: "Room") -> bool:
        """Whether all other rooms wait: nothing would ever be given back."""
        return all(other is room or other in self._waiting for other in self._rooms)

    def hold(self, room: "Room", size: int) -> None:
        """Note what a room holds now; what it gives back is handed on."""
        before, room.held = room.held, size
        self._held += size - before
        if not before:
            self._rooms.add(room)
        elif not size:
            self._rooms.discard(room)
        if size < before and self._waiting:
            self._hand_on()

    def enter(self, room: "Room", size: int) -> bool:
        """Let a room hold this much, if it may and no room that comes first waits."""
        return (room.held > 0 or not self._waiting) and self.take(room, size)

    async def wait(self, room: "Room", size: int) -> None:
        """Wait until a room may hold this much, and let it."""
        event = anyio.Event()
        self._waiting[room] = (size, event)
        self._hand_on()
        try:
            await event.wait()
        finally:
            if self._waiting.pop(room, None) is not None:  # cancelled
                self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting:
            # First the room that holds most, so that it can finish and give all of that back; then the first to come.
            room = max(self._waiting, key=lambda each: each.held)
            size, event = self._waiting[room]
            if not self.take(room, size):
                return
            del self._waiting[room]
            event.set()


class Room:
    """What one job holds of the budget, from its first answer until all is on the disk. It empties as a context."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        #: In bytes.
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shrink(0)

    def shrink(self, size: int) -> None:
        """Hold no more than this."""
        if self.held > size:
            self._budget.hold(self, size)

    async def fill(
        self,
        read: Callable[[Fits], Awaitable[T]],
        *,
        expected_bytes: int,
        weight: int,
        max_bytes: int | None = None,
    ) -> tuple[T, int]:
        """Read one answer into the room, beside what it holds already.

        Args:
            read: sends the request; called again, after a wait, if the body is larger than expected and does not fit.
            expected_bytes: of the body.
            weight: bytes in memory per byte of the body.
            max_bytes: of the body; None: unlimited.

        Returns:
            What `read` returned, and the size of the body.

        Raises:
            AnswerTooLarge: the body is larger than `max_bytes`, or this process has no memory for it, even alone.
        """
        kept, size, is_refused = self.held, 0, False

        def fits(body_bytes: int) -> bool:
            nonlocal size, is_refused
            size = body_bytes
            if max_bytes is not None and size > max_bytes:
                return False
            wanted = kept + weight * size
            is_refused = wanted > self.held and not self._budget.take(self, wanted)
            return not is_refused

        while True:
            wanted = kept + weight * max(expected_bytes, MIN_BODY_BYTES)
            if not self._budget.enter(self, wanted):
                await self._budget.wait(self, wanted)
            try:
                value = await read(fits)
            except AnswerTooLarge:
                is_alone = weight * expected_bytes > self._budget.total
                if (max_bytes is not None and size > max_bytes) or (is_alone and not is_refused):
                    raise
                self.shrink(kept)
                # Refused by the budget: wait for room. Otherwise memory ran out: try once more without the other rooms.
                expected_bytes = 2 * size if is_refused else self._budget.total + 1
            else:
                self.shrink(kept + weight * size)
                return value, size

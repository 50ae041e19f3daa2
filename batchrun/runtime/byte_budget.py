"""A budget of bytes for what is in memory between the platform and the disk: answers, and what is made of them.

Each user has a room in the budget, which grows and shrinks. A room that wants more than is left waits. An answer that
is larger than the whole budget is let in once all other rooms are empty or wait.
"""

import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

import anyio

from batchrun.errors import AnswerTooLarge

#: Bytes that are reserved for an answer of unknown size; most answers are smaller.
MIN_BODY_BYTES = 1 << 16

#: How many times the whole budget one answer may take once it is parsed, if it is alone.
_MAX_ALONE = 4
T = TypeVar("T")


class Fits(Protocol):
    """Says whether a body may be held."""

    def __call__(self, body_bytes: int, parsed_bytes: int = 0, /) -> bool:
        """Return whether a body that is being read may grow to a size, or take so many bytes once it is parsed."""


class ByteBudget:
    """The bytes that all rooms may hold together."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        #: Bytes in memory per byte of a body, a recent maximum: that of an answer is known once it is read.
        self._density = 0.0
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

    def reserved(self, expected_bytes: int, weight: int) -> int:
        """Return what to reserve for a body."""
        return math.ceil(max(weight, self._density) * expected_bytes)

    def note_density(self, density: float) -> None:
        """Note how many bytes of memory a body has taken per byte; an old maximum fades by an eighth each time."""
        self._density = max(density, self._density * 7 / 8)

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

    async def grow(self, size: int) -> None:
        """Hold this much, once the budget has it."""
        if not self._budget.enter(self, size):
            await self._budget.wait(self, size)

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
            AnswerTooLarge: the body is larger than `max_bytes`, or would take several times the budget once it is
                parsed, or this process has no memory for it, even alone.
        """
        kept, size, need = self.held, 0, 0
        is_refused = is_over = False

        def fits(body_bytes: int, parsed_bytes: int = 0) -> bool:
            nonlocal size, need, is_refused, is_over
            size, need = body_bytes, max(weight * body_bytes, parsed_bytes)
            is_over = (max_bytes is not None and size > max_bytes) or parsed_bytes > _MAX_ALONE * self._budget.total
            if is_over:
                return False
            is_refused = kept + need > self.held and not self._budget.take(self, kept + need)
            return not is_refused

        wanted = self._budget.reserved(expected_bytes, weight)
        while True:
            reserved = kept + max(wanted, weight * MIN_BODY_BYTES)
            await self.grow(reserved)
            try:
                value = await read(fits)
            except AnswerTooLarge:
                is_alone = wanted > self._budget.total
                if is_over or (is_alone and not is_refused):
                    raise
                self.shrink(kept)
                # Refused by the budget: wait for room. Otherwise memory ran out: try once more without the other rooms.
                wanted = 2 * need if is_refused else self._budget.total + 1
            else:
                self.shrink(kept + need)
                if size >= MIN_BODY_BYTES:
                    self._budget.note_density(need / size)
                return value, size

"""What the platform tells an Actor at work: one channel per Run, which its websockets follow. No I/O here."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import orjson
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.model import JsonObject
from batchrun.server.ids import iso, now_ms

#: Followers of one Run at most: its process, and some who look on.
MAX_FOLLOWERS = 5
#: Messages that wait for one follower; whoever reads more slowly than that is let go, and may come again.
_MAX_WAITING = 100


class TooManyFollowers(Exception):
    """A Run's channel takes no more followers."""


def event_message(name: str, data: JsonObject | None = None) -> str:
    """Return one event as it goes over the wire."""
    return orjson.dumps({"name": name, "createdAt": iso(now_ms()), "data": data or {}}).decode()


class EventChannel:
    """Hands each event to everybody who follows."""

    __slots__ = ("_followers",)

    def __init__(self) -> None:
        self._followers: list[MemoryObjectSendStream[str]] = []

    @property
    def is_followed(self) -> bool:
        """Whether anybody listens."""
        return bool(self._followers)

    def send(self, name: str, data: JsonObject | None = None) -> None:
        """Tell all followers; never waits."""
        message = event_message(name, data)
        for follower in list(self._followers):
            try:
                follower.send_nowait(message)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._let_go(follower)

    def close(self) -> None:
        """End all followers' streams, after what they were sent."""
        for follower in list(self._followers):
            self._let_go(follower)

    @contextmanager
    def follow(self) -> Iterator[MemoryObjectReceiveStream[str]]:
        """Open a stream of the events from now on.

        Raises:
            TooManyFollowers: there are enough already.
        """
        if len(self._followers) == MAX_FOLLOWERS:
            raise TooManyFollowers
        sending, receiving = anyio.create_memory_object_stream[str](_MAX_WAITING)
        self._followers.append(sending)
        try:
            with receiving:
                yield receiving
        finally:
            self._let_go(sending)

    def _let_go(self, follower: MemoryObjectSendStream[str]) -> None:
        follower.close()
        if follower in self._followers:
            self._followers.remove(follower)

"""Events for the Actor of a live Run: one channel per Run, followed by its websockets. No I/O."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import orjson
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.model import JsonObject
from batchrun.server.ids import iso, now_ms

#: Max followers of one Run that its account or its process has sent, and as many others.
MAX_FOLLOWERS = 5
#: Max messages that wait for one follower. A slower follower is disconnected and may connect again.
_MAX_WAITING = 100


class TooManyFollowers(Exception):
    """A Run's channel has MAX_FOLLOWERS already."""


def event_message(name: str, data: JsonObject | None = None) -> str:
    return orjson.dumps({"name": name, "createdAt": iso(now_ms()), "data": data or {}}).decode()


class EventChannel:
    __slots__ = ("_followers",)

    def __init__(self) -> None:
        #: Each with whether it is the account's own.
        self._followers: dict[MemoryObjectSendStream[str], bool] = {}

    @property
    def is_followed(self) -> bool:
        return bool(self._followers)

    def send(self, name: str, data: JsonObject | None = None) -> None:
        """Send an event to all followers. Never waits."""
        message = event_message(name, data)
        for follower in list(self._followers):
            try:
                follower.send_nowait(message)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._let_go(follower)

    def close(self) -> None:
        """End all followers' streams after the events sent so far."""
        for follower in list(self._followers):
            self._let_go(follower)

    @contextmanager
    def follow(self, *, is_own: bool) -> Iterator[MemoryObjectReceiveStream[str]]:
        """Open a stream of the events from now on, unless there are MAX_FOLLOWERS: others take no place of its own."""
        if sum(each is is_own for each in self._followers.values()) == MAX_FOLLOWERS:
            raise TooManyFollowers
        sending, receiving = anyio.create_memory_object_stream[str](_MAX_WAITING)
        self._followers[sending] = is_own
        try:
            with receiving:
                yield receiving
        finally:
            self._let_go(sending)

    def _let_go(self, follower: MemoryObjectSendStream[str]) -> None:
        follower.close()
        self._followers.pop(follower, None)

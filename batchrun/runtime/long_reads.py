"""Reads in threads that may take hours: they end when they are cancelled, and none keeps the others waiting.

A file that is compressed to a few megabytes can hold terabytes without one line end.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import from_thread
from anyio.lowlevel import RunVar

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")

#: Max threads of this process that read at once: parsing what one has read may take 90 MB for a moment.
_READERS_AT_ONCE = 4
#: Seconds after which a thread lets those that wait read first.
_SLICE_S = 0.25

_readers = RunVar[anyio.CapacityLimiter]("readers")
#: Threads of reads that have begun, those that wait included.
_threads = RunVar[anyio.CapacityLimiter]("threads of readers")


class _Read:
    """One read, which holds one of the readers' tokens unless it waits for one."""

    def __init__(self) -> None:
        self._readers = _limiter(_readers, _READERS_AT_ONCE)
        self._holds_token = False
        #: On the clock `time.monotonic`.
        self.slice_end = 0.0

    async def begin_slice(self) -> None:
        self.end_slice()
        await self._readers.acquire_on_behalf_of(self)
        self._holds_token = True
        self.slice_end = time.monotonic() + _SLICE_S

    def end_slice(self) -> None:
        if self._holds_token:
            self._holds_token = False
            self._readers.release_on_behalf_of(self)


_this_read: ContextVar[_Read] = ContextVar("this_read")


async def read_in_thread(function: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
    """Call a function that reads in a thread, a few of this process at once.

    Cancelled, it ends at the next `pause` of the thread.
    """
    read = _Read()
    await read.begin_slice()
    before = _this_read.set(read)  # the thread takes it over
    try:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=_limiter(_threads, math.inf))
    finally:
        _this_read.reset(before)
        read.end_slice()


async def read_in_thread_of(is_pipe: bool, function: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
    """Call a function that reads a file or a pipe in a thread.

    A pipe may block for any time: it waits for no other read, and a cancelled read of it is abandoned.
    """
    if is_pipe:
        return await anyio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)
    return await read_in_thread(function, *arguments)


def pause() -> None:
    """End the read of this thread if it was cancelled; else let others read if it has read for long.

    To be called after each piece, in any thread.
    """
    with suppress(RuntimeError):  # this thread is none of anyio's
        from_thread.check_cancelled()
    read = _this_read.get(None)
    if read is not None and time.monotonic() > read.slice_end:
        from_thread.run(read.begin_slice)


def _limiter(variable: RunVar[anyio.CapacityLimiter], tokens: float) -> anyio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        variable.set(limiter := anyio.CapacityLimiter(tokens))
        return limiter

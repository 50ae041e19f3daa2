"""The lock on an output directory; it dies with the process that holds it."""

import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from batchrun.errors import OutputError
from batchrun.output.layout import LOCK
from batchrun.output.sink import explaining

#: Tries to take the lock, and seconds between them. A `holder` call in another process holds the lock for an instant,
#: which must not be taken for a running batch.
TRIES = 10
TRY_INTERVAL_S = 0.05


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock an output directory for this process.

    Raises:
        OutputError: another process works there (the message names its pid), or the lock cannot be written.
    """
    file = directory / LOCK
    with explaining(file):
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _take(fd, directory)
        yield
    finally:
        os.close(fd)


@asynccontextmanager
async def enter_lock(directory: Path) -> AsyncIterator[None]:
    """Lock an output directory as `locked` does, without blocking the event loop."""
    with ExitStack() as stack:
        await anyio.to_thread.run_sync(stack.enter_context, locked(directory))
        yield


def _take(fd: int, directory: Path) -> None:
    if not _is_taken(fd):
        pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise OutputError(f"{directory}: in use by process {pid}; wait for it, stop it, or choose another directory")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _is_taken(fd: int) -> bool:
    for _ in range(TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(TRY_INTERVAL_S)
        else:
            return True
    return False


def holder(directory: Path) -> int | None:
    """Return the pid of the process that works in an output directory; None if there is none or it is unknown."""
    file = directory / LOCK
    if not file.exists():
        return None
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = opened.read(20).strip()
            return int(text) if text.isdigit() else None
    return None

"""The lock on an output directory; it dies with the process that holds it.

The file `lock` is locked, and the directory itself: removing the file lets no second process in. Both are closed to
other users first, who could hold the lock.
"""

import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio

from batchrun.errors import OutputError
from batchrun.output.layout import LOCK, SERVER_STATE, is_own_name
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import (
    close_to_others,
    kept_in_place,
    open_closed_directory,
    private_opener,
    refuse_link,
)

#: Tries to take the lock, and seconds between them. A `holder` call in another process holds the lock for an instant,
#: which must not be taken for a running batch.
TRIES = 10
TRY_INTERVAL_S = 0.05
_WAIT = "wait for it, stop it, or choose another directory"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock an output directory for this process, and close it to other users.

    Raises:
        OutputError: another process works there (the message names its pid), the directory is another user's, or the
            lock cannot be written.
    """
    file = directory / LOCK
    with ExitStack() as stack:
        with explaining(directory):
            directory_fd = open_closed_directory(directory)
            stack.callback(os.close, directory_fd)
            stack.enter_context(kept_in_place(directory, directory_fd))
            own = [each for each in directory.iterdir() if is_own_name(each.name)]
        for each in own:
            with explaining(each):
                refuse_link(each)
            # A folder `server` may be a person's own. A server closes its own; and nobody gets past this directory.
            if each.name != SERVER_STATE:
                close_to_others(each.name, directory_fd)
        with explaining(file):
            fd = private_opener(str(file), os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, fd)
        _take(fd, directory_fd, directory)
        yield


@asynccontextmanager
async def enter_lock(directory: Path) -> AsyncIterator[None]:
    """Lock an output directory as `locked` does, without blocking the event loop."""
    with ExitStack() as stack:
        await anyio.to_thread.run_sync(stack.enter_context, locked(directory))
        yield


def _take(fd: int, directory_fd: int, directory: Path) -> None:
    if not _is_taken(fd):
        pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise OutputError(f"{directory}: in use by process {pid}; {_WAIT}")
    with suppress(OSError):  # no directory can be locked on some network file systems
        if not _is_taken(directory_fd):
            raise OutputError(
                f"{directory}: in use by an unknown process, perhaps of a user who could open it before; {_WAIT}"
            )
    if (noted := os.pread(fd, 20, 0).strip()) and not noted.isdigit():
        raise OutputError(f"{directory / LOCK}: no batchrun has written it; move it away, or choose another directory")
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
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = opened.read(20).strip()
            return int(text) if text.isdigit() else None
    return None

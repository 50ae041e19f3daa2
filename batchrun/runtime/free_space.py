"""The space of a disk that uploads and new Runs leave free, so that ledgers, databases and logs can be written."""

import shutil
from pathlib import Path

import anyio
import anyio.to_thread

from batchrun.runtime.change_signal import ChangeSignal

#: Bytes; 5 % of a disk that is smaller than 5 GB.
RESERVED_BYTES = 256 << 20
_RESERVED_SHARE = 0.05
#: Seconds for which a look at the disk is good.
_LOOK_EVERY_S = 1.0


def has_room(directory: Path, more_bytes: int = 0) -> bool:
    """Return whether the reserve stays free if so many bytes are written to a directory's disk. May block."""
    free, reserve = look_at_disk(directory)
    return free - more_bytes >= reserve


def look_at_disk(directory: Path) -> tuple[int, int]:
    """Return how many bytes of a directory's disk are free, and how many are to stay free. May block."""
    disk = shutil.disk_usage(directory)
    return disk.free, min(RESERVED_BYTES, round(disk.total * _RESERVED_SHARE))


class DiskRoom:
    """Lets writers wait while the disk is all but full, as whoever looks at the disk has noted."""

    def __init__(self) -> None:
        self._is_full = False
        self._changed = ChangeSignal()

    def note(self, *, is_full: bool) -> None:
        """Note whether the disk is all but full."""
        if is_full != self._is_full:
            self._is_full = is_full
            self._changed.notify()

    async def wait(self) -> None:
        """Wait until output may be written."""
        while self._is_full:
            await self._changed.wait()


class FreeSpace:
    """Looks at a directory's disk at most once a second, for many small uploads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._looked_at = -_LOOK_EVERY_S
        self._has_room = True

    async def has_room(self) -> bool:
        """Return whether the reserve was free within the last second."""
        if (now := anyio.current_time()) - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._has_room = await anyio.to_thread.run_sync(has_room, self._directory)
        return self._has_room

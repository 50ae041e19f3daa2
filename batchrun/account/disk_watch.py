"""Holds the starts of an account's batches while the disk is almost full, and their output while it is all but full."""

from collections.abc import Callable
from pathlib import Path

import anyio
import structlog

from batchrun.engine.notices import DiskLow
from batchrun.engine.shared_limits import SharedLimits
from batchrun.runtime.free_space import look_at_disk

#: Seconds between two looks, and while the disk is almost full.
INTERVAL_S = 1.0
_INTERVAL_LOW_S = 0.1
#: The part of the default reserve below which nothing is collected either: the ledgers need the rest.
_WRITE_PART = 0.5
#: Starts go on once this much more than the reserve is free, so that they do not stop again at once.
_SPARE = 1.1
_MB = 1 << 20

_log = structlog.get_logger()


class DiskWatch:
    """Watches the disk of a directory.

    Args:
        directory: the batch's or the worker's.
        reserved_mb: returns how many megabytes are to stay free; None: the default.
        shared: the limits of the batches that are held.
    """

    def __init__(self, directory: Path, reserved_mb: Callable[[], int | None], shared: SharedLimits) -> None:
        self._directory = directory.absolute()
        self._reserved_mb = reserved_mb
        self._capacity, self._room = shared.capacity, shared.disk_room
        #: What is low; None: the disk has room.
        self.low: DiskLow | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await anyio.sleep(INTERVAL_S if self.low is None else _INTERVAL_LOW_S)
            await self.look()

    async def look(self) -> None:
        """Look once. A disk that cannot be looked at has room: what cannot be written is reported by itself."""
        try:
            free, reserved = await anyio.to_thread.run_sync(look_at_disk, self._directory)
        except OSError:
            return
        least = reserved * _WRITE_PART
        if (wanted_mb := self._reserved_mb()) is not None:
            reserved = wanted_mb * _MB
        self._room.note(is_full=free < min(least, reserved))
        was_low = self.low is not None
        if free >= reserved * (_SPARE if was_low else 1):
            if was_low:
                self.low = None
                _log.info("disk_has_room", directory=str(self._directory), free_mb=free // _MB)
                self._capacity.hold("")
            return
        self.low = DiskLow(directory=self._directory, free_mb=free // _MB, reserved_mb=reserved // _MB)
        if not was_low:
            _log.warning("disk_low", directory=str(self._directory), free_mb=self.low.free_mb)
        words = f"{self.low.free_mb:,} MB free, {self.low.reserved_mb:,} MB are to stay free"
        if words != self._capacity.held_for:
            self._capacity.hold(words)

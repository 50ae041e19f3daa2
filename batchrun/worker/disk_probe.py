"""Looks at the disk of a worker's data directory: how much room it has, and whether it takes what is written."""

import os
import shutil
import tempfile
from pathlib import Path

import anyio

#: Seconds between two looks, and bytes that each writes and removes again.
INTERVAL_S = 5.0
PROBE_BYTES = 1 << 16


class DiskProbe:
    """What is known of the disk of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        #: Free bytes of the disk, and all; None until they are read.
        self.room: tuple[int, int] | None = None
        #: Why the directory cannot be written; empty while it can.
        self.trouble = ""

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            try:
                disk = await anyio.to_thread.run_sync(shutil.disk_usage, self._directory)
                self.room = disk.free, disk.total
                await anyio.to_thread.run_sync(_write, self._directory)
                self.trouble = ""
            except OSError as error:
                self.trouble = error.strerror or str(error)
            await anyio.sleep(INTERVAL_S)


def _write(directory: Path) -> None:
    """Write some bytes beside the batches, as they would.

    Raises:
        OSError: they cannot be written.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())

"""Large bodies in files, so that a slow sender or reader keeps only pieces in memory.

The files have no names: nothing is left of them when this process dies.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchrun.runtime.free_space import look_at_disk
from batchrun.server.error_answers import disk_full

#: Max bytes in memory for one connection, 128 KB. Larger bodies are in a file and are read in pieces of this length.
LARGE_BYTES = 131_072


class BodySpool:
    """Bytes that are written once and then read: in memory while they are few, in a file once they are large.

    Everything but `close` may block: callers on the loop use a thread. A garbage-collected spool drops its file.
    """

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(dir=str(directory))  # noqa: SIM115
        #: Number of bytes written.
        self.size = 0

    def __del__(self) -> None:
        self.close()

    def write(self, content: bytes) -> None:
        self.size += len(content)
        if self.size > LARGE_BYTES:
            self._file.rollover()
        self._file.write(content)

    def piece(self, start: int) -> bytes:
        """Return up to LARGE_BYTES from an offset on; none at the end."""
        self._file.seek(start)
        return self._file.read(LARGE_BYTES)

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes, LARGE_BYTES at a time."""
        for start in range(0, self.size, LARGE_BYTES):
            yield self.piece(start)

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def take(self) -> bytes:
        with self._file:
            return self.read()

    def close(self) -> None:
        """Drop the bytes. Does not block."""
        self._file.close()


def spooled(directory: Path, content: bytes) -> BodySpool:
    """Return a spool of an answer. Refused while the disk is all but full: many may be read slowly. May block."""
    free, reserve = look_at_disk(directory)
    # What uploads leave free is halved, so that a disk that refuses them can still be read.
    if free - len(content) < reserve // 2:
        raise disk_full()
    spool = BodySpool(directory)
    spool.write(content)
    return spool

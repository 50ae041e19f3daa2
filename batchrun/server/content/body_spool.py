"""What is too large to be held for whoever sends or reads it slowly: it is in a file, and only pieces are in memory.

The file has no name, so that nothing is left of it whatever becomes of this process.
"""

import tempfile
from pathlib import Path

#: Bytes that are held for one connection at most: more of them go to a file, and come back in pieces of this length.
LARGE_BYTES = 131_072


class BodySpool:
    """Bytes that are written once, and then read: in memory at first, in a file once they are large.

    Everything here may block: callers on the loop go through a thread. One that is given up drops its file.
    """

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(dir=str(directory))  # noqa: SIM115
        #: How many bytes there are.
        self.size = 0

    def __del__(self) -> None:
        self.close()

    def write(self, content: bytes) -> None:
        """Add bytes at the end."""
        self.size += len(content)
        if self.size > LARGE_BYTES:
            self._file.rollover()
        self._file.write(content)

    def piece(self, start: int) -> bytes:
        """Return the bytes from a place on, not too many; none at the end."""
        self._file.seek(start)
        return self._file.read(LARGE_BYTES)

    def read(self) -> bytes:
        """Return all bytes."""
        self._file.seek(0)
        return self._file.read()

    def take(self) -> bytes:
        """Return all bytes and drop them."""
        with self._file:
            return self.read()

    def close(self) -> None:
        """Drop the bytes; of all that is done to it, this does not block."""
        self._file.close()


def spooled(directory: Path, content: bytes) -> BodySpool:
    """Return a spool of these bytes. May block."""
    spool = BodySpool(directory)
    spool.write(content)
    return spool

"""A ZIP archive that is sent piece by piece while it is written."""

import io
import time
import zipfile
from typing import IO


class ZipStream:
    """Turns entries into the bytes of an archive."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._archive = zipfile.ZipFile(self._pieces, "w", zipfile.ZIP_DEFLATED)
        self._entry: IO[bytes] | None = None

    def begin(self, name: str) -> bytes:
        """Begin an entry, which ends with the next one; return the new bytes of the archive."""
        self._end_entry()
        # Names of dots only would be unpacked outside of the target directory.
        entry = zipfile.ZipInfo(name if name.strip(".") else name.replace(".", "%2E"), time.localtime()[:6])
        entry.compress_type = self._archive.compression
        self._entry = self._archive.open(entry, "w")
        return self._pieces.take()

    def write(self, content: bytes) -> bytes:
        """Add to the current entry; return the new bytes of the archive. May take a while."""
        assert self._entry is not None, "an entry was begun"
        self._entry.write(content)
        return self._pieces.take()

    def close(self) -> bytes:
        self._end_entry()
        self._archive.close()
        return self._pieces.take()

    def _end_entry(self) -> None:
        if self._entry is not None:
            self._entry.close()


class _Pieces(io.RawIOBase):
    """A file that can only be written, and is emptied by `take`."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]  # io's own signature says Buffer from 3.12 on only
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken

"""A ZIP archive that is handed out piece by piece while it is written."""

import io
import time
import zipfile
from typing import IO


class ZipStream:
    """Takes entries in and gives the bytes that come of them."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._archive = zipfile.ZipFile(self._pieces, "w", zipfile.ZIP_DEFLATED)
        self._entry: IO[bytes] | None = None

    def begin(self, name: str) -> bytes:
        """Begin an entry, which goes on to the next one; return what of the archive is new."""
        self._end_entry()
        # Names that would lead whoever unpacks the archive out of his directory.
        entry = zipfile.ZipInfo(name if name.strip(".") else name.replace(".", "%2E"), time.localtime()[:6])
        entry.compress_type = self._archive.compression
        self._entry = self._archive.open(entry, "w")
        return self._pieces.take()

    def write(self, content: bytes) -> bytes:
        """Go on with the entry that was begun; return what of the archive is new. May take a while."""
        assert self._entry is not None, "an entry was begun"
        self._entry.write(content)
        return self._pieces.take()

    def close(self) -> bytes:
        """Return the end of the archive."""
        self._end_entry()
        self._archive.close()
        return self._pieces.take()

    def _end_entry(self) -> None:
        if self._entry is not None:
            self._entry.close()


class _Pieces(io.RawIOBase):
    """A file that can only be written, and is emptied from time to time."""

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

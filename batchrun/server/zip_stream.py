"""A ZIP archive that is handed out piece by piece while it is written."""

import io
import zipfile
from typing import IO


class ZipStream:
    """Takes entries in and gives the bytes that come of them."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._archive = zipfile.ZipFile(self._pieces, "w", zipfile.ZIP_DEFLATED)
        self._entry: IO[bytes] | None = None

    def add(self, name: str, content: bytes) -> bytes:
        """Add an entry; return what of the archive is new. May take a while."""
        # Names that would lead whoever unpacks the archive out of his directory.
        self._archive.writestr(name if name.strip(".") else name.replace(".", "%2E"), content)
        return self._pieces.take()

    def begin(self, name: str) -> None:
        """Begin an entry that is written piece by piece, up to the archive's end."""
        self._entry = self._archive.open(name, "w")

    def write(self, content: bytes) -> bytes:
        """Go on with the entry that was begun; return what of the archive is new."""
        assert self._entry is not None, "an entry was begun"
        self._entry.write(content)
        return self._pieces.take()

    def close(self) -> bytes:
        """Return the end of the archive."""
        if self._entry is not None:
            self._entry.close()
        self._archive.close()
        return self._pieces.take()


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

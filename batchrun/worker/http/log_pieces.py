"""Where the reader of a log is: in which of the log's pieces, and how far in it. A log that rotates renames them."""

from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple

from batchrun.runtime.logs import KEPT_PIECES, piece_of
from batchrun.runtime.private_files import private_opener

#: Bytes of the first line that name a piece; with its time, it stands in no other one.
_NAMING_BYTES = 4096


class LogPlace(NamedTuple):
    """A place in a log."""

    #: The name of a piece, which it has from its first line, whatever its file is called; empty: the newest piece.
    piece: str
    #: Bytes from the beginning of the piece.
    offset: int


def read_on(log: Path, place: LogPlace, max_bytes: int) -> tuple[bytes, LogPlace]:
    """Return what follows a place in one piece, and the place after it; nothing at the end of the log.

    The end of a piece leads to the next one. A piece that was removed leads to the oldest that is left.
    """
    with ExitStack() as stack:
        pieces: list[tuple[str, IO[bytes]]] = []
        for number in range(KEPT_PIECES + 1):  # upward, as a rotation renames them: none is missed
            try:
                piece: IO[bytes] = stack.enter_context(open(piece_of(log, number), "rb", opener=private_opener))
            except FileNotFoundError:
                continue
            name = _name_of(piece)
            if not pieces or pieces[-1][0] != name:  # else it was renamed between two looks
                pieces.append((name, piece))
            if place.piece in ("", name):
                break
        offset = place.offset if pieces and place.piece in ("", pieces[-1][0]) else 0
        for name, piece in reversed(pieces):
            piece.seek(offset)
            if found := piece.read(max_bytes):
                return found, LogPlace(name, offset + len(found))
            place, offset = LogPlace(name, offset), 0
        return b"", place


def _name_of(piece: IO[bytes]) -> str:
    first = piece.read(_NAMING_BYTES).partition(b"\n")[0]
    return blake2b(first, digest_size=8).hexdigest() if first else ""

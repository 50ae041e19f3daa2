"""Lines of a job file that make no row, in whatever format: blank ones, and the rest of one that is too long."""

from collections.abc import Iterable
from io import BufferedIOBase

from batchrun.jobs.raw_streams import Note

#: Max bytes of a file that give no row: of a line that does not end, or of blank lines.
_MAX_ROWLESS_BYTES = 1 << 30
#: What a blank line counts besides its bytes, for its call: 2.6 million empty lines are too many, more than the blank
#: rows that a spreadsheet leaves behind its last one.
_LINE_BYTES = 400
#: Bytes of a read whose content is thrown away.
_SKIP_BYTES = 1 << 20


def is_blank_line(line: bytes | str) -> bool:
    """True if a line of JSON lines, or one above the header of CSV, is skipped."""
    return line.isspace() or not line


def is_blank_row(cells: Iterable[str]) -> bool:
    """True if a row of CSV is skipped."""
    return not any(map(str.strip, cells))


class NoRow(Exception):
    """A file gives no further row for so long that it is read no further; the text is the reason."""


class RowlessBytes:
    """How many bytes in a row have given no row of a file."""

    def __init__(self) -> None:
        self._count = 0

    def end(self) -> None:
        """Note that there is a row."""
        self._count = 0

    def add(self, size: int) -> None:
        """Count the bytes of a blank line, or of a part of a line.

        Raises:
            NoRow: they are too many.
        """
        self._count += size + _LINE_BYTES
        if self._count > _MAX_ROWLESS_BYTES:
            raise NoRow(
                "goes on for 1 GB without a job: a line that does not end, or blank lines. It is read no further; look"
                " whether it is damaged"
            )


def skip_line(stream: BufferedIOBase, note: Note | None) -> tuple[int, bytes]:
    """Read up to the end of the line, keep nothing, and return how many bytes were read, and the line end if any.

    Raises:
        NoRow: it has no end within 1 GB.
    """
    skipped, piece, rowless = 0, b"", RowlessBytes()
    while (piece[-1:] != b"\n") and (piece := stream.readline(_SKIP_BYTES)):
        skipped += len(piece)
        rowless.add(len(piece))
        if note is not None:
            note(piece)
    return skipped, piece[-1:]

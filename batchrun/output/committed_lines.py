"""The lines of an output file, all or the committed ones, in order, one at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from batchrun.errors import OutputError
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import private_opener

#: Max bytes of a line: it holds one value of 512 MB at most, and little beside it.
MAX_LINE_BYTES = 768 << 20


def committed_lines(file: Path, end: int) -> Iterator[bytes]:
    """Yield the lines in the first `end` bytes of a file, none if it does not exist.

    Raises:
        OutputError: it cannot be read, or has a line that no batch writes.
    """
    if not end or not file.exists():
        return
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        for line in bounded_lines(opened, file):
            yield line
            end -= len(line)
            if end <= 0:
                return


def bounded_lines(opened: BinaryIO, file: Path) -> Iterator[bytes]:
    """Yield the lines of an open output file, from where it is.

    Raises:
        OutputError: it has a line that no batch writes. Others may have put the file there: without a line end, its
            terabytes would be one line, and take no room on the disk.
    """
    while line := opened.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise too_long(file)
        yield line


def too_long(file: Path) -> OutputError:
    """Return the error of a file with a line that no batch writes."""
    return OutputError(f"{file}: has a line of {MAX_LINE_BYTES:,} bytes or more, which no batch writes")

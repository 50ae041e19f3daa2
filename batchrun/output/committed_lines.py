"""The committed lines of an output file, in order, one at a time."""

from collections.abc import Iterator
from pathlib import Path

from batchrun.errors import OutputError
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import private_opener

#: Max bytes of a line: it holds one value of 512 MB at most, and little beside it.
_MAX_LINE_BYTES = 768 << 20


def committed_lines(file: Path, end: int) -> Iterator[bytes]:
    """Yield the lines in the first `end` bytes of a file, none if it does not exist.

    Raises:
        OutputError: it cannot be read, or has a line that no batch writes.
    """
    if not end or not file.exists():
        return
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        while end > 0 and (line := opened.readline(_MAX_LINE_BYTES)):
            end -= len(line)
            if len(line) == _MAX_LINE_BYTES:
                raise OutputError(f"{file}: has a line of {_MAX_LINE_BYTES:,} bytes or more, which no batch writes")
            yield line

"""The copy of a job file that a shared log carries to machines without the file."""

import os
from collections.abc import Callable
from pathlib import Path

from batchrun.output.sink import Sink, explaining

#: Bytes of the job file that one commit copies before the first start.
PIECE_BYTES = 8 << 20
#: Max bytes that an admission copies. Its lines are MAX_CHUNK_BYTES and one line at most, in UTF-16 twice as many.
MAX_GROWTH_BYTES = 96 << 20


class JobFileCopy:
    """A job file on this machine, and its copy beside the ledger. The copy grows with commits, and so on all machines.

    Args:
        source: the job file.
        sink: the copy.
        is_growing: says if the job file is being written: then a last line without line end is left out.
    """

    def __init__(self, source: Path, sink: Sink, is_growing: Callable[[], bool]) -> None:
        """Open the job file.

        Raises:
            OutputError: It cannot be opened.
        """
        self.source = source
        self._sink = sink
        self._is_growing = is_growing
        with explaining(source):
            self._fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def copied_bytes(self) -> int:
        """Length of the copy."""
        return self._sink.length

    @property
    def source_bytes(self) -> int:
        """Length of the job file."""
        with explaining(self.source):
            return os.fstat(self._fd).st_size

    def grow(self, max_bytes: int, end: int = 0) -> bool:
        """Let the present commit copy what the copy lacks, up to a number of bytes; return True if more is left.

        Args:
            max_bytes: that are copied.
            end: an offset before which nothing is left out.

        Raises:
            OutputError: The job file cannot be read.
        """
        begin = self._sink.length
        with explaining(self.source):
            piece = os.pread(self._fd, max_bytes, begin)
            is_last = begin + len(piece) >= self.source_bytes
        if piece and is_last and not piece.endswith(b"\n") and self._is_growing():
            piece = piece[: max(piece.rfind(b"\n") + 1, end - begin)]
        if piece:
            self._sink.write(piece)
        return not is_last

    def close(self) -> None:
        """Close the job file."""
        os.close(self._fd)

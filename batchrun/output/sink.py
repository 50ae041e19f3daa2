"""Append-only files of records and items: append, sync, cut back to a length.

Appended lines count once the ledger has committed the file's new length. Opening a file cuts off all other lines.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrun.errors import OutputError
from batchrun.runtime.open_files import TOO_MANY, too_many_words
from batchrun.runtime.private_files import private_opener
from batchrun.runtime.shell_command import shell_command


class Sink:
    """One append-only file. `write` gathers lines, `flush` appends and syncs them."""

    def __init__(self, file: Path, committed_bytes: int | None) -> None:
        """Open the file and cut it back to its committed length; create it, durably, if it is missing.

        If the ledger has no length for it yet (None), the file must be empty.

        Raises:
            OutputError: it cannot be opened, is shorter than committed, or holds bytes of no ledger.
        """
        self.file = file
        self._waiting: list[bytes] = []
        with explaining(file):
            self._fd = private_opener(str(file), os.O_RDWR | os.O_CREAT)
            self._length = self._cut_to_committed(committed_bytes)
            os.lseek(self._fd, self._length, os.SEEK_SET)
            os.fsync(self._fd)
            sync_directory(file.parent)

    def _cut_to_committed(self, committed_bytes: int | None) -> int:
        length = os.fstat(self._fd).st_size
        if committed_bytes is None and length:
            raise OutputError(
                f"{self.file}: holds {length} bytes that are in no ledger; move it away, or choose another --out"
            )
        committed_bytes = committed_bytes or 0
        if length < committed_bytes:
            raise OutputError(
                f"{self.file}: has {length} bytes, but {committed_bytes} were committed; it was removed or cut."
                f" `{shell_command('batchrun', 'repair', self.file.parent)}` writes the missing lines again"
            )
        os.ftruncate(self._fd, committed_bytes)
        return committed_bytes

    @property
    def length(self) -> int:
        """Length of the file in bytes, as far as it was flushed."""
        return self._length

    def write(self, lines: bytes) -> None:
        """Add whole lines to what the next `flush` appends."""
        self._waiting.append(lines)

    @property
    def gathered(self) -> bytes:
        """What the next `flush` appends."""
        self._waiting = [b"".join(self._waiting)] if self._waiting else []
        return self._waiting[0] if self._waiting else b""

    def flush(self) -> bool:
        """Append the gathered lines and sync the file; return False if there were none.

        Raises:
            OutputError: the lines did not reach the disk; none of them counts.
        """
        if not self._waiting:
            return False
        data = memoryview(b"".join(self._waiting))
        with explaining(self.file):
            while data:
                written = os.write(self._fd, data)
                self._length += written
                data = data[written:]
            os.fdatasync(self._fd)
        self._waiting.clear()
        return True

    def cut(self, length: int) -> None:
        """Cut the file back to a length, and drop what is gathered: it was not committed.

        Raises:
            OutputError: it cannot be cut.
        """
        self._waiting.clear()
        with explaining(self.file):
            os.ftruncate(self._fd, length)
            self._length = os.lseek(self._fd, length, os.SEEK_SET)

    def close(self) -> None:
        """Close the file and drop lines that were not flushed."""
        os.close(self._fd)


def sync_directory(directory: Path) -> None:
    """Make created and renamed files in a directory durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def explaining(file: Path) -> Iterator[None]:
    """Turn errors of the operating system into ones that name the file and say what to do."""
    try:
        yield
    except OSError as error:
        raise explain(error, file) from error


def explain(error: OSError, file: Path) -> OutputError:
    """Turn an error of the operating system into one that names the file and says what to do."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what += "; free some space and run the same command again: nothing is lost"
    elif error.errno in TOO_MANY:
        what = too_many_words()
    return OutputError(f"{file}: {what}")

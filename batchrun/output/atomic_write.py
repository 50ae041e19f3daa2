"""Files that are written beside an old one and replace it when they are complete."""

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from stat import S_IMODE, S_ISREG

from batchrun.output.committed_lines import bounded_lines
from batchrun.output.sink import explain, explaining, sync_directory
from batchrun.runtime.private_files import private_opener

#: Numbers the calls of this process.
_calls = count()


def replace_file(file: Path, chunks: Iterable[bytes], *, is_private: bool = True, is_durable: bool = False) -> None:
    """Write a whole file; on an error the old file is unchanged.

    Args:
        file: a symbolic link is replaced, not followed.
        chunks: of its content.
        is_private: mode 0600. False: that of the old file, or what the umask leaves if that is none of this user's, for
            a file that a person asked for at a path of his own.
        is_durable: True if the new file is to be found after a loss of power, too.

    Raises:
        OutputError: the file cannot be written; no part of the new one is left.
    """
    # Several threads may replace one file at once.
    beside = file.with_name(f".{file.name}.{next(_calls)}.{os.getpid()}.new")
    try:
        for other in file.parent.glob(f".{glob.escape(file.name)}.*.new"):
            if not _is_process(other.name.split(".")[-2]):  # it was killed
                other.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
        with open(beside, "xb", opener=private_opener if is_private else None) as opened:
            with suppress(FileNotFoundError):
                if not is_private and S_ISREG((old := file.lstat()).st_mode) and old.st_uid == os.geteuid():
                    os.fchmod(opened.fileno(), S_IMODE(old.st_mode) & 0o777)
            opened.writelines(chunks)
            if is_durable:
                opened.flush()
                os.fsync(opened.fileno())
        beside.replace(file)
        if is_durable:
            sync_directory(file.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise explain(error, file) from error


def _is_process(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def replace_text(file: Path, text: str, *, is_private: bool = True) -> None:
    """Write a whole file of text; see `replace_file`."""
    replace_file(file, [text.encode()], is_private=is_private)


class Replacement:
    """A file that is written beside an old one and replaces it when it is complete.

    Methods raise OutputError if it does not reach the disk; the old file is unchanged then.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._new_file = file.with_name(f"{file.name}.repair")
        with explaining(self._new_file):
            self._opened = open(self._new_file, "wb", opener=private_opener)  # noqa: SIM115

    def old_lines(self) -> Iterator[bytes]:
        """Yield the whole lines of the old file, if there is one."""
        if not self._file.exists():
            return
        with explaining(self._file), open(self._file, "rb", opener=private_opener) as old:
            yield from (line for line in bounded_lines(old, self._file) if line.endswith(b"\n"))

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        with explaining(self._new_file):
            self._opened.write(lines)

    def discard(self) -> None:
        """Remove the new file; the old one stays."""
        self._opened.close()
        self._new_file.unlink(missing_ok=True)

    def put_in_place(self) -> int:
        """Sync the new file, rename it over the old one, and return its length."""
        with explaining(self._new_file):
            self._opened.flush()
            os.fsync(self._opened.fileno())
            length = self._opened.tell()
            self._opened.close()
            self._new_file.replace(self._file)
            sync_directory(self._file.parent)
        return length

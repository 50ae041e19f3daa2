"""A file or directory that a process uses by its path: whether the path still leads to it."""

import os
from pathlib import Path


class HeldFile:
    """Remembers which file a path leads to.

    Args:
        file: exists, and is open in this process.
        fd: of the file, if the system can say by it where the file has gone.
    """

    def __init__(self, file: Path, fd: int | None = None) -> None:
        self._file, self._fd = file, fd
        self._identity = _identity(file)

    def loss(self) -> str | None:
        """Return what happened to the file, if the path does not lead to it any more."""
        found = _identity(self._file)
        if found == self._identity:
            return None
        what = "was replaced by another file" if found is not None else "was moved or removed"
        if (now_at := self._now_at()) is not None:
            what = f"was moved to {now_at}"
        return f"{self._file}: {what} while this batch used it"

    def _now_at(self) -> str | None:
        if self._fd is not None:
            try:
                now_at = os.readlink(f"/proc/self/fd/{self._fd}")  # noqa: PTH115 - as Linux writes it
            except OSError:
                return None
            return None if now_at.endswith(" (deleted)") else now_at
        try:
            beside = list(os.scandir(self._file.parent))
        except OSError:
            return None
        return next((each.path for each in beside if _identity(each.path) == self._identity), None)


def _identity(file: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - asked before each commit
    except OSError:
        return None
    return found.st_dev, found.st_ino

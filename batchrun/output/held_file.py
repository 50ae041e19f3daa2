"""A file that a process holds open: whether its path still leads to it."""

import os
from pathlib import Path

from batchrun.errors import OutputError


class HeldFile:
    """Remembers which file a path leads to.

    Args:
        file: exists, and is held open by this process.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity = _identity(file)

    def check(self) -> None:
        """Check that the path still leads to the same file: what is written to another one is lost to its user.

        Raises:
            OutputError: the file was moved, replaced or removed.
        """
        if _identity(self._file) != self._identity:
            raise OutputError(
                f"{self._file}: was moved, replaced or removed while this batch used it. Nothing more is started;"
                f" live Runs go on and are noted. Put it back and run the same command; `batchrun repair"
                f" {self._file.parent}` writes missing lines again"
            )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - asked before each commit
    except OSError:
        return None
    return found.st_dev, found.st_ino

"""The ends of Runs' logs, a file each, beside the records."""

import re
from contextlib import suppress
from pathlib import Path

from batchrun.model import RunId
from batchrun.output.layout import RUN_LOGS

#: An id becomes a file's name only as the platform's own ids look: it comes from outside.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class LogTails:
    """The log files of one output directory."""

    def __init__(self, out_dir: Path) -> None:
        self._directory = out_dir / RUN_LOGS

    def file_of(self, run_id: RunId) -> Path | None:
        """Return where the end of a Run's log stands, or would; None for what is no id."""
        return self._directory / f"{run_id}.log" if _SAFE_ID.fullmatch(run_id) else None

    def count(self) -> int:
        """Return how many there are."""
        return sum(1 for _ in self._directory.glob("*.log"))

    def write(self, run_id: RunId, tail: bytes) -> None:
        """Keep the end of a Run's log.

        Raises:
            OSError: the disk does not take it; nothing of it is left.
        """
        file = self.file_of(run_id)
        if file is None:
            return
        self._directory.mkdir(exist_ok=True)
        try:
            file.write_bytes(tail)
        except OSError:
            with suppress(OSError):
                file.unlink()
            raise

    def read(self, run_id: RunId) -> bytes | None:
        """Return what was kept of a Run's log, if anything was."""
        file = self.file_of(run_id)
        try:
            return file.read_bytes() if file is not None else None
        except OSError:
            return None

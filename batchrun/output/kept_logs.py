"""Log tails: the last part of Runs' logs, a file each in the output directory."""

import re
from pathlib import Path

from batchrun.model import RunId
from batchrun.output.layout import RUN_LOGS
from batchrun.runtime.held_directory import held
from batchrun.runtime.private_files import read_private, refuse_link

#: Max bytes that are kept of each log.
MAX_TAIL_BYTES = 64 << 10
#: Ids that may become a file name. An id comes from outside: it must look like the platform's own ones.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class KeptLogs:
    """The log tails in one output directory."""

    def __init__(self, out_dir: Path) -> None:
        self._directory = out_dir / RUN_LOGS

    def file_of(self, run_id: RunId) -> Path | None:
        """Return the path of a Run's log tail, which need not exist; None if the id is not a safe file name."""
        return self._directory / f"{run_id}.log" if _SAFE_ID.fullmatch(run_id) else None

    def count(self) -> int:
        """Return how many log tails there are."""
        return sum(1 for _ in self._directory.glob("*.log"))

    def write(self, run_id: RunId, tail: bytes) -> None:
        """Write a Run's log tail.

        Raises:
            OSError: it cannot be written; no part of it is left.
        """
        if (file := self.file_of(run_id)) is not None:
            with held(self._directory.parent) as out_dir, out_dir.within(RUN_LOGS, makes=True) as logs:
                logs.replace(file.name, tail)

    def read(self, run_id: RunId) -> bytes | None:
        """Return a Run's log tail, if there is one; of somebody else's directory, the folder may be a link."""
        file = self.file_of(run_id)
        try:
            refuse_link(self._directory)
            return read_private(file) if file is not None else None
        except OSError:
            return None

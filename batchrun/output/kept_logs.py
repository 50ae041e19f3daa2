"""The kept logs of a batch: the end of each, without the secrets of its input, a file each in the output directory."""

import re
from collections.abc import Collection
from pathlib import Path

from batchrun.model import RunId
from batchrun.output.layout import RUN_LOGS
from batchrun.policy.secret_fields import MASK
from batchrun.runtime.held_directory import held
from batchrun.runtime.private_files import read_private, refuse_link

#: Max logs that are kept of one batch: 64 MB.
MAX_KEPT = 1000
#: Max logs of one kind of failure in one process, so that a frequent kind does not crowd out a rare one.
MAX_KEPT_PER_KIND = 100
#: Max bytes that are kept of each log.
MAX_TAIL_BYTES = 64 << 10
#: Ids that may become a file name. An id comes from outside: it must look like the platform's own ones.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class KeptLogs:
    """The kept logs in one output directory."""

    def __init__(self, out_dir: Path) -> None:
        self._directory = out_dir / RUN_LOGS

    def file_of(self, run_id: RunId) -> Path | None:
        """Return the path of a Run's kept log, which need not exist; None if the id is not a safe file name."""
        return self._directory / f"{run_id}.log" if _SAFE_ID.fullmatch(run_id) else None

    def count(self) -> int:
        """Return how many logs are kept."""
        return sum(1 for _ in self._directory.glob("*.log"))

    def write(self, run_id: RunId, tail: bytes, secrets: Collection[str]) -> None:
        """Keep the end of a Run's log, without these secrets.

        Raises:
            OSError: it cannot be written; no part of it is left.
        """
        for secret in secrets:
            tail = tail.replace(secret.encode(), MASK.encode())
        if (file := self.file_of(run_id)) is not None:
            with held(self._directory.parent) as out_dir, out_dir.within(RUN_LOGS, makes=True) as logs:
                logs.replace(file.name, tail)

    def read(self, run_id: RunId) -> bytes | None:
        """Return the kept log of a Run, if there is one; of somebody else's directory, the folder may be a link."""
        file = self.file_of(run_id)
        try:
            refuse_link(self._directory)
            return read_private(file) if file is not None else None
        except OSError:
            return None

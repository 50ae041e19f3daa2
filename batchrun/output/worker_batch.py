"""Recognises the output directory of a worker's batch by where it lies: the worker's commands change it, no others."""

from pathlib import Path
from typing import NamedTuple

from batchrun.model import read_json
from batchrun.runtime.private_files import read_private
from batchrun.runtime.shell_command import shell_command

#: The file of a batch in a worker's data directory, in a directory named for the batch's id.
SUBMISSION = "batch.json"


class WorkerBatch(NamedTuple):
    """A batch of the worker on a data directory: its id, or its name where no id is known."""

    data: Path
    ref: str

    def command(self, verb: str) -> str:
        """Return the worker's command for this batch."""
        return shell_command("batchrun", "worker", verb, self.ref, "--data", self.data)


def worker_batch_of(out_dir: Path) -> WorkerBatch | None:
    """Return the batch of a worker to which an output directory belongs; None: it belongs to none."""
    directory = out_dir.absolute()
    own = directory.parent
    if directory.name == "out" and (own / SUBMISSION).is_file():
        return WorkerBatch(own.parent.parent, own.name)
    for spool in list(directory.parents)[:2]:
        if directory.suffix == ".out" and spool.name == "spool" and (spool.parent / "batches").is_dir():
            return WorkerBatch(spool.parent, _id_in_spool(spool, directory))
    return None


def retry_command(out_dir: Path) -> str:
    """Return the command that retries the jobs of a batch."""
    found = worker_batch_of(out_dir)
    return shell_command("batchrun", "retry", out_dir) if found is None else found.command("retry")


def _id_in_spool(spool: Path, directory: Path) -> str:
    for file in sorted((spool.parent / "batches").glob(f"*/{SUBMISSION}")):
        try:
            spooled = Path(read_json(read_private(file))["spooled"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (spool / spooled.parent) == directory.parent and spooled.name.startswith(f"{directory.stem}."):
            return file.parent.name
    return directory.stem

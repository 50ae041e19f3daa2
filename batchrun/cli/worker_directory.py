"""Output directories of a worker's batches: commands that change them belong to the worker."""

import shlex
from pathlib import Path

from batchrun.errors import ConfigError
from batchrun.model import read_json

#: The worker's verb for each command of a directory.
_WORKER_VERBS = {"run": "resume", "retry": "retry", "resolve": "resolve", "repair": "repair", "abort": "cancel"}


def refuse_worker_directory(directory: Path, verb: str) -> None:
    """Refuse to change the output directory of a worker's batch: the worker would not know of it.

    Raises:
        ConfigError: it is one; the message has the worker's command.
    """
    found = _batch_of_worker(directory.absolute())
    if found is not None:
        data, ref = found
        command = f"batchrun worker {_WORKER_VERBS[verb]} {shlex.quote(ref)} --data {shlex.quote(str(data))}"
        raise ConfigError(
            f"{directory}: is of a worker's batch. While the worker runs, use `{command}`. To work on the batch without"
            " the worker, copy the directory elsewhere"
        )


def _batch_of_worker(directory: Path) -> tuple[Path, str] | None:
    """Return the worker's data directory, and the batch's id, or its name where no id is known; None: it is no such."""
    own = directory.parent
    if directory.name == "out" and (own / "batch.json").is_file():
        return own.parent.parent, own.name
    for spool in list(directory.parents)[:2]:
        if directory.suffix == ".out" and spool.name == "spool" and (spool.parent / "batches").is_dir():
            return spool.parent, _id_in_spool(spool, directory)
    return None


def _id_in_spool(spool: Path, directory: Path) -> str:
    for file in sorted((spool.parent / "batches").glob("*/batch.json")):
        try:
            spooled = read_json(file.read_bytes()).get("spooled")
        except (OSError, ValueError, AttributeError):
            continue
        if spooled is not None and (spool / spooled).parent / f"{Path(spooled).name.split('.')[0]}.out" == directory:
            return file.parent.name
    return directory.stem

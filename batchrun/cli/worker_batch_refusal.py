"""The output directories of a worker's batches: a command that would change one names the worker's command."""

from pathlib import Path

from batchrun.errors import ConfigError
from batchrun.output.worker_batch import worker_batch_of

#: The worker's verb for each command of a directory.
_WORKER_VERBS = {"run": "resume", "retry": "retry", "resolve": "resolve", "repair": "repair", "abort": "cancel"}


def refuse_worker_directory(directory: Path, verb: str) -> None:
    """Refuse to change the output directory of a worker's batch: the worker would not know of it.

    Raises:
        ConfigError: it is one; the message has the worker's command.
    """
    found = worker_batch_of(directory)
    if found is not None:
        raise ConfigError(
            f"{directory}: belongs to a worker. While the worker runs, use `{found.command(_WORKER_VERBS[verb])}`."
            " To work on the batch without the worker, copy the directory elsewhere"
        )

"""`batchrun pull URL DIR`: the directory of a batch from its shared log; and URLs in place of directories."""

import atexit
import shutil
import tempfile
from pathlib import Path

from batchrun.cli.terminal import say
from batchrun.errors import ConfigError, LogUnreachable
from batchrun.ledger.shared_log.entries import EntryKind
from batchrun.ledger.shared_log.log_store import open_store
from batchrun.ledger.shared_log.replica import open_replica
from batchrun.output.lock import locked
from batchrun.output.sink import explaining
from batchrun.runtime.logs import take_library_messages
from batchrun.runtime.private_files import make_private_directory
from batchrun.worker.fleet.sharded_pull import find_sharded_batch, pull_sharded_batch


def pull_log(url: str, directory: Path) -> None:
    """Write into a directory what a shared log has, or what is new there; the batch and its owner go on.

    Raises:
        ConfigError: the URL names no store, or there is no log.
        OutputError: the directory is in use, cannot be written, or is of another batch.
        LogUnreachable: the store does not answer.
    """
    take_library_messages()
    try:
        _pull_one(url, directory)
    except (ConfigError, LogUnreachable):
        if (found := find_sharded_batch(url)) is None:  # a batch in shards has no log, its parts have
            raise
        fleet_url, whole = found
        pull_sharded_batch(fleet_url, whole, directory)
        say(f"{whole.listed.submission.shards} shards, in {directory}; what is new since: the same command")


def _pull_one(url: str, directory: Path) -> None:
    with open_store(url) as store:
        if store.read(0) is None:
            raise ConfigError(f"{url}: there is no log. Name it as the batch file does ([replica] url)")
        with explaining(directory):
            make_private_directory(directory)
        with locked(directory), open_replica(store, directory) as replica:
            entries = replica.catch_up()
            replica.check()
            last = replica.last
    assert last is not None, "there is a first entry"
    owner = "no process carries it out" if last.kind is EntryKind.RELEASE else f"last owner: {last.owner.name}"
    say(f"new log entries: {entries:,}, in {directory}; {owner}")


def pulled_directory(url: str) -> Path:
    """Return a temporary directory that has what a log has now; it goes when the process ends.

    Raises:
        ConfigError, OutputError, LogUnreachable: see `pull_log`.
    """
    directory = Path(tempfile.mkdtemp(prefix="batchrun-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    pull_log(url, directory)
    return directory

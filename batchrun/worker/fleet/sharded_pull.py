"""The directory of a batch in shards, from the logs of its parts."""

import re
from pathlib import Path
from urllib.parse import urlunsplit

from batchrun.errors import ConfigError, LogUnreachable
from batchrun.ledger.shared_log.log_store import open_part, open_store, part_url, split_url
from batchrun.ledger.shared_log.replica import open_replica
from batchrun.ledger.sqlite.united_ledger import refuse_another_batch, unite_directories
from batchrun.output.lock import locked
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import make_private_directory
from batchrun.worker.fleet.fleet_list import LIST_LOG, FleetList
from batchrun.worker.fleet.sharded_batch import ShardedBatch, find_sharded_batches

#: Folder of the parts' directories in the whole batch's.
PARTS = "parts"
_IS_BATCH_LOG = re.compile(r"(.*)[/-]batch-([a-z0-9-]+)")


def find_sharded_batch(url: str) -> tuple[str, ShardedBatch] | None:
    """Return a fleet's URL and its batch in shards that a URL names; None: it names none, as far as can be seen."""
    parts = split_url(url)
    named = _IS_BATCH_LOG.fullmatch(parts.path.rstrip("/"))
    if named is None:
        return None
    fleet_url = urlunsplit(parts._replace(path=named[1]))
    try:
        with open_store(part_url(fleet_url, LIST_LOG)) as store:
            whole = find_sharded_batches(FleetList(store).read()).get(named[2])
    except (ConfigError, LogUnreachable):  # there is no fleet
        return None
    return None if whole is None else (fleet_url, whole)


def pull_sharded_batch(fleet_url: str, whole: ShardedBatch, directory: Path) -> None:
    """Write into a directory what the logs of all parts have, or what is new there.

    Raises:
        LogUnreachable: the store does not answer.
        LedgerError: a log is damaged.
        OutputError: the directory is in use, cannot be written, or is of another batch.
    """
    with explaining(directory):
        make_private_directory(directory)
    begun = {}
    with locked(directory):
        refuse_another_batch(directory, [part.submission.id for part in whole.parts])
        for part in whole.parts:
            name = part.submission.id
            own = directory / PARTS / name
            with open_part(fleet_url, f"batch-{name}") as store:
                if store.read(0) is None:
                    continue
                with explaining(own):
                    make_private_directory(own.parent)
                    make_private_directory(own)
                with open_replica(store, own, is_of_fleet=True) as replica:
                    replica.catch_up()
                    replica.check()
            begun[name] = own
        if begun:
            unite_directories(begun, directory)

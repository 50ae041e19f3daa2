"""The first commit of a log that a batch gets later: all that was written without one."""

from collections.abc import Mapping
from pathlib import Path

from batchrun.errors import LedgerError
from batchrun.ledger.facts import LOG_CLAIM, LOG_POSITION
from batchrun.ledger.shared_commits import Commit, FileGrowth
from batchrun.ledger.sqlite.following_tables import FollowingTables
from batchrun.output.layout import LEDGER
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import private_opener

#: Max bytes of a batch that was begun without a log: all of them are in memory for its first entry.
MAX_UNLOGGED_BYTES = 128 << 20


def first_commit(directory: Path, ledger: FollowingTables, file_lengths: Mapping[str, int]) -> Commit:
    """Return a commit that makes a directory's batch in an empty one.

    Args:
        directory: of the batch.
        ledger: of the directory.
        file_lengths: bytes of each output file that its ledger knows, by name.

    Raises:
        LedgerError: It is too large for one commit.
    """
    lengths = {name: length for name, length in file_lengths.items() if length}
    size = sum(lengths.values()) + (directory / LEDGER).stat().st_size
    if size > MAX_UNLOGGED_BYTES:
        raise LedgerError(
            f"{directory}: this batch was begun without a shared log. Its {size >> 20:,} MB are more than the"
            f" {MAX_UNLOGGED_BYTES >> 20} MB that a log can begin with: run it to its end without [replica]"
        )
    files = {}
    for name, length in lengths.items():
        path = directory / name
        with explaining(path), open(path, "rb", opener=private_opener) as file:
            files[name] = FileGrowth(offset=0, data=file.read(length))
    return Commit(changes=ledger.all_rows(but=(LOG_POSITION, LOG_CLAIM)), files=files)

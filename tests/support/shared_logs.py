"""Shared logs in directories, and what a directory has of one."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from batchrun.errors import LogUnreachable, OutputError
from batchrun.ledger.shared_commits import Commit, LogPosition
from batchrun.ledger.shared_log import owned_log
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.shared_log.entries import Owner
from batchrun.ledger.shared_log.owned_log import OwnedLog
from batchrun.ledger.shared_log.replica import open_replica
from batchrun.output.layout import BAD_LINES, ITEMS, LEDGER, RECORDS
from batchrun.runtime.steady_time import boot_time

#: Facts that each machine has for itself.
_LOCAL_FACTS = ("log_position", "log_claim")


def open_log(directory: Path) -> DirectoryStore:
    """Return the store of a log in a directory."""
    directory.mkdir(exist_ok=True)
    store = DirectoryStore(directory)
    store.prepare()
    return store


class UncertainStore(DirectoryStore):
    """A store that answers when it is told to; `fails` are the answers that get lost, the next one first.

    "before": the entry was not appended; "after": it was.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.mkdir()
        self.prepare()
        self.fails: list[str] = []
        self.appends = 0

    def append(self, number: int, entry: bytes) -> bool:
        self.appends += 1
        fails = self.fails.pop(0) if self.fails else ""
        if fails == "before":
            raise LogUnreachable("the request was lost")
        is_appended = super().append(number, entry)
        if fails == "after":
            raise LogUnreachable("the answer was lost")
        return is_appended


def log_out_of_reach() -> OwnedLog:
    """Return a log whose store has not answered so far."""
    last, owner = LogPosition(entry=0, digest=""), Owner(id="o", name="machine-1", lease_s=60.0)
    log = OwnedLog(DirectoryStore(Path("/nowhere")), owner, last, boot_time() - 3600)
    log.give_up_soon()
    with suppress(OutputError), mock.patch.object(owned_log, "LAST_TRIES_S", 0.0):
        log.append(Commit())
    return log


def claim(store: DirectoryStore, directory: Path, *, name: str = "machine-1", lease_s: float = 60.0) -> OwnedLog:
    """Replay a log into a directory and claim it, silent or not."""
    directory.mkdir(exist_ok=True)
    with open_replica(store, directory) as replica:
        replica.catch_up()
        log = replica.claim(Owner(id=f"id of {name}", name=name, lease_s=lease_s), name)
        assert log is not None
        return log


def replay(store: DirectoryStore, directory: Path) -> int:
    """Replay a log into a directory; return the number of new entries."""
    directory.mkdir(exist_ok=True)
    with open_replica(store, directory) as replica:
        return replica.catch_up()


def contents(directory: Path) -> dict[str, Any]:
    """Return everything that a directory has of its batch: the rows of each table, and the output files."""
    with sqlite3.connect(directory / LEDGER) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows: dict[str, Any] = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    connection.close()
    rows["batch"] = {name: value for name, value in rows["batch"] if name not in _LOCAL_FACTS}
    return rows | {name: (directory / name).read_bytes() for name in (RECORDS, ITEMS, BAD_LINES)}

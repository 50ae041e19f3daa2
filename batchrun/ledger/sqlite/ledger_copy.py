"""Copies of a ledger: a file with its tables as of one moment, made while the batch goes on."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from batchrun.errors import LedgerError
from batchrun.ledger.facts import LOG_POSITION
from batchrun.ledger.shared_commits import LogPosition
from batchrun.ledger.sqlite.connection import Connection, open_connection
from batchrun.ledger.sqlite.foreign_statements import MAX_VALUE_BYTES, bound_steps
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.output.layout import LEDGER, SHARED
from batchrun.output.sink import explaining
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.private_files import make_private_file

#: The file beside the ledger that holds a copy while it is written into a shared log, or read from one.
COPY = f"{LEDGER}.copy"


#: More tables and indexes than a ledger has, and more characters of SQL than one of them.
_MAX_SCHEMA_ROWS = 1_000
_MAX_SCHEMA_CHARS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCopy:
    """What a copy says of itself."""

    #: The last entry of the shared log that it has; None: it has none.
    position: LogPosition | None
    #: The committed lengths of the output files, in bytes.
    output_lengths: Mapping[str, int]


def copy_ledger(directory: Path) -> LedgerCopy:
    """Copy the ledger of a directory, as of its last commit, to COPY. Commits go on meanwhile.

    Raises:
        OutputError: It cannot be read, or the copy cannot be written.
    """
    copy = directory / COPY
    with explaining(copy):
        copy.unlink(missing_ok=True)
        make_private_file(copy)
    with open_connection(directory / LEDGER, mode="ro") as ledger, open_connection(copy, mode="rw") as target:
        with target.explaining():
            ledger.backup(target)
            # So that the copy is one file: SQLite notes in it how it is written.
            target.execute("PRAGMA journal_mode = DELETE")
        return _described(target)


def read_copy(copy: Path, ledger: Connection) -> LedgerCopy:
    """Return what a copy says of itself, if its tables are those of a ledger.

    Raises:
        LedgerError: They are not: other tables, an index, a trigger or a view; or it is damaged.
    """
    with open_connection(copy, mode="ro") as connection:
        bound_steps(connection)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF")
        own = _schema(ledger, _MAX_SCHEMA_ROWS)
        if _schema(connection, len(own) + 1) != own:
            raise LedgerError(f"{copy}: has other tables than a ledger")
        if connection.execute("SELECT count(*) FROM output").fetchone()[0] > len(SHARED):
            raise LedgerError(f"{copy}: has lengths of more files than there are")
        return _described(connection)


def _described(connection: Connection) -> LedgerCopy:
    reader = LedgerReader(connection)
    return LedgerCopy(position=reader.fact(LOG_POSITION), output_lengths=reader.output_lengths())


def _schema(connection: Connection, max_rows: int) -> list[tuple[str, ...]]:
    """Return the tables and indexes of the first rows, sorted; their texts are cut, since others may have made them."""
    columns = ", ".join(f"substr({name}, 1, {_MAX_SCHEMA_CHARS})" for name in ("type", "name", "tbl_name", "sql"))
    rows = connection.execute(f"SELECT {columns} FROM sqlite_schema LIMIT ?", (max_rows,)).fetchall()
    return sorted(rows, key=repr)

"""Bounds of a shared log's statements: this machine carries out what anybody who can write to the log has put there.

A ledger's statements change rows of its tables, a few at a time or those that a condition finds. Nothing else is
prepared: no recursion, no other function, no other file. What remains is bounded in steps, in the size of a value, and
in the size of the file.
"""

import os
import sqlite3
import time
from itertools import count
from pathlib import Path

from batchrun.errors import LedgerError
from batchrun.ledger.sqlite.connection import Connection
from batchrun.runtime.free_space import has_room, look_at_disk

#: Max steps of SQLite's machine for the statements of one call, some 20 s; those of a round of 1,000,000 jobs are 60
#: million.
MAX_STEPS = 1_000_000_000
#: Steps between two looks at what a statement has used; most statements have fewer.
LOOK_STEPS = 1_000
#: Seconds between two looks at the disk, each of which takes as long as hundreds of steps. Within so long a statement
#: writes some ten megabytes.
_DISK_LOOK_S = 0.01
#: Max bytes of a value or a row. The largest are inputs, of 9 MB.
MAX_VALUE_BYTES = 16 << 20
#: Where SQLite puts what a statement sorts or joins. Source: https://www.sqlite.org/tempfiles.html
_TEMPORARY = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108
#: What ledgers' statements call.
_FUNCTIONS = frozenset({"abs", "coalesce", "failure_id", "ifnull", "iif", "json_each", "max", "min"})
_ON_TABLES = frozenset({sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_PLAIN = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION})

#: Conditions on a column, by the kind that it is declared with. Seconds since 1970 up to the year 9999; no cost is
#: more. Numbers of the platform, which may be missing, need not be whole.
_FITS = {
    "text": "typeof({0}) = 'text'",
    "blob": "typeof({0}) = 'blob'",
    "integer": "typeof({0}) IN ('integer', 'real')",
    "integer not null": "typeof({0}) = 'integer'",
    "real": "typeof({0}) = 'real' AND abs({0}) <= 253402300799",
}
_OF_THIS_MACHINE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
})  # fmt: skip


def is_of_this_machine(error: Exception) -> bool:
    """Return whether a statement failed for a reason that is not in the statement: a full disk, say."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _OF_THIS_MACHINE  # the low byte is the kind of error


def check_rows(connection: Connection) -> None:
    """Check that the rows of a ledger hold values of the kinds that their columns say, and times that there are.

    Raises:
        LedgerError: they do not; the readers of a ledger would stumble over them.
    """
    for table in connection.tables():
        columns = connection.execute('SELECT name, lower(type), "notnull", pk FROM pragma_table_info(?)', (table,))
        fits = " AND ".join(_condition(*column) for column in columns.fetchall())
        if connection.execute(f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE NOT ({fits}) LIMIT 1)").fetchone()[0]:
            raise LedgerError(
                f"{connection.file.parent}: the shared log has written a value of another kind into {table}, which no"
                " ledger does. Somebody else has written to the log: begin the batch with another one"
            )


def _condition(name: str, kind: str, is_needed: int, key_part: int) -> str:
    if is_needed or key_part:
        return _FITS.get(f"{kind} not null", _FITS[kind]).format(f'"{name}"')
    return f'("{name}" IS NULL OR {_FITS[kind]})'.format(f'"{name}"')


def bound_steps(connection: Connection, max_steps: int = MAX_STEPS) -> None:
    """Interrupt what takes more steps from now on: a file of others may be a tree without an end."""
    looks = count()
    connection.set_progress_handler(lambda: next(looks) > max_steps // LOOK_STEPS, LOOK_STEPS)


class StatementBounds:
    """Bounds what a connection carries out within it: statements whose text or rows others have chosen.

    They share MAX_STEPS. Outside of it, statements of this program are not bounded.
    """

    def __init__(self, connection: Connection) -> None:
        self._tables = frozenset(connection.tables()) | {"json_each"}
        self._is_foreign = False
        self._looks = 0
        self._disk_look_deadline = 0.0
        connection.execute("SELECT value FROM json_each('[]')")  # its first use notes it in the schema, of this process
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        free, reserve = look_at_disk(connection.file.parent)
        page_bytes, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
        # Each page is written into the file beside the ledger first.
        connection.execute(f"PRAGMA max_page_count = {pages + max(0, free - reserve) // 2 // page_bytes}")
        temporary = next((Path(each) for each in _TEMPORARY if each and Path(each).is_dir()), connection.file.parent)
        self._directories = (temporary, connection.file.parent)
        connection.set_progress_handler(self._look, LOOK_STEPS)
        connection.set_authorizer(self._decide)

    def __enter__(self) -> None:
        self._is_foreign, self._looks = True, 0

    def __exit__(self, *_: object) -> None:
        self._is_foreign = False

    def _look(self) -> int:
        """Interrupt what takes too long, or fills the disk with what it sorts or joins."""
        if not self._is_foreign:
            return 0
        self._looks += 1
        return int(self._looks > MAX_STEPS // LOOK_STEPS or self._is_disk_full())

    def _is_disk_full(self) -> bool:
        if (now := time.monotonic()) < self._disk_look_deadline:
            return False
        self._disk_look_deadline = now + _DISK_LOOK_S
        return not all(map(has_room, self._directories))

    def _decide(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        is_own = (
            not self._is_foreign
            or action in _PLAIN
            or (action in _ON_TABLES and first in self._tables)
            or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
        )
        return sqlite3.SQLITE_OK if is_own else sqlite3.SQLITE_DENY

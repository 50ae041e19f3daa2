"""The connection to a ledger's file: opening it, and its errors in words for a user."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchrun.errors import DamagedLedger, LedgerError
from batchrun.ledger.shared_commits import Parameters
from batchrun.ledger.sqlite.foreign_schema import foreign_part
from batchrun.runtime.private_files import refuse_special
from batchrun.runtime.shell_command import shell_command

#: Seconds that a statement waits for a lock that another program holds on the file.
LOCK_PATIENCE_S = 10.0
_DAMAGED = "{file}: {what}. The ledger is damaged; nothing was changed. Rebuild it: `{repair}`"
#: What SQLite says of missing tables, of text that is none, and of tables that do not go with the file's version.
_SIGNS_OF_DAMAGE = ("no such ", "decode", "already exists", "duplicate column")
#: Errors of SQLite that are bugs of ours.
_BUGS = (sqlite3.ProgrammingError,)
#: How the statements begin that change tables; ledgers have no others that do.
CHANGING = ("INSERT", "UPDATE", "DELETE")


class _Cursor(sqlite3.Cursor):
    """A cursor whose errors name the file: damage shows only when rows are fetched."""

    connection: "Connection"

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except sqlite3.Error as error:
            raise _explain(error, self.connection.file) from error

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except sqlite3.Error as error:
            raise _explain(error, self.connection.file) from error

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except sqlite3.Error as error:
            raise _explain(error, self.connection.file) from error


class Connection(sqlite3.Connection):
    """A connection whose errors name the file and say what to do."""

    file = Path()
    #: The statements that have changed something, for the shared log; None: they are not recorded.
    changes: list[tuple[str, Parameters]] | None = None

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        with self.explaining():
            cursor: _Cursor = self.cursor().execute(sql, parameters)
        if self.changes is not None and sql.startswith(CHANGING):
            self.changes.append((sql, parameters))
        return cursor

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        rows = list(parameters)
        with self.explaining():
            cursor = super().executemany(sql, rows)
        if self.changes is not None:
            self.changes.extend((sql, row) for row in rows)
        return cursor

    def tables(self) -> list[str]:
        """Return the names of the tables."""
        names = self.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return [name for (name,) in names.fetchall()]

    def many_writer(self) -> Callable[[str, Sequence[Parameters]], sqlite3.Cursor]:
        """Return the `executemany` of one cursor, inside `explaining`; it records no changes."""
        many: Callable[[str, Sequence[Parameters]], sqlite3.Cursor] = self.cursor().executemany
        return many

    def writer(self) -> Callable[[str, Parameters], sqlite3.Cursor]:
        """Return the `execute` of one cursor, for statements without rows, inside `explaining`.

        One cursor and one handler of errors for all statements save much of the time that each job costs.
        """
        execute: Callable[[str, Parameters], sqlite3.Cursor] = self.cursor().execute
        changes = self.changes
        if changes is None:
            return execute

        def recorded(sql: str, parameters: Parameters) -> sqlite3.Cursor:
            cursor = execute(sql, parameters)
            if sql.startswith(CHANGING):
                changes.append((sql, parameters))
            return cursor

        return recorded

    @contextmanager
    def beside(self, file: Path, name: str) -> Iterator[None]:
        """Let statements read another file of SQLite under a name; not inside a transaction.

        Raises:
            LedgerError: It cannot be opened.
        """
        _refuse_special(file)
        # Not mode=ro: from such a file, SQLite copies tables with a CHECK row by row, which takes twice as long.
        self.execute(f"ATTACH ? AS {name}", (f"file:{_escaped(file)}?mode=rw",))
        try:
            yield
        finally:
            self.execute(f"DETACH {name}")

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Explain a value that no version of this program can have written.

        Raises:
            DamagedLedger: A value is of none of the known kinds.
        """
        try:
            yield
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise self.damage(str(error)) from error

    def damage(self, what: str) -> DamagedLedger:
        """Return the error for a ledger that contradicts itself."""
        return DamagedLedger(_DAMAGED.format(file=self.file, what=what, repair=_repair(self.file)))

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Explain errors of SQLite that happen inside to a user.

        Raises:
            LedgerError: A statement failed; the message names the file and says what to do.
        """
        try:
            yield
        except _BUGS:
            raise
        except sqlite3.Error as error:
            raise _explain(error, self.file) from error


@contextmanager
def open_connection(file: Path, *, mode: str) -> Iterator[Connection]:
    """Open a file in SQLite's URI mode: `ro`, `rw`, or `rwc`, which creates it if it is missing.

    Raises:
        LedgerError: It cannot be opened.
        DamagedLedger: It is no ledger; or a view, say, is in the place of a table.
    """
    uri = f"file:{_escaped(file)}?mode={mode}"
    _refuse_special(file)
    try:
        # Several worker threads use it, one after another.
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=LOCK_PATIENCE_S, factory=Connection
        )
    except sqlite3.Error as error:
        raise _explain(error, file) from error
    connection.file = file
    try:
        if foreign := foreign_part(connection):
            raise connection.damage(f"{foreign} in it is of another program")
        yield connection
    finally:
        connection.close()


def _refuse_special(file: Path) -> None:
    try:
        refuse_special(file)
    except OSError as error:
        raise LedgerError(f"{error.filename}: {error.strerror}") from error


def _explain(error: sqlite3.Error, file: Path) -> LedgerError:
    """Return the error of a failed statement, of which nothing was committed, in words for a user."""
    is_damage = any(sign in str(error) for sign in _SIGNS_OF_DAMAGE)
    if is_damage or not isinstance(error, sqlite3.OperationalError):
        return DamagedLedger(_DAMAGED.format(file=file, what=error, repair=_repair(file)))
    return LedgerError(f"{file}: {_reason(error)}. Nothing is lost: fix that and run the same command again")


def _reason(error: sqlite3.Error) -> str:
    """Return what failed; SQLite does not say that this process may open no further file."""
    if "unable to open" in str(error):
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as cause:
            return f"{error} ({cause.strerror})"
    return str(error)


def _escaped(file: Path) -> str:
    return str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def is_missing(file: Path) -> bool:
    """True if there is no ledger, or one that a process was killed over while it made it.

    SQLite keeps a journal only while it turns a new file into one with a `-wal` file, before the first table. The next
    writer undoes what the journal beside the file is of; who only reads cannot.
    """
    return not file.exists() or file.with_name(f"{file.name}-journal").exists()


def is_blank(file: Path) -> bool:
    """True if there is no ledger, or one without jobs' table: it was emptied, or lost all it had in its `-wal` file.

    Raises:
        LedgerError: It is damaged.
    """
    if is_missing(file):
        return True
    with open_connection(file, mode="ro") as connection:
        return not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'job'").fetchone()[0]


def _repair(file: Path) -> str:
    return shell_command("batchrun", "repair", file.parent)

"""The connection to a ledger's file: how it is opened, its schema steps, and what its errors mean to a user."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from batchrun.errors import LedgerError

#: Each is applied once, in one transaction with the note that it was; the last one's number is the version.
SCHEMA_STEPS = ("ledger.sql", "ledger_2.sql", "ledger_3.sql", "ledger_4.sql", "ledger_5.sql")
#: Seconds that a statement waits for a lock that another program holds on the file.
LOCK_PATIENCE_S = 10.0
#: Errors of SQLite that say something of us and nothing of the file.
_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError)


class Connection(sqlite3.Connection):
    """A connection whose errors say which file, and what to do."""

    file = Path()

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except _BUGS:
            raise
        except sqlite3.Error as error:
            raise _explain(error, self.file) from error

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        try:
            return super().executemany(sql, parameters)
        except _BUGS:
            raise
        except sqlite3.Error as error:
            raise _explain(error, self.file) from error

    def writer(self) -> Callable[[str, tuple[Any, ...]], sqlite3.Cursor]:
        """Return the `execute` of one cursor, for statements that return no rows and stand inside `explaining`.

        The cursor is kept, and errors are explained once for all statements: what happens for every job feels both.
        """
        return self.cursor().execute

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Explain errors of SQLite to a user.

        Raises:
            LedgerError: it says which file, and what to do.
        """
        try:
            yield
        except _BUGS:
            raise
        except sqlite3.Error as error:
            raise _explain(error, self.file) from error


@contextmanager
def open_connection(file: Path, *, mode: str) -> Iterator[Connection]:
    """Open a file by SQLite's URI mode: ro, or rwc which makes it when it is missing.

    Raises:
        LedgerError: it cannot be opened.
    """
    uri = f"file:{_escaped(file)}?mode={mode}"
    try:
        # Used from one worker thread after another, never from two at once.
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=LOCK_PATIENCE_S, factory=Connection
        )
    except sqlite3.Error as error:
        raise _explain(error, file) from error
    connection.file = file
    try:
        yield connection
    finally:
        connection.close()


def _explain(error: sqlite3.Error, file: Path) -> LedgerError:
    """Say what a failed statement means: nothing of it was committed, and what to do."""
    if not isinstance(error, sqlite3.OperationalError) or "no such table" in str(error):
        advice = "The ledger is damaged; nothing was changed. Restore it from a copy, or start anew with another --out"
    else:
        advice = "Nothing is lost: run the same command again when that is mended"
    return LedgerError(f"{file}: {error}. {advice}")


def _escaped(file: Path) -> str:
    return str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def check_schema(connection: Connection, file: Path) -> None:
    """See that a ledger's tables are those that this batchrun reads.

    Raises:
        LedgerError: they were written by an older or a newer one.
    """
    done: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if done > len(SCHEMA_STEPS):
        raise LedgerError(f"{file}: was written by a newer batchrun; use that one")
    if done < len(SCHEMA_STEPS):
        raise LedgerError(f"{file}: was written by an older batchrun; `batchrun run` brings it up to date and goes on")


def apply_schema_steps(connection: Connection, file: Path) -> None:
    """Bring a ledger's tables up to date, each step in one transaction with the note that it was done.

    Raises:
        LedgerError: they were written by a newer batchrun.
    """
    done: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if done > len(SCHEMA_STEPS):
        raise LedgerError(f"{file}: was written by a newer batchrun; use that one")
    for number, name in enumerate(SCHEMA_STEPS[done:], done + 1):
        step = resources.files("batchrun.ledger.sqlite").joinpath(name).read_text("utf-8")
        try:
            connection.executescript(f"BEGIN;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error as error:
            raise _explain(error, file) from error

"""The ledger's tables on a machine that follows a shared log, and changes them as the others have changed theirs."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from batchrun.errors import LedgerError
from batchrun.ledger.facts import LOG_CLAIM, Fact
from batchrun.ledger.shared_commits import Commit, Parameters
from batchrun.ledger.sqlite.connection import CHANGING, Connection
from batchrun.ledger.sqlite.foreign_statements import StatementBounds, check_rows, is_of_this_machine
from batchrun.ledger.sqlite.ledger_copy import LedgerCopy, read_copy
from batchrun.ledger.sqlite.tables import LedgerTables, open_writable


class FollowingTables(LedgerTables):
    """The ledger of one batch while it follows a log; `open_following` opens it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        # 64 MB of pages: statements that are replayed change rows everywhere.
        connection.execute("PRAGMA cache_size = -65536")
        self._bounds = StatementBounds(connection)

    @property
    def is_untouched(self) -> bool:
        """True if nothing of a batch was ever committed here: all that there may be is the try of a claim."""
        noted = self._db.execute("SELECT count(*) FROM batch WHERE name != ?", (LOG_CLAIM.name,)).fetchone()[0]
        return not noted and self.is_empty

    def all_rows(self, but: Collection[Fact[Any]]) -> list[tuple[str, Parameters]]:
        """Return statements that insert all rows into empty tables, except some facts."""
        changes: list[tuple[str, Parameters]] = []
        for table in self._db.tables():
            rows = self._db.execute(f"SELECT * FROM {table}").fetchall()
            if table == "batch":
                rows = [row for row in rows if row[0] not in {fact.name for fact in but}]
            changes += [(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", tuple(row)) for row in rows]
        return changes

    def replay(self, commit: Commit) -> None:
        """Change the tables as a commit of another machine has.

        Raises:
            LedgerError: It is no commit of a ledger.
        """
        with self._bounds:
            for sql, changes in groupby(commit.changes, itemgetter(0)):
                self._replay_one(sql, [values for _, values in changes])

    def check_rows(self) -> None:
        """Check that the rows are those of a ledger; it looks at every row.

        Raises:
            LedgerError: They are not: somebody else has written to the log.
        """
        check_rows(self._db)

    def _replay_one(self, sql: str, rows: list[Parameters]) -> None:
        if not sql.startswith(CHANGING):
            raise LedgerError(f"the shared log has {sql[:200]!r}, which is none of a ledger's statements")
        try:
            if len(rows) == 1:
                self._write(sql, rows[0])
            else:
                self._write_many(sql, rows)
        except (sqlite3.DatabaseError, ValueError, TypeError, OverflowError) as error:
            if is_of_this_machine(error):
                raise
            raise LedgerError(f"the shared log has a statement that no ledger makes: {error}; {sql[:200]!r}") from error

    def read_copy(self, copy: Path) -> LedgerCopy:
        """Return what a copy of a ledger says of itself.

        Raises:
            LedgerError: It is no copy of a ledger, or of one of another version.
        """
        return read_copy(copy, self._db)

    def load(self, copy: Path) -> None:
        """Fill the tables, which are empty, with the rows of a copy, in a transaction.

        Raises:
            LedgerError: A row cannot be read, or is none of a ledger.
        """
        tables = self._db.tables()
        with self._db.beside(copy, "copy"), self.transaction():
            with self._bounds:
                self.forget_output_lengths()
                for table in tables:
                    # What this machine has tried to claim is its own.
                    rows = f"copy.{table}" + (f" WHERE name != '{LOG_CLAIM.name}'" if table == "batch" else "")
                    self._write(f"INSERT INTO main.{table} SELECT * FROM {rows}", ())
            # SQLite takes the rows of tables that are alike as they are: no constraint was looked at.
            (found,) = self._db.execute("PRAGMA main.quick_check(1)").fetchone()
            if found != "ok":
                raise LedgerError(f"{copy}: has a row that is none of a ledger: {found}")

    def forget_output_lengths(self) -> None:
        """Remove what is noted of output files, before a log's first entry notes it again."""
        self._db.execute("DELETE FROM output")


@contextmanager
def open_following(directory: Path) -> Iterator[FollowingTables]:
    """Open a ledger that follows a log, and create it if it is missing; raises what `open_ledger` does."""
    with open_writable(directory) as connection:
        yield FollowingTables(connection)

"""The version of a ledger's tables: whether this batchrun can read it, and the steps that bring it up to date."""

import sqlite3
from pathlib import Path

from batchrun.errors import LedgerError
from batchrun.runtime.shell_command import shell_command

#: What brings a file to each version, in order; the first step makes its tables.
SCHEMA_STEPS = {
    4: "ledger.sql",
    5: "ledger_5.sql",
    6: "ledger_6.sql",
    7: "ledger_7.sql",
    8: "ledger_8.sql",
    9: "ledger_9.sql",
}
#: The oldest version of a file that can be brought up to date.
OLDEST_VERSION = min(SCHEMA_STEPS)
#: The version of a file that is up to date.
SCHEMA_VERSION = max(SCHEMA_STEPS)


def check_schema(connection: sqlite3.Connection, file: Path) -> None:
    """Check that this batchrun can read a ledger's tables.

    Raises:
        LedgerError: An older or a newer batchrun wrote them.
    """
    if _version(connection, file) < SCHEMA_VERSION:
        repair = shell_command("batchrun", "repair", file.parent)
        raise LedgerError(
            f"{file}: was written by an older batchrun. `{repair}` brings it up"
            " to date and starts nothing; `batchrun run` does so too, and resumes the batch"
        )


def apply_schema_steps(connection: sqlite3.Connection, file: Path) -> None:
    """Bring a ledger's tables up to date in one transaction: who reads them meanwhile finds none, or all of them.

    Raises:
        LedgerError: A newer batchrun wrote them.
        sqlite3.Error: A statement failed.
    """
    steps = _steps_after(_version(connection, file))
    if steps:
        connection.executescript(f"BEGIN;\n{steps}\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;")


def _steps_after(version: int) -> str:
    """Return the SQL that brings a ledger of a version up to date; empty: it is."""
    return "\n".join(text_of(step) for number, step in SCHEMA_STEPS.items() if number > version)


def text_of(step: str) -> str:
    """Return the SQL of a step."""
    return Path(__file__).with_name(step).read_text("utf-8")


def _version(connection: sqlite3.Connection, file: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise LedgerError(f"{file}: was written by a newer batchrun; use that one")
    if 0 < version < OLDEST_VERSION:
        raise LedgerError(f"{file}: is too old for this batchrun (before 27 November 2026); use the one that wrote it")
    return version

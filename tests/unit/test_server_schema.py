"""A data directory of an earlier server is brought up to date, and loses nothing."""

import sqlite3
from importlib import resources

import pytest

from batchrun.errors import OutputError
from batchrun.server.store.database import take_schema_steps


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    return {name: " ".join(sql.split()) for name, sql in rows}


def _earliest_version() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(resources.files("batchrun.server.store").joinpath("schema.sql").read_text())
    connection.execute("PRAGMA user_version = 2")
    connection.execute("INSERT INTO tasks (id, user_id, name, doc) VALUES ('t', 'me', 'Mine', '{}')")
    connection.execute(
        "INSERT INTO runs (id, user_id, act_id, status, started_ms, doc) VALUES ('r', 'me', 'a', 'RUNNING', 1, '{}')"
    )
    connection.execute(
        "INSERT INTO storages (id, user_id, kind, name, created_ms, modified_ms)"
        " VALUES ('d', 'me', 'DATASET', 'data', 1, 1)"
    )
    return connection


def test_what_was_there_stays_its_accounts() -> None:
    """Tasks, Runs and storages alike; a name is unique within an account only."""
    connection = _earliest_version()
    take_schema_steps(connection)
    assert connection.execute("SELECT id, user_id, name FROM tasks").fetchall() == [("t", "me", "Mine")]
    assert connection.execute("SELECT id, user_id, settle_ms FROM runs").fetchall() == [("r", "me", None)]
    assert connection.execute("SELECT id, user_id, reads FROM storages").fetchall() == [("d", "me", 0)]
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO tasks (id, user_id, name, doc) VALUES ('u', 'me', 'MINE', '{}')")
    connection.execute("INSERT INTO tasks (id, user_id, name, doc) VALUES ('u', 'you', 'MINE', '{}')")
    connection.close()


@pytest.mark.parametrize(
    "left",
    [
        "INSERT INTO items VALUES (7, 1, '{}')",
        "INSERT INTO stored_values VALUES (7, 'k', 'text/plain', 'v')",
        "INSERT INTO requests (storage, id, doc) VALUES (7, 'r', '{}')",
    ],
    ids=["items", "stored_values", "requests"],
)
@pytest.mark.parametrize("kept", [0, 1])
def test_a_new_storage_shows_nothing_that_was_written_into_a_deleted_one(left: str, kept: int) -> None:
    """An earlier version could leave rows of a deleted storage; their number is no new storage's."""
    connection = _earliest_version()
    connection.execute("DELETE FROM storages WHERE seq > ?", (kept,))
    connection.execute(left)
    take_schema_steps(connection)
    connection.execute("INSERT INTO storages (id, kind, created_ms, modified_ms) VALUES ('n', 'DATASET', 1, 1)")
    assert connection.execute("SELECT seq FROM storages WHERE id = 'n'").fetchone() == (8,)
    connection.close()


def test_old_and_new_files_end_up_the_same() -> None:
    """Whatever version a file begins with; taking the steps again changes nothing."""
    old, new = _earliest_version(), sqlite3.connect(":memory:", isolation_level=None)
    for connection in (old, new, new):
        take_schema_steps(connection)
    assert _tables(old) == _tables(new)
    versions = [connection.execute("PRAGMA user_version").fetchone() for connection in (old, new)]
    assert versions == [(7,), (7,)]
    for connection in (old, new):
        connection.close()


@pytest.mark.parametrize(("version", "why"), [(1000, "newer than this batchrun"), (1, "from before 27 November")])
def test_tables_of_another_time_are_refused(version: int, why: str) -> None:
    """Nothing is read or written that this version does not know."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(OutputError, match=why):
        take_schema_steps(connection)

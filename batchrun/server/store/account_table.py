"""Names and values that outlive restarts: ids, secrets, limits and creation times of accounts."""

from sqlite3 import Connection


def put(connection: Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO account VALUES (?, ?)", (name, value))


def read_or_set(connection: Connection, name: str, value: str) -> str:
    """Return the value under `name`; store `value` there if there is none."""
    connection.execute("INSERT INTO account VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
    (kept,) = connection.execute("SELECT value FROM account WHERE name = ?", (name,)).fetchone()
    return str(kept)

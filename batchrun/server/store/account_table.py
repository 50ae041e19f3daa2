"""What the account keeps across restarts: its ids, secrets and the time of its creation."""

from sqlite3 import Connection


def put(connection: Connection, name: str, value: str) -> None:
    """Keep `value` under `name`, in place of what was there."""
    connection.execute("INSERT OR REPLACE INTO account VALUES (?, ?)", (name, value))


def read_or_set(connection: Connection, name: str, value: str) -> str:
    """Return what is kept under `name`, keeping `value` there if nothing was."""
    connection.execute("INSERT INTO account VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
    (kept,) = connection.execute("SELECT value FROM account WHERE name = ?", (name,)).fetchone()
    return str(kept)

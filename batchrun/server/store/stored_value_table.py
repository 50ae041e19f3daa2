"""The stored values of key-value stores."""

from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection

from batchrun.server.content.body_spool import LARGE_BYTES, BodySpool, spooled
from batchrun.server.error_answers import not_permitted
from batchrun.server.ids import now_ms
from batchrun.server.store import storage_table
from batchrun.server.store.storage_table import Kind


def put(
    connection: Connection, store_id: str, user_id: str, key: str, content_type: str, body: bytes | BodySpool
) -> None:
    """Store a value under a key, in place of an earlier one. A spooled body is read here, by the one writing thread."""
    storage, _ = storage_table.find_own(connection, Kind.KEY_VALUE_STORE, store_id, user_id)
    old = connection.execute(
        "SELECT length(body) FROM stored_values WHERE storage = ? AND key = ?", (storage, key)
    ).fetchone()
    content = body if isinstance(body, bytes) else body.read()
    connection.execute(
        "INSERT OR REPLACE INTO stored_values VALUES (?, ?, ?, ?)", (storage, key, content_type, content)
    )
    added, freed = (0, old[0]) if old else (1, 0)
    storage_table.note_write(connection, storage, now_ms(), added=added, size=len(content) - freed)


def read(connection: Connection, store_id: str, key: str) -> tuple[str, bytes] | None:
    row: tuple[str, bytes] | None = connection.execute(
        "SELECT content_type, body FROM stored_values JOIN storages ON storage = seq "
        "WHERE id = ? AND kind = ? AND key = ?",
        (store_id, Kind.KEY_VALUE_STORE.value, key),
    ).fetchone()
    return row


def read_for(
    connection: Connection, store_id: str, key: str, is_permitted: Callable[[str | None, str], bool], directory: Path
) -> tuple[str, bytes | BodySpool] | None:
    """Read a value if the store's access and owner permit it; a large one as a spool: only one is in memory."""
    row = connection.execute("SELECT access, user_id FROM storages WHERE id = ?", (store_id,)).fetchone()
    if row is not None and not is_permitted(*row):
        raise not_permitted("key-value store")
    stored = read(connection, store_id, key)
    return stored if stored is None or len(stored[1]) <= LARGE_BYTES else (stored[0], spooled(directory, stored[1]))


def delete(connection: Connection, storage: int, key: str) -> None:
    """Delete a key, which need not exist."""
    row = connection.execute(
        "DELETE FROM stored_values WHERE storage = ? AND key = ? RETURNING length(body)", (storage, key)
    ).fetchone()
    if row is not None:
        storage_table.note_write(connection, storage, now_ms(), added=-1, size=-row[0], deletes=1)


def keys(connection: Connection, storage: int, after: str, prefix: str, limit: int) -> list[tuple[str, int]]:
    """Return up to `limit` (key, size) after a key, in order of their UTF-8 bytes."""
    # Keys are printable ASCII, so all keys with a prefix sort before prefix + DEL.
    return connection.execute(
        "SELECT key, length(body) FROM stored_values "
        "WHERE storage = ? AND key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
        (storage, after, prefix, prefix + "\x7f", limit),
    ).fetchall()

"""The items of datasets, in order of insertion."""

from collections.abc import Sequence
from sqlite3 import Connection

from batchrun.server.ids import now_ms
from batchrun.server.store import storage_table
from batchrun.server.store.bounded_rows import up_to
from batchrun.server.store.storage_table import Kind


def append(connection: Connection, dataset_id: str, user_id: str, bodies: Sequence[bytes], clean_count: int) -> None:
    """Append items, each as JSON, all or none of them, to a dataset of this account."""
    storage, position = storage_table.find_own(connection, Kind.DATASET, dataset_id, user_id)
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?)", [(storage, position + n, body) for n, body in enumerate(bodies)]
    )
    size = sum(map(len, bodies))
    storage_table.note_write(
        connection, storage, now_ms(), added=len(bodies), clean=clean_count, size=size, writes=len(bodies)
    )


def page(
    connection: Connection,
    storage: int,
    count: int,
    offset: int,
    limit: int,
    is_descending: bool,
    max_bytes: int,
) -> list[bytes]:
    """Return up to `limit` items from `offset` on, counted from the end if descending, up to `max_bytes`.

    Positions have no gaps, so that any offset is found at once. A larger item is returned alone. A deleted storage has
    no page, though its items are removed later, in pieces: amid that, a page would pass some of them over.
    """
    if is_descending:
        rows = connection.execute(
            "SELECT body FROM storages JOIN items ON storage = seq WHERE seq = ? AND position < ? "
            "ORDER BY position DESC LIMIT ?",
            (storage, count - offset, limit),
        )
    else:
        rows = connection.execute(
            "SELECT body FROM storages JOIN items ON storage = seq WHERE seq = ? AND position >= ? "
            "ORDER BY position LIMIT ?",
            (storage, offset, limit),
        )
    return [body for (body,) in up_to(max_bytes, rows)[0]]

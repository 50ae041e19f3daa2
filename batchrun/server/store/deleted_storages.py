"""Removes what deleted storages hold, in pieces: whatever else is to be stored goes between two of them."""

from sqlite3 import Connection

import anyio

from batchrun.runtime.error_containment import contained
from batchrun.server.store.database import Database, is_of_a_full_disk
from batchrun.server.store.storage_table import Kind

#: Max rows of a piece, and the bytes from which on no further row belongs to it: about a hundredth of a second.
_MAX_ROWS, _MAX_BYTES = 200, 1 << 20
#: Seconds between two looks for storages that were deleted.
_LOOK_EVERY_S = 2
#: Seconds until another try after one that has failed, of which the log has a line.
_AGAIN_S = 60
#: Kind -> the table of its contents, their key in a storage, and their large column.
_CONTENTS = {
    Kind.DATASET: ("items", "position", "body"),
    Kind.KEY_VALUE_STORE: ("stored_values", "key", "body"),
    Kind.REQUEST_QUEUE: ("requests", "id", "doc"),
}


async def keep_removing(database: Database) -> None:
    """Remove what deleted storages hold, also those of an earlier server; runs until cancelled."""
    while True:
        wait_s = _AGAIN_S
        with contained("deleted_storages_kept", is_known=is_of_a_full_disk):
            while await database.write(remove_piece):
                pass
            wait_s = _LOOK_EVERY_S
        await anyio.sleep(wait_s)


def remove_piece(connection: Connection) -> bool:
    """Remove the next piece; return False if there is none."""
    deleted = connection.execute("SELECT storage, kind FROM deleted_storages LIMIT 1").fetchone()
    if deleted is None:
        return False
    storage, (table, key, content) = deleted[0], _CONTENTS[Kind(deleted[1])]
    rows = connection.execute(
        f"SELECT {key}, length({content}) FROM {table} WHERE storage = ? ORDER BY {key} LIMIT ?",  # noqa: S608 - own text
        (storage, _MAX_ROWS),
    ).fetchall()
    if not rows:
        connection.execute("DELETE FROM deleted_storages WHERE storage = ?", (storage,))
        return True
    size = 0
    for row in rows:
        size += row[1]
        if size >= _MAX_BYTES:
            break
    connection.execute(f"DELETE FROM {table} WHERE storage = ? AND {key} <= ?", (storage, row[0]))  # noqa: S608 - own text
    return True

"""What datasets, key-value stores and request queues have in common: id, kind, name, owner, counters."""

from dataclasses import dataclass
from enum import StrEnum
from sqlite3 import Connection

from batchrun.server.ids import new_id


class Kind(StrEnum):
    """The three kinds of storage; the values are those of the platform's usage counters."""

    DATASET = "DATASET"
    KEY_VALUE_STORE = "KEY_VALUE_STORE"
    REQUEST_QUEUE = "REQUEST_QUEUE"


@dataclass(frozen=True, slots=True)
class Storage:
    """One storage's row."""

    seq: int
    id: str
    kind: Kind
    name: str | None
    run_id: str | None
    act_id: str | None
    created_ms: int
    modified_ms: int
    count: int
    clean_count: int
    writes: int
    bytes: int


_COLUMNS = "seq, id, kind, name, run_id, act_id, created_ms, modified_ms, count, clean_count, writes, bytes"
_CONTENTS = {Kind.DATASET: "items", Kind.KEY_VALUE_STORE: "stored_values", Kind.REQUEST_QUEUE: "requests"}


def _storage(row: tuple[object, ...]) -> Storage:
    seq, storage_id, kind, *rest = row
    return Storage(seq, storage_id, Kind(str(kind)), *rest)  # type: ignore[arg-type]  # SQLite's rows are untyped


def insert(
    connection: Connection,
    kind: Kind,
    storage_id: str,
    created_ms: int,
    *,
    name: str | None = None,
    run_id: str | None = None,
    act_id: str | None = None,
) -> int:
    """Keep a new storage; return its row number."""
    return (
        connection.execute(
            "INSERT INTO storages (id, kind, name, run_id, act_id, created_ms, modified_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (storage_id, kind.value, name, run_id, act_id, created_ms, created_ms),
        ).lastrowid
        or 0
    )


def read(connection: Connection, storage_id: str) -> Storage | None:
    """Return the storage with this id."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM storages WHERE id = ?",  # noqa: S608 - own text
        (storage_id,),
    ).fetchone()
    return _storage(row) if row else None


def read_named(connection: Connection, kind: Kind, name: str) -> Storage | None:
    """Return the storage of this kind and name, whatever the name's case."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM storages WHERE kind = ? AND name = ?",  # noqa: S608 - own text
        (kind.value, name),
    ).fetchone()
    return _storage(row) if row else None


def get_or_create(connection: Connection, kind: Kind, name: str | None, at_ms: int) -> tuple[Storage, bool]:
    """Return the storage of this name and whether it is new; without a name it always is."""
    if name is not None and (known := read_named(connection, kind, name)) is not None:
        return known, False
    storage_id = new_id()
    insert(connection, kind, storage_id, at_ms, name=name)
    created = read(connection, storage_id)
    assert created is not None
    return created, True


def rename(connection: Connection, storage: Storage, name: str | None, at_ms: int) -> None:
    """Give a storage another name; the caller has seen that it is free."""
    connection.execute("UPDATE storages SET name = ?, modified_ms = ? WHERE seq = ?", (name, at_ms, storage.seq))


def page(
    connection: Connection, kind: Kind, offset: int, limit: int, is_descending: bool, with_unnamed: bool
) -> tuple[int, list[Storage]]:
    """Return how many storages there are, and a page of them by creation."""
    where = "kind = ?" if with_unnamed else "kind = ? AND name IS NOT NULL"
    order = "DESC" if is_descending else "ASC"
    (total,) = connection.execute(
        f"SELECT count(*) FROM storages WHERE {where}",  # noqa: S608 - own text
        (kind.value,),
    ).fetchone()
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM storages WHERE {where} ORDER BY seq {order} LIMIT ? OFFSET ?",  # noqa: S608
        (kind.value, limit, offset),
    )
    return total, [_storage(row) for row in rows]


def note_write(
    connection: Connection, storage: int, at_ms: int, *, added: int = 0, clean: int = 0, size: int = 0, writes: int = 1
) -> None:
    """Count a change to a storage's content."""
    connection.execute(
        "UPDATE storages SET modified_ms = ?, count = count + ?, clean_count = clean_count + ?, "
        "bytes = bytes + ?, writes = writes + ? WHERE seq = ?",
        (at_ms, added, clean, size, writes, storage),
    )


def delete(connection: Connection, storage: Storage) -> None:
    """Forget a storage and all it holds."""
    content = _CONTENTS[storage.kind]
    connection.execute(f"DELETE FROM {content} WHERE storage = ?", (storage.seq,))  # noqa: S608 - own text
    connection.execute("DELETE FROM storages WHERE seq = ?", (storage.seq,))

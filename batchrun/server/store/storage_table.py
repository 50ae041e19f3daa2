"""The common part of datasets, key-value stores and request queues: id, kind, name, owner, counters."""

from collections.abc import Mapping
from enum import StrEnum
from sqlite3 import Connection

from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.error_answers import not_permitted, thing_missing
from batchrun.server.ids import new_id
from batchrun.server.store.bounded_rows import counted_page


class Kind(StrEnum):
    """The kinds of storage. The values are the prefixes of the platform's usage counters."""

    DATASET = "DATASET"
    KEY_VALUE_STORE = "KEY_VALUE_STORE"
    REQUEST_QUEUE = "REQUEST_QUEUE"

    @property
    def thing(self) -> str:
        """Its name at the beginning of a sentence: `Key-value store`."""
        return "Key-value store" if self is Kind.KEY_VALUE_STORE else self.value.capitalize().replace("_", " ")

    @property
    def plural(self) -> str:
        """Its name in actor.json and in a Run's `storageIds`: `keyValueStores`."""
        first, *others = self.value.lower().split("_")
        return first + "".join(map(str.capitalize, others)) + "s"


@dataclass(frozen=True, slots=True)
class Storage:
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
    user_id: str
    reads: int
    lists: int
    deletes: int
    client: str | None
    is_shared: int
    access: str | None


_COLUMNS = (
    "seq, id, kind, name, run_id, act_id, created_ms, modified_ms, count, clean_count, writes, bytes, "
    "user_id, reads, lists, deletes, client, is_shared, access"
)


def _storage(row: tuple[object, ...]) -> Storage:
    seq, storage_id, kind, *rest = row
    return Storage(seq, storage_id, Kind(str(kind)), *rest)  # type: ignore[arg-type]  # SQLite's rows are untyped


def insert_defaults(connection: Connection, run: JsonObject, created_ms: int) -> int:
    """Add a new Run's storages; return the row number of the key-value store."""
    _insert_aliased(connection, run, created_ms)
    row_number = connection.execute(
        "INSERT INTO storages (id, kind, run_id, act_id, created_ms, modified_ms, user_id) VALUES "
        "(?1, 'DATASET', ?4, ?5, ?6, ?6, ?7), (?2, 'REQUEST_QUEUE', ?4, ?5, ?6, ?6, ?7), "
        # Last, since SQLite returns the number of the last row.
        "(?3, 'KEY_VALUE_STORE', ?4, ?5, ?6, ?6, ?7)",
        (
            run["defaultDatasetId"],
            run["defaultRequestQueueId"],
            run["defaultKeyValueStoreId"],
            run["id"],
            run["actId"],
            created_ms,
            run["userId"],
        ),
    ).lastrowid
    return row_number or 0


def _insert_aliased(connection: Connection, run: JsonObject, created_ms: int) -> None:
    """Add the storages that a Run's Actor names."""
    connection.executemany(
        "INSERT INTO storages (id, kind, run_id, act_id, created_ms, modified_ms, user_id) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (storage_id, kind.value, run["id"], run["actId"], created_ms, created_ms, run["userId"])
            for kind in Kind
            for alias, storage_id in run.get("storageIds", {}).get(kind.plural, {}).items()
            if alias != "default"
        ],
    )


def read(connection: Connection, storage_id: str) -> Storage | None:
    return _find(connection, "id = ?", (storage_id,))


def read_named(connection: Connection, kind: Kind, user_id: str, name: str) -> Storage | None:
    """Return the account's storage of this kind and name, in any case."""
    return _find(connection, "user_id = ? AND kind = ? AND name = ?", (user_id, kind.value, name))


def _find(connection: Connection, where: str, args: tuple[str, ...]) -> Storage | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM storages WHERE {where}", args).fetchone()  # noqa: S608 - own text
    return _storage(row) if row else None


def find_own(connection: Connection, kind: Kind, storage_id: str, user_id: str) -> tuple[int, int]:
    """Return the row number and the count of a storage, which must be this account's."""
    row = connection.execute(
        "SELECT seq, count, user_id FROM storages WHERE id = ? AND kind = ?", (storage_id, kind.value)
    ).fetchone()
    if row is None:
        raise thing_missing(kind.thing)
    if row[2] != user_id:
        raise not_permitted(kind.thing.lower())
    return row[0], row[1]


def get_or_create(
    connection: Connection, kind: Kind, user_id: str, name: str | None, at_ms: int
) -> tuple[Storage, bool]:
    """Return the storage of this name, and whether it is new. Without a name it always is."""
    if name is not None and (known := read_named(connection, kind, user_id, name)) is not None:
        return known, False
    storage_id = new_id()
    connection.execute(
        "INSERT INTO storages (id, kind, name, created_ms, modified_ms, user_id) VALUES (?, ?, ?, ?, ?, ?)",
        (storage_id, kind.value, name, at_ms, at_ms, user_id),
    )
    created = read(connection, storage_id)
    assert created is not None
    return created, True


def rename(connection: Connection, storage: Storage, name: str | None, at_ms: int) -> bool:
    """Change or remove a storage's name; return False if another storage of the account has it."""
    holder = read_named(connection, storage.kind, storage.user_id, name) if name is not None else None
    if holder is not None and holder.id != storage.id:
        return False
    connection.execute("UPDATE storages SET name = ?, modified_ms = ? WHERE seq = ?", (name, at_ms, storage.seq))
    return True


def page(
    connection: Connection,
    kind: Kind,
    user_id: str,
    offset: int,
    limit: int,
    is_descending: bool,
    with_unnamed: bool,
) -> tuple[int, list[Storage]]:
    """Return the number of the account's storages of a kind, and a page of them by creation."""
    matching = "storages WHERE user_id = ? AND kind = ?" + ("" if with_unnamed else " AND name IS NOT NULL")
    total, rows = counted_page(
        connection, _COLUMNS, matching, (user_id, kind.value), ("seq",), offset, limit, is_descending
    )
    return total, [_storage(row) for row in rows]


def note_write(
    connection: Connection,
    storage: int,
    at_ms: int,
    *,
    added: int = 0,
    clean: int = 0,
    size: int = 0,
    writes: int = 1,
    deletes: int = 0,
) -> None:
    """Note what was written, in the same transaction.

    Raises:
        ErrorAnswer: the storage was deleted since it was looked up; nothing is written into it.
    """
    changed = connection.execute(
        "UPDATE storages SET modified_ms = ?, count = count + ?, clean_count = clean_count + ?, "
        "bytes = bytes + ?, writes = writes + ?, deletes = deletes + ? WHERE seq = ?",
        (at_ms, added, clean, size, writes, deletes, storage),
    )
    if not changed.rowcount:
        raise thing_missing("Storage")


def note_lock_writes(connection: Connection, storage: int, writes: int) -> None:
    """Count locks as writes, which leave the contents of a queue as they are."""
    connection.execute("UPDATE storages SET writes = writes + ? WHERE seq = ?", (writes, storage))


def note_reads(connection: Connection, counts: Mapping[str, tuple[int, int]]) -> None:
    connection.executemany(
        "UPDATE storages SET reads = reads + ?, lists = lists + ? WHERE id = ?",
        [(reads, lists, storage_id) for storage_id, (reads, lists) in counts.items()],
    )


def note_client(connection: Connection, storage: Storage, client: str) -> None:
    """Note a client of a request queue; a second one makes the queue shared."""
    connection.execute(
        "UPDATE storages SET is_shared = is_shared OR coalesce(client, ?1) <> ?1, client = coalesce(client, ?1) "
        "WHERE seq = ?2",
        (client, storage.seq),
    )


def set_access(connection: Connection, storage: Storage, access: str) -> None:
    connection.execute("UPDATE storages SET access = ? WHERE seq = ?", (access, storage.seq))


def read_uses(connection: Connection, doc: JsonObject) -> dict[str, int]:
    """Return the use counts of a Run's storages, by usage item."""
    ids = ids_of(doc)
    uses: dict[str, int] = {}
    rows = connection.execute(
        "SELECT kind, sum(writes), sum(reads), sum(lists) FROM storages "  # noqa: S608 - own text
        f"WHERE id IN ({', '.join('?' * len(ids))}) GROUP BY kind",
        ids,
    )
    for kind, writes, reads, lists in rows:
        uses |= {f"{kind}_WRITES": writes, f"{kind}_READS": reads}
        if kind == Kind.KEY_VALUE_STORE:
            uses[f"{kind}_LISTS"] = lists
    return uses


def ids_of(run: JsonObject) -> list[str]:
    """Return the ids of a Run's storages: the default ones, and those that its Actor names."""
    defaults = (run["defaultDatasetId"], run["defaultKeyValueStoreId"], run["defaultRequestQueueId"])
    named = (storage_id for aliases in run.get("storageIds", {}).values() for storage_id in aliases.values())
    return list(dict.fromkeys((*defaults, *named)))


def delete(connection: Connection, storage: Storage) -> None:
    """Delete a storage. What it holds has no owner from now on, and is removed in pieces (`deleted_storages`)."""
    connection.execute("DELETE FROM storages WHERE seq = ?", (storage.seq,))
    connection.execute("INSERT OR IGNORE INTO deleted_storages VALUES (?, ?)", (storage.seq, storage.kind.value))

"""The requests of queues: which are pending, in which order, and who has locked them."""

import base64
import hashlib
from collections.abc import Iterable
from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.error_answers import ErrorAnswer, thing_missing
from batchrun.server.store import storage_table
from batchrun.server.store.bounded_rows import up_to

#: What the head of a queue shows of a request. Source: the API reference.
_HEAD_FIELDS = ("id", "uniqueKey", "url", "method", "retryCount")


@dataclass(frozen=True, slots=True)
class Registration:
    """The result of adding or changing a request."""

    id: str
    unique_key: str
    was_present: bool
    was_handled: bool


def request_id_of(unique_key: str) -> str:
    """Return a request's id. Clients compute it in the same way, so that a request is added once."""
    digest = base64.b64encode(hashlib.sha256(unique_key.encode(errors="replace")).digest()).decode()
    return digest.replace("+", "").replace("/", "").replace("=", "")[:15]


def add(
    connection: Connection, storage: int, docs: Iterable[JsonObject], to_front: bool, at_ms: int
) -> list[Registration]:
    """Add the requests that are not there yet, in order, at the end or at the front."""
    known = list(docs)
    registered = [_add_one(connection, storage, doc, to_front) for doc in (reversed(known) if to_front else known)]
    added = sum(1 for registration in registered if not registration.was_present)
    handled = sum(1 for registration in registered if registration.was_handled and not registration.was_present)
    storage_table.note_write(connection, storage, at_ms, added=added, clean=handled, writes=len(registered))
    return registered[::-1] if to_front else registered


def _add_one(connection: Connection, storage: int, doc: JsonObject, to_front: bool) -> Registration:
    doc = {**doc, "id": request_id_of(doc["uniqueKey"])}
    row = connection.execute(
        "SELECT place IS NULL FROM requests WHERE storage = ? AND id = ?", (storage, doc["id"])
    ).fetchone()
    if row is not None:
        return Registration(doc["id"], doc["uniqueKey"], was_present=True, was_handled=bool(row[0]))
    is_handled = doc.get("handledAt") is not None
    place = None if is_handled else _next_place(connection, storage, to_front)
    connection.execute(
        "INSERT INTO requests (storage, id, place, doc) VALUES (?, ?, ?, ?)",
        (storage, doc["id"], place, orjson.dumps(doc)),
    )
    return Registration(doc["id"], doc["uniqueKey"], was_present=False, was_handled=is_handled)


def _next_place(connection: Connection, storage: int, to_front: bool) -> int:
    edge = "min(place) - 1" if to_front else "max(place) + 1"
    row = connection.execute(
        f"SELECT {edge} FROM requests WHERE storage = ? AND place IS NOT NULL",  # noqa: S608 - own text
        (storage,),
    ).fetchone()
    return row[0] or 0


def read(connection: Connection, storage: int, request_id: str) -> bytes | None:
    """Return a request as JSON."""
    row = connection.execute("SELECT doc FROM requests WHERE storage = ? AND id = ?", (storage, request_id)).fetchone()
    return row[0] if row else None


def update(
    connection: Connection, storage: int, doc: JsonObject, to_front: bool, client: str, at_ms: int
) -> Registration:
    """Change a request, or add it. A handled one is no longer pending, another goes to the front or the end."""
    row = connection.execute(
        "SELECT place IS NULL, locked_by, locked_until_ms FROM requests WHERE storage = ? AND id = ?",
        (storage, doc["id"]),
    ).fetchone()
    if row is None:
        return add(connection, storage, [doc], to_front, at_ms)[0]
    was_handled = bool(row[0])
    _refuse_foreign_lock(row[1], row[2], client, at_ms)
    is_handled = doc.get("handledAt") is not None
    place = None if is_handled else _next_place(connection, storage, to_front)
    connection.execute(
        "UPDATE requests SET place = ?, locked_by = NULL, locked_until_ms = 0, doc = ? WHERE storage = ? AND id = ?",
        (place, orjson.dumps(doc), storage, doc["id"]),
    )
    storage_table.note_write(connection, storage, at_ms, clean=int(is_handled) - int(was_handled))
    return Registration(doc["id"], doc["uniqueKey"], was_present=True, was_handled=was_handled)


def delete(connection: Connection, storage: int, request_ids: Iterable[str], client: str, at_ms: int) -> None:
    """Delete requests, all or none; an unknown one is no error."""
    for request_id in request_ids:
        row = connection.execute(
            "DELETE FROM requests WHERE storage = ? AND id = ? RETURNING place IS NULL, locked_by, locked_until_ms",
            (storage, request_id),
        ).fetchone()
        if row is not None:
            _refuse_foreign_lock(row[1], row[2], client, at_ms)
            storage_table.note_write(connection, storage, at_ms, added=-1, clean=-row[0])


def head(connection: Connection, storage: int, limit: int, max_bytes: int, at_ms: int) -> list[JsonObject]:
    """Return what a head shows of the first pending requests that are not locked, up to `max_bytes`."""
    rows = connection.execute(
        "SELECT doc FROM requests WHERE storage = ? AND place IS NOT NULL AND locked_until_ms <= ? "
        "ORDER BY place LIMIT ?",
        (storage, at_ms, limit),
    )
    return [_short(orjson.loads(doc)) for (doc,) in up_to(max_bytes, rows)[0]]


def _short(doc: JsonObject) -> JsonObject:
    return {name: doc[name] for name in _HEAD_FIELDS if name in doc}


def lock_head(
    connection: Connection, storage: int, limit: int, max_bytes: int, client: str, at_ms: int, until_ms: int
) -> tuple[list[JsonObject], bool]:
    """Lock the first pending requests that are not locked, up to `max_bytes`.

    Returns:
        Them, and whether the queue has locked ones.
    """
    docs = head(connection, storage, limit, max_bytes, at_ms)
    (is_any_locked,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM requests WHERE storage = ? AND place IS NOT NULL AND locked_until_ms > ?)",
        (storage, at_ms),
    ).fetchone()
    connection.executemany(
        "UPDATE requests SET locked_by = ?, locked_until_ms = ? WHERE storage = ? AND id = ?",
        [(client, until_ms, storage, doc["id"]) for doc in docs],
    )
    storage_table.note_lock_writes(connection, storage, len(docs))
    return docs, bool(is_any_locked or docs)


def set_lock(
    connection: Connection,
    storage: int,
    request_id: str,
    to_front: bool,
    client: str,
    at_ms: int,
    until_ms: int,
) -> None:
    """Lock a request until a time, or unlock it by a time in the past; move it to the front if wanted."""
    row = connection.execute(
        "SELECT place, locked_by, locked_until_ms FROM requests WHERE storage = ? AND id = ?", (storage, request_id)
    ).fetchone()
    if row is None:
        raise thing_missing("Request")
    _refuse_foreign_lock(row[1], row[2], client, at_ms)
    if row[0] is None:
        raise ErrorAnswer(403, "request-handled-or-locked", "The request has been handled")
    place = _next_place(connection, storage, to_front) if to_front else row[0]
    connection.execute(
        "UPDATE requests SET place = ?, locked_by = ?, locked_until_ms = ? WHERE storage = ? AND id = ?",
        (place, client if until_ms > at_ms else None, until_ms, storage, request_id),
    )
    storage_table.note_lock_writes(connection, storage, 1)


def unlock_all(connection: Connection, storage: int, client: str, at_ms: int) -> int:
    """Unlock all requests of a client; return their number."""
    unlocked = connection.execute(
        "UPDATE requests SET locked_by = NULL, locked_until_ms = 0 "
        "WHERE storage = ? AND locked_by = ? AND locked_until_ms > ?",
        (storage, client, at_ms),
    ).rowcount
    storage_table.note_lock_writes(connection, storage, unlocked)
    return unlocked


#: The states that a list can filter by. Handled requests have neither.
STATES = {
    "locked": "(place IS NOT NULL AND locked_until_ms > :now)",
    "pending": "(place IS NOT NULL AND locked_until_ms <= :now)",
}


def page(
    connection: Connection, storage: int, after_id: str, limit: int, max_bytes: int, states: Iterable[str], at_ms: int
) -> tuple[list[tuple[str, bytes]], bool]:
    """Return ids and requests as JSON after an id, up to `max_bytes`, and whether there are more.

    Without states all requests, otherwise those in one of the states.
    """
    condition = " OR ".join(STATES[state] for state in states) or "1"
    rows = connection.execute(
        "SELECT id, doc FROM requests WHERE storage = :storage AND id > :after "  # noqa: S608 - own text
        f"AND ({condition}) ORDER BY id LIMIT :limit + 1",
        {"storage": storage, "after": after_id, "limit": limit, "now": at_ms},
    )
    found, is_cut = up_to(max_bytes, rows)
    return found[:limit], is_cut or len(found) > limit


def _refuse_foreign_lock(locked_by: str | None, until_ms: int, client: str, at_ms: int) -> None:
    if until_ms > at_ms and locked_by != client:
        raise ErrorAnswer(403, "request-handled-or-locked", "The request is locked by another client")

"""The stored webhooks and their dispatches."""

from collections import Counter
from collections.abc import Callable, Iterable
from sqlite3 import Connection
from typing import TypeVar

import orjson

from batchrun.model import JsonObject
from batchrun.server.error_answers import ErrorAnswer, thing_missing
from batchrun.server.store.bounded_rows import counted_page, up_to

T = TypeVar("T")

#: Max webhooks of one Run, and bytes of them: all are in memory while it is live, also if it is started again.
_MAX_OF_RUN, _MAX_OF_RUN_BYTES = 100, 1 << 20
#: Max dispatches of an account, not counting open ones. Each 50th new one, which takes 0.4 ms, deletes up to 500.
_KEPT_DISPATCHES, _DELETED_EVERY, _MAX_DELETED = 10_000, 50, 500


def load_stored(connection: Connection, max_of_account: int) -> list[JsonObject]:
    """Return the webhooks that are of no single Run, oldest first; of each account so many, whatever is stored."""
    counts, kept = Counter[str](), list[JsonObject]()
    for user_id, doc in connection.execute("SELECT user_id, doc FROM webhooks WHERE run_id IS NULL ORDER BY seq"):
        counts[user_id] += 1
        if counts[user_id] <= max_of_account:
            kept.append(orjson.loads(doc))
    return kept


def page_of_account(
    connection: Connection, user_id: str, offset: int, limit: int, is_descending: bool
) -> tuple[int, list[JsonObject]]:
    """Return the number of an account's webhooks, and a page of them, oldest first."""
    total, rows = counted_page(
        connection, "doc", "webhooks WHERE user_id = ?", (user_id,), ("seq",), offset, limit, is_descending
    )
    return total, [orjson.loads(doc) for (doc,) in rows]


def of_run(connection: Connection, run_id: str) -> list[JsonObject]:
    rows = connection.execute("SELECT doc FROM webhooks WHERE run_id = ? ORDER BY seq LIMIT ?", (run_id, _MAX_OF_RUN))
    return [orjson.loads(doc) for (doc,) in up_to(2 * _MAX_OF_RUN_BYTES, rows)[0]]


def add(connection: Connection, doc: JsonObject, key: str | None) -> JsonObject | None:
    """Store a new webhook; return the account's webhook with the same idempotency key, if there is one.

    Raises:
        ErrorAnswer: Its Run has too many.
    """
    _check_room(connection, doc)
    kept = connection.execute(
        "INSERT INTO webhooks (id, user_id, idempotency_key, run_id, doc) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (doc["id"], doc["userId"], key, doc["condition"].get("actorRunId"), orjson.dumps(doc)),
    )
    if kept.rowcount:
        return None
    (known,) = connection.execute(
        "SELECT doc FROM webhooks WHERE user_id = ? AND idempotency_key = ?", (doc["userId"], key)
    ).fetchone()
    shown: JsonObject = orjson.loads(known)
    return shown


def update(connection: Connection, doc: JsonObject) -> None:
    """Store a changed webhook, which may be of another Run now, or of none.

    Raises:
        ErrorAnswer: Its Run has too many, or it was deleted meanwhile.
    """
    _check_room(connection, doc)
    values = orjson.dumps(doc), doc["condition"].get("actorRunId"), doc["id"]
    if not connection.execute("UPDATE webhooks SET doc = ?, run_id = ? WHERE id = ?", values).rowcount:
        raise thing_missing("Webhook")


def _check_room(connection: Connection, doc: JsonObject) -> None:
    if (run_id := doc["condition"].get("actorRunId")) is None:
        return
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(length(doc)), 0) FROM webhooks WHERE run_id = ? AND id <> ?", (run_id, doc["id"])
    ).fetchone()
    if count >= _MAX_OF_RUN or size > _MAX_OF_RUN_BYTES:
        raise ErrorAnswer(403, "too-many-webhooks", "You have reached the limit of webhooks of one Run")


def read(connection: Connection, webhook_id: str) -> JsonObject | None:
    row = connection.execute("SELECT doc FROM webhooks WHERE id = ?", (webhook_id,)).fetchone()
    return orjson.loads(row[0]) if row else None


def delete(connection: Connection, webhook_id: str) -> None:
    """Delete a webhook. Its open dispatches fail."""
    connection.execute("DELETE FROM webhooks WHERE id = ?", (webhook_id,))


def statistics(connection: Connection, webhook_id: str) -> tuple[int, JsonObject | None]:
    (total,) = connection.execute("SELECT count(*) FROM dispatches WHERE webhook_id = ?", (webhook_id,)).fetchone()
    row = connection.execute(
        "SELECT doc FROM dispatches WHERE webhook_id = ? ORDER BY seq DESC LIMIT 1", (webhook_id,)
    ).fetchone()
    return total, orjson.loads(row[0]) if row else None


def along(
    connection: Connection, dispatches: Iterable[JsonObject], next_ms: int, function: Callable[..., T], *args: object
) -> T:
    """Carry out a change and store the dispatches that it triggers, both or neither."""
    result = function(connection, *args)
    for doc in dispatches:
        add_dispatch(connection, doc, next_ms)
    return result


def add_dispatch(connection: Connection, doc: JsonObject, next_ms: int) -> None:
    """Store a new dispatch. Now and then, delete the account's oldest ones that are over."""
    added = connection.execute(
        "INSERT INTO dispatches (id, user_id, webhook_id, next_ms, doc) VALUES (?, ?, ?, ?, ?)",
        (doc["id"], doc["userId"], doc["webhookId"], next_ms, orjson.dumps(doc)),
    )
    if (added.lastrowid or 0) % _DELETED_EVERY == 0:
        _delete_old(connection, doc["userId"])


def _delete_old(connection: Connection, user_id: str) -> None:
    connection.execute(
        "DELETE FROM dispatches WHERE seq IN (SELECT seq FROM dispatches WHERE user_id = ?1 AND next_ms IS NULL "
        "AND seq <= (SELECT seq FROM dispatches WHERE user_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2) "
        "ORDER BY seq LIMIT ?3)",
        (user_id, _KEPT_DISPATCHES, _MAX_DELETED),
    )


def chain_of(connection: Connection, dispatch_id: str, user_id: str, max_counted: int) -> tuple[str, bool, int] | None:
    """Return what began the chain in which a dispatch stands, whether it is a Run of an account, and its Runs in it.

    They are counted up to a number. None: there is no such dispatch. It may be another account's: two accounts may have
    webhooks that start each other's Runs.
    """
    row = connection.execute(
        "SELECT coalesce(runs.chain, runs.id, dispatches.id) FROM dispatches "
        "LEFT JOIN runs ON runs.id = json_extract(dispatches.doc, '$.eventData.actorRunId') "
        "WHERE dispatches.id = ?",
        (dispatch_id,),
    ).fetchone()
    if row is None:
        return None
    is_own, runs = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND user_id = ?2), "
        "(SELECT count(*) FROM (SELECT 1 FROM runs WHERE chain = ?1 AND user_id = ?2 LIMIT ?3))",
        (row[0], user_id, max_counted),
    ).fetchone()
    return row[0], bool(is_own), runs


def note_call(connection: Connection, doc: JsonObject, next_ms: int | None) -> None:
    """Store the result of a call, and the time of the next try."""
    connection.execute(
        "UPDATE dispatches SET doc = ?, next_ms = ? WHERE id = ?", (orjson.dumps(doc), next_ms, doc["id"])
    )


def due(connection: Connection) -> list[tuple[str, str, int]]:
    """Return the ids of unfinished dispatches, each with its account's and the wall time in ms of its next try."""
    return connection.execute(
        "SELECT id, user_id, next_ms FROM dispatches WHERE next_ms IS NOT NULL ORDER BY next_ms, seq"
    ).fetchall()


def read_dispatch(connection: Connection, dispatch_id: str) -> JsonObject | None:
    row = connection.execute("SELECT doc FROM dispatches WHERE id = ?", (dispatch_id,)).fetchone()
    return orjson.loads(row[0]) if row else None


def page_dispatches(
    connection: Connection, user_id: str, webhook_id: str | None, offset: int, limit: int, is_descending: bool
) -> tuple[int, list[JsonObject]]:
    """Return the number of dispatches of an account, or of one webhook, and a page of them by time."""
    where, arg = ("user_id = ?", user_id) if webhook_id is None else ("webhook_id = ?", webhook_id)
    total, rows = counted_page(
        connection, "doc", f"dispatches WHERE {where}", (arg,), ("seq",), offset, limit, is_descending
    )
    return total, [orjson.loads(doc) for (doc,) in rows]

"""The stored Runs, with the live ones: a restarted server continues from them."""

from dataclasses import replace
from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.store import storage_table
from batchrun.server.store.bounded_rows import counted_page, up_to

#: Max Runs among which the last one with a status or an origin is searched: about a tenth of a second.
_LAST_SEARCHED = 20_000
_LIVE_SQL = ", ".join(f"'{status}'" for status in RunStatus if not status.is_terminal)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    user_id: str | None = None
    task_id: str | None = None
    act_id: str | None = None
    statuses: tuple[str, ...] = ()
    started_after_ms: int | None = None
    started_before_ms: int | None = None

    def where(self) -> tuple[str, list[object]]:
        terms: dict[str, object] = {
            "user_id = ?": self.user_id,
            "task_id = ?": self.task_id,
            "act_id = ?": self.act_id,
            "started_ms >= ?": self.started_after_ms,
            "started_ms <= ?": self.started_before_ms,
        }
        wanted = {term: arg for term, arg in terms.items() if arg is not None}
        if not self.statuses:
            return " AND ".join(wanted) or "1", list(wanted.values())
        status_term = f"status IN ({', '.join('?' * len(self.statuses))})"
        return " AND ".join([*wanted, status_term]), [*wanted.values(), *self.statuses]


def insert(
    connection: Connection,
    doc: JsonObject,
    extras: JsonObject,
    started_ms: int,
    stored_input: tuple[str, bytes] | None,
) -> None:
    """Store a new Run with its three default storages and its input (content type and body)."""
    connection.execute(
        "INSERT INTO runs (id, user_id, act_id, task_id, status, started_ms, chain, extras, doc) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            doc["id"],
            doc["userId"],
            doc["actId"],
            doc.get("actorTaskId"),
            doc["status"],
            started_ms,
            extras.get("chain"),
            orjson.dumps(extras) if extras else None,
            orjson.dumps(doc),
        ),
    )
    store = storage_table.insert_defaults(connection, doc, started_ms)
    if stored_input is not None:
        connection.execute("INSERT INTO stored_values VALUES (?, 'INPUT', ?, ?)", (store, *stored_input))


def change(connection: Connection, run_id: str, changes: JsonObject) -> JsonObject | None:
    """Set properties of a Run, and return it; None: there is none."""
    if (stored := read(connection, run_id)) is None:
        return None
    doc: JsonObject = orjson.loads(stored) | changes
    connection.execute("UPDATE runs SET doc = ? WHERE id = ?", (orjson.dumps(doc), run_id))
    return doc


def revive(connection: Connection, doc: JsonObject, extras: JsonObject) -> None:
    """Store a Run that starts again: an ended one, or one of the previous server process."""
    connection.execute(
        "UPDATE runs SET status = ?, doc = ?, extras = ?, settle_ms = NULL WHERE id = ?",
        (doc["status"], orjson.dumps(doc), orjson.dumps(extras), doc["id"]),
    )


def update_live(connection: Connection, doc: JsonObject) -> None:
    """Store a changed live Run, unless its end is stored already."""
    connection.execute(
        f"UPDATE runs SET status = ?, doc = ? WHERE id = ? AND status IN ({_LIVE_SQL})",  # noqa: S608 - own text
        (doc["status"], orjson.dumps(doc), doc["id"]),
    )


def end(connection: Connection, doc: JsonObject, settle_ms: int) -> None:
    """Store a Run's end, and the time when its usage becomes final."""
    connection.execute(
        "UPDATE runs SET status = ?, doc = ?, settle_ms = ? WHERE id = ?",
        (doc["status"], orjson.dumps(doc), settle_ms, doc["id"]),
    )
    connection.execute("DELETE FROM processes WHERE run_id = ?", (doc["id"],))


def read(connection: Connection, run_id: str) -> bytes | None:
    row = connection.execute("SELECT doc FROM runs WHERE id = ?", (run_id,)).fetchone()
    return row[0] if row else None


def read_extras(connection: Connection, run_id: str) -> JsonObject:
    """Return the stored properties of a Run that the API does not show."""
    row = connection.execute("SELECT extras FROM runs WHERE id = ?", (run_id,)).fetchone()
    return orjson.loads(row[0]) if row and row[0] else {}


def read_last(connection: Connection, run_filter: RunFilter, origin: str | None) -> str | None:
    """Return the id of the last started Run that matches, if it is among the last `_LAST_SEARCHED`."""
    where, args = replace(run_filter, statuses=()).where()
    its_origin = "NULL" if origin is None else "json_extract(doc, '$.meta.origin')"
    rows = connection.execute(
        f"SELECT id, status, {its_origin} FROM runs WHERE {where} ORDER BY started_ms DESC, seq DESC LIMIT ?",  # noqa: S608 - own text
        [*args, _LAST_SEARCHED],
    )
    for run_id, status, found in rows:
        if found == origin and (not run_filter.statuses or status in run_filter.statuses):
            return str(run_id)
    return None


def of_actor(connection: Connection, act_id: str, user_id: str) -> tuple[int, int | None]:
    """Return the number of an account's Runs of an Actor, and the start of the last one in wall ms."""
    row: tuple[int, int | None] = connection.execute(
        "SELECT count(*), max(started_ms) FROM runs WHERE act_id = ? AND user_id = ?", (act_id, user_id)
    ).fetchone()
    return row


def page(
    connection: Connection, run_filter: RunFilter, offset: int, limit: int, is_descending: bool
) -> tuple[int, list[JsonObject]]:
    """Return the number of Runs that match, and a page of them by start time."""
    where, args = run_filter.where()
    order_by = "started_ms", "seq"
    total, rows = counted_page(connection, "doc", f"runs WHERE {where}", args, order_by, offset, limit, is_descending)
    return total, [orjson.loads(doc) for (doc,) in rows]


def load_live(connection: Connection) -> list[tuple[JsonObject, JsonObject]]:
    """Return the live Runs, each with its extras, oldest first."""
    rows = connection.execute(f"SELECT doc, extras FROM runs WHERE status IN ({_LIVE_SQL}) ORDER BY seq")  # noqa: S608
    return [(orjson.loads(doc), orjson.loads(extras) if extras else {}) for doc, extras in rows]


def delete(connection: Connection, doc: JsonObject) -> None:
    """Delete an ended Run, its log and its storages."""
    connection.execute("DELETE FROM runs WHERE id = ?", (doc["id"],))
    connection.execute("DELETE FROM logs WHERE run_id = ?", (doc["id"],))
    for storage_id in storage_table.ids_of(doc):
        if (storage := storage_table.read(connection, storage_id)) is not None and storage.name is None:
            storage_table.delete(connection, storage)


def note_process(connection: Connection, run_id: str, pid: int, start_time: str) -> None:
    """Store the process group that executes a Run."""
    connection.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?)", (run_id, pid, start_time))


def read_processes(connection: Connection) -> list[tuple[str, int, str]]:
    return connection.execute("SELECT run_id, pid, start_time FROM processes").fetchall()


def forget_processes(connection: Connection) -> None:
    connection.execute("DELETE FROM processes")


def append_log(connection: Connection, run_id: str, body: bytes) -> None:
    connection.execute(
        "INSERT INTO logs SELECT ?1, coalesce(max(chunk), 0) + 1, ?2 FROM logs WHERE run_id = ?1", (run_id, body)
    )


def read_log(connection: Connection, run_id: str, after_chunk: int, max_bytes: int) -> list[tuple[int, bytes]]:
    """Return the next (number, bytes) chunks of a log, up to `max_bytes`. A larger chunk is returned alone."""
    rows = connection.execute(
        "SELECT chunk, body FROM logs WHERE run_id = ? AND chunk > ? ORDER BY chunk", (run_id, after_chunk)
    )
    return up_to(max_bytes, rows)[0]

"""The stored tasks. Requests read them from the task book in memory."""

from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject
from batchrun.server.ids import iso


def load(connection: Connection) -> list[tuple[JsonObject, bytes]]:
    """Return all tasks, oldest first, with statistics from their Runs; each without its input, and that as JSON."""
    tasks = [_parted(doc) for (doc,) in connection.execute("SELECT doc FROM tasks ORDER BY seq")]
    rows = connection.execute(
        "SELECT task_id, count(*), max(started_ms) FROM runs WHERE task_id IS NOT NULL GROUP BY task_id"
    )
    counted = {task_id: (total, last_ms) for task_id, total, last_ms in rows}
    for doc, _ in tasks:
        if doc["id"] in counted:
            total, last_ms = counted[doc["id"]]
            # A start does not write its task, so the stored count may be old; but it includes deleted Runs.
            doc["stats"] = {"totalRuns": max(total, doc["stats"]["totalRuns"]), "lastRunStartedAt": iso(last_ms)}
    return tasks


def _parted(stored: bytes) -> tuple[JsonObject, bytes]:
    doc = orjson.loads(stored)
    return doc, orjson.dumps(doc.pop("input", None) or {})


def put(connection: Connection, doc: JsonObject, input_: bytes) -> None:
    connection.execute(
        "INSERT INTO tasks (id, user_id, name, doc) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, doc = excluded.doc",
        (doc["id"], doc["userId"], doc["name"], orjson.dumps({**doc, "input": orjson.Fragment(input_)})),
    )


def delete(connection: Connection, task_id: str) -> None:
    """Delete a task. Its Runs stay."""
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))

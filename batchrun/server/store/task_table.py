"""The stored tasks. Requests read them from the task book in memory."""

from collections import Counter
from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject
from batchrun.server.error_answers import thing_missing
from batchrun.server.ids import iso

#: Max bytes of an account's tasks: twice what it can have.
_MAX_BYTES = 512 << 20


def load(connection: Connection) -> list[tuple[JsonObject, bytes]]:
    """Return all tasks, oldest first, with statistics from their Runs; each without its input, and that as JSON.

    Of an account with more than it can have, whatever is stored, those are left out that are too many.
    """
    tasks, sizes = list[tuple[JsonObject, bytes]](), Counter[str]()
    for user_id, doc in connection.execute("SELECT user_id, doc FROM tasks ORDER BY seq"):
        sizes[user_id] += len(doc)
        if sizes[user_id] <= _MAX_BYTES:
            tasks.append(_parted(doc))
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


def insert(connection: Connection, doc: JsonObject, input_: bytes) -> None:
    connection.execute(
        "INSERT INTO tasks (id, user_id, name, doc) VALUES (?, ?, ?, ?)",
        (doc["id"], doc["userId"], doc["name"], _whole(doc, input_)),
    )


def update(connection: Connection, doc: JsonObject, input_: bytes) -> None:
    """Store a changed task.

    Raises:
        ErrorAnswer: It was deleted meanwhile.
    """
    values = doc["name"], _whole(doc, input_), doc["id"]
    if not connection.execute("UPDATE tasks SET name = ?, doc = ? WHERE id = ?", values).rowcount:
        raise thing_missing("Actor task")


def _whole(doc: JsonObject, input_: bytes) -> bytes:
    return orjson.dumps({**doc, "input": orjson.Fragment(input_)})


def delete(connection: Connection, task_id: str) -> None:
    """Delete a task. Its Runs stay."""
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))

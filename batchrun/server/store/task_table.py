"""The stored tasks. Requests read them from the task book in memory."""

from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject
from batchrun.server.ids import iso


def load(connection: Connection) -> list[JsonObject]:
    """Return all tasks, oldest first, with statistics from their Runs."""
    docs = [orjson.loads(doc) for (doc,) in connection.execute("SELECT doc FROM tasks ORDER BY seq")]
    rows = connection.execute(
        "SELECT task_id, count(*), max(started_ms) FROM runs WHERE task_id IS NOT NULL GROUP BY task_id"
    )
    counted = {task_id: (total, last_ms) for task_id, total, last_ms in rows}
    for doc in docs:
        if doc["id"] in counted:
            total, last_ms = counted[doc["id"]]
            # A start does not write its task, so the stored count may be old; but it includes deleted Runs.
            doc["stats"] = {"totalRuns": max(total, doc["stats"]["totalRuns"]), "lastRunStartedAt": iso(last_ms)}
    return docs


def put(connection: Connection, doc: JsonObject) -> None:
    connection.execute(
        "INSERT INTO tasks (id, user_id, name, doc) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, doc = excluded.doc",
        (doc["id"], doc["userId"], doc["name"], orjson.dumps(doc)),
    )


def delete(connection: Connection, task_id: str) -> None:
    """Delete a task. Its Runs stay."""
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))

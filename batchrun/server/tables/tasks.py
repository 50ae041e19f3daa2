"""Tasks at rest. The book of tasks in memory is what requests read."""

from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject


def load(connection: Connection) -> list[JsonObject]:
    """Return all tasks, oldest first."""
    return [orjson.loads(doc) for (doc,) in connection.execute("SELECT doc FROM tasks ORDER BY seq")]


def put(connection: Connection, doc: JsonObject) -> None:
    """Keep a new or changed task."""
    connection.execute(
        "INSERT INTO tasks (id, user_id, name, doc) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, doc = excluded.doc",
        (doc["id"], doc["userId"], doc["name"], orjson.dumps(doc)),
    )


def delete(connection: Connection, task_id: str) -> None:
    """Forget a task; its Runs stay."""
    connection.execute("DELETE FROM tasks WHERE id = ?", (task_id,))

"""The builds of Actors: a new one each time that an Actor's files have changed."""

from collections.abc import Callable
from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject


def latest(connection: Connection, act_id: str, version: str) -> tuple[int, str, int] | None:
    """Return number within the version, digest and time of an Actor's last build of a version."""
    row = connection.execute(
        "SELECT number, digest, created_ms FROM builds WHERE act_id = ? AND number LIKE ? || '.%' "
        "ORDER BY seq DESC LIMIT 1",
        (act_id, version),
    ).fetchone()
    return (int(row[0].rpartition(".")[2]), row[1], row[2]) if row else None


def take_in(
    connection: Connection, act_id: str, version: str, digest: str, at_ms: int, describe: Callable[[int], JsonObject]
) -> tuple[int, int]:
    """Return number within the version and time of the build that these files are; a new one if they have changed.

    Args:
        connection: of the caller.
        act_id: whose.
        version: of the Actor.
        digest: of its files.
        at_ms: now.
        describe: returns a new build, given its number.
    """
    last = latest(connection, act_id, version)
    if last is not None and last[1] == digest:
        return last[0], last[2]
    build_no = last[0] + 1 if last is not None else 1
    doc = describe(build_no)
    connection.execute(
        "INSERT INTO builds (id, act_id, number, digest, created_ms, doc) VALUES (?, ?, ?, ?, ?, ?)",
        (doc["id"], act_id, doc["buildNumber"], digest, at_ms, orjson.dumps(doc)),
    )
    return build_no, at_ms


def read(connection: Connection, build_id: str) -> JsonObject | None:
    """Return a build."""
    row = connection.execute("SELECT doc FROM builds WHERE id = ?", (build_id,)).fetchone()
    return orjson.loads(row[0]) if row else None


def of_actors(connection: Connection, act_ids: list[str]) -> list[JsonObject]:
    """Return the builds of these Actors, oldest first."""
    marks = ", ".join("?" * len(act_ids))
    rows = connection.execute(f"SELECT doc FROM builds WHERE act_id IN ({marks}) ORDER BY seq", act_ids)  # noqa: S608
    return [orjson.loads(doc) for (doc,) in rows]

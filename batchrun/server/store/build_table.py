"""The builds of Actors. Each change of an Actor's files makes a new one.

A deleted build keeps its row, without a document, so that its number is not used again.
"""

from collections.abc import Callable
from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject
from batchrun.server.store import webhook_table


def latest(connection: Connection, act_id: str, version: str) -> tuple[int, str, int] | None:
    """Return (number within the version, digest, time in ms) of an Actor's last build of a version."""
    row = connection.execute(
        "SELECT number, digest, created_ms FROM builds WHERE act_id = ? AND number LIKE ? || '.%' "
        "ORDER BY seq DESC LIMIT 1",
        (act_id, version),
    ).fetchone()
    return (int(row[0].rpartition(".")[2]), row[1], row[2]) if row else None


def take_in(
    connection: Connection,
    act_id: str,
    version: str,
    digest: str,
    at_ms: int,
    describe: Callable[[int], JsonObject],
    dispatches_of: Callable[[JsonObject], list[JsonObject]],
) -> tuple[int, int, list[JsonObject]]:
    """Return number, time and new dispatches of the build with this digest; add the build if the digest is new."""
    last = latest(connection, act_id, version)
    if last is not None and last[1] == digest:
        return last[0], last[2], []
    build_no = last[0] + 1 if last is not None else 1
    doc = describe(build_no)
    connection.execute(
        "INSERT INTO builds (id, act_id, number, digest, created_ms, doc) VALUES (?, ?, ?, ?, ?, ?)",
        (doc["id"], act_id, doc["buildNumber"], digest, at_ms, orjson.dumps(doc)),
    )
    dispatches = dispatches_of(doc)
    for dispatch in dispatches:
        webhook_table.add_dispatch(connection, dispatch, at_ms)
    return build_no, at_ms, dispatches


def read(connection: Connection, build_id: str) -> JsonObject | None:
    row = connection.execute("SELECT doc FROM builds WHERE id = ? AND doc <> x''", (build_id,)).fetchone()
    return orjson.loads(row[0]) if row else None


def of_actors(connection: Connection, act_ids: list[str]) -> list[JsonObject]:
    marks = ", ".join("?" * len(act_ids))
    where = f"act_id IN ({marks}) AND doc <> x''"
    rows = connection.execute(f"SELECT doc FROM builds WHERE {where} ORDER BY seq", act_ids)  # noqa: S608 - own text
    return [orjson.loads(doc) for (doc,) in rows]


def delete(connection: Connection, build_id: str) -> None:
    """Delete a build. The same files make a new one."""
    connection.execute("UPDATE builds SET doc = x'', digest = '' WHERE id = ?", (build_id,))

"""The final usage of ended Runs, and the sums of their accounts: both in one transaction, once per Run."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from sqlite3 import Connection

import orjson

from batchrun.model import JsonObject
from batchrun.server import prices
from batchrun.server.ids import now_ms
from batchrun.server.store import run_table, storage_table, usage_table


def preliminary(connection: Connection) -> list[tuple[str, int]]:
    """Return the ids of ended Runs with preliminary usage, each with the wall time in ms when it becomes final."""
    return connection.execute(
        "SELECT id, settle_ms FROM runs WHERE settle_ms IS NOT NULL ORDER BY settle_ms"
    ).fetchall()


def is_final(connection: Connection, run_id: str) -> bool:
    row = connection.execute("SELECT settle_ms FROM runs WHERE id = ?", (run_id,)).fetchone()
    return row is not None and row[0] is None


def end(
    connection: Connection, doc: JsonObject, delay_s: float, reads: Mapping[str, tuple[int, int]]
) -> list[tuple[JsonObject, float]]:
    """Store a Run's end with preliminary usage; without a delay, make it final at once and return it."""
    # Preliminary figures are by time; the storages are added when they become final.
    prices.add_usage(doc, {})
    run_table.end(connection, doc, now_ms() + round(delay_s * 1000))
    ended = make_final(connection, [doc["id"]], reads) if delay_s == 0 else []
    for final, _ in ended:
        doc |= final
    return ended


def make_final(
    connection: Connection, run_ids: Iterable[str], reads: Mapping[str, tuple[int, int]]
) -> list[tuple[JsonObject, float]]:
    """Make the usage of these Runs final, unless they are live again; return each with the dollars it adds."""
    storage_table.note_reads(connection, reads)
    sums: dict[tuple[str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    final = []
    for run_id in run_ids:
        row = connection.execute(
            "SELECT doc, extras FROM runs WHERE id = ? AND settle_ms IS NOT NULL", (run_id,)
        ).fetchone()
        if row is None:
            continue
        doc = orjson.loads(row[0])
        before = (orjson.loads(row[1]) if row[1] else {}).get("counted", {})
        prices.add_usage(doc, storage_table.read_uses(connection, doc))
        connection.execute("UPDATE runs SET doc = ?, settle_ms = NULL WHERE id = ?", (orjson.dumps(doc), run_id))
        added = prices.difference(prices.countable(doc), before)
        day = sums[doc["userId"], doc["finishedAt"][:10]]
        for name, (quantity, usd) in added.items():
            known = day.get(name, (0.0, 0.0))
            day[name] = (known[0] + quantity, known[1] + usd)
        final.append((doc, sum(usd for _, usd in added.values())))
    for (user_id, date), used in sums.items():
        usage_table.add(connection, user_id, date, used)
    return final

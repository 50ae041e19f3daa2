"""The tables' own promises, on a database in memory."""

import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.store import (
    deleted_storages,
    final_usage_table,
    item_table,
    request_table,
    run_table,
    storage_table,
    webhook_table,
)
from batchrun.server.store.database import take_schema_steps
from batchrun.server.store.run_table import RunFilter
from batchrun.server.store.storage_table import Kind


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """An empty database."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    take_schema_steps(connection)
    yield connection
    connection.close()


def _run(run_id: str, status: str = "RUNNING") -> dict[str, Any]:
    return {
        "id": run_id,
        "userId": "user",
        "finishedAt": "2026-01-31T12:00:00.000Z",
        "actId": "actor",
        "actorTaskId": "task",
        "status": status,
        "defaultDatasetId": f"{run_id}-d",
        "defaultKeyValueStoreId": f"{run_id}-k",
        "defaultRequestQueueId": f"{run_id}-q",
        "stats": {"computeUnits": 0.5},
    }


def test_an_end_is_not_taken_back(connection: sqlite3.Connection) -> None:
    """A status message that comes after the end was kept does not make the Run live again."""
    run_table.insert(connection, _run("one"), {}, 1, None)
    run_table.end(connection, _run("one", "SUCCEEDED"), 5)
    ended = run_table.read(connection, "one")
    run_table.update_live(connection, _run("one") | {"statusMessage": "late"})
    assert run_table.read(connection, "one") == ended
    assert run_table.load_live(connection) == []


def test_an_ended_run_costs_what_it_used(connection: sqlite3.Connection) -> None:
    """Half a compute unit and two stored items."""
    run_table.insert(connection, _run("one"), {}, 1, None)
    item_table.append(connection, "one-d", "user", [b"{}", b'{"a":1}'], 1)
    doc = _run("one", "SUCCEEDED")
    final_usage_table.end(connection, doc, 0, {})
    assert doc["usage"]["DATASET_WRITES"] == 2
    assert doc["usageTotalUsd"] == pytest.approx(0.5 * 0.25 + 2 * 0.000005)
    dataset = storage_table.read(connection, "one-d")
    assert dataset is not None
    assert (dataset.count, dataset.clean_count) == (2, 1)


def test_runs_are_found_by_every_filter_at_once(connection: sqlite3.Connection) -> None:
    """Task, Actor, status and times narrow the list together."""
    for number in range(6):
        run_table.insert(connection, _run(f"r{number}", "RUNNING" if number % 2 else "FAILED"), {}, number, None)
    chosen = RunFilter(
        task_id="task", act_id="actor", statuses=("FAILED", "ABORTED"), started_after_ms=1, started_before_ms=4
    )
    total, found = run_table.page(connection, chosen, 0, 10, True)
    assert (total, [doc["id"] for doc in found]) == (2, ["r4", "r2"])


def test_items_go_to_datasets_only(connection: sqlite3.Connection) -> None:
    """Another kind's id is as good as none."""
    store, _ = storage_table.get_or_create(connection, Kind.KEY_VALUE_STORE, "user", None, 1)
    with pytest.raises(ErrorAnswer, match="Dataset was not found"):
        item_table.append(connection, store.id, "user", [b"{}"], 0)


def test_the_number_of_a_deleted_storage_is_never_given_again(connection: sqlite3.Connection) -> None:
    """A request that is under way may hold it: it would go on in a storage of somebody else."""
    mine, _ = storage_table.get_or_create(connection, Kind.REQUEST_QUEUE, "me", None, 1)
    storage_table.delete(connection, mine)
    theirs, _ = storage_table.get_or_create(connection, Kind.REQUEST_QUEUE, "them", None, 1)
    assert theirs.seq > mine.seq
    connection.execute("BEGIN")
    with pytest.raises(ErrorAnswer, match="Storage was not found"):
        request_table.add(connection, mine.seq, [{"url": "u", "uniqueKey": "u"}], True, 1)
    connection.execute("ROLLBACK")
    assert connection.execute("SELECT count(*) FROM requests").fetchone() == (0,)


@pytest.mark.parametrize(
    ("kind", "table", "insert"),
    [
        (Kind.DATASET, "items", "VALUES (?1, ?2, ?3)"),
        (Kind.KEY_VALUE_STORE, "stored_values", "VALUES (?1, printf('%04d', ?2), 'text/plain', ?3)"),
        (Kind.REQUEST_QUEUE, "requests", "(storage, id, doc) VALUES (?1, printf('%04d', ?2), ?3)"),
    ],
    ids=list(Kind),
)
def test_what_a_deleted_storage_holds_is_removed_in_pieces(
    connection: sqlite3.Connection, kind: Kind, table: str, insert: str
) -> None:
    """Of 200 rows, or up to the row with which they have a megabyte; another storage keeps what it holds."""
    mine, other = [storage_table.get_or_create(connection, kind, "me", None, 1)[0] for _ in range(2)]
    sizes = [1] * 500 + [600_000] * 3 + [3_000_000]
    rows = [(mine.seq, number, b" " * size) for number, size in enumerate(sizes)]
    connection.executemany(f"INSERT INTO {table} {insert}", [*rows, (other.seq, 0, b"")])
    for _ in range(2):  # as by two requests at once
        storage_table.delete(connection, mine)
    left = []
    while deleted_storages.remove_piece(connection):
        left += connection.execute(f"SELECT count(*) - 1 FROM {table}").fetchone()
    assert left == [304, 104, 2, 0, 0]
    assert connection.execute(f"SELECT storage FROM {table}").fetchall() == [(other.seq,)]


@pytest.mark.parametrize("is_descending", [False, True])
def test_a_deleted_dataset_has_no_page(connection: sqlite3.Connection, is_descending: bool) -> None:
    """Who reads on while its items are removed must not get the next ones that are left for those he asked for."""
    dataset, _ = storage_table.get_or_create(connection, Kind.DATASET, "me", None, 1)
    item_table.append(connection, dataset.id, "me", [b"%d" % n for n in range(300)], 300)
    read = partial(item_table.page, connection, dataset.seq, 300, 100, 3, is_descending, 1000)
    assert read() == ([b"199", b"198", b"197"] if is_descending else [b"100", b"101", b"102"])
    storage_table.delete(connection, dataset)
    assert read() == []
    deleted_storages.remove_piece(connection)
    assert read() == []


def test_the_last_dispatches_of_an_account_are_kept(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older ones go once they are over; one that is tried again stays, and another account's do."""
    monkeypatch.setattr(webhook_table, "_KEPT_DISPATCHES", 3)
    monkeypatch.setattr(webhook_table, "_DELETED_EVERY", 1)
    added = ("a1", "b1", "a2", "a3", "b2", "a4", "a5")
    for dispatch in added:
        doc = {"id": dispatch, "userId": dispatch[0], "webhookId": "w"}
        webhook_table.add_dispatch(connection, doc, 1)
        if dispatch != "a2":
            webhook_table.note_call(connection, doc, None)
    kept = connection.execute("SELECT id FROM dispatches ORDER BY seq").fetchall()
    assert [each for (each,) in kept] == ["b1", "a2", "a3", "b2", "a4", "a5"]

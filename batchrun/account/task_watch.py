"""Edits of the task during a batch: Runs that start after an edit differ from those before."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import anyio
import orjson
import structlog

from batchrun.account.task import Task, read_task
from batchrun.apify.client import ApifyClient
from batchrun.errors import ApiError
from batchrun.ledger.facts import TASK_AS_OPENED
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import JsonObject, write_json

#: Seconds between two readings of the task.
INTERVAL_S = 60.0

_log = structlog.get_logger()


def note_task(ledger: LedgerTables, task: Task) -> tuple[str, ...]:
    """Note the task in the ledger.

    Returns:
        The parts (input, options, Actor) that were edited since the batch was last opened; none for a new batch.
    """
    before, now = ledger.fact(TASK_AS_OPENED), _imprint(task)
    with ledger.transaction():
        ledger.note_fact(TASK_AS_OPENED, now)
    return () if before is None or ledger.is_empty else _differences(before, now)


class TaskWatch:
    """Reads the task every minute, and logs each edit once.

    Args:
        client: the platform.
        task: as the batch was opened with it.
        note_input: called with the task's input after each edit.
    """

    def __init__(self, client: ApifyClient, task: Task, note_input: Callable[[JsonObject], object]) -> None:
        self._note_input = note_input
        self._client, self._task_id, self._seen = client, task.id, _imprint(task)
        #: The parts that each edit has changed, one entry per edit.
        self.edits: list[tuple[str, ...]] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await anyio.sleep(INTERVAL_S)
            try:
                found = await self._client.get_task(self._task_id)
            except ApiError as error:
                _log.debug("task_unreadable", error=str(error))
                continue
            self._look_at(read_task(found, self._task_id))

    def _look_at(self, task: Task) -> None:
        now = _imprint(task)
        differences = _differences(self._seen, now)
        self._seen = now
        if differences:
            self._note_input(task.input)
            self.edits.append(differences)
            _log.warning("task_edited", task_id=task.id, changed=differences, modified_at=task.modified_at)


def _imprint(task: Task) -> dict[str, Any]:
    # Hashed, since an input may be large or hold secrets.
    parts = {"input": task.input, "options": task.options, "Actor": task.actor_id}
    hashes = {name: sha256(write_json(part, option=orjson.OPT_SORT_KEYS)).hexdigest() for name, part in parts.items()}
    return {"modified_at": task.modified_at, **hashes}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    # The time of the last edit also changes with the task's name, which changes nothing for Runs.
    if before.get("modified_at") == now["modified_at"]:
        return ()
    return tuple(name for name in now if name != "modified_at" and before.get(name) != now[name])

"""Edits of a task during its batch."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from batchrun.account.task import Task
from batchrun.account.task_watch import INTERVAL_S, TaskWatch, note_task
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import Job, JobKey, Position, TaskId
from tests.support.scripted_api import api_error

FIELDS = {"id": "t", "actId": "a", "name": "n", "input": {"x": 1}, "options": {"build": "latest"}, "modifiedAt": "1"}


def _task(**changed: Any) -> Task:
    fields: dict[str, Any] = {"input": {"x": 1}, "options": {"build": "latest"}, "modified_at": "1", **changed}
    return Task(id=TaskId("t"), label="n", actor_id="a", **fields)


class _Client:
    """Shows the scripted states of the task, one per minute; then the last one."""

    def __init__(self, *answers: Any) -> None:
        self._answers = [*answers]
        self.asked = 0

    async def get_task(self, task_id: TaskId) -> Any:  # noqa: ARG002 - there is but one
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {**FIELDS, **answer}


async def _watch(
    client: _Client, minutes: int, note_input: Callable[[Any], object] = lambda _: None
) -> list[tuple[str, ...]]:
    watch = TaskWatch(client, _task(), note_input)  # type: ignore[arg-type]  # the one method it calls
    with anyio.move_on_after(minutes * INTERVAL_S + 1):
        await watch.run()
    assert client.asked == minutes
    return watch.edits


async def test_an_edit_is_reported_once():
    """An edit is reported with the changed parts, and not again while they stay so."""
    edited = {"input": {"x": 2}, "modifiedAt": "2"}
    twice = {"input": {"x": 2}, "options": {"build": "beta"}, "modifiedAt": "3"}
    inputs: list[Any] = []
    assert await _watch(_Client({}, edited, edited, twice), 10, inputs.append) == [("input",), ("options",)]
    assert inputs == [{"x": 2}, {"x": 2}], "secrets are looked for in each"


async def test_what_changes_nothing_for_runs_is_no_edit():
    """A new name, and a task that cannot be read for a while, are no edits."""
    client = _Client({"name": "other", "modifiedAt": "2"}, api_error(404), api_error(403, "x"), {"modifiedAt": "2"})
    assert await _watch(client, 6) == []


@pytest.mark.parametrize("missing", ["input", "options", "modifiedAt"])
async def test_a_task_that_shows_less_is_no_reason_to_fail(missing):
    """A property that is null counts as missing."""
    assert len(await _watch(_Client({missing: None}), 2)) <= 1


def test_edits_between_two_processes_are_reported(tmp_path):
    """The task is compared with the state noted at the last opening, once the batch has jobs."""
    with open_ledger(tmp_path) as ledger:
        assert note_task(ledger, _task()) == ()
        assert note_task(ledger, _task(input={"x": 5}, modified_at="2")) == ()
        with ledger.transaction():
            ledger.admit(Job(key=JobKey("k"), digest=b"d", position=Position(line=1, offset=0, length=1), body=b"{}"))
        edited = _task(input={"x": 5}, options={}, modified_at="3")
        assert note_task(ledger, edited) == ("options",)
        assert note_task(ledger, edited) == ()

import os

import anyio

from batchrun.batch import slow_opening
from batchrun.ledger.facts import WAIT
from batchrun.ledger.protocol import NotedWait
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import WaitKind
from tests.support.crash import wait_until


def _wait_in(directory) -> NotedWait | None:
    with open_ledger(directory) as ledger:
        return ledger.fact(WAIT)


async def test_a_wait_before_the_batch_is_open_is_noted_and_its_end_too(tmp_path, monkeypatch):
    """`status` says for what a process waits that has not got as far as its first start."""
    monkeypatch.setattr(slow_opening, "WAITS_AFTER_S", 0.0)
    await anyio.to_thread.run_sync(_wait_in, tmp_path)  # creates the ledger
    answered = anyio.Event()
    async with anyio.create_task_group() as children:
        children.start_soon(slow_opening.note_slow_opening, tmp_path, answered)
        await anyio.to_thread.run_sync(wait_until, lambda: _wait_in(tmp_path) is not None)
        noted = await anyio.to_thread.run_sync(_wait_in, tmp_path)
        assert noted is not None
        assert (noted.pid, [each.kind for each in noted.reasons]) == (os.getpid(), [WaitKind.FAILED_READS])
        answered.set()
    assert await anyio.to_thread.run_sync(_wait_in, tmp_path) is None


async def test_a_batch_that_is_soon_open_notes_nothing(tmp_path):
    """Nor does it write to the ledger."""
    answered = anyio.Event()
    async with anyio.create_task_group() as children:
        children.start_soon(slow_opening.note_slow_opening, tmp_path, answered)
        answered.set()
    assert list(tmp_path.iterdir()) == []

"""A batch that waits for the platform before it is open: `status` shows it, as it shows the waits of an open one."""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from batchrun.errors import OutputError
from batchrun.ledger.facts import WAIT
from batchrun.ledger.protocol import NotedWait
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import WaitKind, WaitReason

#: Seconds without a start or a settled job after which a batch counts as waiting. An outage counts at once.
WAITS_AFTER_S = 10.0
_REASON = WaitReason(
    kind=WaitKind.FAILED_READS,
    count=1,
    detail="account, task or Actor, before the first start; batch.log says why",
)


async def note_slow_opening(directory: Path, answered: anyio.Event) -> None:
    """Note a wait for what the platform must answer before the first start, once it lasts `WAITS_AFTER_S`."""
    with anyio.move_on_after(WAITS_AFTER_S):
        await answered.wait()
        return
    now = datetime.now(UTC)
    began_at = now - timedelta(seconds=WAITS_AFTER_S)
    wait = NotedWait(pid=os.getpid(), began_at=began_at, noted_at=now, reasons=[_REASON])
    await anyio.to_thread.run_sync(_note, directory, wait)
    await answered.wait()
    await anyio.to_thread.run_sync(_note, directory, None)


def _note(directory: Path, wait: NotedWait | None) -> None:
    """Note it through a second connection, since the batch's is in use; a wait that cannot be noted is no failure."""
    with suppress(OutputError), open_ledger(directory) as ledger, ledger.transaction():
        ledger.note_fact(WAIT, wait)

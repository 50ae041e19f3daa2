"""What a batch waits for, once it has started and settled nothing for a while: found and noted here only."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import anyio
import structlog

from batchrun.batch.slow_opening import WAITS_AFTER_S
from batchrun.engine.build_engine import Engine
from batchrun.errors import BatchrunError
from batchrun.ledger.protocol import Ledger, NotedWait
from batchrun.ledger.shared_commits import CommitLog
from batchrun.model import RunId, TaskId, WaitKind, WaitReason
from batchrun.words.wait_words import wait_words

#: Seconds between two looks.
INTERVAL_S = 1.0
#: Seconds between two listings of the Runs in the platform's queue, while the batch waits.
QUEUE_INTERVAL_S = 30.0
_OUTAGES = (WaitKind.SHARED_LOG, WaitKind.OUTAGE)
#: The end of a wait is noted again when it has moved by this, in seconds.
NOTED_TO_S = 5.0

_log = structlog.get_logger()


class WatchedClient(Protocol):
    """The platform, as far as waits show there."""

    @property
    def outage(self) -> str:
        """Why it cannot be reached; empty while it can."""

    @property
    def failed_reads(self) -> Sequence[str]:
        """Why reads fail that are being retried; the last failure is at the end."""

    async def list_queued_runs(self, task_id: TaskId) -> list[RunId]:
        """List the task's Runs that wait in the platform's queue."""


class WaitWatch:
    """Notes in ledger and log what a batch waits for, and since when.

    Args:
        engine: of the batch.
        client: the platform.
        ledger: of the batch.
        task_id: whose Runs may be in the platform's queue.
        log: the shared log; None: there is none.
    """

    def __init__(
        self, engine: Engine, client: WatchedClient, ledger: Ledger, task_id: TaskId, log: CommitLog | None = None
    ) -> None:
        self._log = log
        self._engine = engine
        self._client = client
        self._ledger = ledger
        self._task_id = task_id
        self._reasons: list[WaitReason] = []
        #: What the ledger has of them.
        self._noted: list[tuple[object, ...]] = []
        #: What the last look has found, by kind.
        self._seen: dict[WaitKind, WaitReason] = {}
        #: Starts and settled jobs, and since when there were no more (monotonic).
        self._done = 0
        self._done_at = anyio.current_time()
        self._looked_at = self._done_at
        self._queued_runs = 0

    def words(self) -> str:
        """Return what the batch waits for; "" while it goes on."""
        if self._moved != self._done and not self._outages():
            return ""  # since the last look
        now = anyio.current_time()
        return wait_words(self._reasons, now - self._done_at, now - self._looked_at)

    @property
    def _moved(self) -> int:
        """Starts and settled jobs so far."""
        return self._engine.progress.started + self._engine.progress.settled

    async def run(self) -> None:
        """Look until cancelled."""
        async with anyio.create_task_group() as children:
            children.start_soon(self._count_queued_runs)
            while True:
                self._look()
                await anyio.sleep(INTERVAL_S)

    def _look(self) -> None:
        now = self._looked_at = anyio.current_time()
        if self._moved != self._done:
            self._done, self._done_at, self._queued_runs = self._moved, now, 0
        seen, self._seen = self._seen, {each.kind: each for each in self._reasons_now()}
        # What has just begun may be over in a moment.
        lasting = [each for kind, each in self._seen.items() if kind in seen]
        lasting = lasting or [each for each in self._reasons if each.kind not in _OUTAGES]
        is_long = now - self._done_at >= WAITS_AFTER_S
        before, self._reasons = self._reasons, [*self._outages(), *(lasting if is_long else [])]
        noted, self._noted = self._noted, [self._in_ledger(each) for each in self._reasons]
        if self._noted != noted:
            self._note()
        if {each.kind for each in self._reasons} != {each.kind for each in before}:
            _log.info("batch_waits", words=self.words()) if self._reasons else _log.info("batch_goes_on")

    def _outages(self) -> list[WaitReason]:
        """Return what cannot be reached: it counts at once."""
        reasons = {
            WaitKind.SHARED_LOG: self._log.trouble if self._log is not None else "",
            WaitKind.OUTAGE: self._client.outage,
        }
        return [WaitReason(kind=kind, detail=detail) for kind, detail in reasons.items() if detail]

    def _reasons_now(self) -> list[WaitReason]:
        failed = self._client.failed_reads
        reads = [WaitReason(kind=WaitKind.FAILED_READS, count=len(failed), detail=failed[-1])] if failed else []
        queued = [WaitReason(kind=WaitKind.QUEUED_RUNS, count=self._queued_runs)] if self._queued_runs else []
        return [*reads, *queued, *self._engine.waits()]

    def _in_ledger(self, reason: WaitReason) -> tuple[object, ...]:
        """Return the parts of a reason whose change is noted in the ledger; its end counts in steps of NOTED_TO_S."""
        ends_at = None if reason.left_s is None else round((self._looked_at + reason.left_s) / NOTED_TO_S)
        return reason.kind, reason.count, reason.detail, ends_at

    def _note(self) -> None:
        if not self._reasons:
            self._ledger.note_wait(None)
            return
        now = datetime.now(UTC)
        began_at = now - timedelta(seconds=anyio.current_time() - self._done_at)
        self._ledger.note_wait(NotedWait(pid=os.getpid(), began_at=began_at, noted_at=now, reasons=self._reasons))

    async def _count_queued_runs(self) -> None:
        while True:
            await anyio.sleep(INTERVAL_S)
            if not any(each.kind is WaitKind.LIVE_RUNS for each in self._reasons):
                continue
            done = self._done
            try:
                listed = await self._client.list_queued_runs(self._task_id)
            except BatchrunError:
                listed = []  # a token may run a task and not list its Runs
            ours = await self._ledger.known_runs(listed) if listed else ()
            self._queued_runs = len(ours) if done == self._done else 0
            await anyio.sleep(QUEUE_INTERVAL_S)

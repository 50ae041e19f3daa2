"""Keeps the ends of the logs of Runs whose jobs did not succeed: what a person looks at first, also offline.

Best effort, and never in the way: nobody waits for it, nothing fails by it, and what it keeps is bounded. Without it,
the logs still stand at the platform, as long as that keeps them.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.errors import ApiError
from batchrun.model import Outcome, Record, RunId
from batchrun.output.log_tails import LogTails
from batchrun.policy.failure_kind import failure_id

#: Kept of each log.
MAX_TAIL_BYTES = 64 << 10
#: Logs kept of one batch, 64 MB at most.
MAX_KEPT = 1000
#: Of these, logs of failures of one kind, in one process: a frequent one must leave room for a rare one.
MAX_KEPT_PER_KIND = 100
#: Logs that are fetched at once.
FETCHERS = 4
#: How long one log is tried for.
PATIENCE_S = 30.0
#: How long the end of a batch waits for logs that are still to be fetched.
DRAIN_S = 10.0

_log = structlog.get_logger()


class LogClient(Protocol):
    """The platform, as far as logs need it."""

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Read the end of a Run's log, trying until it comes."""


class LogKeeper:
    """Fetches logs while `working` lasts."""

    def __init__(self, client: LogClient, files: LogTails) -> None:
        self._client = client
        self._files = files
        self._sending: MemoryObjectSendStream[RunId] | None = None
        self._room = MAX_KEPT
        self._kinds: Counter[str] = Counter()
        self._is_disk_full = False

    def keep(self, record: Record) -> None:
        """See to the log of a settled job's last Run, if the job did not succeed; returns at once."""
        run_ids = [attempt.run_id for attempt in record.attempts if attempt.run_id is not None]
        if record.outcome is Outcome.SUCCEEDED or not run_ids or self._is_disk_full or self._sending is None:
            return
        error = record.error
        details = (error.type, error.exit_code, error.message) if error else (None, None, None)
        kind = failure_id(record.outcome, *details)
        if self._kinds[kind] >= MAX_KEPT_PER_KIND:
            return
        self._room -= 1
        if self._room < 0:
            if self._room == -1:
                _log.info("log_tails_full", kept=MAX_KEPT)
            return
        self._kinds[kind] += 1
        self._sending.send_nowait(run_ids[-1])

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Fetch logs while the context lasts, and for a little while those that wait at its end."""
        self._room -= await anyio.to_thread.run_sync(self._files.count)
        # Room for all there may be: `keep` never waits.
        self._sending, receiving = anyio.create_memory_object_stream[RunId](MAX_KEPT)
        with self._sending, receiving, anyio.CancelScope() as fetching:
            async with anyio.create_task_group() as children:
                for _ in range(FETCHERS):
                    children.start_soon(self._fetch_all, receiving)
                yield
                self._sending.close()
                fetching.deadline = anyio.current_time() + DRAIN_S
        if fetching.cancelled_caught:
            _log.warning("log_tails_given_up", after_s=DRAIN_S)

    async def _fetch_all(self, receiving: MemoryObjectReceiveStream[RunId]) -> None:
        async for run_id in receiving:
            with anyio.move_on_after(PATIENCE_S):
                await self._fetch(run_id)

    async def _fetch(self, run_id: RunId) -> None:
        tail = await self._tail(run_id) if not self._is_disk_full else None
        if not tail:
            return
        try:
            await anyio.to_thread.run_sync(self._files.write, run_id, tail)
        except OSError as error:
            if not self._is_disk_full:
                _log.warning("log_tails_not_written", error=str(error))
            self._is_disk_full = True

    async def _tail(self, run_id: RunId) -> bytes | None:
        """Return the end of a log; None when it cannot be had."""
        try:
            return await self._client.get_log_tail(run_id, MAX_TAIL_BYTES)
        except ApiError as error:
            _log.debug("log_tail_refused", run_id=run_id, error=str(error))
            return None

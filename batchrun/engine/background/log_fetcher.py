"""Fetches the end of each log whose job did not succeed: the first thing that a person looks at, also offline.

This is best effort and bounded: no job waits for a log, and no batch fails for one. The platform has the whole logs, as
long as it keeps them.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.errors import ApiError
from batchrun.model import Outcome, Record, RunId
from batchrun.output.kept_logs import MAX_KEPT, MAX_KEPT_PER_KIND, MAX_TAIL_BYTES, KeptLogs
from batchrun.policy.failure_cause import failure_id

#: Max logs that are fetched at the same time.
FETCHERS = 4
#: Timeout for fetching one log, in seconds.
FETCH_TIMEOUT_S = 30.0
#: Seconds for which the end of a batch waits for logs that are still to be fetched.
DRAIN_S = 10.0

_log = structlog.get_logger()

#: A Run, and the secrets of its input that its log may show.
_Wanted = tuple[RunId, Collection[str]]


class LogClient(Protocol):
    """The platform, as far as logs need it."""

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Read the end of a Run's log, with retries."""


class LogFetcher:
    """Fetches logs in the background, inside `working`."""

    def __init__(self, client: LogClient, files: KeptLogs) -> None:
        self._client = client
        self._files = files
        self._sending: MemoryObjectSendStream[_Wanted] | None = None
        self._left = MAX_KEPT
        self._kinds: Counter[str] = Counter()
        self._is_disk_full = False

    def keep(self, record: Record, secrets: Collection[str] = ()) -> None:
        """Have the log of a settled job's last Run fetched, without these secrets, if the job did not succeed.

        Returns at once.
        """
        run_ids = [attempt.run_id for attempt in record.attempts if attempt.run_id is not None]
        if record.outcome is Outcome.SUCCEEDED or not run_ids or self._is_disk_full or self._sending is None:
            return
        error = record.error
        details = (error.type, error.exit_code, error.message) if error else (None, None, None)
        kind = failure_id(record.outcome, *details)
        if self._kinds[kind] >= MAX_KEPT_PER_KIND:
            return
        self._left -= 1
        if self._left < 0:
            if self._left == -1:
                _log.info("log_tails_full", kept=MAX_KEPT)
            return
        self._kinds[kind] += 1
        self._sending.send_nowait((run_ids[-1], secrets))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Fetch logs while the context lasts; on leaving, wait up to `DRAIN_S` for those still to be fetched."""
        self._left -= await anyio.to_thread.run_sync(self._files.count)
        # Large enough for all logs that are ever kept, so that `keep` never waits.
        self._sending, receiving = anyio.create_memory_object_stream[_Wanted](MAX_KEPT)
        with self._sending, receiving, anyio.CancelScope() as fetching:
            async with anyio.create_task_group() as children:
                for _ in range(FETCHERS):
                    children.start_soon(self._fetch_all, receiving)
                yield
                self._sending.close()
                fetching.deadline = anyio.current_time() + DRAIN_S
        if fetching.cancelled_caught:
            _log.warning("log_tails_given_up", after_s=DRAIN_S)

    async def _fetch_all(self, receiving: MemoryObjectReceiveStream[_Wanted]) -> None:
        async for run_id, secrets in receiving:
            with anyio.move_on_after(FETCH_TIMEOUT_S):
                await self._fetch(run_id, secrets)

    async def _fetch(self, run_id: RunId, secrets: Collection[str]) -> None:
        tail = await self._tail(run_id) if not self._is_disk_full else None
        if not tail:
            return
        try:
            await anyio.to_thread.run_sync(self._files.write, run_id, tail, secrets)
        except OSError as error:
            if not self._is_disk_full:
                _log.warning("log_tails_not_written", error=str(error))
            self._is_disk_full = True

    async def _tail(self, run_id: RunId) -> bytes | None:
        """Return the end of a log; None if the platform refuses it."""
        try:
            return await self._client.get_log_tail(run_id, MAX_TAIL_BYTES)
        except ApiError as error:
            _log.debug("log_tail_refused", run_id=run_id, error=str(error))
            return None

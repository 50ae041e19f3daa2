"""Aborts a batch's live Runs while it is carried out; their jobs settle as aborted, with the output they have."""

from collections.abc import Callable

import anyio
import structlog

from batchrun.engine.notices import AbortRefused, Notice
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, NotFound
from batchrun.ledger.protocol import Ledger
from batchrun.model import RunId, TaskId

#: Max abort requests that are open at the same time.
MAX_OPEN_REQUESTS = 20
#: Seconds between two searches of the ledger for Runs that were bound meanwhile.
INTERVAL_S = 1.0

_log = structlog.get_logger()


class BatchAbort:
    """Aborts a batch's live Runs once `begin` is called."""

    def __init__(self, client: RunClient, ledger: Ledger, task_id: TaskId, report: Callable[[Notice], None]) -> None:
        self._client = client
        self._ledger = ledger
        self._task_id = task_id
        self._report = report
        self._has_reported = False
        self._begun = anyio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether `begin` was called."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Abort all live Runs, and those that are bound later."""
        self._begun.set()

    async def run(self) -> None:
        """Wait for `begin`; then abort until cancelled."""
        await self._begun.wait()
        asked = set[RunId]()
        limiter = anyio.Semaphore(MAX_OPEN_REQUESTS)
        while True:
            async with anyio.create_task_group() as children:
                for run_id in await self._ledger.bound_runs():
                    if run_id not in asked:
                        asked.add(run_id)
                        children.start_soon(self._abort, run_id, asked, limiter)
            await anyio.sleep(INTERVAL_S)

    async def _abort(self, run_id: RunId, asked: set[RunId], limiter: anyio.Semaphore) -> None:
        async with limiter:
            try:
                if not (await self._client.get_run(run_id)).is_of_another(self._task_id):
                    await self._client.abort_run(run_id)
            except NotFound:
                asked.discard(run_id)  # too new, and asked again; or gone, and settled by the child that follows it
            except ApiError as error:
                _log.warning("abort_refused", run_id=run_id, error=str(error))
                if not self._has_reported:  # the first one stands for all
                    self._has_reported = True
                    self._report(AbortRefused(run_id=run_id, reason=str(error)))

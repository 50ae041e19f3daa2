"""The live Runs of a batch, aborted while it is carried out: their jobs settle as aborted, with what they have left."""

import anyio
import structlog

from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, NotFound
from batchrun.ledger.protocol import Ledger
from batchrun.model import RunId

#: Aborts that are under way at once.
MAX_OPEN_REQUESTS = 20
#: Between two looks for Runs that have become known since.
INTERVAL_S = 1.0

_log = structlog.get_logger()


class Aborter:
    """Aborts a batch's live Runs once it is told to."""

    def __init__(self, client: RunClient, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._is_wanted = anyio.Event()

    def begin(self) -> None:
        """Abort what is live, and what turns out to be live later on."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Wait to be told; then abort until cancelled."""
        await self._is_wanted.wait()
        asked = set[RunId]()
        limiter = anyio.Semaphore(MAX_OPEN_REQUESTS)
        while True:
            async with anyio.create_task_group() as children:
                for run_id in await self._ledger.bound_runs():
                    if run_id not in asked:
                        asked.add(run_id)
                        children.start_soon(self._abort, run_id, limiter)
            await anyio.sleep(INTERVAL_S)

    async def _abort(self, run_id: RunId, limiter: anyio.Semaphore) -> None:
        async with limiter:
            try:
                await self._client.abort_run(run_id)
            except NotFound:
                pass  # gone already; its follower finds it lost
            except ApiError as error:
                _log.warning("abort_refused", run_id=run_id, error=str(error))

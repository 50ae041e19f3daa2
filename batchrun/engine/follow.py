"""Runs to their end: polls that the server holds open until the Run has ended."""

import anyio
import structlog

from batchrun.apify.wire import MAX_WAIT_FOR_FINISH_S
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, BatchRefused, NotFound
from batchrun.model import Run, RunId

#: How long a Run that we hold the id of may stay unknown to the platform before it counts as lost.
LOST_AFTER_S = 10.0
#: A poll that is answered earlier than this without an end is not repeated at once.
MIN_POLL_INTERVAL_S = 0.5

_log = structlog.get_logger()


class Follower:
    """Follows Runs with at most `max_open_polls` open requests."""

    def __init__(self, client: RunClient, *, max_open_polls: int) -> None:
        self._client = client
        self._polls = anyio.Semaphore(max_open_polls, fast_acquire=True)

    async def wait_for_finish(self, run_id: RunId) -> Run | None:
        """Return the Run once it is terminal, never before; None when the platform does not know it (any more).

        Raises:
            BatchRefused: the platform will not tell.
        """
        unknown_since: float | None = None
        while True:
            asked_at = anyio.current_time()
            try:
                run = await self._poll(run_id)
            except NotFound:
                now = anyio.current_time()
                unknown_since = now if unknown_since is None else unknown_since
                if now - unknown_since > LOST_AFTER_S:
                    _log.warning("run_lost", run_id=run_id)
                    return None
            except ApiError as error:
                raise BatchRefused(f"Run {run_id} cannot be followed: {error}") from error
            else:
                if run.status.is_terminal:
                    return run
                unknown_since = None
            await anyio.sleep(max(0.0, asked_at + MIN_POLL_INTERVAL_S - anyio.current_time()))

    async def _poll(self, run_id: RunId) -> Run:
        async with self._polls:
            return await self._client.get_run(run_id, wait_for_finish_s=MAX_WAIT_FOR_FINISH_S)

"""Which clients started an account's Runs, as far as its batches know: each Run is read by its id at most once.

Lists leave the User-Agent out. Without this, every batch of a task would read the Runs of all the others.
"""

from collections import OrderedDict

import anyio

from batchrun.engine.ports import RunClient
from batchrun.model import Run, RunId

#: Max Runs that are read at the same time, for all batches of an account.
MAX_OPEN_READS = 32
#: Max Runs of which the client is remembered, about 6 MB. At 200 starts per second, those of the last 100 seconds.
MAX_KNOWN = 20_000


class SeenUserAgents:
    """What the batches of one account know of the clients that started its Runs.

    Args:
        notes_starts: False if there is one batch alone, whose own ledger knows all Runs that this process starts.
    """

    def __init__(self, *, notes_starts: bool = True) -> None:
        self._notes_starts = notes_starts
        #: Whether the platform echoes the mark of a start; None until a start has shown it.
        self.are_echoed: bool | None = None
        #: By Run, oldest first; None: it was read, and the platform does not say so.
        self._known: OrderedDict[RunId, str | None] = OrderedDict()
        #: Runs that a batch reads just now; others wait for what it finds.
        self._reading: dict[RunId, anyio.Event] = {}
        self._reads = anyio.Semaphore(MAX_OPEN_READS)

    def note(self, run: Run) -> None:
        """Remember which client a start made known; nothing if its answer does not say so: a later one may."""
        if self._notes_starts and run.user_agent is not None:
            self._remember(run)

    def _remember(self, run: Run) -> None:
        self._known[run.id] = run.user_agent
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def read(self, client: RunClient, run_id: RunId) -> str | None:
        """Return the User-Agent of the client that started a Run; None if the platform does not say so.

        Raises:
            ApiError, TransportError: the Run cannot or may not be read.
        """
        while (reading := self._reading.get(run_id)) is not None:
            await reading.wait()
        if run_id in self._known:
            return self._known[run_id]
        self._reading[run_id] = is_read = anyio.Event()
        try:
            async with self._reads:
                run = await client.get_run(run_id, gives_up=True)
        finally:
            del self._reading[run_id]
            is_read.set()
        self._remember(run)
        return run.user_agent

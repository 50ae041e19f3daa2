"""Live Runs beyond those that are polled: followed all together, by listing which of the task's Runs are live.

A Run that is not in the list any more has most likely ended; whoever waits for it then asks for it, and only what that
answer says counts. A list that lags, or that shifts while it is being paged through, costs a request and no more.
"""

import math
from collections.abc import Iterable

import anyio
import structlog

from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError
from batchrun.model import RunId, TaskId

#: Between two sweeps: this share of a Run's usual life. With 1,000 Runs to a page, 64 sweeps in a life come to 0.07
#: requests per Run, however many there are, and an end is noticed with 1 % of the life on average.
SHARE_OF_LIFE = 1 / 64
#: As long as no life has ended: this share of how long the swept Runs have been live.
SHARE_OF_AGE = 1 / 10
#: How much one more Run moves the usual life.
LEARNING_RATE = 0.05
MIN_INTERVAL_S = 3.0
MAX_INTERVAL_S = 120.0
#: Pages overlap by so many Runs: those that end while the list is being paged through move the others forward.
OVERLAP = 100
#: A Run may be missing from lists for so long after its start.
LISTING_LAG_S = 5.0

_log = structlog.get_logger()


class _Waiter:
    __slots__ = ("began_at", "may_go")

    def __init__(self) -> None:
        self.began_at = anyio.current_time()
        self.may_go = anyio.Event()


class Sweep:
    """Waits for Runs of one task, for any number of them with the same few requests."""

    def __init__(self, client: RunClient, task_id: TaskId) -> None:
        self._client = client
        self._task_id = task_id
        self._waiting: dict[RunId, _Waiter] = {}
        self._arrived = anyio.Event()
        self._usual_life_s: float | None = None

    def note_life(self, life_s: float) -> None:
        """Learn how long one more Run was live."""
        usual_s = life_s if self._usual_life_s is None else self._usual_life_s
        self._usual_life_s = usual_s + LEARNING_RATE * (life_s - usual_s)

    async def wait(self, run_id: RunId, patience_s: float) -> None:
        """Return when a Run is not listed as live any more, when it is let go, or when patience is over."""
        waiter = self._waiting[run_id] = _Waiter()
        self._arrived.set()
        try:
            with anyio.move_on_after(None if patience_s == math.inf else patience_s):
                await waiter.may_go.wait()
        finally:
            del self._waiting[run_id]

    def let_go_of_one(self) -> bool:
        """Let go of the Run that has been waited for longest, if there is one: it can be polled now."""
        for waiter in self._waiting.values():
            if not waiter.may_go.is_set():
                waiter.may_go.set()
                return True
        return False

    async def run(self) -> None:
        """Sweep for as long as somebody waits; runs until it is cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            while self._waiting:
                await anyio.sleep(self.interval_s)
                await self._sweep()

    @property
    def interval_s(self) -> float:
        """How long to the next sweep: no end is noticed later than that."""
        if self._usual_life_s is not None:
            wanted_s = self._usual_life_s * SHARE_OF_LIFE
        else:
            now = anyio.current_time()
            ages = [now - waiter.began_at for waiter in self._waiting.values()]
            wanted_s = sum(ages) / max(1, len(ages)) * SHARE_OF_AGE
        return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, wanted_s))

    async def _sweep(self) -> None:
        listed_at = anyio.current_time()
        try:
            live = await self._live()
        except ApiError as error:
            _log.warning("sweep_refused", error=str(error))
            self._let_go(self._waiting.values())  # each is asked for by itself, and that says what is wrong
            return
        self._let_go(
            waiter
            for run_id, waiter in self._waiting.items()
            if run_id not in live and waiter.began_at <= listed_at - LISTING_LAG_S
        )

    async def _live(self) -> set[RunId]:
        live: set[RunId] = set()
        offset = 0
        while page := await self._client.list_live_runs(self._task_id, offset=offset):
            live.update(page)
            if len(page) <= OVERLAP:
                break
            offset += len(page) - OVERLAP
        return live

    @staticmethod
    def _let_go(waiters: Iterable[_Waiter]) -> None:
        for waiter in waiters:
            waiter.may_go.set()

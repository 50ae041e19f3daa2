"""Live Runs beyond those that are polled: followed all together, by listing which of the task's Runs are live.

Each is a row of a table, and no child waits for it. A Run that is not in the list any more has most likely ended; it is
let go then, to be asked for by somebody, and only what that answer says counts. A list that lags, or that shifts while
it is being paged through, costs a request and no more.
"""

from collections import deque
from collections.abc import Callable, Iterable

import anyio
import structlog

from batchrun.apify.wire import MAX_LIST_LIMIT
from batchrun.engine.follow.live_run import LiveRun
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
#: How often it is seen to whose patience is over.
TICK_S = 1.0
#: Pages overlap by so many Runs: those that end while the list is being paged through move the others forward.
OVERLAP = 100
#: A Run may be missing from lists for so long after its start.
LISTING_LAG_S = 5.0
#: Runs that are looked at together after they were let go: a thousand that have ended at once take turns.
MAX_LOOKS = 128

_log = structlog.get_logger()


class _Row:
    __slots__ = ("began_at", "due_at", "live")

    def __init__(self, live: LiveRun) -> None:
        self.live = live
        self.began_at = anyio.current_time()
        self.due_at = self.began_at + live.patience_s


class Sweep:
    """Keeps Runs of one task until they are worth a look, any number of them with the same few requests.

    Args:
        client: lists the task's live Runs.
        task_id: whose Runs they are.
        take_up: called with each Run that is let go, or that has got a poll: a child is to continue with it.
    """

    def __init__(self, client: RunClient, task_id: TaskId, take_up: Callable[[LiveRun], None]) -> None:
        self._client = client
        self._task_id = task_id
        self._take_up = take_up
        self._rows: dict[RunId, _Row] = {}
        #: Let go, and waiting for others to have been looked at.
        self._gone: deque[LiveRun] = deque()
        self._looks = 0
        self._is_running = False
        self._usual_life_s: float | None = None

    def note_life(self, life_s: float) -> None:
        """Learn how long one more Run was live."""
        usual_s = life_s if self._usual_life_s is None else self._usual_life_s
        self._usual_life_s = usual_s + LEARNING_RATE * (life_s - usual_s)

    def add(self, live: LiveRun) -> bool:
        """Keep a Run until it is not listed as live any more, gets a poll, or is to be looked at by its own patience.

        Returns:
            Whether `run` is to be called now, for nobody has.
        """
        self._rows[live.run_id] = _Row(live)
        was_running, self._is_running = self._is_running, True
        return not was_running

    def give_poll(self) -> bool:
        """Let the Run that was kept for longest go with a poll of its own, if there is one."""
        if not self._rows:
            return False
        live = self._rows.pop(next(iter(self._rows))).live
        live.has_poll = True
        self._take_up(live)
        return True

    def looked(self) -> None:
        """Note that a Run that was let go has been looked at."""
        self._looks -= 1
        if self._gone:
            self._have_looked_at(self._gone.popleft())

    async def run(self) -> None:
        """Sweep for as long as there are Runs to keep."""
        try:
            next_at = anyio.current_time() + self.interval_s
            while self._rows or self._gone:
                await anyio.sleep(min(TICK_S, max(0.0, next_at - anyio.current_time())))
                self._let_go_of_due()
                if anyio.current_time() >= next_at:
                    await self._sweep()
                    next_at = anyio.current_time() + self.interval_s
        finally:
            # Cancelled, nobody is left to take them up.
            self._rows.clear()
            self._gone.clear()
            self._is_running = False

    @property
    def interval_s(self) -> float:
        """How long to the next sweep: no end is noticed later than that."""
        if self._usual_life_s is not None:
            wanted_s = self._usual_life_s * SHARE_OF_LIFE
        else:
            now = anyio.current_time()
            ages = [now - row.began_at for row in self._rows.values()]
            wanted_s = sum(ages) / max(1, len(ages)) * SHARE_OF_AGE
        return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, wanted_s))

    async def _sweep(self) -> None:
        listed_at = anyio.current_time()
        try:
            listed = await self._listed()
        except ApiError as error:
            _log.warning("sweep_refused", error=str(error))
            self._let_go(list(self._rows))  # each is asked for by itself, and that says what is wrong
            return
        lasting = listed_at - LISTING_LAG_S
        self._let_go([run_id for run_id, row in self._rows.items() if run_id not in listed and row.began_at <= lasting])

    async def _listed(self) -> set[RunId]:
        listed: set[RunId] = set()
        offset = 0
        while True:
            page = await self._client.list_live_runs(self._task_id, offset=offset)
            listed.update(page)
            # Whether it is the last one is not told by an empty one after it: Runs that start move the end away.
            if len(page) < MAX_LIST_LIMIT:
                return listed
            offset += len(page) - OVERLAP

    def _let_go_of_due(self) -> None:
        now = anyio.current_time()
        self._let_go([run_id for run_id, row in self._rows.items() if row.due_at <= now])

    def _let_go(self, run_ids: Iterable[RunId]) -> None:
        for run_id in run_ids:
            live = self._rows.pop(run_id).live
            live.is_let_go = True
            if self._looks < MAX_LOOKS:
                self._have_looked_at(live)
            else:
                self._gone.append(live)

    def _have_looked_at(self, live: LiveRun) -> None:
        self._looks += 1
        self._take_up(live)

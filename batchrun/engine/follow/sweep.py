"""Follows the live Runs that get no poll, all together, by listing which of the task's Runs are live.

Each Run is a row of a table; no child waits for it. A Run that is missing from the list has most likely ended. Then the
sweep lets it go: a child reads the Run by its id, and only that answer counts. A list that lags, or that shifts between
two pages, costs one such request and nothing else.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta

import anyio
import structlog

from batchrun.apify.wire import MAX_LIST_LIMIT
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError
from batchrun.model import Attempt, Run, RunId, TaskId

#: Time between two sweeps, as a fraction of a Run's usual life. With 1,000 Runs to a page, 64 sweeps in a life are 0.07
#: requests per Run, for any number of Runs, and an end is noticed after 1 % of the life on average.
INTERVAL_PER_LIFE = 1 / 64
#: The same as a fraction of the swept Runs' mean age, as long as no Run has ended.
INTERVAL_PER_AGE = 1 / 10
#: Weight of the latest ended Run in the usual life, a moving average.
LEARNING_RATE = 0.05
#: Bounds of the time between two sweeps, in seconds.
MIN_INTERVAL_S = 3.0
MAX_INTERVAL_S = 120.0
#: Seconds between two checks for Runs that must be read by their id, for a deadline or because they are unknown.
TICK_S = 1.0
#: Runs by which two pages overlap: Runs that end between the two requests move the others forward in the list.
OVERLAP = 100
#: Max pages of one sweep: 180,000 live Runs. Runs of ours that would come later are read by their id.
MAX_SWEEP_PAGES = 200
#: Seconds for which a new Run may be missing from lists.
LISTING_LAG_S = 5.0
#: How long before a Run's start the search for it in the account's Runs begins.
FIND_MARGIN = timedelta(seconds=1)
#: Max pages of that search: all starts of ten seconds, at the platform's limit for one task.
MAX_FIND_PAGES = 4
#: Max Runs that are read by their id at the same time: if a thousand end together, most of them wait.
MAX_LOOKS = 128

_log = structlog.get_logger()


class _Row:
    __slots__ = ("began_at", "due_at", "live")

    def __init__(self, live: LiveRun) -> None:
        self.live = live
        self.began_at = anyio.current_time()
        self.due_at = self.began_at + live.patience_s


class Sweep:
    """Keeps any number of a task's live Runs, with few requests, until each must be read by its id.

    Args:
        client: lists the task's live Runs.
        task_id: the task.
        take_up: called with each Run that is let go or gets a poll; a child continues with it.
        note_cost: called with what each listed Run has cost so far.
    """

    def __init__(
        self,
        client: RunClient,
        task_id: TaskId,
        take_up: Callable[[LiveRun], None],
        note_cost: Callable[[Attempt, float | None], None] = lambda _attempt, _cost_usd: None,
    ) -> None:
        self._client = client
        self._task_id = task_id
        self._take_up = take_up
        self._note_cost = note_cost
        self._rows: dict[RunId, _Row] = {}
        #: Runs that are let go and wait until fewer than `MAX_LOOKS` others are being read.
        self._gone: deque[LiveRun] = deque()
        self._looks = 0
        self._is_running = False
        self._usual_life_s: float | None = None

    def add(self, live: LiveRun) -> bool:
        """Keep a Run until it is missing from the list, gets a poll, or must be read for one of its deadlines.

        Returns:
            Whether the caller must start `run` now, because it is not running.
        """
        self._rows[live.run_id] = _Row(live)
        was_running, self._is_running = self._is_running, True
        return not was_running

    async def run(self) -> None:
        """Sweep as long as there are Runs to keep."""
        try:
            next_at = anyio.current_time() + self.interval_s
            while self._rows or self._gone:
                await anyio.sleep(min(TICK_S, max(0.0, next_at - anyio.current_time())))
                self._let_go_of_due()
                if anyio.current_time() >= next_at:
                    await self._sweep()
                    next_at = anyio.current_time() + self.interval_s
        finally:
            # If this is cancelled, no child is left to take them up.
            self._rows.clear()
            self._gone.clear()
            self._is_running = False

    def _let_go_of_due(self) -> None:
        now = anyio.current_time()
        self._let_go([run_id for run_id, row in self._rows.items() if row.due_at <= now])

    async def _sweep(self) -> None:
        listed_at = anyio.current_time()
        try:
            listed = await self._listed()
        except ApiError as error:
            _log.warning("sweep_refused", error=str(error))
            self._let_go(list(self._rows))  # each is read by its id, and that answer shows what is wrong
            return
        for run_id, cost_usd in listed.items():
            if cost_usd and (row := self._rows.get(run_id)) is not None:
                self._note_cost(row.live.attempt, cost_usd)
        listable = listed_at - LISTING_LAG_S
        self._let_go(
            [run_id for run_id, row in self._rows.items() if run_id not in listed and row.began_at <= listable]
        )

    async def find(self, live: LiveRun) -> Run | None:
        """Return a Run as lists show it, also if the platform does not find it by its id; None if no list shows it."""
        begun_at = (live.attempt.started_at or live.attempt.earliest_start) - FIND_MARGIN
        try:
            for offset in range(0, MAX_FIND_PAGES * MAX_LIST_LIMIT, MAX_LIST_LIMIT):
                page = await self._client.list_runs(started_after=begun_at, offset=offset)
                if live.run_id in page.runs:
                    return page.runs[live.run_id]
                if page.count < MAX_LIST_LIMIT:
                    return None
        except ApiError as error:
            _log.warning("account_runs_not_listed", error=str(error))
        try:
            page = await self._client.list_task_runs(self._task_id, offset=0)
        except ApiError as error:
            _log.warning("task_runs_not_listed", error=str(error))
            return None
        return page.runs.get(live.run_id)

    async def _listed(self) -> dict[RunId, float | None]:
        """Return which of the kept Runs are listed, each with its cost so far."""
        listed: dict[RunId, float | None] = {}
        offset = 0
        for _ in range(MAX_SWEEP_PAGES):
            page = await self._client.list_live_runs(self._task_id, offset=offset)
            listed.update((run_id, cost_usd) for run_id, cost_usd in page.items() if run_id in self._rows)
            # A page that is not full is the last one. An empty page may never come: new Runs move the end away.
            if len(page) < MAX_LIST_LIMIT:
                break
            offset += len(page) - OVERLAP
        return listed

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

    def looked(self) -> None:
        """Note that a Run that was let go has been read."""
        self._looks -= 1
        if self._gone:
            self._have_looked_at(self._gone.popleft())

    def give_poll(self) -> bool:
        """Hand a poll to the Run that was kept longest; False if there is no Run."""
        if not self._rows:
            return False
        live = self._rows.pop(next(iter(self._rows))).live
        live.has_poll = True
        self._take_up(live)
        return True

    def note_life(self, life_s: float) -> None:
        """Learn how long one more Run was live."""
        usual_s = life_s if self._usual_life_s is None else self._usual_life_s
        self._usual_life_s = usual_s + LEARNING_RATE * (life_s - usual_s)

    @property
    def interval_s(self) -> float:
        """Seconds to the next sweep; no end is noticed later than that."""
        if self._usual_life_s is not None:
            wanted_s = self._usual_life_s * INTERVAL_PER_LIFE
        else:
            now = anyio.current_time()
            ages = [now - row.began_at for row in self._rows.values()]
            wanted_s = sum(ages) / max(1, len(ages)) * INTERVAL_PER_AGE
        return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, wanted_s))

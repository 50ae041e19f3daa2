"""Follows Runs to their end: by polls that the server holds open, and by the sweep for Runs that get no poll."""

import math
from collections import deque
from collections.abc import Callable

import anyio
import structlog

from batchrun.apify.wire import MAX_WAIT_FOR_FINISH_S
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.lost_run import STILL_LIVE, Sight, must_be_listed, sight_of_unread
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, BatchRefused, NotFound, ServerFailed, TransportError
from batchrun.model import Attempt, TaskId
from batchrun.runtime.fast_dataclasses import replace
from batchrun.runtime.steady_time import loop_clock

#: Min seconds from one poll of a Run to the next, in case the server answers early although the Run goes on.
MIN_POLL_INTERVAL_S = 0.5

_log = structlog.get_logger()


class Polls:
    """The polls of an account, for all its batches together.

    Args:
        count: max polls that are open at the same time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        #: Below 0 while more are open than may be.
        self._free = count
        self._sweeps: deque[Sweep] = deque()

    def join(self, sweep: Sweep) -> None:
        """Offer released polls to a sweep's Runs."""
        self._sweeps.append(sweep)

    def leave(self, sweep: Sweep) -> None:
        """Stop offering polls to a sweep."""
        self._sweeps.remove(sweep)

    @property
    def open_polls(self) -> int:
        """The number of polls that are taken."""
        return self.count - self._free

    def take(self) -> bool:
        """Take a poll if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def resize(self, count: int) -> None:
        """Change how many polls may be open. A smaller number takes effect as polls are released."""
        self._free += count - self.count
        self.count = count
        while self._free > 0 and self._hand_on():
            self._free -= 1

    def release(self) -> None:
        """Release a poll; a sweep hands it to the Run it has kept longest. The sweeps alternate."""
        if self._free < 0 or not self._hand_on():
            self._free += 1

    def _hand_on(self) -> bool:
        self._sweeps.rotate()
        return any(sweep.give_poll() for sweep in self._sweeps)


class Follower:
    """Follows each Run with a poll, if one is free; else leaves it to the sweep.

    Args:
        client: the platform.
        polls: of the account.
        sweep: follows the Runs that get no poll.
        task_id: whose Runs these are.
        note_cost: called with what each live Run has cost so far, whenever it was read.
    """

    def __init__(
        self,
        client: RunClient,
        polls: Polls,
        sweep: Sweep,
        task_id: TaskId,
        note_cost: Callable[[Attempt, float | None], None] = lambda _attempt, _cost_usd: None,
    ) -> None:
        self._client = client
        self._polls = polls
        self._sweep = sweep
        self._task_id = task_id
        self._note_cost = note_cost
        self._now = loop_clock()
        polls.join(sweep)

    def leave(self) -> None:
        """Leave the polls to other batches."""
        self._polls.leave(self._sweep)

    async def follow(self, live: LiveRun) -> Sight:
        """Follow a Run to its end if it gets a poll; else return soon, so that the sweep can have it.

        A Run is over once its status is terminal, never before. If this is cancelled, the poll is released.

        Raises:
            BatchRefused: the platform refuses to describe the Run.
        """
        sight = STILL_LIVE
        if live.is_let_go:
            sight = await self._look_once(live)
        if not sight.is_over and (live.has_poll or self._polls.take()):
            sight = await self._poll(live)
        if sight.run is not None and sight.run.finished_at is not None and sight.run.started_at is not None:
            self._sweep.note_life((sight.run.finished_at - sight.run.started_at).total_seconds())
        return sight

    async def _look_once(self, live: LiveRun) -> Sight:
        try:
            return await self._look(live, wait_s=0)
        finally:
            self._sweep.looked()

    async def _poll(self, live: LiveRun) -> Sight:
        try:
            while True:
                asked_at = self._now()
                wait_s = min(MAX_WAIT_FOR_FINISH_S, math.ceil(min(live.watch.patience_s, MAX_WAIT_FOR_FINISH_S)))
                sight = await self._look(live, wait_s=wait_s)
                if sight.is_over:
                    return sight
                await anyio.sleep(max(0.0, asked_at + MIN_POLL_INTERVAL_S - self._now()))
        finally:
            self._polls.release()

    async def _look(self, live: LiveRun, *, wait_s: int) -> Sight:
        """Read the Run, at its end or after the wait; while it is live, judge whether it takes too long."""
        try:
            run = await self._client.get_run(live.run_id, wait_for_finish_s=wait_s, gives_up=True)
        except (NotFound, ServerFailed, TransportError) as error:
            now = self._now()
            live.unknown_since = now if live.unknown_since is None else live.unknown_since
            unknown_s = now - live.unknown_since
            listed = await self._sweep.find(live) if must_be_listed(error, unknown_s) else None
            if listed is None:
                return sight_of_unread(error, unknown_s)
            _log.warning("run_seen_in_list_only", run_id=live.run_id, status=listed.status, reason=str(error))
            run = replace(listed, timeout_s=live.attempt.timeout_s)  # lists leave it out
        except ApiError as error:
            raise BatchRefused(f"Run {live.run_id} cannot be followed: {error}", error) from error
        if run.is_of_another(self._task_id):
            return Sight(is_over=True, is_foreign=True)
        if run.status.is_terminal:
            return Sight(is_over=True, run=run)
        live.unknown_since = None
        self._note_cost(live.attempt, run.cost_usd)
        await live.watch.look(run)
        return STILL_LIVE

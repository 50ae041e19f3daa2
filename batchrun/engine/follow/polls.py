"""Runs to their end: polls that the server holds open until the Run has ended, and a sweep for those beyond them."""

import math
from collections import deque
from typing import NamedTuple

import anyio

from batchrun.apify.wire import MAX_WAIT_FOR_FINISH_S
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, BatchRefused, NotFound
from batchrun.model import Run

#: How long a Run that we hold the id of may stay unknown to the platform before it counts as lost.
LOST_AFTER_S = 10.0
#: A poll that is answered earlier than this without an end is not repeated at once.
MIN_POLL_INTERVAL_S = 0.5


class Polls:
    """Requests that may wait for the end of a Run at once, for one batch or for several together.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._sweeps: deque[Sweep] = deque()

    def join(self, sweep: Sweep) -> None:
        """Offer polls that come free to a sweep's Runs."""
        self._sweeps.append(sweep)

    def leave(self, sweep: Sweep) -> None:
        """Offer it no more."""
        self._sweeps.remove(sweep)

    def take(self) -> bool:
        """Take one of the polls, if one is free."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        """Free a poll, or hand it to the Run that a sweep has kept for longest; sweeps take turns."""
        self._sweeps.rotate()
        for sweep in self._sweeps:
            if sweep.give_poll():
                return
        self._free += 1


class Sight(NamedTuple):
    """What is known of a Run by now."""

    #: Whether it has ended, or is unknown to the platform for good.
    is_over: bool
    #: The Run in the end; None when the platform does not know it (any more), or when it is not over.
    run: Run | None = None


_STILL_LIVE = Sight(is_over=False)


class Follower:
    """Follows Runs with open requests, as many as there are polls; those beyond are left to the sweep.

    Args:
        client: the platform.
        polls: requests that wait for the end of a Run.
        sweep: follows the Runs beyond the polls.
    """

    def __init__(self, client: RunClient, polls: Polls, sweep: Sweep) -> None:
        self._client = client
        self._polls = polls
        self._sweep = sweep
        polls.join(sweep)

    def leave(self) -> None:
        """Leave the polls to others."""
        self._polls.leave(self._sweep)

    async def follow(self, live: LiveRun) -> Sight:
        """Follow a Run to its end if there is a poll for it; else return soon, and the sweep is to have it.

        It is over once its status is terminal, never before. Cancelled, it leaves its poll to others.

        Raises:
            BatchRefused: the platform will not tell.
        """
        sight = _STILL_LIVE
        if live.is_let_go:
            sight = await self._look_once(live)
        if not sight.is_over and (live.has_poll or self._polls.take()):
            sight = await self._poll(live)
        if sight.run is not None and sight.run.finished_at is not None:
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
                asked_at = anyio.current_time()
                wait_s = min(MAX_WAIT_FOR_FINISH_S, math.ceil(min(live.watch.patience_s, MAX_WAIT_FOR_FINISH_S)))
                sight = await self._look(live, wait_s=wait_s)
                if sight.is_over:
                    return sight
                await anyio.sleep(max(0.0, asked_at + MIN_POLL_INTERVAL_S - anyio.current_time()))
        finally:
            self._polls.give_back()

    async def _look(self, live: LiveRun, *, wait_s: int) -> Sight:
        """Read the Run, at its end or after a wait; one that goes on is judged."""
        try:
            run = await self._client.get_run(live.run_id, wait_for_finish_s=wait_s)
        except NotFound:
            now = anyio.current_time()
            live.unknown_since = now if live.unknown_since is None else live.unknown_since
            return Sight(is_over=now - live.unknown_since > LOST_AFTER_S)
        except ApiError as error:
            raise BatchRefused(f"Run {live.run_id} cannot be followed: {error}") from error
        if run.status.is_terminal:
            return Sight(is_over=True, run=run)
        live.unknown_since = None
        await live.watch.look(run)
        return _STILL_LIVE

"""Runs to their end: polls that the server holds open until the Run has ended, and a sweep for those beyond them."""

import math
from collections import deque

import anyio

from batchrun.apify.wire import MAX_WAIT_FOR_FINISH_S
from batchrun.engine.ports import RunClient
from batchrun.engine.sweep import Sweep
from batchrun.engine.watch import Watch
from batchrun.errors import ApiError, BatchRefused, NotFound
from batchrun.model import Run, RunId, TaskId

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
        """Free a poll, for the Run that a sweep has followed for longest; sweeps take turns."""
        self._free += 1
        self._sweeps.rotate()
        for sweep in self._sweeps:
            if sweep.let_go_of_one():
                return


class Follower:
    """Follows Runs with open requests, as many as there are polls; those beyond are swept, until a poll comes free.

    Args:
        client: the platform.
        task_id: whose Runs they are.
        polls: requests that wait for the end of a Run.
    """

    def __init__(self, client: RunClient, task_id: TaskId, polls: Polls) -> None:
        self._client = client
        self._polls = polls
        self.sweep = Sweep(client, task_id)
        polls.join(self.sweep)

    def leave(self) -> None:
        """Leave the polls to others."""
        self._polls.leave(self.sweep)

    async def wait_for_finish(self, run_id: RunId, watch: Watch | None = None) -> Run | None:
        """Return the Run once it is terminal, never before; None when the platform does not know it (any more).

        Args:
            run_id: the Run.
            watch: judges it while it is live; None: nobody does.

        Raises:
            BatchRefused: the platform will not tell.
        """
        poll = _Poll(self._polls)
        try:
            run = await self._follow(run_id, watch, poll)
        finally:
            poll.give_back()
        if run is not None and run.finished_at is not None:
            self.sweep.note_life((run.finished_at - run.started_at).total_seconds())
        return run

    async def _follow(self, run_id: RunId, watch: Watch | None, poll: "_Poll") -> Run | None:
        unknown_since: float | None = None
        while True:
            asked_at = anyio.current_time()
            try:
                run = await self._look(run_id, watch, poll)
            except NotFound:
                now = anyio.current_time()
                unknown_since = now if unknown_since is None else unknown_since
                if now - unknown_since > LOST_AFTER_S:
                    return None
            except ApiError as error:
                raise BatchRefused(f"Run {run_id} cannot be followed: {error}") from error
            else:
                if run.status.is_terminal:
                    return run
                unknown_since = None
                if watch is not None:
                    await watch.look(run)
                del run  # it would be held in memory through the next wait
            await anyio.sleep(max(0.0, asked_at + MIN_POLL_INTERVAL_S - anyio.current_time()))

    async def _look(self, run_id: RunId, watch: Watch | None, poll: "_Poll") -> Run:
        """Read the Run when it has ended, or after a while; where no poll is free, when the sweep misses it."""
        patience_s = math.inf if watch is None else watch.patience_s
        if not poll.is_held():
            await self.sweep.wait(run_id, patience_s)
        if not poll.is_held():
            return await self._client.get_run(run_id)
        wait_s = min(MAX_WAIT_FOR_FINISH_S, math.ceil(min(patience_s, MAX_WAIT_FOR_FINISH_S)))
        return await self._client.get_run(run_id, wait_for_finish_s=wait_s)


class _Poll:
    """A Run's claim to one of the polls; once it has one, it keeps it to the Run's end."""

    __slots__ = ("_has_one", "_polls")

    def __init__(self, polls: Polls) -> None:
        self._polls = polls
        self._has_one = False

    def is_held(self) -> bool:
        """Whether the Run has a poll, now that one may have come free."""
        self._has_one = self._has_one or self._polls.take()
        return self._has_one

    def give_back(self) -> None:
        if self._has_one:
            self._polls.give_back()

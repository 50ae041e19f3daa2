"""Runs followed as the scheduler has it done, without jobs: with a poll where there is one, else by the sweep."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

import anyio
from anyio.abc import TaskGroup

from batchrun.engine.follow.deadline_watch import DeadlineWatch
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.polls import Follower, Polls
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.limits.permits import Demand
from batchrun.engine.ports import RunClient
from batchrun.model import Attempt, AttemptState, Mark, Problem, Run, RunId, TaskId
from batchrun.policy.deadlines import Deadlines
from tests.support.start_gates import gate_of, permits_over, work_of


def live_run(client: RunClient, run_id: RunId) -> LiveRun:
    """Return a live Run with a permit, and no deadline."""
    work = work_of()
    attempt = Attempt(
        attempt_no=1, mark=Mark("m"), state=AttemptState.BOUND, run_id=run_id, intended_at=datetime.now(UTC)
    )
    permit = permits_over(gate_of()).adopt(Demand())
    watch = DeadlineWatch(client, Deadlines(), work.job.key, note_abort=_note)
    return LiveRun(work, attempt, permit, watch)


async def _note(_: Problem) -> None:
    """Note nothing: there is no ledger."""


class Following:
    """Follows Runs of one task.

    Args:
        client: the platform.
        max_open_polls: how many polls there are.
        task_id: of the task.
    """

    def __init__(self, client: RunClient, *, max_open_polls: int = 10, task_id: str = "task") -> None:
        self._client = client
        self.polls = Polls(max_open_polls)
        self.sweep = Sweep(client, TaskId(task_id), self._go)
        self.follower = Follower(client, self.polls, self.sweep, TaskId(task_id))
        self._children: TaskGroup | None = None
        self._noticed: dict[RunId, tuple[Run | None, float]] = {}

    async def wait_for_finish(self, run_id: RunId) -> Run | None:
        """Follow one Run to its end."""
        return (await self.all([run_id]))[run_id][0]

    async def all(
        self, run_ids: Iterable[RunId], meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> dict[RunId, tuple[Run | None, float]]:
        """Follow Runs to their end, all at once; return each as it was in the end, and when that was noticed."""
        async with anyio.create_task_group() as self._children:
            for run_id in run_ids:
                self.follow(run_id)
            if meanwhile is not None:
                await meanwhile()
        return self._noticed

    def follow(self, run_id: RunId) -> None:
        """Follow one more Run, while `all` goes on."""
        self._go(live_run(self._client, run_id))

    def _go(self, live: LiveRun) -> None:
        assert self._children is not None, "Runs are followed in `all`"
        self._children.start_soon(self._follow, live)

    async def _follow(self, live: LiveRun) -> None:
        sight = await self.follower.follow(live)
        if sight.is_over:
            self._noticed[live.run_id] = sight.run, anyio.current_time()
        elif self.sweep.add(live.transferred()):
            assert self._children is not None
            self._children.start_soon(self.sweep.run)

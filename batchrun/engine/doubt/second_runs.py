"""Runs that repeat a start: something on the way to the API sent its request twice, and both copies had an effect.

They are recognised by their mark, which belongs to an attempt with another Run. Each is aborted, and noted with its
cost beside that attempt. The task's Runs are listed for this every `INTERVAL_S`, at the end of a batch, and after
its wait for final costs, which costs no request per job. What a killed process has not listed, the next one lists.
"""

from collections.abc import Sequence
from datetime import datetime

import anyio
import structlog

from batchrun.apify.user_agent import mark_of
from batchrun.engine.doubt.candidates import Candidates
from batchrun.engine.notices import SecondRunAborted
from batchrun.engine.ports import RunClient
from batchrun.engine.progress import Progress
from batchrun.errors import ApiError, TransportError
from batchrun.ledger.protocol import Ledger, MarkedAttempt
from batchrun.model import AttemptState, Mark, Run, RunId
from batchrun.runtime.steady_time import steady_time

#: Seconds between two listings.
INTERVAL_S = 600.0
#: Seconds by which two listings overlap, for Runs that come late or are listed late.
OVERLAP_S = 120.0
#: Max Runs of other clients that one listing reads.
MAX_READ = 5000
#: Max seconds that the listing at the end of a batch takes.
FINISH_S = 30.0
#: Max Runs that are aborted at the same time.
MAX_OPEN_ABORTS = 20
#: Max seconds to wait until an aborted Run has ended.
END_WAIT_S = 10

_log = structlog.get_logger()


class SecondRuns:
    """Finds and aborts the Runs that repeat a start of this batch.

    Args:
        client: the platform.
        ledger: knows to which attempt a mark belongs.
        candidates: lists the task's Runs.
        unlisted_since: since when earlier processes have not looked, by the Runs' clock; None: they have.
        progress: counters to update.
    """

    def __init__(
        self,
        client: RunClient,
        ledger: Ledger,
        candidates: Candidates,
        *,
        unlisted_since: datetime | None,
        progress: Progress,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._candidates = candidates
        self._unlisted_since = unlisted_since
        #: When this process sent the first start that it has not looked for (steady); None: there is none.
        self._unlisted_from: float | None = None
        self._progress = progress
        self._has_reported = False
        #: Runs of the latest listing that carry no mark of this batch; the ledger is not asked for them again.
        self._others: set[RunId] = set()

    def expect(self, intended_at: float) -> None:
        """Note that a start is about to be intended; `intended_at` as `steady_time` returned it."""
        if self._unlisted_from is None:
            self._unlisted_from = intended_at
            if self._unlisted_since is None:
                self._ledger.note_unlisted(self._client.clock.at(intended_at).earliest)

    async def run(self) -> None:
        """Look every `INTERVAL_S`, until cancelled."""
        while True:
            await anyio.sleep(INTERVAL_S)
            await self._look_for_all(is_last=False)

    async def finish(self, *, is_last: bool) -> None:
        """Look once more; called when the batch sends no more starts. After the last look no process looks again."""
        with anyio.move_on_after(FINISH_S):
            await self._look_for_all(is_last=is_last)

    async def _look_for_all(self, *, is_last: bool) -> None:
        began_at, clock = steady_time(), self._client.clock
        since = [] if self._unlisted_since is None else [self._unlisted_since]
        since += [] if self._unlisted_from is None else [clock.at(self._unlisted_from).earliest]
        if not since:
            return
        try:
            listing = await self._candidates.since(min(since), self._ledger.known_runs, MAX_READ)
        except ApiError as error:
            _log.warning("second_runs_not_listed", error=str(error))
            return
        if await self.look(listing.runs) and listing.is_complete:
            self._unlisted_since = self._unlisted_from = None
            if not is_last:
                self._unlisted_from = began_at - OVERLAP_S
            self._ledger.note_unlisted(None if is_last else clock.at(began_at - OVERLAP_S).earliest)

    async def look(self, runs: Sequence[Run]) -> bool:
        """Abort the Runs that repeat a start, among Runs that the ledger does not know.

        Returns:
            True if all of them are aborted and noted.
        """
        marks = {run.id: mark for run in runs if run.id not in self._others and (mark := mark_of(run.user_agent))}
        owners = await self._ledger.attempts_marked(list(marks.values())) if marks else {}
        repeating = [run for run in runs if repeats(run, owners.get(marks.get(run.id, Mark(""))))]
        self._others = {run.id for run in runs if run.id in self._others or marks.get(run.id) not in owners}
        left, limiter = {run.id for run in repeating}, anyio.Semaphore(MAX_OPEN_ABORTS)

        async def end(run: Run) -> None:
            async with limiter:
                if await self.abort(run, marks[run.id], owners[marks[run.id]]):
                    left.discard(run.id)

        async with anyio.create_task_group() as children:
            for run in repeating:
                children.start_soon(end, run)
        return not left

    async def abort(self, run: Run, mark: Mark, owner: MarkedAttempt) -> bool:
        """Abort a Run that repeats the start of an attempt, and note it; False: it could not be aborted yet."""
        try:
            run = await self._client.abort_run(run.id, gives_up=True)
            if not run.status.is_terminal:
                run = await self._client.get_run(run.id, wait_for_finish_s=END_WAIT_S, gives_up=True)
        except (ApiError, TransportError) as error:
            _log.warning("second_run_not_aborted", job_key=owner.job_key, run_id=run.id, error=str(error))
            return False
        _log.warning("second_run_aborted", job_key=owner.job_key, kept=owner.run_id, aborted=run.id)
        await self._ledger.note_second_run(mark, run, run.finished_at or self._client.clock.now.middle)
        self._progress.correct_cost(None, run.cost_usd)
        if not self._has_reported:
            self._has_reported = True
            self._progress.notices.add(SecondRunAborted(run_id=run.id, job_key=owner.job_key))
        return True


def repeats(run: Run, owner: MarkedAttempt | None) -> bool:
    """Return whether a Run's mark belongs to an attempt with another Run, or to one that has ended without any."""
    if owner is None or owner.run_id == run.id:
        return False
    return owner.run_id is not None or owner.state is AttemptState.ENDED

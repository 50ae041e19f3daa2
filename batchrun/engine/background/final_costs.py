"""Reads what Runs cost once their costs are final, many with one listing."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

import anyio
import structlog

from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, NotFound, TransportError
from batchrun.ledger.protocol import END_OF_TIME, CostLedger, FinalCost, OpenCost
from batchrun.model import CostSource, JobId, Run, RunId
from batchrun.runtime.children import open_children
from batchrun.runtime.steady_time import steady_time

#: Time after its end at which a Run's cost is final. Source: the API reference, usage of a finished Run.
FINAL_AFTER = timedelta(seconds=10)
#: Max seconds that `FinalCostReader.finish` waits for costs to become final.
PATIENCE_S = 40.0
#: Max uncertainty of the Runs' clock, in seconds, at which it decides which costs are final.
MAX_UNCERTAINTY_S = 5.0
#: Seconds between two searches of the ledger for costs that have become final.
INTERVAL_S = 2.0
#: The same, at the end of the batch.
FINISH_INTERVAL_S = 0.5
#: After this many refusals to show a Run, its cost is left to the next process.
MAX_REFUSALS = 10
#: Max costs that are read together: one page of a listing.
MAX_AT_ONCE = 1000
#: Fewer Runs than this are read by their ids, without a listing.
MIN_FOR_LISTING = 5
#: Max pages of one listing. Runs of others may fill them; what is not on them is read by its id.
MAX_PAGES = 4
#: Max Runs that are read by their ids at the same time.
MAX_OPEN_READS = 20

_log = structlog.get_logger()


class _Cost(NamedTuple):
    """What a Run costs, as the platform reports it; the Run itself would take far more memory."""

    usd: float | None
    source: CostSource


class FinalCostReader:
    """Reads the costs of ended Runs when they are final; the ledger knows which Runs are due.

    Args:
        client: the platform.
        ledger: notes final costs.
        on_final: called with each cost once the ledger has it, or once it is left to the next process.
        final_after: time after a Run's end at which its cost is final; None: FINAL_AFTER.
    """

    def __init__(
        self,
        client: RunClient,
        ledger: CostLedger,
        on_final: Callable[[OpenCost, FinalCost], None],
        final_after: timedelta | None = None,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._on_final = on_final
        self._final_after = FINAL_AFTER if final_after is None else final_after
        #: Whether the batch waits for final costs only.
        self.is_finishing = False
        #: Seconds for which the batch, at its end, has waited for final costs only.
        self.waited_s = 0.0
        #: When this process first saw that a Run has ended (steady), while the Runs' clock is too uncertain.
        self._seen_at: dict[tuple[JobId, int], float] = {}
        self._refusals = Counter[tuple[JobId, int]]()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read costs as they become final, as long as the context lasts."""
        async with open_children(cancels_on_leaving=True) as children:
            children.start_soon(self._read_on)
            yield

    async def _read_on(self) -> None:
        while True:
            if await self._read_due() < MAX_AT_ONCE:
                await anyio.sleep(INTERVAL_S)

    async def finish(self, note_wait: Callable[[], None] = lambda: None) -> None:
        """Read all costs that are not final yet, within PATIENCE_S; called once every Run has ended, after `reading`.

        Args:
            note_wait: called once, if some are not final yet.
        """
        began_at, self.is_finishing = anyio.current_time(), True
        try:
            with anyio.move_on_after(PATIENCE_S):
                await self._read_all(note_wait)
        finally:
            self.waited_s = anyio.current_time() - began_at

    async def _read_all(self, note_wait: Callable[[], None]) -> None:
        has_waited = False
        while await self._ledger.open_costs(END_OF_TIME, 1):
            if await self._read_due():
                continue
            if not has_waited:
                has_waited = True
                note_wait()
            await anyio.sleep(FINISH_INTERVAL_S)

    async def _read_due(self) -> int:
        """Read costs that are final by now, and return how many were read."""
        due = [each for each in await self._due() if self._refusals[_key(each)] < MAX_REFUSALS]
        read = await self._costs(due) if due else {}
        final = [(each, _final(each, read[each.run_id])) for each in due if each.run_id in read]
        for each in due:
            if each.run_id not in read:
                self._note_refusal(each)
        if not final:
            return 0
        with anyio.CancelScope(shield=True):
            await self._ledger.note_final_costs([cost for _, cost in final])
            for each, cost in final:
                self._on_final(each, cost)
        return len(final)

    def _note_refusal(self, refused: OpenCost) -> None:
        """Count a Run that could not be read. In the end, what it is known to cost counts here as final."""
        self._refusals[_key(refused)] += 1
        if self._refusals[_key(refused)] == MAX_REFUSALS:
            self._on_final(refused, _final(refused, _Cost(None, CostSource.UNKNOWN)))

    async def _due(self) -> list[OpenCost]:
        """Return Runs whose costs are final even at the earliest time that the Runs' clock may show."""
        now = self._client.clock.now
        if now.width_s <= MAX_UNCERTAINTY_S:
            return await self._ledger.open_costs(now.earliest - self._final_after, MAX_AT_ONCE)
        # By any clock, a Run ended no later than this process saw its end.
        ended = await self._ledger.open_costs(END_OF_TIME, MAX_AT_ONCE)
        moment = steady_time()
        self._seen_at = {_key(each): self._seen_at.get(_key(each), moment) for each in ended}
        wait_s, ended_before = self._final_after.total_seconds(), now.earliest - self._final_after
        return [
            each for each in ended if moment - self._seen_at[_key(each)] >= wait_s or each.finished_at < ended_before
        ]

    async def _costs(self, due: Sequence[OpenCost]) -> dict[RunId, _Cost]:
        found = await self._listed(due) if len(due) >= MIN_FOR_LISTING else {}
        limiter = anyio.Semaphore(MAX_OPEN_READS)
        async with anyio.create_task_group() as children:
            for each in due:
                if each.run_id not in found:
                    children.start_soon(self._read_one, each, found, limiter)
        return found

    async def _listed(self, due: Sequence[OpenCost]) -> dict[RunId, _Cost]:
        wanted = {each.run_id for each in due}
        began = [each.started_at for each in due]
        found: dict[RunId, _Cost] = {}
        offset = 0
        for _ in range(MAX_PAGES):
            try:
                page = await self._client.list_runs(started_after=min(began), offset=offset)
            except ApiError as error:
                _log.warning("costs_not_listed", error=str(error))
                break
            found |= {
                run_id: _cost(run)
                for run_id in wanted.intersection(page.runs)
                if (run := page.runs[run_id]).cost_usd is not None
            }
            offset += page.count
            if not page.runs or len(found) == len(wanted):
                break
            last_began_at = page.runs[[*page.runs][-1]].started_at
            if last_began_at is not None and last_began_at > max(began):
                break
            del page  # the next one needs its memory
        return found

    async def _read_one(self, noted: OpenCost, found: dict[RunId, _Cost], limiter: anyio.Semaphore) -> None:
        async with limiter:
            try:
                found[noted.run_id] = _cost(await self._client.get_run(noted.run_id, gives_up=True))
            except (ApiError, TransportError) as error:
                _log.warning("cost_not_read", run_id=noted.run_id, error=str(error))
                if isinstance(error, NotFound) and self._refusals[_key(noted)] == MAX_REFUSALS - 1:
                    found[noted.run_id] = _Cost(None, CostSource.UNKNOWN)  # it is gone for good


def _key(cost: OpenCost) -> tuple[JobId, int]:
    return cost.job_id, cost.attempt_no


def _cost(run: Run) -> _Cost:
    return _Cost(run.cost_usd, run.cost_source)


def _final(noted: OpenCost, read: _Cost) -> FinalCost:
    """Return the cost that was read; if there is none, the one that was known at the Run's end."""
    if read.usd is None:
        read = _Cost(noted.cost_usd, noted.cost_source)
    return FinalCost(job_id=noted.job_id, attempt_no=noted.attempt_no, cost_usd=read.usd, source=read.source)

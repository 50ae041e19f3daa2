"""Runs that may belong to an attempt in doubt: the task's Runs since its intent that the ledger does not know."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from batchrun.engine.ports import RunClient
from batchrun.errors import NotFound
from batchrun.model import Run, RunId, TaskId

#: Max difference between the clocks that stamp Runs, beyond what was measured. An estimate.
CLOCK_MARGIN = timedelta(seconds=30)
#: Stands for the beginning of a Run that waits in the platform's queue, to sort Runs by age.
_NOT_YET = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Listing:
    """The task's Runs since an intent that the ledger does not know, each with its User-Agent."""

    #: `user_agent` is None if the platform does not name the client that started the Run.
    runs: list[Run]
    #: Runs that are listed and cannot be read by their id: most likely, they are too new.
    unreadable: list[Run]


class Candidates:
    """Lists Runs and reads which client started each, once per Run.

    Args:
        client: the platform.
        task_id: the task's id as the platform spells it; Runs of other tasks are left out.
    """

    def __init__(self, client: RunClient, task_id: TaskId) -> None:
        self._client = client
        self._task_id = task_id
        self._user_agents: dict[RunId, str | None] = {}

    async def since(
        self, earliest_start: datetime, known: Callable[[Collection[RunId]], Awaitable[AbstractSet[RunId]]]
    ) -> Listing:
        """List the task's Runs since an intent, without those that the ledger knows.

        The ledger is asked after the platform has answered, so that it knows Runs which were bound meanwhile.

        Args:
            earliest_start: by the Runs' clock; the list begins CLOCK_MARGIN before.
            known: returns which of some Runs the ledger knows.
        """
        unknown: list[Run] = []
        async for page in self._pages(earliest_start - CLOCK_MARGIN):
            # Page by page: all Runs of a day may be too many for the memory.
            unknown += await _without_known(page, known)
        readable, unreadable = [], []
        for run in await _without_known(unknown, known):
            named = await self._named(run)
            readable.append(named) if named is not None else unreadable.append(run)
        return Listing(readable, unreadable)

    async def _pages(self, since: datetime) -> AsyncIterator[list[Run]]:
        """Yield the task's Runs since a time; each time, those on one page of the account's list."""
        offset = 0
        seen: set[RunId] = set()
        while page := await self._client.list_runs(started_after=since, offset=offset):
            ids = {run.id for run in page}
            if ids <= seen:
                return  # a list that shows the same Runs on every page has no empty one
            seen = ids
            yield [run for run in page if run.fields.get("actorTaskId", self._task_id) == self._task_id]
            offset += len(page)

    async def _named(self, run: Run) -> Run | None:
        """Add the User-Agent, which lists leave out; None when the Run cannot be read yet."""
        if run.user_agent is not None:
            return run
        if run.id not in self._user_agents:
            try:
                self._user_agents[run.id] = (await self._client.get_run(run.id)).user_agent
            except NotFound:
                return None
        return replace(run, user_agent=self._user_agents[run.id])


async def _without_known(
    runs: list[Run], known: Callable[[Collection[RunId]], Awaitable[AbstractSet[RunId]]]
) -> list[Run]:
    accounted_for = await known([run.id for run in runs]) if runs else frozenset[RunId]()
    return [run for run in runs if run.id not in accounted_for]


def marked(runs: list[Run], mark: str) -> list[Run]:
    """Return the Runs whose User-Agent contains the mark, oldest first."""
    ours = [run for run in runs if mark in (run.user_agent or "")]
    return sorted(ours, key=lambda run: (run.started_at or _NOT_YET, run.id))

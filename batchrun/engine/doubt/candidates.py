"""Runs that may belong to an attempt in doubt: the task's Runs since its intent that the ledger does not know."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import field, replace
from datetime import datetime, timedelta

import anyio
import structlog

from batchrun.apify.wire import MAX_LIST_LIMIT
from batchrun.engine.doubt.seen_user_agents import MAX_OPEN_READS, SeenUserAgents
from batchrun.engine.notices import AccountRunsNotListed, Notice
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, TransportError
from batchrun.model import Run, RunId, RunsPage, TaskId
from batchrun.runtime.fast_dataclasses import dataclass

#: Max difference between the clocks that stamp Runs, beyond what was measured. An estimate.
CLOCK_MARGIN = timedelta(seconds=30)
#: Max Runs of a listing that the ledger does not know, some 100 MB: more than a task can start within minutes. There is
#: no bound to what a platform can invent.
MAX_UNKNOWN = 200_000
#: Max pages of a listing, of up to 1,000 Runs each: a list of Runs that are old, or known, may have no end either.
MAX_PAGES = 20_000
#: Max characters of a User-Agent that are kept: those of ours have less than 100.
_MAX_USER_AGENT_CHARS = 500
#: HTTP status of the API when it does not accept the token: the task's list would be refused as well.
_TOKEN_REFUSED = 401

#: Returns which of some Runs the ledger knows.
KnownRuns = Callable[[Collection[RunId]], Awaitable[AbstractSet[RunId]]]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listing:
    """The task's Runs since an intent that the ledger does not know, each with its User-Agent."""

    #: `user_agent` is None if the platform does not name the client that started the Run.
    runs: list[Run] = field(default_factory=list)
    #: Runs that are listed and could not be read by their id: most likely, they are too new.
    unreadable: list[Run] = field(default_factory=list)
    #: False if there were more Runs than were asked for.
    is_complete: bool = True


class Candidates:
    """Lists Runs and reads which client started each, once per Run.

    Args:
        client: the platform.
        task_id: the task's id as the platform spells it; Runs of other tasks are left out.
        agents: what the account's batches know of the clients that started its Runs.
        report: called once if the account's Runs may not be listed, with the reason.
    """

    def __init__(
        self,
        client: RunClient,
        task_id: TaskId,
        agents: SeenUserAgents,
        report: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._task_id = task_id
        self._agents = agents
        #: Of the Runs in the latest listing.
        self._user_agents: dict[RunId, str | None] = {}
        #: True once the account's Runs may not be listed: then the task's own list is read.
        self._reads_task_list = False
        self._report = report

    async def since(
        self,
        earliest_start: datetime,
        known: KnownRuns,
        max_runs: int | None = None,
    ) -> Listing:
        """List the task's Runs since an intent, without those that the ledger knows.

        The ledger is asked after the platform has answered, so that it knows Runs which were bound meanwhile.

        Args:
            earliest_start: by the Runs' clock; the list begins CLOCK_MARGIN before.
            known: returns which of some Runs the ledger knows.
            max_runs: with more Runs, the listing ends early; None: with more than `MAX_UNKNOWN`.

        Raises:
            ApiError: neither the account's Runs nor the task's may be listed.
        """
        unknown: dict[RunId, Run] = {}
        max_runs, pages, is_complete = MAX_UNKNOWN if max_runs is None else max_runs, 0, True
        async for page in self._pages(earliest_start - CLOCK_MARGIN, known):
            # Page by page: all Runs of a day may be too many for the memory.
            unknown |= {run.id: _what_is_asked_of(run) for run in page}
            pages += 1
            if len(unknown) > max_runs or pages == MAX_PAGES:
                is_complete = False
                break
        accounted_for = await known(unknown) if unknown else ()
        runs = [run for run in unknown.values() if run.id not in accounted_for]
        self._user_agents = {run.id: self._user_agents[run.id] for run in runs if run.id in self._user_agents}
        listing = Listing(is_complete=is_complete)
        unread = [run for run in runs if run.user_agent is None and run.id not in self._user_agents]
        left = iter(unread)
        async with anyio.create_task_group() as children:
            for _ in range(min(len(unread), MAX_OPEN_READS)):
                children.start_soon(self._read_user_agents, left)
        for run in runs:
            if run.user_agent is not None:
                listing.runs.append(run)
            elif run.id in self._user_agents:
                listing.runs.append(replace(run, user_agent=self._user_agents[run.id]))
            else:
                listing.unreadable.append(run)
        return listing

    async def _pages(self, since: datetime, known: KnownRuns) -> AsyncIterator[list[Run]]:
        """Yield the task's Runs since a time that the ledger does not know, in no order; some of them twice.

        The last page is the one that is not full, once all counted Runs are read: an empty page may never come, since
        Runs go on starting. In the task's own list, which has no filter by time, a page with older Runs is the last.
        """
        offset = 0
        seen: set[RunId] = set()
        while True:
            try:
                page = await self._page(since, offset)
            except ApiError as error:
                if self._reads_task_list or error.status == _TOKEN_REFUSED:
                    raise
                _log.warning("account_runs_not_listed", error=str(error))
                self._report(AccountRunsNotListed(reason=str(error)))
                self._reads_task_list, offset = True, 0
                continue
            ids = set(page.runs)
            if ids <= seen:
                return  # a list that shows the same Runs on every page has no last one
            seen = ids
            accounted_for = await known(ids)
            unknown = [page.runs[run_id] for run_id in page.runs if run_id not in accounted_for]
            yield [run for run in unknown if _is_since(since, run) and not run.is_of_another(self._task_id)]
            offset += page.count
            is_read = page.total is not None and offset >= page.total and page.count < MAX_LIST_LIMIT
            if is_read or (self._reads_task_list and not all(_is_since(since, run) for run in page.runs.values())):
                return

    async def _page(self, since: datetime, offset: int) -> RunsPage:
        if self._reads_task_list:
            return await self._client.list_task_runs(self._task_id, offset=offset)
        return await self._client.list_runs(started_after=since, offset=offset)

    async def _read_user_agents(self, runs: Iterator[Run]) -> None:
        """Read the User-Agents, which lists leave out; a Run that cannot or may not be read stays without one."""
        for run in runs:
            try:
                self._user_agents[run.id] = await self._agents.read(self._client, run.id)
            except (ApiError, TransportError) as error:
                _log.debug("candidate_not_read", run_id=run.id, error=str(error))


def _what_is_asked_of(run: Run) -> Run:
    """Return a Run without what a candidate does not need: a page of them may have megabytes of it."""
    agent = run.user_agent
    return replace(run, fields={}, user_agent=agent if agent is None else agent[:_MAX_USER_AGENT_CHARS])


def _is_since(since: datetime, run: Run) -> bool:
    return run.started_at is None or run.started_at >= since

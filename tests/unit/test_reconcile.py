"""Attempts in doubt: found by their mark alone, or certain to have started nothing, or left in doubt."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from batchrun.engine.doubt import candidates
from batchrun.engine.doubt.reconcile import EarlierDoubts, Reconciler, StillInDoubt
from batchrun.engine.doubt.seen_user_agents import MAX_OPEN_READS, SeenUserAgents
from batchrun.engine.limits.permits import Demand, Permit
from batchrun.errors import BatchRefused
from batchrun.ledger.facts import WATCHED_S
from batchrun.model import Attempt, AttemptState, JobId, JobKey, Mark, Run, RunId, RunOptions, RunsPage
from batchrun.runtime.steady_time import steady_time
from tests.support.memory_ledger import WatchedLedger
from tests.support.scripted_api import TASK, Plan, ScriptedApi, api_error, lost_answer
from tests.support.start_gates import gate_of, permits_over

HORIZON_S, LAG_S = 60.0, 5.0


class Doubts:
    """A reconciler, and what became of the marks it was asked about: a Run's id, "none", "doubt" or an error."""

    def __init__(
        self,
        api: ScriptedApi,
        *,
        echoes: bool | None = True,
        ledger: WatchedLedger | None = None,
        agents: SeenUserAgents | None = None,
    ) -> None:
        self.api = api
        self.ledger = ledger or WatchedLedger()
        self.reconciler = Reconciler(
            api,
            self.ledger,
            task_id=TASK,
            start_horizon_s=HORIZON_S,
            listing_lag_s=LAG_S,
            earlier=EarlierDoubts(echoes=echoes, watched_s=self.ledger.fact(WATCHED_S) or {}),
            agents=agents or SeenUserAgents(),
        )
        self.permits = permits_over(gate_of())
        self.found: dict[str, str] = {}
        self.at: dict[str, float] = {}

    def permit(self) -> Permit:
        """Return the permit of one more start."""
        return self.permits.adopt(Demand())

    async def ask(self, mark: str, is_of_this_process: bool = True) -> None:
        """Resolve one mark, intended now or by an earlier process."""
        try:
            intended_at = steady_time() if is_of_this_process else None
            run = await self.reconciler.resolve(intended(mark), JobKey(mark), self.permit(), intended_at)
            self.found[mark] = run.id if run is not None else "none"
        except StillInDoubt:
            self.found[mark] = "doubt"
        except BatchRefused:
            self.found[mark] = "refused"
        self.at[mark] = anyio.current_time()

    async def resolve(self, *marks: str, is_of_this_process: bool = True) -> dict[str, str]:
        """Resolve marks together; return what became of each."""
        async with anyio.create_task_group() as listing:
            listing.start_soon(self.reconciler.run)
            async with anyio.create_task_group() as asking:
                for mark in marks:
                    asking.start_soon(self.ask, mark, is_of_this_process)
            listing.cancel_scope.cancel()
        return self.found


def intended(mark: str, **noted: Any) -> Attempt:
    """Return an attempt in doubt."""
    now = datetime.now(UTC)
    return Attempt(attempt_no=1, mark=Mark(mark), state=AttemptState.INTENDED, **{"intended_at": now, **noted})


def agent(mark: str) -> str:
    """Return the User-Agent that a start with this mark sends."""
    return f"batchrun/1.0 ({mark})"


async def test_a_run_is_recognised_by_its_mark() -> None:
    """Among Runs of other attempts and other clients, the Run is found by its mark."""
    api = ScriptedApi()
    api.add_run(user_agent=agent("other"))
    ours = api.add_run(user_agent=agent("mine"))
    api.add_run(user_agent="apify-client/3")
    assert await Doubts(api).resolve("mine") == {"mine": ours}


async def test_one_listing_serves_all_that_are_in_doubt() -> None:
    """Fifty attempts in doubt cost one listing of one page and one read per Run."""
    api = ScriptedApi()
    runs = {f"m-{n:02d}": api.add_run(user_agent=agent(f"m-{n:02d}")) for n in range(50)}
    assert await Doubts(api).resolve(*runs) == runs
    assert (len(api.listings), sorted(api.reads)) == (1, sorted(runs.values()))


async def test_nothing_found_is_concluded_after_horizon_and_lag_only() -> None:
    """Before that, a Run may still come to be or to be listed."""
    doubts = Doubts(ScriptedApi())
    assert await doubts.resolve("mine") == {"mine": "none"}
    assert HORIZON_S + LAG_S <= doubts.at["mine"] <= HORIZON_S + LAG_S + 2


async def test_a_run_that_comes_to_be_at_the_end_of_the_horizon_is_found() -> None:
    """Late effect and lagging list together are waited out."""
    api = ScriptedApi(list_lag_s=LAG_S)
    late = api.add_run(user_agent=agent("mine"), began_at=HORIZON_S - 0.5)
    assert await Doubts(api).resolve("mine") == {"mine": late}


async def test_a_run_that_is_listed_and_not_readable_yet_is_waited_for() -> None:
    """404 for a fresh Run is no proof that it is not ours."""
    api = ScriptedApi(fresh_404_s=100)
    late = api.add_run(user_agent=agent("mine"), began_at=30)
    assert await Doubts(api).resolve("mine") == {"mine": late}


async def test_runs_that_begin_after_its_last_listing_do_not_keep_it_in_doubt() -> None:
    """On a busy account some Run is always too fresh to be read; what was not listed in time is not its Run."""
    api = ScriptedApi(fresh_404_s=3)
    for began_at in range(300):
        api.add_run(user_agent=agent("other"), began_at=float(began_at))
    doubts = Doubts(api)
    await api.start_run(TASK, b"{}", RunOptions(), Mark("answered"))  # measures the clock
    assert await doubts.resolve("mine") == {"mine": "none"}
    assert HORIZON_S + LAG_S < doubts.at["mine"] < HORIZON_S + LAG_S + 8


async def test_a_run_that_cannot_be_read_when_the_horizon_ends_is_waited_for() -> None:
    """It was listed in time, and younger Runs that cannot be read yet hide nothing."""
    api = ScriptedApi(fresh_404_s=15)
    ours = api.add_run(user_agent=agent("mine"), began_at=HORIZON_S - 1)
    for began_at in range(int(HORIZON_S), 200):
        api.add_run(user_agent=agent("other"), began_at=float(began_at))
    assert await Doubts(api).resolve("mine") == {"mine": ours}


async def test_two_runs_of_one_mark_bind_the_older_and_abort_the_younger() -> None:
    """The second was started by no request of ours."""
    api = ScriptedApi(Plan(run_s=500))
    younger = api.add_run(user_agent=agent("mine"), began_at=0.5)
    older = api.add_run(user_agent=agent("mine"), began_at=0.0)
    await anyio.sleep(1)
    assert await Doubts(api).resolve("mine") == {"mine": older}
    assert api.aborted == [younger]


async def test_a_younger_run_too_fresh_to_be_aborted_is_aborted_a_moment_later() -> None:
    """404 to the abort stops nothing and is not forgotten."""
    api = ScriptedApi()
    older, younger = (api.add_run(user_agent=agent("mine"), began_at=float(n)) for n in range(2))
    await anyio.sleep(2)
    api.errors["abort_run"] = [api_error(404)]
    assert await Doubts(api).resolve("mine") == {"mine": older}
    assert api.aborted == [younger]


async def test_runs_of_other_tasks_are_left_out() -> None:
    """They are not even read."""
    api = ScriptedApi()
    api.add_run(user_agent=agent("mine"), task_id="another")
    assert await Doubts(api).resolve("mine") == {"mine": "none"}
    assert api.reads == []


async def test_a_run_that_is_listed_without_its_task_is_found() -> None:
    """The platform may leave the task out while a Run is live; the mark tells whose it is."""
    api = ScriptedApi()
    api.add_run(Plan(fields={"actorTaskId": None}), user_agent="apify-client/3")
    ours = api.add_run(Plan(fields={"actorTaskId": None}), user_agent=agent("mine"))
    assert await Doubts(api).resolve("mine") == {"mine": ours}


async def test_runs_that_the_ledger_knows_are_not_read() -> None:
    """They belong to other attempts already."""
    api, ledger = ScriptedApi(), WatchedLedger()
    known = api.add_run(user_agent=agent("other"))
    at = datetime.now(UTC) - timedelta(seconds=1)
    ledger.attempts[JobId(9), 1] = Attempt(
        attempt_no=1, mark=Mark("other"), state=AttemptState.BOUND, run_id=known, intended_at=at, started_at=at
    )
    assert await Doubts(api, ledger=ledger).resolve("mine") == {"mine": "none"}
    assert api.reads == []


async def test_a_stranger_is_read_once_however_often_it_is_listed() -> None:
    """A minute of listings makes one read per candidate."""
    api = ScriptedApi()
    api.add_run(user_agent="somebody else")
    assert await Doubts(api).resolve("mine") == {"mine": "none"}
    assert (len(api.reads), len(api.listings) > 8) == (1, True)


async def test_without_an_echo_a_candidate_keeps_it_in_doubt() -> None:
    """A Run that could be ours and names no client is neither adopted nor ruled out."""
    api = ScriptedApi(echoes=False)
    api.add_run(user_agent=agent("mine"))
    assert await Doubts(api, echoes=False).resolve("mine") == {"mine": "doubt"}
    assert api.aborted == []


async def test_without_an_echo_and_without_a_candidate_nothing_was_started() -> None:
    """An empty list is proof on any platform."""
    assert await Doubts(ScriptedApi(echoes=False), echoes=False).resolve("mine") == {"mine": "none"}


async def test_without_an_echo_runs_that_we_start_meanwhile_are_no_suspects() -> None:
    """A Run that is bound between listing and judging belongs to its own attempt."""
    ledger = WatchedLedger()

    class _Busy(ScriptedApi):
        """A platform on which this process starts a Run during every listing."""

        async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
            if offset == 0:
                run_id = self.add_run(Plan(run_s=1))
                at = datetime.now(UTC) + timedelta(seconds=anyio.current_time())
                ledger.attempts[JobId(len(self.begun_at)), 1] = Attempt(
                    attempt_no=1,
                    mark=Mark(run_id),
                    state=AttemptState.BOUND,
                    run_id=run_id,
                    intended_at=at,
                    started_at=at,
                )
            return await super().list_runs(started_after=started_after, offset=offset)

    assert await Doubts(_Busy(echoes=False), echoes=False, ledger=ledger).resolve("mine") == {"mine": "none"}


async def test_whether_marks_are_echoed_is_learned_from_the_first_answer() -> None:
    """Noted once, not with every start."""
    api, ledger = ScriptedApi(), WatchedLedger()
    doubts = Doubts(api, echoes=None, ledger=ledger)
    for n in range(3):
        doubts.reconciler.note_start(api.run(api.add_run(user_agent=agent(f"m{n}"))), Mark(f"m{n}"))
    assert (doubts.reconciler.echoes, ledger.notes) == (True, ["echo True"])


async def test_a_user_agent_without_the_mark_is_no_echo() -> None:
    """A proxy that puts its own name in place of ours takes the mark away."""
    api, ledger = ScriptedApi(), WatchedLedger()
    doubts = Doubts(api, echoes=True, ledger=ledger)
    doubts.reconciler.note_start(api.run(api.add_run(user_agent="proxy/1")), Mark("mine"))
    assert (doubts.reconciler.echoes, ledger.notes) == (False, ["echo False"])


async def test_a_list_of_many_pages_is_read_to_its_end() -> None:
    """The Run stands on the third page of a thousand."""
    api = ScriptedApi()
    for _ in range(2500):
        api.add_run(task_id="another")
    ours = api.add_run(user_agent=agent("mine"))
    assert await Doubts(api).resolve("mine") == {"mine": ours}
    assert len(api.listings) == 3


async def test_a_list_that_shows_a_stranger_on_every_page_ends() -> None:
    """It has no empty page; a page without a Run that is new is its end."""
    api = ScriptedApi()
    stranger = api.add_run(task_id="another")
    ours = api.add_run(user_agent=agent("mine"))
    list_runs = api.list_runs

    async def on_every_page(*, started_after: datetime, offset: int) -> RunsPage:
        page = await list_runs(started_after=started_after, offset=offset)
        runs = page.runs if offset == 0 else {stranger: api.run(stranger, is_short=True)}
        return RunsPage(runs=runs, count=len(runs), total=None)

    api.list_runs = on_every_page  # type: ignore[method-assign] # a platform with this one fault
    assert await Doubts(api).resolve("mine") == {"mine": ours}


@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_list_without_an_end_proves_nothing_but_what_it_shows(
    monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    """It is read up to a number of Runs, without what they have beside; the attempt stays in doubt, or is found."""
    monkeypatch.setattr(candidates, "MAX_UNKNOWN", 250)
    api = ScriptedApi()
    one = api.run(api.add_run(user_agent=agent("other")))
    pages: dict[int, RunsPage] = {}

    def page(offset: int) -> RunsPage:
        user_agent = "x" * 20_000 + (" (mine)" if is_listed else "")
        ids = [RunId(f"{offset + n}") for n in range(100)]
        runs = {run_id: replace(one, id=run_id, user_agent=user_agent) for run_id in ids}
        if is_listed:
            runs[RunId("ours")] = replace(one, id=RunId("ours"), user_agent=agent("mine"))
        return RunsPage(runs=runs, count=100, total=10**9)

    async def without_an_end(*, started_after: datetime, offset: int) -> RunsPage:
        await anyio.sleep(0.2)
        return pages.setdefault(offset, pages.get(offset) or page(offset))

    api.list_runs = without_an_end  # type: ignore[method-assign] # a platform with this one fault
    doubts = Doubts(api)
    assert await doubts.resolve("mine") == {"mine": "ours" if is_listed else "doubt"}
    assert one.started_at is not None
    listing = await doubts.reconciler._candidates.since(one.started_at, doubts.ledger.known_runs)
    assert (len(listing.runs), listing.is_complete) == (301 if is_listed else 300, False)
    assert max(len(run.user_agent or "") for run in listing.runs) == 500
    assert not any(run.fields for run in listing.runs)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_list_without_an_end_of_known_or_old_runs_ends(monkeypatch: pytest.MonkeyPatch, is_known: bool) -> None:
    """No page adds anything, and no page is the one before."""
    monkeypatch.setattr(candidates, "MAX_PAGES", 7)
    api, offsets = ScriptedApi(), list[int]()
    one = api.run(api.add_run(user_agent=agent("other")))
    assert one.started_at is not None
    since = one.started_at + timedelta(days=0 if is_known else 1)

    async def without_an_end(*, started_after: datetime, offset: int) -> RunsPage:
        offsets.append(offset)
        run_id = RunId(f"{offset}")
        return RunsPage(runs={run_id: replace(one, id=run_id)}, count=1, total=10**9)

    async def all_known(run_ids: Collection[RunId]) -> set[RunId]:
        return set(run_ids)

    api.list_runs = without_an_end  # type: ignore[method-assign] # a platform with this one fault
    listing = await candidates.Candidates(api, TASK, SeenUserAgents()).since(since, all_known)
    assert (listing.runs, listing.is_complete, offsets) == ([], False, [*range(7)])


async def test_a_listing_ends_while_runs_go_on_starting() -> None:
    """Another client starts thirty Runs a second, a page takes a tenth of one, and the first shows all there was."""
    api = _Crowd(listing_s=0.1, read_s=0.0, starts_per_s=30)
    ours = api.add_run(user_agent=agent("mine"))
    assert await beside(api, Doubts(api)) == {"mine": ours}
    assert len(api.listings) == 1


async def test_candidates_are_read_side_by_side() -> None:
    """Twenty strangers' Runs a second, each a tenth of a second to read, do not keep a doubt beyond its horizon."""
    doubts = Doubts(_Crowd(listing_s=0.02, read_s=0.1, starts_per_s=20))
    assert await beside(doubts.api, doubts) == {"mine": "none"}
    assert doubts.at["mine"] <= HORIZON_S + LAG_S + 3


class _Crowd(ScriptedApi):
    """A platform that is slow to list and to read Runs, and on which another client goes on starting some."""

    def __init__(self, *, listing_s: float, read_s: float, starts_per_s: float) -> None:
        super().__init__()
        self.listing_s, self.read_s, self.starts_per_s = listing_s, read_s, starts_per_s
        self.open_reads = self.most_open_reads = 0

    async def start_for_ever(self) -> None:
        while True:
            self.add_run(Plan(run_s=0.2), user_agent="somebody else")
            await anyio.sleep(1 / self.starts_per_s)

    async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
        await anyio.sleep(self.listing_s)
        return await super().list_runs(started_after=started_after, offset=offset)

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, **_: Any) -> Run:
        self.open_reads += 1
        self.most_open_reads = max(self.open_reads, self.most_open_reads)
        await anyio.sleep(self.read_s)
        self.open_reads -= 1
        return await super().get_run(run_id, wait_for_finish_s=wait_for_finish_s)


async def beside(api: ScriptedApi, doubts: Doubts) -> dict[str, str]:
    """Resolve one mark while a crowd starts Runs."""
    assert isinstance(api, _Crowd)
    async with anyio.create_task_group() as children:
        children.start_soon(api.start_for_ever)
        with anyio.move_on_after(600):
            await doubts.resolve("mine")
        children.cancel_scope.cancel()
    assert api.most_open_reads <= MAX_OPEN_READS
    return doubts.found


@pytest.mark.parametrize(("stranger", "found"), [("somebody else", "none"), (None, "doubt")])
async def test_batches_of_one_account_read_each_run_once(stranger: str | None, found: str) -> None:
    """Batches in doubt beside 100 Runs: each Run is read once for all, few at a time, those that one started never.

    The platform may not say which client started a Run.
    """
    api = _Crowd(listing_s=0.1, read_s=0.05, starts_per_s=1)
    agents = SeenUserAgents()
    batches = [Doubts(api, agents=agents) for _ in range(5)]
    for n in range(50):
        api.add_run(user_agent=stranger)
        batches[0].reconciler.note_start(api.run(api.add_run(user_agent=agent(f"started-{n}"))), Mark(f"started-{n}"))
    async with anyio.create_task_group() as children:
        for n, batch in enumerate(batches):
            children.start_soon(batch.resolve, f"mine-{n}")
    assert [batch.found[f"mine-{n}"] for n, batch in enumerate(batches)] == [found] * 5
    assert api.most_open_reads == MAX_OPEN_READS
    assert len(api.reads) == len(set(api.reads)) == 50


async def test_a_batch_alone_in_its_account_remembers_no_starts() -> None:
    """Its own ledger knows their Runs, which nobody else looks for; of 20,000, the memory would grow with each job."""
    api = ScriptedApi()
    agents = SeenUserAgents(notes_starts=False)
    run = api.run(api.add_run(user_agent=agent("ours")))
    Doubts(api, agents=agents).reconciler.note_start(run, Mark("ours"))
    assert agents.are_echoed
    assert await agents.read(api, run.id) == agent("ours")
    assert api.reads == [run.id]


async def test_a_doubt_that_comes_while_others_are_resolved_is_resolved_too() -> None:
    """No attempt is forgotten between two listings."""
    api = ScriptedApi()
    doubts = Doubts(api)
    async with anyio.create_task_group() as children:
        children.start_soon(doubts.reconciler.run)
        children.start_soon(doubts.ask, "first")
        await anyio.sleep(65.5)
        ours = api.add_run(user_agent=agent("second"))
        await doubts.ask("second")
        await anyio.sleep(5)
        third = api.add_run(user_agent=agent("third"))
        await doubts.ask("third")
        children.cancel_scope.cancel()
    assert doubts.found == {"first": "none", "second": ours, "third": third}
    assert doubts.reconciler.in_doubt == 0


async def test_a_cancelled_attempt_is_no_longer_listed_for() -> None:
    """The listing stops when no attempt is in doubt any more."""
    api = ScriptedApi()
    doubts = Doubts(api)
    async with anyio.create_task_group() as children:
        children.start_soon(doubts.reconciler.run)
        with anyio.move_on_after(10):
            await doubts.ask("mine")
        listed = len(api.listings)
        await anyio.sleep(100)
        children.cancel_scope.cancel()
    assert (doubts.reconciler.in_doubt, len(api.listings) - listed <= 1) == (0, True)


@pytest.mark.parametrize("errors", [{"list_runs": 401}, {"list_runs": 403, "list_task_runs": 403}])
async def test_a_platform_that_will_not_list_stops_the_batch(errors: dict[str, int]) -> None:
    """Nothing is concluded from a refusal, and it concerns all attempts in doubt."""
    api = ScriptedApi()
    api.errors |= {method: [api_error(status)] for method, status in errors.items()}
    assert await Doubts(api).resolve("a", "b") == {"a": "refused", "b": "refused"}


async def test_a_token_that_may_list_the_tasks_runs_only_is_enough() -> None:
    """The task's own list shows the Run, on its third page; the account's is asked for once."""
    api = ScriptedApi()
    api.add_run(user_agent="long ago", began_at=-3 * 86400)
    ours = api.add_run(user_agent=agent("mine"))
    for _ in range(2500):
        api.add_run(user_agent="somebody else")
    api.add_run(task_id="another")
    api.errors["list_runs"] = [api_error(403)]
    assert await Doubts(api).resolve("mine") == {"mine": ours}
    assert (len(api.listings), len(api.task_listings), len(api.reads)) == (1, 3, 2501)


async def test_a_task_list_without_the_run_proves_that_there_is_none() -> None:
    """After horizon and lag, as the account's list does."""
    api = ScriptedApi()
    api.add_run(user_agent="somebody else")
    api.errors["list_runs"] = [api_error(403)]
    doubts = Doubts(api)
    assert await doubts.resolve("mine") == {"mine": "none"}
    assert HORIZON_S + LAG_S <= doubts.at["mine"] <= HORIZON_S + LAG_S + 2


async def test_the_task_list_is_read_back_to_the_intent_and_no_further() -> None:
    """Of ten thousand Runs of two days ago, one page is read."""
    api = ScriptedApi()
    for _ in range(10_000):
        api.add_run(user_agent="long ago", began_at=-2 * 86400)
    ours = api.add_run(user_agent=agent("mine"))
    api.errors["list_runs"] = [api_error(403)]
    assert await Doubts(api).resolve("mine") == {"mine": ours}
    assert (len(api.task_listings), api.reads) == (1, [ours])


async def test_a_candidate_that_may_not_be_read_keeps_it_in_doubt() -> None:
    """Its Run may be ours: nothing is guessed, and the batch goes on."""
    api = ScriptedApi()
    api.add_run(user_agent="who knows")
    api.errors["get_run"] = [api_error(403), api_error(500), lost_answer()] * 1000
    assert await Doubts(api).resolve("mine") == {"mine": "doubt"}


async def test_a_candidate_that_can_never_be_read_does_not_hold_the_batch_for_ever() -> None:
    """The attempt stays in doubt, and the batch goes on."""
    api = ScriptedApi(fresh_404_s=1e9)
    api.add_run(user_agent="who knows")
    doubts = Doubts(api)
    with anyio.move_on_after(3600):
        await doubts.resolve("mine")
    assert doubts.found == {"mine": "doubt"}


async def test_the_run_that_is_returned_is_as_the_platform_described_it() -> None:
    """Its id and its start are what the ledger binds."""
    api = ScriptedApi()
    run_id = api.add_run(user_agent=agent("mine"))
    doubts = Doubts(api)
    async with anyio.create_task_group() as children:
        children.start_soon(doubts.reconciler.run)
        run = await doubts.reconciler.resolve(intended("mine"), JobKey("j"), doubts.permit())
        children.cancel_scope.cancel()
    assert (run and (run.id, run.started_at)) == (RunId(run_id), api.run(run_id).started_at)


async def test_the_horizon_begins_when_the_platform_answers_again() -> None:
    """An outage, in which the lost request may be on its way, uses up no part of the horizon and delays nothing."""

    class _Away(ScriptedApi):
        """A platform that answers no listing for ten minutes."""

        async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
            if anyio.current_time() < 600:
                await anyio.sleep(600 - anyio.current_time())
                self.add_run(user_agent=agent("mine"), began_at=601)
            return await super().list_runs(started_after=started_after, offset=offset)

    doubts = Doubts(_Away())
    assert await doubts.resolve("mine") == {"mine": "run-1"}
    assert doubts.at["mine"] <= 615


async def resolve_after_kills(api: ScriptedApi, *, kill_every_s: float, away_s: float = 0.0) -> dict[str, str]:
    """Resolve a mark in one process after another, each killed after a while and followed by the next at once."""
    ledger = WatchedLedger()
    for n in range(60):
        doubts = Doubts(api, ledger=ledger)
        with anyio.move_on_after(kill_every_s):
            await doubts.resolve("mine", is_of_this_process=n == 0)
        if doubts.found:
            return doubts.found
        await anyio.sleep(away_s)
    return {}


@pytest.mark.parametrize("kill_every_s", [3.5, 20, 50])
async def test_a_horizon_goes_on_from_process_to_process(kill_every_s: float) -> None:
    """What earlier processes watched of it counts: a batch that is killed again and again ends its doubts too."""
    assert await resolve_after_kills(ScriptedApi(), kill_every_s=kill_every_s) == {"mine": "none"}
    assert HORIZON_S + LAG_S <= anyio.current_time() <= 3 * (HORIZON_S + LAG_S)


async def test_time_without_a_process_is_no_part_of_the_horizon() -> None:
    """By which clock would it be measured? A Run that comes to be late by any clock is found."""
    api = ScriptedApi()
    late = api.add_run(user_agent=agent("mine"), began_at=190)
    assert await resolve_after_kills(api, kill_every_s=20, away_s=60) == {"mine": late}


async def test_an_outage_is_no_part_of_the_horizon_of_a_killed_process() -> None:
    """It has watched nothing: the lost request may have been on its way."""
    api, ledger = ScriptedApi(), WatchedLedger()
    answers_at = 100.0

    async def list_runs(*, started_after: datetime, offset: int) -> RunsPage:
        await anyio.sleep(max(0.0, answers_at - anyio.current_time()))
        return await ScriptedApi.list_runs(api, started_after=started_after, offset=offset)

    api.list_runs = list_runs  # type: ignore[method-assign] # a platform with this one fault
    with anyio.move_on_after(90):
        await Doubts(api, ledger=ledger).resolve("mine")
    assert ledger.fact(WATCHED_S) is None
    doubts = Doubts(api, ledger=ledger)
    assert await doubts.resolve("mine", is_of_this_process=False) == {"mine": "none"}
    assert doubts.at["mine"] >= answers_at + HORIZON_S + LAG_S


@pytest.mark.parametrize(("learned", "came_to"), [(None, "doubt"), (True, "none")])
async def test_what_another_batch_has_learned_tells_its_runs_from_ours(learned, came_to):
    """The answer to a first start is lost beside Runs of another batch: those are not ours, if marks are echoed."""
    api = ScriptedApi()
    agents = SeenUserAgents()
    agents.are_echoed = learned
    doubts = Doubts(api, echoes=None, agents=agents)
    async with anyio.create_task_group() as children:
        children.start_soon(doubts.reconciler.run)
        api.add_run(user_agent="batchrun/0 (of another batch)")
        await doubts.ask("ours")
        children.cancel_scope.cancel()
    assert doubts.found == {"ours": came_to}

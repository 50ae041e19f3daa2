from datetime import datetime
from typing import Any

import anyio
import pytest

from batchrun.engine.follow.lost_run import GIVEN_UP_AFTER_S, LOST_AFTER_S
from batchrun.errors import BatchRefused, BatchrunError, TransportError
from batchrun.model import Cause, Outcome, Run, RunId, RunsPage, RunStatus
from batchrun.policy.deadlines import Deadlines
from tests.support.following import Following
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, foreign_page, retries


@pytest.mark.parametrize("status", [status for status in RunStatus if status.is_terminal])
async def test_a_run_is_over_when_its_status_is_terminal(status: RunStatus) -> None:
    """Each terminal status ends the following, at the moment the Run ends."""
    api = ScriptedApi(Plan())
    run_id = api.add_run(Plan(run_s=1234.5, status=status))
    run = await Following(api).wait_for_finish(run_id)
    assert (run and run.status, anyio.current_time()) == (status, 1234.5)


async def test_polls_that_are_answered_early_do_not_spin() -> None:
    """A server that never waits is asked twice a second, and no more."""
    api = ScriptedApi(early_answer_s=0)
    run_id = api.add_run(Plan(run_s=100))
    await Following(api).wait_for_finish(run_id)
    assert len(api.reads) == 201


async def test_a_patient_server_is_asked_once_a_minute() -> None:
    """One poll per 60 seconds of Run."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=600))
    await Following(api).wait_for_finish(run_id)
    assert len(api.reads) == 10


async def test_a_fresh_run_may_be_unknown_for_a_while() -> None:
    """404 for three seconds costs nothing."""
    api = ScriptedApi(fresh_404_s=3)
    run_id = api.add_run(Plan(run_s=20))
    run = await Following(api).wait_for_finish(run_id)
    assert (run and run.status, anyio.current_time()) == (RunStatus.SUCCEEDED, 20.0)


async def test_a_run_that_stays_unknown_is_lost() -> None:
    """After ten seconds of 404, and not before."""
    assert await Following(ScriptedApi()).wait_for_finish(RunId("gone")) is None
    assert LOST_AFTER_S < anyio.current_time() <= LOST_AFTER_S + 1


async def test_unknown_now_and_then_is_not_lost() -> None:
    """Only an unbroken while of 404 counts."""
    api = ScriptedApi(early_answer_s=0)
    run_id = api.add_run(Plan(run_s=60))
    following = Following(api)
    async with anyio.create_task_group() as children:
        runs: list[Run | None] = []

        async def follow() -> None:
            runs.append(await following.wait_for_finish(run_id))

        children.start_soon(follow)
        for _ in range(6):
            api.errors["get_run"] = [api_error(404)] * 16  # eight seconds of them
            await anyio.sleep(9)
    assert [run and run.status for run in runs] == [RunStatus.SUCCEEDED]


class _SlowToDeny(ScriptedApi):
    """A platform whose answers come late: the client asked again and again through an outage."""

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, **_: Any) -> Run:
        await anyio.sleep(600)
        return await super().get_run(run_id, wait_for_finish_s=wait_for_finish_s)


async def test_one_late_404_does_not_make_a_run_lost() -> None:
    """However long the answer took, ten seconds are counted from the first 404."""
    api = _SlowToDeny()
    run_id = api.add_run(Plan(run_s=20))
    api.errors["get_run"] = [api_error(404)]
    run = await Following(api).wait_for_finish(run_id)
    assert run is not None


async def test_a_platform_that_refuses_to_describe_a_run_stops_the_batch() -> None:
    """403 on a Run of ours is not the Run's end."""
    api = ScriptedApi()
    run_id = api.add_run()
    api.errors["get_run"] = [api_error(403, "insufficient-permissions")]
    with pytest.RaisesGroup(pytest.RaisesExc(BatchRefused, match="Run run-1 cannot be followed")):
        await Following(api).wait_for_finish(run_id)


async def test_no_more_polls_are_open_than_allowed() -> None:
    """The other Runs wait for a poll, and all are followed to their end."""
    api, open_polls, peak = ScriptedApi(), 0, 0

    class _Counting(ScriptedApi):
        async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, **_: Any) -> Run:
            nonlocal open_polls, peak
            open_polls += 1
            peak = max(peak, open_polls)
            try:
                return await api.get_run(run_id, wait_for_finish_s=wait_for_finish_s)
            finally:
                open_polls -= 1

    run_ids = [api.add_run(Plan(run_s=5)) for _ in range(10)]
    assert len(await Following(_Counting(), max_open_polls=3).all(run_ids)) == 10
    assert (peak, open_polls) == (3, 0)


async def test_a_cancelled_follower_releases_its_poll() -> None:
    """A cancelled follower releases its poll for the next one."""
    api = ScriptedApi()
    following = Following(api, max_open_polls=1)
    endless, short = api.add_run(Plan(run_s=1e9)), api.add_run(Plan(run_s=1))
    with anyio.move_on_after(30):
        await following.wait_for_finish(endless)
    assert await following.wait_for_finish(short) is not None


class _Forgetful(ScriptedApi):
    """A platform that does not describe its Runs for a while, by the given error, though it lists them."""

    def __init__(self, error: BatchrunError, until: float, plan: Plan | None = None) -> None:
        super().__init__(plan)
        self._error, self._until = error, until
        self.finds = 0

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, **_: Any) -> Run:
        if anyio.current_time() < self._until:
            await anyio.sleep(1)
            raise self._error
        return await super().get_run(run_id, wait_for_finish_s=wait_for_finish_s)

    async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
        self.finds += 1
        return await super().list_runs(started_after=started_after, offset=offset)


UNREADABLE = [api_error(404), api_error(500), foreign_page(502), TransportError("an answer could not be read: cut")]


@pytest.mark.parametrize("error", UNREADABLE, ids=["404", "500", "page", "cut"])
async def test_a_run_that_is_listed_as_live_is_not_lost(error: BatchrunError) -> None:
    """Lists have a view of their own: the Run goes on, and is described again later."""
    api = _Forgetful(error, until=60)
    run_id = api.add_run(Plan(run_s=300))
    run = await Following(api).wait_for_finish(run_id)
    assert (run and run.status, anyio.current_time()) == (RunStatus.SUCCEEDED, 300.0)
    assert 0 < api.finds <= 60


@pytest.mark.parametrize("error", UNREADABLE, ids=["404", "500", "page", "cut"])
async def test_a_run_that_is_never_described_ends_as_it_is_listed(error: BatchrunError) -> None:
    """Its status, times, storages and cost are in lists too."""
    api = _Forgetful(error, until=float("inf"))
    run_id = api.add_run(Plan(run_s=300, status=RunStatus.FAILED))
    run = await Following(api).wait_for_finish(run_id)
    assert run is not None
    assert (run.status, run.dataset_id, run.cost_usd) == (RunStatus.FAILED, f"dataset-{run_id}", 0.25)
    assert 300 <= anyio.current_time() <= 312


async def test_an_old_run_is_found_where_the_accounts_runs_may_not_be_listed() -> None:
    """The task's own list will do."""
    api = _Forgetful(api_error(500), until=60)
    api.errors["list_runs"] = [api_error(403, "insufficient-permissions")] * 1000
    run_id = api.add_run(Plan(run_s=30))
    run = await Following(api).wait_for_finish(run_id)
    assert run is not None
    assert run.status is RunStatus.SUCCEEDED


async def test_the_deadline_of_a_run_that_is_only_listed_is_kept() -> None:
    """It is judged by what the list shows."""
    api = _Forgetful(api_error(500), until=float("inf"), plan=Plan(run_s=1e6))
    terms = {"deadlines": Deadlines(max_job_s=100)}
    (record,) = await Engine(api, WatchedLedger(), ListSource([make_job()]), terms=terms).run()
    assert (record.outcome, record.error and record.error.type) == (Outcome.TIMED_OUT, "max-job-s")
    assert (api.aborted, api.live) == (api.run_ids, 0)


async def test_a_run_that_nothing_shows_is_given_up_and_stays_known_to_the_ledger() -> None:
    """It may be live: it is neither lost nor succeeded, is not started again, and can still be aborted."""
    api = _Forgetful(api_error(500), until=float("inf"), plan=Plan(run_s=1e6))
    api.list_lag_s = float("inf")
    ledger = WatchedLedger()
    engine = Engine(api, ledger, ListSource([make_job()]), retry=retries(3, on=[*Cause]))
    (record,) = await engine.run()
    assert (record.outcome, record.error and record.error.type) == (Outcome.TIMED_OUT, "run-unreadable")
    assert GIVEN_UP_AFTER_S < anyio.current_time() < GIVEN_UP_AFTER_S + 60
    assert (len(api.posts), engine.permits.used) == (1, 0)
    assert await ledger.bound_runs() == [each.run_id for each in record.attempts] == api.run_ids
    assert record.cost_usd is None

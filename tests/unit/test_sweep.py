"""Runs beyond the open polls, followed by listing which are live: on virtual time."""

from collections import Counter

import anyio
import pytest

from batchrun.engine.follow import Follower, Polls
from batchrun.engine.sweep import MAX_INTERVAL_S, MIN_INTERVAL_S
from batchrun.errors import BatchRefused
from batchrun.model import Run, RunId, RunStatus
from tests.support.memory_ledger import ListSource, MemoryLedger, make_job
from tests.support.scripted_api import TASK, Engine, Plan, ScriptedApi, api_error


async def follow_all(api: ScriptedApi, run_ids: list[RunId], *, max_open_polls: int) -> dict[RunId, float]:
    """Follow Runs to their end, all at once; return when each end was noticed."""
    follower = Follower(api, TASK, Polls(max_open_polls))
    noticed: dict[RunId, float] = {}

    async def follow(run_id: RunId) -> None:
        run = await follower.wait_for_finish(run_id)
        assert run is not None
        assert run.status.is_terminal
        noticed[run_id] = anyio.current_time()

    async with anyio.create_task_group() as children:
        children.start_soon(follower.sweep.run)
        async with anyio.create_task_group() as following:
            for run_id in run_ids:
                following.start_soon(follow, run_id)
        children.cancel_scope.cancel()
    return noticed


async def test_ten_thousand_runs_are_followed_with_few_requests() -> None:
    """Twenty to forty minutes each: no end is lost, none noticed late, and there are next to no requests for each."""
    api = ScriptedApi()
    ends = [5000.0] * 1000 + [1200.0 + 0.13 * number for number in range(9000)]
    run_ids = [api.add_run(Plan(run_s=end)) for end in ends]
    noticed = await follow_all(api, run_ids, max_open_polls=1000)
    assert len(noticed) == 10_000
    assert max(noticed[run_id] - end for run_id, end in zip(run_ids, ends, strict=True)) <= MAX_INTERVAL_S + 2
    # The polls are taken all the time by Runs that last; the last request for each of the others confirms its end.
    reads = Counter(api.reads)
    in_vain = sum(reads[run_id] - 1 for run_id in run_ids[1000:])
    assert (len(api.live_listings) + in_vain) / 9000 < 0.1


async def test_an_end_is_noticed_within_the_interval() -> None:
    """A short Run among swept ones, soon after its start."""
    api = ScriptedApi()
    run_ids = [api.add_run(Plan(run_s=30.0 + number)) for number in range(20)]
    noticed = await follow_all(api, run_ids, max_open_polls=2)
    late = [noticed[run_id] - (30.0 + number) for number, run_id in enumerate(run_ids)]
    assert min(late) >= 0
    assert max(late) <= MIN_INTERVAL_S + 1.5


async def test_a_poll_that_comes_free_takes_over_a_swept_run() -> None:
    """The last Run is noticed at once, not with the next sweep."""
    api = ScriptedApi()
    first, second = api.add_run(Plan(run_s=100)), api.add_run(Plan(run_s=500.25))
    noticed = await follow_all(api, [first, second], max_open_polls=1)
    assert (noticed[first], noticed[second]) == (100, 500.25)


async def test_a_list_that_lags_ends_no_run() -> None:
    """What is missing from the list is asked for, and goes on when it lives."""
    api = ScriptedApi(list_lag_s=40)
    run_ids = [api.add_run(Plan(run_s=90)) for _ in range(5)]
    noticed = await follow_all(api, run_ids, max_open_polls=1)
    assert all(90 <= at <= 95 for at in noticed.values())


async def test_a_sweep_that_is_refused_asks_for_each_run() -> None:
    """The Runs themselves say what is wrong, or that all is well."""
    api = ScriptedApi()
    api.errors["list_live_runs"] = [api_error(403, "insufficient-permissions")] * 3
    run_ids = [api.add_run(Plan(run_s=60)) for _ in range(5)]
    assert len(await follow_all(api, run_ids, max_open_polls=1)) == 5
    follower, run_id = Follower(api, TASK, Polls(1)), api.add_run()
    api.errors["get_run"] = [api_error(403, "insufficient-permissions")]
    with pytest.raises(BatchRefused):
        await follower.wait_for_finish(run_id)


async def test_who_is_cancelled_is_swept_no_more() -> None:
    """Nothing is left behind, and the sweep falls silent."""
    api = ScriptedApi()
    follower = Follower(api, TASK, Polls(1))
    async with anyio.create_task_group() as children:
        children.start_soon(follower.sweep.run)
        with anyio.move_on_after(50):
            async with anyio.create_task_group() as following:
                for _ in range(3):
                    following.start_soon(follower.wait_for_finish, api.add_run(Plan(run_s=1e6)))
        before = len(api.live_listings)
        await anyio.sleep(1000)
        assert len(api.live_listings) <= before + 1
        run = await follower.wait_for_finish(api.add_run(Plan(run_s=1)))
        assert isinstance(run, Run)
        assert run.status is RunStatus.SUCCEEDED
        children.cancel_scope.cancel()


async def test_a_batch_with_more_runs_than_polls_ends_right() -> None:
    """Every job once, with the slots in use all the time."""
    api = ScriptedApi(lambda n: Plan(run_s=60 + n % 30))
    source = ListSource([make_job(line) for line in range(1, 401)])
    records = await Engine(api, MemoryLedger(), source, slots=100, max_open_polls=10).run()
    assert (len(records), len(api.run_ids), api.peak) == (400, 400, 100)

"""Runs beyond the open polls, followed by listing which are live: on virtual time."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from batchrun.engine.child_pool import MAX_IDLE
from batchrun.engine.follow import sweep
from batchrun.engine.follow.lost_run import LOST_AFTER_S
from batchrun.engine.follow.sweep import LISTING_LAG_S, MAX_INTERVAL_S, MAX_LOOKS, MIN_INTERVAL_S
from batchrun.engine.work import Work
from batchrun.errors import BatchRefused
from batchrun.model import Attempt, AttemptState, Mark, Outcome, Run, RunId, RunStatus, TaskId
from batchrun.policy.deadlines import Deadlines
from tests.support.following import Following
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered, read_to
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, retries


async def follow_all(api: ScriptedApi, run_ids: list[RunId], *, max_open_polls: int) -> dict[RunId, float]:
    """Follow Runs to their end, all at once; return when each end was noticed."""
    noticed = await Following(api, max_open_polls=max_open_polls).all(run_ids)
    assert all(run is not None and run.status.is_terminal for run, _ in noticed.values())
    return {run_id: at for run_id, (_, at) in noticed.items()}


@pytest.mark.parametrize("polls", [150, pytest.param(1000, marks=pytest.mark.long)])
async def test_thousands_of_runs_are_followed_with_few_requests(polls: int) -> None:
    """Twenty to forty minutes each: no end is lost, none noticed late, and there are next to no requests for each."""
    api = ScriptedApi()
    swept = [1200.0 + 0.13 * number for number in range(9 * polls)]
    ends = [swept[-1] + 60] * polls + swept
    run_ids = [api.add_run(Plan(run_s=end)) for end in ends]
    noticed = await follow_all(api, run_ids, max_open_polls=polls)
    assert len(noticed) == 10 * polls
    assert max(noticed[run_id] - end for run_id, end in zip(run_ids, ends, strict=True)) <= MAX_INTERVAL_S + 2
    # The polls are taken all the time by Runs that last; the last request for each of the others confirms its end.
    reads = Counter(api.reads)
    in_vain = sum(reads[run_id] - 1 for run_id in run_ids[polls:])
    assert (len(api.live_listings) + in_vain) / (9 * polls) < 0.1


async def test_runs_that_start_meanwhile_do_not_keep_a_sweep_going() -> None:
    """A hundred starts a second, newest first in the lists: what is listed moves on, and each sweep has an end."""
    api = ScriptedApi()
    following = Following(api, max_open_polls=100)

    async def start() -> None:
        for number in range(500):
            following.follow(api.add_run(Plan(run_s=60.0 + number % 7)))
            await anyio.sleep(0.01)

    noticed = await following.all([], start)
    assert len(noticed) == 500
    assert len(api.live_listings) / 400 < 0.1


async def test_a_list_of_live_runs_without_an_end_holds_up_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform may invent as many as it likes: a sweep ends, and Runs that it does not show are read by their id."""
    monkeypatch.setattr(sweep, "MAX_SWEEP_PAGES", 5)
    api = ScriptedApi()

    async def without_an_end(task_id: TaskId, *, offset: int) -> dict[RunId, float | None]:
        await anyio.sleep(0.01)
        return {RunId(f"{task_id}-{offset + n}"): None for n in range(1000)}

    api.list_live_runs = without_an_end  # type: ignore[method-assign] # a platform with this one fault
    noticed = await follow_all(api, [api.add_run(Plan(run_s=90.0)) for _ in range(4)], max_open_polls=1)
    assert max(noticed.values()) < 180


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


async def test_the_number_of_polls_changes_while_runs_are_followed() -> None:
    """More polls take over swept Runs at once; fewer are reached as Runs end."""
    api = ScriptedApi()
    run_ids = [api.add_run(Plan(run_s=100.25 + number)) for number in range(4)]
    following = Following(api, max_open_polls=1)

    async def resize() -> None:
        await anyio.sleep(50)
        following.polls.resize(3)
        await anyio.sleep(1)
        following.polls.resize(1)

    noticed = await following.all(run_ids, resize)
    assert [noticed[run_id][1] for run_id in run_ids[:3]] == [100.25, 101.25, 102.25]
    assert following.polls.take()
    assert not following.polls.take()


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
    api.errors["list_live_runs"] = [api_error(403, "insufficient-permissions")]
    api.errors["get_run"] = [api_error(403, "insufficient-permissions")]
    with pytest.RaisesGroup(BatchRefused):
        await follow_all(api, [api.add_run() for _ in range(5)], max_open_polls=1)


async def test_cancelled_it_keeps_no_run_and_no_poll() -> None:
    """Nothing is left behind: no list is read any more, and all polls can be had again."""
    api = ScriptedApi()
    following = Following(api, max_open_polls=1)
    with anyio.move_on_after(50):
        await following.all([api.add_run(Plan(run_s=1e6)) for _ in range(3)])
    before = len(api.live_listings)
    await anyio.sleep(1000)
    assert len(api.live_listings) == before > 0
    run = await following.wait_for_finish(api.add_run(Plan(run_s=1)))
    assert run is not None
    assert run.status is RunStatus.SUCCEEDED
    assert [following.polls.take(), following.polls.take()] == [True, False]


async def test_many_that_end_at_once_are_looked_at_in_turns() -> None:
    """Three hundred ends in one second: never more than a bounded number of requests for them at a time."""
    looks, peak = 0, 0

    class _Counting(ScriptedApi):
        async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, **_: Any) -> Run:
            nonlocal looks, peak
            if wait_for_finish_s:
                return await super().get_run(run_id, wait_for_finish_s=wait_for_finish_s)
            looks += 1
            peak = max(peak, looks)
            await anyio.sleep(0.2)
            looks -= 1
            return await super().get_run(run_id)

    api = _Counting()
    ends = [1000.0] + [60.0] * 300
    noticed = await follow_all(api, [api.add_run(Plan(run_s=end)) for end in ends], max_open_polls=1)
    assert (len(noticed), peak) == (301, MAX_LOOKS)


async def test_a_swept_run_that_is_unknown_for_ten_seconds_is_lost() -> None:
    """It is asked for again and again, not just with the next sweep, and only then given up."""
    api = ScriptedApi()
    lasting, gone = api.add_run(Plan(run_s=500)), RunId("gone")
    noticed = await Following(api, max_open_polls=1).all([lasting, gone])
    run, at = noticed[gone]
    assert run is None
    assert LOST_AFTER_S < at <= LOST_AFTER_S + LISTING_LAG_S + 2 * MIN_INTERVAL_S


async def test_a_batch_with_more_runs_than_polls_ends_right() -> None:
    """Every job once, with the slots in use all the time."""
    api = ScriptedApi(lambda n: Plan(run_s=60 + n % 30))
    source = numbered(200)
    records = await Engine(api, WatchedLedger(), source, slots=50, max_open_polls=5).run()
    assert (len(records), len(api.run_ids), api.peak) == (200, 200, 50)


async def test_swept_runs_have_no_child_each() -> None:
    """Five hundred live Runs and nothing left to start: who waits is bounded, and so is the memory that this takes."""
    api = ScriptedApi(Plan(run_s=600))
    source = numbered(500)
    engine = Engine(api, WatchedLedger(sync_s=0.005), source, slots=2000, start_rate=1e6, burst=500, max_open_polls=10)
    children: list[int] = []

    async def count() -> None:
        await anyio.sleep(300)
        children.append(len(anyio.get_running_tasks()))

    async with anyio.create_task_group() as counting:
        counting.start_soon(count)
        assert len(await engine.run()) == 500
    assert api.peak == 500
    assert children[0] < MAX_IDLE + 50


async def test_swept_runs_that_fail_are_tried_again() -> None:
    """Also the last ones, whose jobs are due again after all other children have ended."""
    api = ScriptedApi(lambda n: Plan(run_s=60 + n, status=RunStatus.FAILED if n <= 5 else RunStatus.SUCCEEDED))
    source = numbered(5)
    engine = Engine(api, WatchedLedger(), source, slots=5, max_open_polls=1, retry=retries(2, first_s=300.0))
    records = await engine.run()
    assert [(record.outcome, len(record.attempts)) for record in records] == [(Outcome.SUCCEEDED, 2)] * 5


async def test_swept_runs_are_aborted_when_their_jobs_take_too_long() -> None:
    """At their deadline, although no sweep is due and no poll is open for them."""
    api = ScriptedApi(Plan(run_s=1e6))
    source = numbered(5)
    engine = Engine(
        api, WatchedLedger(), source, slots=5, max_open_polls=1, terms={"deadlines": Deadlines(max_job_s=3600.5)}
    )
    records = await engine.run()
    assert [record.outcome for record in records] == [Outcome.TIMED_OUT] * 5
    assert anyio.current_time() <= 3600.5 + 10


async def test_live_runs_of_an_earlier_process_need_no_poll_each() -> None:
    """Taken up, they are swept like others: one poll, and every job is settled once."""
    api, ledger = ScriptedApi(), WatchedLedger()
    jobs = [make_job(line) for line in range(1, 31)]
    admitted = (await ledger.admit(jobs, read_to(30))).jobs
    work: list[Work] = []
    for job, noted in admitted:
        run_id = api.add_run(Plan(run_s=100.0 + job.position.line))
        attempt = Attempt(
            attempt_no=1, mark=Mark(run_id), state=AttemptState.BOUND, run_id=run_id, intended_at=datetime.now(UTC)
        )
        ledger.attempts[noted.id, 1] = attempt
        work.append(Work(job=job, open=noted, attempts=(attempt,)))
    records = await Engine(api, ledger, ListSource([]), slots=5, max_open_polls=1).run(work)
    assert sorted(record.line for record in records) == list(range(1, 31))
    assert not api.posts

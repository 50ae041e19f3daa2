"""Two Runs for one start: the one that no attempt follows is found by its mark, aborted, counted; its cost counts."""

from datetime import datetime

import anyio
import pytest

from batchrun.engine.doubt import second_runs
from batchrun.engine.doubt.reconcile import EarlierDoubts
from batchrun.engine.notices import Notice, SecondRunAborted
from batchrun.ledger.facts import UNLISTED_SINCE
from batchrun.ledger.memory import MemoryLedger
from batchrun.model import AttemptState, Outcome, Run, RunId, RunsPage
from tests.support.memory_ledger import WatchedLedger, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, foreign_page, in_order

RUN_S = 20.0


def batch(api: ScriptedApi, ledger: MemoryLedger, jobs: int = 20) -> Engine:
    """Return an engine over some jobs."""
    return Engine(api, ledger, numbered(jobs), slots=4)


def every_fifth_twice(n: int) -> Plan:
    """Repeat every fifth start."""
    return Plan(run_s=RUN_S, repeats=int(n % 5 == 0))


def second_runs_of(ledger: MemoryLedger) -> list[RunId]:
    """Return the noted second Runs."""
    return sorted(each.run_id for (_, no), each in ledger.attempts.items() if no < 0 and each.run_id is not None)


def unfollowed(api: ScriptedApi, engine: Engine) -> list[RunId]:
    """Return the platform's Runs that no record names."""
    named = {attempt.run_id for record in engine.records for attempt in record.attempts}
    return sorted(run_id for run_id in api.run_ids if run_id not in named)


async def test_all_are_found_at_the_end_by_one_listing() -> None:
    """Each repeated start has a Run that no record names; it is noted beside the job's attempts, not among them."""
    api, ledger = ScriptedApi(every_fifth_twice), WatchedLedger()
    engine = batch(api, ledger)
    await engine.run()
    assert (len(api.run_ids), len(engine.records)) == (24, 20)
    assert second_runs_of(ledger) == unfollowed(api, engine)
    assert engine.progress.cost_usd == sum(api.run(each).cost_usd or 0.0 for each in api.run_ids)
    assert [len(record.attempts) for record in engine.records] == [1] * 20
    assert len(api.listings) == 1
    assert ledger.fact(UNLISTED_SINCE) is None


async def test_one_of_the_last_moments_is_found_after_the_wait_for_costs() -> None:
    """Lists show it five seconds late; the wait for final costs takes longer."""
    api = ScriptedApi(in_order(Plan(run_s=1), Plan(run_s=1, repeats=1), then=Plan(run_s=1)), list_lag_s=5)
    ledger = WatchedLedger()
    engine = batch(api, ledger, jobs=2)

    async def wait() -> None:
        await anyio.sleep(10)

    await engine.run(at_the_end=wait)
    assert len(second_runs_of(ledger)) == 1
    assert second_runs_of(ledger) == unfollowed(api, engine)
    assert ledger.fact(UNLISTED_SINCE) is None


async def test_those_that_are_live_are_aborted() -> None:
    """Their jobs have ended; without an abort they would go on for an hour."""
    api, ledger = ScriptedApi(in_order(Plan(run_s=3600, repeats=1), then=Plan(run_s=1))), WatchedLedger()
    engine = batch(api, ledger, jobs=2)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(10)
        followed = next(each.run_id for each in ledger.attempts.values() if each.state is AttemptState.BOUND)
        assert followed is not None
        await api.abort_run(followed)
    assert api.aborted[1:] == second_runs_of(ledger) == unfollowed(api, engine)


async def test_a_long_batch_looks_every_ten_minutes() -> None:
    """A second Run does not go on until the end of a batch that takes a day."""
    api = ScriptedApi(lambda n: Plan(run_s=7200, repeats=int(n == 1)))
    ledger = WatchedLedger()
    engine = batch(api, ledger, jobs=8)
    await engine.run()
    (second,) = second_runs_of(ledger)
    assert api.aborted == [second]
    run = api.run(second)
    assert run.finished_at is not None
    assert run.started_at is not None
    assert (run.finished_at - run.started_at).total_seconds() <= second_runs.INTERVAL_S + 1
    assert len(api.listings) == 2 * 7200 // second_runs.INTERVAL_S + 1


async def test_it_is_noticed_whenever_runs_are_listed() -> None:
    """Here because another start is in doubt."""
    api = ScriptedApi(
        in_order(Plan(run_s=300, repeats=1), Plan(run_s=300, error=foreign_page(502)), then=Plan(run_s=300))
    )
    ledger = WatchedLedger()
    engine = batch(api, ledger, jobs=2)
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(10)
        assert api.aborted == second_runs_of(ledger) == [api.run_ids[0]]
    assert [record.outcome for record in engine.records] == [Outcome.SUCCEEDED] * 2


async def test_a_killed_process_leaves_its_look_to_the_next_one() -> None:
    """The next one looks for the Runs of both."""
    api, ledger = ScriptedApi(every_fifth_twice), WatchedLedger()
    first = batch(api, ledger)
    with anyio.move_on_after(70):
        await first.run()
    assert (second_runs_of(ledger), ledger.fact(UNLISTED_SINCE) is None) == ([], False)
    await anyio.sleep(3600)
    doubts = EarlierDoubts(unlisted_since=ledger.fact(UNLISTED_SINCE))
    second = Engine(api, ledger, numbered(20), slots=4, doubts=doubts)
    await second.run()
    assert len(second_runs_of(ledger)) == len(api.run_ids) - len({each.mark for each in api.posts}) > 2
    assert ledger.fact(UNLISTED_SINCE) is None


async def test_runs_of_other_batches_of_the_task_are_none() -> None:
    """Their marks are unknown here. Each is read once."""
    api, ledger = ScriptedApi(Plan(run_s=RUN_S)), WatchedLedger()
    others = [api.add_run(Plan(run_s=3600), user_agent="batchrun/0 (abc)"), api.add_run(user_agent="apify-client")]
    await batch(api, ledger).run()
    assert (api.aborted, second_runs_of(ledger)) == ([], [])
    assert [api.reads.count(run_id) for run_id in others] == [1, 1]


async def test_a_platform_without_marks_costs_nothing_and_loses_nothing() -> None:
    """Nothing is recognised, so nothing is aborted."""
    api, ledger = ScriptedApi(every_fifth_twice, echoes=False), WatchedLedger()
    engine = batch(api, ledger)
    await engine.run()
    assert (len(engine.records), api.aborted, second_runs_of(ledger)) == (20, [], [])


@pytest.mark.parametrize("method", ["list_runs", "abort_run"])
async def test_what_is_refused_is_left_to_the_next_process(method: str) -> None:
    """The batch ends as it would without."""
    api, ledger = ScriptedApi(every_fifth_twice), WatchedLedger()
    api.errors = {method: [api_error(403)] * 99, "list_task_runs": [api_error(403)] * 99}
    engine = batch(api, ledger)
    await engine.run()
    assert (len(engine.records), second_runs_of(ledger)) == (20, [])
    assert ledger.fact(UNLISTED_SINCE) is not None


async def test_a_platform_that_does_not_answer_holds_the_end_for_a_minute_at_most() -> None:
    """Its records are complete."""
    api, ledger = ScriptedApi(every_fifth_twice), WatchedLedger()

    async def list_runs(*, started_after: datetime, offset: int) -> RunsPage:
        await anyio.sleep_forever()
        raise AssertionError

    api.list_runs = list_runs  # type: ignore[method-assign] # a platform with this one fault
    engine = batch(api, ledger)
    await engine.run()
    assert (len(engine.records), anyio.current_time() <= 5 * RUN_S + second_runs.FINISH_S + 1) == (20, True)


async def test_a_run_of_an_attempt_that_was_given_up_is_aborted_too() -> None:
    """It began after the horizon, and the job was started again: only one of the two Runs is followed."""
    late = Plan(run_s=3600, error=foreign_page(502), effects=1, effect_after_s=100)
    api, ledger = ScriptedApi(in_order(late, then=Plan(run_s=300))), WatchedLedger()
    engine = batch(api, ledger, jobs=1)
    await engine.run()
    assert [record.outcome for record in engine.records] == [Outcome.SUCCEEDED]
    assert api.aborted == second_runs_of(ledger) == [api.run_ids[0]]


async def test_it_is_reported_once() -> None:
    """The summary counts them all."""
    api, ledger = ScriptedApi(every_fifth_twice), WatchedLedger()
    engine = batch(api, ledger)
    await engine.run()
    told: list[Notice] = [each for each in engine.progress.notices.take() if isinstance(each, SecondRunAborted)]
    assert len(told) == 1


async def test_many_are_aborted_side_by_side() -> None:
    """A platform that takes ten seconds for each holds the end of a batch for a few of them, not for all."""
    api, ledger = ScriptedApi(Plan(run_s=RUN_S, repeats=1)), WatchedLedger()
    abort_run = api.abort_run

    async def slowly(run_id: RunId, *, gives_up: bool = False) -> Run:
        await anyio.sleep(10)
        return await abort_run(run_id, gives_up=gives_up)

    api.abort_run = slowly  # type: ignore[method-assign] # a platform with this one fault
    await batch(api, ledger).run()
    assert (len(second_runs_of(ledger)), anyio.current_time() <= 5 * RUN_S + 30) == (20, True)

"""Live Runs that are aborted: by a batch that is cancelled, and by `batchrun abort`, on virtual time."""

import anyio
import pytest

from batchrun.engine.notices import AbortRefused
from batchrun.errors import NotFound
from batchrun.maintenance.abort_runs import abort_run
from batchrun.model import Outcome, RunId
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error


async def test_a_run_that_is_too_new_to_be_known_is_aborted_once_it_is() -> None:
    """A 404 for the abort of a new Run does not leave it running, and costing, until its own end."""
    api = ScriptedApi(Plan(run_s=600))
    engine = Engine(api, WatchedLedger(), ListSource([make_job(1)]))
    api.errors["abort_run"] = [api_error(404), api_error(404), api_error(404)]
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(1)
        engine.scheduler.stop_starting()
        engine.parts.batch_abort.begin()
    assert [record.outcome for record in engine.records] == [Outcome.ABORTED]
    assert (api.aborted, anyio.current_time() < 10) == (["run-1"], True)


async def test_a_run_of_another_task_is_not_aborted_with_the_batch() -> None:
    """A ledger names Runs by their ids, and may have them from a shared log that somebody has changed."""
    api, ledger = ScriptedApi(Plan(run_s=600)), WatchedLedger()
    foreign = api.add_run(Plan(run_s=600), task_id="another")
    engine = Engine(api, ledger, ListSource([make_job(1)]))
    bound_runs = ledger.bound_runs

    async def and_a_foreign_one() -> list[RunId]:
        return [*(await bound_runs()), foreign]

    ledger.bound_runs = and_a_foreign_one  # type: ignore[method-assign] # a ledger with this one entry
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(1)
        engine.scheduler.stop_starting()
        engine.parts.batch_abort.begin()
    assert [record.outcome for record in engine.records] == [Outcome.ABORTED]
    assert api.aborted == [run for run in ("run-1", "run-2") if run != foreign]


async def test_a_refused_abort_is_reported_once_and_the_runs_end_by_themselves() -> None:
    """Their jobs have the outcomes of their Runs; the first refusal stands for all."""
    api = ScriptedApi(Plan(run_s=60))
    engine = Engine(api, WatchedLedger(), ListSource([make_job(1), make_job(2)]))
    api.errors["abort_run"] = [api_error(403, "insufficient-permissions"), api_error(403, "insufficient-permissions")]
    async with anyio.create_task_group() as children:
        children.start_soon(engine.run)
        await anyio.sleep(1)
        engine.scheduler.stop_starting()
        engine.parts.batch_abort.begin()
    assert [record.outcome for record in engine.records] == [Outcome.SUCCEEDED] * 2
    (notice,) = engine.progress.notices.take()
    assert isinstance(notice, AbortRefused)
    assert (api.aborted, "insufficient-permissions" in notice.reason) == ([], True)


@pytest.mark.parametrize(("unknown_s", "is_aborted"), [(5, True), (60, False)])
async def test_the_command_asks_again_before_it_takes_a_run_for_unknown(unknown_s: int, is_aborted: bool) -> None:
    """A Run that the platform does not know for a while is not taken for one that has ended."""
    api = ScriptedApi()
    api.add_run(Plan(run_s=600))
    for method in ("abort_run", "get_run"):
        api.errors[method] = [api_error(404) for _ in range(unknown_s)]
    try:
        await abort_run(api, RunId("run-1"))
    except NotFound:
        assert not is_aborted
    else:
        assert (is_aborted, api.aborted) == (True, ["run-1"])
    assert anyio.current_time() <= 11


@pytest.mark.parametrize(
    ("run_s", "unknown_s", "status"), [(600, 30, "ABORTED"), (20, 30, "SUCCEEDED"), (600, 999, "RUNNING")]
)
async def test_the_command_asks_until_a_run_that_can_be_read_has_ended(run_s: int, unknown_s: int, status: str) -> None:
    """A 404 for the abort alone says nothing about the Run; after a minute the Run is returned as it is, live."""
    api = ScriptedApi()
    api.add_run(Plan(run_s=run_s))
    api.errors["abort_run"] = [api_error(404) for _ in range(unknown_s)]
    assert (await abort_run(api, RunId("run-1"))).status == status
    assert anyio.current_time() <= 61

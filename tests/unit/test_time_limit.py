import anyio
import pytest

from batchrun.batch.time_limit import stop_in_time
from batchrun.engine.notices import BatchOutOfTime
from batchrun.model import Ending
from tests.support.memory_ledger import WatchedLedger, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi


async def run_within(max_batch_s: float | None) -> Engine:
    """Return the engine that carried out ten jobs of a minute each, one after another, within this time limit."""
    source = numbered(10)
    engine = Engine(ScriptedApi(Plan(run_s=60)), WatchedLedger(), source, slots=1)
    async with anyio.create_task_group() as children:
        children.start_soon(stop_in_time, engine.parts, max_batch_s)
        await engine.run()
        children.cancel_scope.cancel()
    return engine


async def test_after_its_time_a_batch_starts_no_more_runs() -> None:
    """The live Run is followed to its end, and its job is settled."""
    engine = await run_within(150)
    assert (len(engine.api.posts), len(engine.records)) == (3, 3)
    assert engine.scheduler.stopped_for is Ending.OUT_OF_TIME
    assert engine.progress.notices.take() == [BatchOutOfTime()]
    assert anyio.current_time() == pytest.approx(180, abs=5)


async def test_without_a_time_limit_all_jobs_are_carried_out() -> None:
    """Nothing stops the batch."""
    engine = await run_within(None)
    assert (len(engine.records), engine.scheduler.stopped_for) == (10, None)

"""Limits that change while batches run: no start is left in doubt, and what rested goes on at once."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from batchrun.runtime.logs import logging_to
from batchrun.worker import batch_orders
from batchrun.worker.submission import BatchState
from batchrun.worker.worker import Worker
from tests.support.crash import Api, open_api
from tests.support.json_lines import read_lines
from tests.support.worker_life import SubmittedBatch, submit_batch, until, worker_config, working

#: What one Run may cost: 128 MB for a minute.
ONE_RUN_USD = 0.25 * 128 / 1024 * 60 / 3600
#: Answers to starts come late, so that at any moment some are under way.
SLOW_STARTS = '[[fault]]\nkind = "latency"\nroutes = ["starts"]\nseconds = 0.2\n'


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path = tmp_path_factory.mktemp("api")
    faults = path / "faults.toml"
    faults.write_text(SLOW_STARTS)
    with open_api(path / "server", faults=faults) as api:
        yield api


@pytest.fixture
def no_doubts(tmp_path):
    """Read the log of the worker when the test is over: no start was left in doubt."""
    with logging_to(tmp_path / "worker.log"):
        yield
    events = {each["event"] for each in read_lines(tmp_path / "worker.log")}
    assert "job_settled" in events
    assert not events & {"start_in_doubt", "answer_lost"}


def jobs_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"n": n, **more} for n in range(count)]


async def _change(worker: Worker, batch: SubmittedBatch, name: str, value: float | None) -> None:
    settings = {key: each for key, each in batch.submission.settings.items() if key != f"limits.{name}"}
    await batch_orders.change(
        worker, batch.id, settings=settings if value is None else {**settings, f"limits.{name}": value}
    )


@pytest.mark.parametrize("name", ["budget_usd", "max_concurrent_runs", "start_rate", "worker"])
async def test_no_change_of_a_limit_leaves_a_start_in_doubt(tmp_path, api, no_doubts, name):
    """Counted at the server: each job has one Run and one attempt, although starts are under way at each change."""
    before = len(api.runs())
    values = {
        "budget_usd": (1.0, 1e-9),
        "max_concurrent_runs": (2, 6),
        "start_rate": (50.0, 200.0),
        "worker": (2.0, 1e-9),
    }
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=8) as worker:
        batch = await submit_batch(worker, jobs_of(30), task=name.replace("_", "-"))
        await batch.until_live(4)
        for value in (*values[name], None, *values[name], None):
            await anyio.sleep(0.1)  # so that each change comes at another moment of the starts
            if name == "worker":
                await worker.change_limits(worker.config.limits.model_copy(update={"budget_usd": value}))
            else:
                await _change(worker, batch, name, value)
            if worker.store[batch.id].state is BatchState.FINISHED:
                break
            assert (await batch_orders.resume(worker, batch.id)).state.is_under_way, (
                "a resume is never refused meanwhile"
            )
        await batch.until(BatchState.FINISHED)
    records = batch.records()
    assert [len(record["attempts"]) for record in records] == [1] * 30
    assert len(api.runs()) - before == 30


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("start_rate", 0.01, 100.0), ("max_concurrent_runs", 1, 3), ("budget_usd", ONE_RUN_USD * 1.5, 1.0)],
)
async def test_a_raised_limit_wakes_what_rests(tmp_path, api, name, low, high):
    """One Run is live under the low limit; under the high one all are, while the first is still live."""
    stop = tmp_path / "stop"
    settings = {f"limits__{name}": low, "limits__budget_mode": "best_effort"}
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=8) as worker:
        batch = await submit_batch(
            worker, jobs_of(3, until=str(stop)), task=f"raise-{name.replace('_', '-')}", **settings
        )
        await batch.until_live(1)
        await _change(worker, batch, name, high)
        await batch.until_live(3)
        stop.touch()
        await batch.until(BatchState.FINISHED)
        assert [len(record["attempts"]) for record in batch.records()] == [1] * 3


async def test_a_larger_budget_is_taken_up_at_once(tmp_path, api):
    """By a batch that rests for want of money, and by one with a live Run, whose other jobs were too expensive."""
    stop = tmp_path / "stop"
    expensive = {"@options": {"memory_mb": 512}, "until": str(stop)}
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=8) as worker:
        mode: dict[str, Any] = {"limits__budget_mode": "best_effort"}
        resting = await submit_batch(worker, jobs_of(4), task="rests", limits__budget_usd=ONE_RUN_USD / 2, **mode)
        await resting.until(BatchState.OUT_OF_BUDGET)
        jobs = [{"n": 9, "until": str(stop)}, *jobs_of(3, **expensive)]
        poor = await submit_batch(worker, jobs, task="poor", limits__budget_usd=ONE_RUN_USD * 1.5, **mode)
        await poor.until_live(1)
        await until(lambda: _is_out_of_budget(worker, poor), "jobs that cannot be paid for")
        await _change(worker, poor, "budget_usd", 1.0)
        await poor.until_live(4)
        await _change(worker, resting, "budget_usd", None)
        await resting.until(BatchState.FINISHED)
        stop.touch()
        await poor.until(BatchState.FINISHED)
        assert len(resting.records()) == len(poor.records()) == 4


def _is_out_of_budget(worker: Worker, batch: SubmittedBatch) -> bool:
    opened = worker.runners[batch.id].batch
    return opened is not None and opened.is_out_of_budget


async def test_a_batch_that_is_out_of_budget_goes_on_when_all_batches_may_spend_more(tmp_path, api):
    async with working(
        tmp_path / "data", api, limits__max_concurrent_runs=8, limits__budget_usd=ONE_RUN_USD / 2
    ) as worker:
        batch = await submit_batch(worker, jobs_of(3), task="poor")
        await batch.until(BatchState.OUT_OF_BUDGET)
        await batch_orders.change(worker, batch.id, weight=2.0)
        assert batch.submission.state is BatchState.OUT_OF_BUDGET
        await worker.change_limits(worker.config.limits.model_copy(update={"budget_usd": 1.0}))
        await batch.until(BatchState.FINISHED)
        assert len(batch.records()) == 3


async def test_a_worker_that_starts_with_a_larger_budget_goes_on(tmp_path, api):
    """With the same budget the batch rests again, and nothing more is started."""
    before, ids = len(api.runs()), list[str]()
    for budget_usd, state in (
        (ONE_RUN_USD / 2, "out_of_budget"),
        (ONE_RUN_USD / 2, "out_of_budget"),
        (1.0, "finished"),
    ):
        async with working(tmp_path / "data", api, limits__budget_usd=budget_usd) as worker:
            if not ids:
                ids.append((await submit_batch(worker, jobs_of(2), task="restarted")).id)
            await SubmittedBatch(worker, ids[0], []).until(BatchState(state))
            assert len(api.runs()) - before == (2 if state == "finished" else 0)


async def test_a_reload_changes_open_batches_polls_and_profiles(tmp_path, api):
    """More batches are open at once, more polls, and a profile's new limits hold for its open batch."""
    data, stop = tmp_path / "data", tmp_path / "stop"
    flags: dict[str, Any] = {
        "limits__max_concurrent_runs": 8,
        "worker__max_open_batches": 1,
        "limits__max_open_polls": 1,
    }
    async with working(data, api, **flags) as worker:
        first = await submit_batch(worker, jobs_of(2, until=str(stop)), task="first")
        await first.until_live(2)
        second = await submit_batch(worker, jobs_of(2, until=str(stop)), task="second")
        assert worker.runners[second.id].batch is None
        profile = data / "profiles" / "shop.toml"
        profile.write_text('[task]\nactor = "test/worker"\nname = "shop"\n[limits]\nmax_concurrent_runs = 1\n')
        flags |= {"worker__max_open_batches": 5, "limits__max_open_polls": 3}
        await worker.reload(await anyio.to_thread.run_sync(lambda: worker_config(data, api, **flags)))
        await second.until_live(2)
        assert worker.account is not None
        assert worker.account.shared.polls.count == 3
        file = data / "spool" / "shop" / "jobs.jsonl"
        file.parent.mkdir()
        file.write_text("".join(f'{{"n": {n}, "until": "{stop}"}}\n' for n in range(3)))
        await until(lambda: any(each.profile == "shop" for each in worker.store), "the profile's batch")
        (third,) = [each.id for each in worker.store if each.profile == "shop"]
        batch = SubmittedBatch(worker, third, [])
        await batch.until_live(1)
        profile.write_text(profile.read_text().replace("runs = 1", "runs = 3"))
        await worker.reload(worker.config)
        await batch.until_live(3)
        stop.touch()
        for each in (first, second, batch):
            await each.until(BatchState.FINISHED)

"""Batches that rest are deleted by age and size, as their state says; those that a person must decide about stay."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchrun.config.worker_config import WorkerConfig
from batchrun.worker import batch_deletion, retention
from batchrun.worker.data_directory import open_data_directory
from batchrun.worker.retention import Retention
from batchrun.worker.submission import BatchState, Submission
from batchrun.worker.worker import Worker, open_worker

OVER = [BatchState.FINISHED, BatchState.CANCELLED, BatchState.FAILED]
RESTING = [BatchState.PAUSED, BatchState.STOPPED, BatchState.TRIPPED, BatchState.OUT_OF_BUDGET]
MB = 1 << 20


@asynccontextmanager
async def worker_that_keeps(path: Path, **kept: Any) -> AsyncIterator[Worker]:
    """Open a worker without running its batches."""
    async with (
        open_data_directory(path) as directory,
        open_worker(directory, WorkerConfig.model_validate({"worker": kept}), {}) as worker,
    ):
        yield worker


async def put_batch(worker: Worker, name: str, state: BatchState, days: float, size: int = 3) -> None:
    """Store a batch that has rested for some days and takes about so many bytes."""
    at = datetime.now(UTC) - timedelta(days=days)
    submission = Submission(id=name.replace("_", "-"), name=name, created_at=at)
    await worker.store.add(submission.but(state=state, ended_at=at if state.is_over else None))

    def fill() -> None:
        directory = worker.directory.of(submission.id)
        (directory / "out").mkdir()
        (directory / "out" / "records.jsonl").write_bytes(b"x" * size)
        os.utime(directory / "batch.json", (at.timestamp(), at.timestamp()))

    await anyio.to_thread.run_sync(fill)


async def kept_by(worker: Worker, is_done: Callable[[set[str]], bool]) -> set[str]:
    """Let the worker delete until a condition holds, and once more; return the names of the batches that are left."""
    looks = 0

    async def delete(submission_id: str) -> None:
        await batch_deletion.delete(worker, submission_id)

    def config() -> Any:
        nonlocal looks
        looks += 1
        return worker.config.worker

    async with anyio.create_task_group() as children:
        children.start_soon(Retention(worker.store, worker.directory, config, delete).run)
        with anyio.fail_after(60):
            while not is_done({each.name for each in worker.store}):
                await anyio.lowlevel.checkpoint()
            seen = looks
            while looks < seen + 4:  # a whole round later
                await anyio.lowlevel.checkpoint()
        children.cancel_scope.cancel()
    kept = {each.name for each in worker.store}
    assert {each.name.replace("_", "-") for each in worker.store} == {
        each.name for each in worker.directory.batches.iterdir()
    }
    return kept


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look all the time."""
    monkeypatch.setattr(retention, "RETENTION_INTERVAL_S", 0.01)


async def test_old_batches_that_are_over_are_deleted(tmp_path: Path) -> None:
    """Younger ones stay, and so do all that can go on, however old: their Runs may be live."""
    async with worker_that_keeps(tmp_path, keep_finished_days=7) as worker:
        for state in OVER + RESTING:
            await put_batch(worker, f"old-{state}", state, days=8)
            await put_batch(worker, f"young-{state}", state, days=6)
        doomed = {f"old-{state}" for state in OVER}
        before = {each.name for each in worker.store}
        assert await kept_by(worker, lambda names: not names & doomed) == before - doomed


async def test_each_state_is_kept_for_days_of_its_own(tmp_path: Path) -> None:
    """What `keep_days` names comes before `keep_finished_days`; a batch that tripped counts from then."""
    async with worker_that_keeps(tmp_path, keep_finished_days=7, keep_days={"failed": 90, "tripped": 30}) as worker:
        await put_batch(worker, "failed", BatchState.FAILED, days=50)
        await put_batch(worker, "finished", BatchState.FINISHED, days=50)
        await put_batch(worker, "tripped", BatchState.TRIPPED, days=50)
        await put_batch(worker, "tripped-lately", BatchState.TRIPPED, days=20)
        kept = await kept_by(worker, lambda names: not names & {"finished", "tripped"})
    assert kept == {"failed", "tripped-lately"}


async def test_the_oldest_batches_of_a_state_are_deleted_until_the_others_fit(tmp_path: Path) -> None:
    """Other states are not counted."""
    async with worker_that_keeps(tmp_path, keep_mb={"finished": 5}) as worker:
        for days in range(1, 5):
            await put_batch(worker, f"finished-{days}", BatchState.FINISHED, days=days, size=2 * MB)
            await put_batch(worker, f"failed-{days}", BatchState.FAILED, days=days, size=2 * MB)
        kept = await kept_by(worker, lambda names: "finished-4" not in names)
    assert kept == {"finished-1", "finished-2", *(f"failed-{days}" for days in range(1, 5))}


@pytest.mark.parametrize("state", ["paused", "stopped", "active"])
def test_batches_that_wait_for_a_person_are_never_deleted_by_themselves(state: str) -> None:
    """They may have live Runs, or starts in doubt, that are paid for."""
    with pytest.raises(ValueError, match=r"worker\.keep_days"):
        WorkerConfig.model_validate({"worker": {"keep_days": {state: 1}}})

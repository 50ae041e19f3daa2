"""A worker, batches for it, and checks of their records against the server's Runs."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from batchrun.config.worker_config import WorkerConfig, load_worker_config
from batchrun.worker.data_directory import open_data_directory
from batchrun.worker.submission import BatchState, Submission
from batchrun.worker.worker import Worker, open_worker
from tests.support.api_process import ACTOR, TOKEN
from tests.support.crash import Api
from tests.support.json_lines import read_lines, to_lines

#: Settings of every batch that keep reconciling short.
SETTINGS: dict[str, Any] = {
    "limits.start_horizon_s": 2,
    "limits.listing_lag_s": 0.2,
    "retry.backoff_s": 0.05,
    "output.page_size": 2,
}


def batch_file(task: str, jobs_file: Path | str) -> str:
    """Return a batch file's text; the task is created if it is missing."""
    lines = ["[task]", f'actor = "{ACTOR}"', f'name = "{task}"', "options = { memory_mb = 128, timeout_s = 60 }"]
    return "\n".join([*lines, "[jobs]", f'file = "{jobs_file}"', ""])


def put(file: Path, content: bytes | str) -> None:
    """Put a file into the spool: write it elsewhere, then rename it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.parent.parent / f"{file.name}.part"
    beside.write_bytes(content if isinstance(content, bytes) else content.encode())
    beside.replace(file)


@dataclass
class SubmittedBatch:
    """A batch that was submitted to a worker in this process."""

    worker: Worker
    id: str
    jobs: Sequence[dict[str, Any]]

    @property
    def submission(self) -> Submission:
        """The stored submission."""
        return self.worker.store[self.id]

    @property
    def out(self) -> Path:
        """Its output directory."""
        return self.worker.directory.out_dir(self.submission)

    def records(self) -> list[dict[str, Any]]:
        """Return its records."""
        return read_lines(self.out / "records.jsonl")

    async def until(self, *states: BatchState, limit_s: float = 120) -> Submission:
        """Wait until it is in one of some states and, if it rests, has no runner."""
        await until(lambda: self._is_in(states), lambda: f"{states}: {self.submission}", limit_s)
        return self.submission

    def _is_in(self, states: Sequence[BatchState]) -> bool:
        is_closed = self.submission.state.is_under_way or self.id not in self.worker.runners
        return self.submission.state in states and is_closed

    async def until_live(self, count: int = 1) -> None:
        """Wait until at least `count` Runs of it are live."""

        def are_live() -> bool:
            runner = self.worker.runners.get(self.id)
            return runner is not None and runner.batch is not None and runner.batch.live_runs >= count

        await until(are_live, lambda: f"{count} live Runs of {self.submission}")


async def until(condition: Callable[[], object], what: str | Callable[[], str], limit_s: float = 120) -> None:
    """Wait until a condition holds."""
    deadline = anyio.current_time() + limit_s
    while not condition():
        assert anyio.current_time() < deadline, what() if callable(what) else what
        await anyio.sleep(0.01)


async def submit_batch(
    worker: Worker, jobs: Sequence[dict[str, Any]], *, task: str = "work", weight: float = 1.0, **settings: Any
) -> SubmittedBatch:
    """Submit a batch as the HTTP API does; settings with `__` for the dot."""
    submission_id = worker.store.new_id()
    directory = worker.directory.of(submission_id)
    directory.mkdir()
    (directory / "batch.toml").write_text(batch_file(task, "jobs.jsonl"))
    (directory / "jobs.jsonl").write_bytes(to_lines(jobs))
    submission = Submission(
        id=submission_id,
        name=task,
        created_at=datetime.now(UTC),
        batch_file="batch.toml",
        weight=weight,
        settings={**SETTINGS, **{key.replace("__", "."): value for key, value in settings.items()}},
    )
    await worker.submit(submission)
    return SubmittedBatch(worker, submission_id, jobs)


@asynccontextmanager
async def working(data: Path, api: Api, **flags: Any) -> AsyncIterator[Worker]:
    """Run a worker in this process while the context lasts; its Runs keep running."""
    config = await anyio.to_thread.run_sync(lambda: worker_config(data, api, **flags))
    async with (
        open_data_directory(data) as directory,
        open_worker(directory, config, {"APIFY_TOKEN": TOKEN}) as worker,
        anyio.create_task_group() as children,
    ):
        children.start_soon(worker.run)
        if worker.fleet is not None:
            await worker.fleet.read()  # once: nothing here does a worker's duty for a fleet
        await until(lambda: worker.is_ready, "a worker that is ready")
        yield worker
        worker.drain()
        worker.let_go()
        await worker.wait_until_drained()
        children.cancel_scope.cancel()


def worker_config(data: Path, api: Api, **flags: Any) -> WorkerConfig:
    """Return a worker's configuration; flags with `__` for the dot."""
    data.mkdir(exist_ok=True)
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return load_worker_config(data, flags={"api.base_url": api.base_url, **given}, environ={})


def most_at_once(runs: Sequence[dict[str, Any]]) -> int:
    """Return the highest number of Runs that were live at the server at once."""
    changes = [(run["startedAt"], 1) for run in runs] + [(run["finishedAt"], -1) for run in runs if run["finishedAt"]]
    live = most = 0
    for _, change in sorted(changes):
        live += change
        most = max(most, live)
    return most


def assert_every_run_recorded(batches: Sequence[SubmittedBatch], api: Api) -> None:
    """Assert that every Run of the server is in exactly one record, and that no job has two records."""
    recorded: list[str] = []
    for batch in batches:
        records = batch.records()
        assert len(records) == len({record["key"] for record in records}), batch.submission
        recorded += [each["run_id"] for record in records for each in record["attempts"] if each["run_id"]]
    assert sorted(recorded) == sorted(run["id"] for run in api.runs())


def assert_all_jobs_done(batch: SubmittedBatch) -> None:
    """Assert that every job has a record, and one Run, or two if the first had to fail."""
    records = batch.records()
    assert sorted(record["line"] for record in records) == list(range(1, len(batch.jobs) + 1)), batch.submission
    for record in records:
        is_to_fail = batch.jobs[record["line"] - 1].get("fails")
        started = [each for each in record["attempts"] if each["run_id"]]
        assert len(started) == (2 if is_to_fail else 1), record

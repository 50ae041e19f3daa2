"""A fleet of worker processes on one store, its batches, and their records as the store has them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batchrun.ledger.shared_log.log_store import open_part
from batchrun.ledger.shared_log.replica import open_replica
from batchrun.worker.fleet.fleet import list_batch, store_files
from batchrun.worker.fleet.fleet_list import LIST_LOG, FleetList, ListedBatch
from batchrun.worker.fleet.fleet_members import Page
from batchrun.worker.fleet.shared_page import PAGE_LOG, SharedPage
from batchrun.worker.submission import Submission
from tests.support.api_process import ACTOR
from tests.support.crash import Api, wait_until
from tests.support.json_lines import read_lines, to_lines
from tests.support.worker_life import SETTINGS
from tests.support.worker_process import KilledWorker


class FleetProcesses:
    """Some workers, each with a data directory of its own. A test that fails within `with` shows all that they know."""

    def __init__(self, directory: Path, api: Api, url: str, count: int, config: str) -> None:
        self.directory = directory
        self.url = url
        self.api_url = api.base_url
        self._open = ExitStack()
        self.jobs: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.workers = [KilledWorker(directory / f"worker-{n}", api.base_url, config) for n in range(count)]

    def __enter__(self) -> Self:
        """Start the workers; return once all are on the page."""
        try:
            for worker in self.workers:
                worker.start()
            wait_until(lambda: len(self.page().members) == len(self.workers))
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is not None:
                logs = (f"== {log}\n{log.read_text()}" for log in self.directory.glob("worker-*/batches/*/out/*.log"))
                error.add_note("\n".join([self.said(), *logs, self.page().model_dump_json(), str(self.states())]))
        finally:
            self.end()

    def submit(
        self,
        name: str,
        jobs: Sequence[Mapping[str, Any]],
        task: str = "crash",
        shards: int | None = None,
        begun_at: datetime | None = None,
        **settings: Any,
    ) -> None:
        """Put a batch on the list, without a worker; settings with `__` for the dot."""
        self.jobs[name] = jobs
        directory = self.directory / f"submitted-{name}"
        directory.mkdir()
        (directory / "jobs.jsonl").write_bytes(to_lines(jobs))
        (directory / "batch.toml").write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "{task}"\noptions = {{ memory_mb = 128 }}\n'
            '[jobs]\nfile = "jobs.jsonl"\n'
        )
        given = {
            **SETTINGS,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
        submission = Submission(
            id=name, name=name, created_at=datetime.now(UTC), batch_file="batch.toml", jobs_file="jobs.jsonl",
            settings=given, shards=shards, begun_at=begun_at,
        )  # fmt: skip
        with open_part(self.url, LIST_LOG) as store:
            batches = FleetList(store)
            list_batch(batches, submission, store_files(batches, submission, directory))

    def listed(self) -> dict[str, ListedBatch]:
        """Return the batches that workers carry out, as the list has them, with the parts of those in shards."""
        return {batch: each for batch, each in self._list.read().items() if each.submission.shards is None}

    def states(self) -> dict[str, str]:
        """Return the states of the batches that workers carry out, as the list has them."""
        return {batch: str(each.submission.state) for batch, each in self.listed().items()}

    def page(self) -> Page:
        """Return the newest page."""
        return self._pages.read()

    @cached_property
    def _list(self) -> FleetList:
        return FleetList(self._open.enter_context(open_part(self.url, LIST_LOG)))

    @cached_property
    def _pages(self) -> SharedPage:
        return SharedPage(self._open.enter_context(open_part(self.url, PAGE_LOG)))

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return a batch's records, as its log has them, or those of all its parts."""
        parts = [each for each, listed in self.listed().items() if listed.submission.part_of == name]
        return [record for log in parts or [name] for record in self._records_of(log)]

    def _records_of(self, log: str) -> list[dict[str, Any]]:
        directory = self.directory / f"replayed-{log}"
        directory.mkdir()
        with open_part(self.url, f"batch-{log}") as store, open_replica(store, directory) as replica:
            replica.catch_up()
        return read_lines(directory / "records.jsonl")

    def said(self) -> str:
        """Return what all workers have said and logged."""
        return "\n".join(f"== {worker.data_dir.name}\n{worker.said()}" for worker in self.workers)

    def end(self) -> None:
        """Kill all processes."""
        for worker in self.workers:
            worker.end()
        self._open.close()


def assert_every_batch_right(fleet: FleetProcesses, api: Api) -> None:
    """Assert that each job has one record, and that every Run of the server is in exactly one of them."""
    recorded: list[str] = []
    for name, jobs in fleet.jobs.items():
        records = fleet.records(name)
        assert sorted(record["line"] for record in records) == list(range(1, len(jobs) + 1)), (name, fleet.said())
        for record in records:
            started = [each["run_id"] for each in record["attempts"] if each["run_id"]]
            assert len(started) == (2 if jobs[record["line"] - 1].get("fails") else 1), (name, record, fleet.said())
            recorded += started
    assert sorted(recorded) == sorted(run["id"] for run in api.runs()), fleet.said()


def longest_gap_s(runs: Sequence[Mapping[str, Any]]) -> float:
    """Return the longest time between two starts, in seconds."""
    starts = sorted(datetime.fromisoformat(run["startedAt"]) for run in runs)
    return max((b - a).total_seconds() for a, b in pairwise(starts))

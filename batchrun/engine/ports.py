"""What the engine needs from outside beside the ledger: a source of jobs, and a client of the platform."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from batchrun.ledger.protocol import OpenJob, ReadTo
from batchrun.model import (
    BadLine,
    DatasetId,
    ItemsPage,
    Job,
    Mark,
    Run,
    RunId,
    RunOptions,
    RunsPage,
    StoreId,
    TaskId,
    TimeWindow,
)
from batchrun.runtime.byte_budget import Fits
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines of the job file to admit, and jobs that an earlier process left open."""

    entries: Sequence[Job | BadLine] = ()
    #: How far the job file is read with these lines; None if no line was read.
    read_to: ReadTo | None = None
    #: Open jobs of an earlier process, each with what the ledger knows of it.
    resumed: Sequence[tuple[Job, OpenJob]] = ()


class JobSource(Protocol):
    """Where jobs come from, in chunks and only as they are needed."""

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        """Return the next lines, or None at the end."""


class RunsClock(Protocol):
    """The clock that stamps Runs, which may be neither this machine's nor the one in `Date` headers."""

    @property
    def is_measured(self) -> bool:
        """True once this process has got the answer to a start."""

    @property
    def now(self) -> TimeWindow:
        """The present time on this clock."""

    def at(self, moment: float) -> TimeWindow:
        """Return the time on this clock at a moment, as `steady_time` returned it, by all that is known now."""

    @property
    def date(self) -> datetime | None:
        """The `Date` header of the last answer that had one. It may be any clock's."""

    @property
    def date_now(self) -> datetime | None:
        """The last `Date`, plus the time since; None if no answer had one."""


class RunClient(Protocol):
    """The platform, as far as the engine needs it for Runs and their output."""

    @property
    def clock(self) -> RunsClock:
        """The clock that stamps the Runs of this platform."""

    async def start_run(
        self,
        task_id: TaskId,
        body: bytes,
        options: RunOptions,
        mark: Mark,
        may_send: Callable[[], bool] | None = None,
    ) -> Run:
        """Start a Run. One request is sent, without retries.

        `may_send` is asked once there is a connection; ConnectFailed if it says no.
        """

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, gives_up: bool = False) -> Run:
        """Read a Run, as soon as it has ended or the wait is over.

        With `gives_up`, ServerFailed or TransportError is raised if it alone stays unreadable; else it is retried.
        """

    async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
        """List up to 1,000 of the account's Runs, oldest first."""

    async def list_task_runs(self, task_id: TaskId, *, offset: int) -> RunsPage:
        """List up to 1,000 of the task's Runs, newest first."""

    async def list_live_runs(self, task_id: TaskId, *, offset: int) -> dict[RunId, float | None]:
        """List up to 1,000 of the task's live Runs, newest first, with their costs so far; None: unknown."""

    async def abort_run(self, run_id: RunId, *, gives_up: bool = False) -> Run:
        """Abort a Run; `gives_up` as for `get_run`."""

    async def get_items(
        self, dataset_id: DatasetId, *, offset: int, limit: int, query: Mapping[str, str], fits: Fits | None = None
    ) -> ItemsPage:
        """Read one page of a dataset, whose body may grow to a size if `fits` says so."""

    async def get_item_count(self, dataset_id: DatasetId) -> int | None:
        """Read how many items a dataset holds, by its counter, which lags."""

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Read the end of a Run's log."""

    async def get_value(self, store_id: StoreId, key: str, *, fits: Fits | None = None) -> Any:
        """Read a stored value, which may grow to a size if `fits` says so; None if there is none."""

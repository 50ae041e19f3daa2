"""What the engine asks of the outside, as narrow as it uses it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from batchrun.ledger.protocol import FinalCost, OpenCost
from batchrun.ledger.sqlite.group_commit import Admission, ReadTo
from batchrun.model import (
    Attempt,
    BadLine,
    DatasetId,
    Intent,
    ItemsPage,
    Job,
    JobId,
    Mark,
    Problem,
    Record,
    Run,
    RunId,
    RunOptions,
    StoreId,
    TaskId,
)
from batchrun.policy.breaker import Trip


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines of the job file, and how far it is read with them."""

    entries: Sequence[Job | BadLine]
    read_to: ReadTo


class JobSource(Protocol):
    """Where jobs come from, in chunks and only as they are needed."""

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        """Return the next lines, or None at the end."""


class ItemWriter(Protocol):
    """Takes pages of items."""

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        """Write one page of items; `attempt` says up to where."""


class Ledger(ItemWriter, Protocol):
    """Notes every intent before its effect; awaiting a method means that its note is durable."""

    async def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo) -> Admission:
        """Admit what is new among lines of the job file."""

    async def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        """Note an attempt before its start request is sent."""

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        """Take back an intent whose request certainly started nothing."""

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        """Note the id of the Run that an attempt started."""

    def note_reservation(self, job_id: JobId, attempt_no: int, usd: float) -> None:
        """Note what was set aside for a live Run that had nothing."""

    async def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        """Note why a Run is to be aborted, before that is asked for."""

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        """Note an attempt's end, if one is given, and that its job is to be tried again after `wait_s` seconds."""

    async def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        """Note an attempt's end, if one is given, write its job's record and last items, and note the outcome."""

    def note_trip(self, trip: Trip) -> None:
        """Note that the breaker has tripped."""

    def note_echo(self, echoes: bool) -> None:
        """Note whether the platform shows the mark of a Run it started."""

    async def known_runs(self, run_ids: Collection[RunId]) -> set[RunId]:
        """Return those among some Runs that an attempt of this batch has started."""

    async def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        """Return Runs that ended before a time, by the platform's clock, and whose cost may not be final yet."""

    async def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        """Note what Runs cost in the end."""


class RunClient(Protocol):
    """The platform, as far as a Run's life needs it."""

    @property
    def platform_time(self) -> datetime | None:
        """The platform's clock, as its last answer showed it; None where it shows none."""

    @property
    def platform_now(self) -> datetime | None:
        """The platform's clock by now: its last answer's, and what has passed since."""

    async def start_run(self, task_id: TaskId, body: bytes, options: RunOptions, mark: Mark) -> Run:
        """Start a Run; one request, whatever happens."""

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0) -> Run:
        """Read a Run, when it ends or after the wait."""

    async def list_runs(self, *, started_after: datetime, offset: int) -> list[Run]:
        """List up to 1,000 of the account's Runs, oldest first."""

    async def list_live_runs(self, task_id: TaskId, *, offset: int) -> list[RunId]:
        """List the ids of up to 1,000 of the task's live Runs, newest first."""

    async def abort_run(self, run_id: RunId, *, gracefully: bool = False) -> Run:
        """Abort a Run."""

    async def get_items(self, dataset_id: DatasetId, *, offset: int, limit: int, query: Mapping[str, str]) -> ItemsPage:
        """Read one page of a dataset."""

    async def get_item_count(self, dataset_id: DatasetId) -> int | None:
        """Read how many items a dataset holds, as far as its lagging counter knows."""

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Read the end of a Run's log."""

    async def get_value(self, store_id: StoreId, key: str) -> Any:
        """Read a stored value, or None."""

"""What the ledger's rows say, as frozen values."""

from dataclasses import dataclass
from datetime import datetime

from batchrun.model import Attempt, JobId, JobKey, Outcome, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that is admitted and not settled."""

    id: JobId
    key: JobKey
    digest: bytes
    place: Place
    round: int
    admitted_at: datetime
    #: Not to be tried again before this time.
    due_at: datetime | None
    #: In order; at most the last one is not ended.
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What the ledger notes of a job's record."""

    outcome: Outcome
    error_type: str | None = None
    error_message: str | None = None
    items_count: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledJob:
    """A settled job or bad line, as far as the ledger knows it."""

    id: JobId
    key: JobKey | None
    place: Place
    digest: bytes
    group: str | None
    round: int
    admitted_at: datetime
    settlement: Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job with this key stands in the ledger already."""

    is_same_line: bool
    is_same_content: bool
    #: The line that claimed the key.
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all jobs of a batch."""

    items: int
    empty_successes: int
    cost_usd: float
    unknown_costs: int
    open_jobs: int
    #: Attempts that are not ended: their Runs live, or may.
    live_runs: int

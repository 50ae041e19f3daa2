"""What the ledger's rows say, as frozen values."""

from datetime import datetime

from batchrun.model import Attempt, CostSource, JobId, JobKey, Outcome, Position, RunId
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that is admitted and not settled."""

    id: JobId
    key: JobKey
    digest: bytes
    position: Position
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledJob:
    """A settled job or bad line, as far as the ledger knows it; of a job with several rounds, one of them."""

    id: JobId
    key: JobKey | None
    position: Position
    digest: bytes
    group: str | None
    round: int
    admitted_at: datetime
    settlement: Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """Settled jobs that ended alike."""

    id: str
    count: int
    #: The first of them in the job file.
    sample: SettledJob


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKinds:
    """The most frequent kinds of failure, and how many there are in all."""

    #: Most frequent first.
    kinds: list[FailureKind]
    kinds_in_all: int
    jobs_in_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What some Runs cost."""

    #: The group, day and outcome that they share, as far as they were asked for.
    shared: tuple[str | None, ...]
    #: Runs that have ended.
    runs: int
    #: Known costs, in US dollars.
    cost_usd: float
    #: The part of them that was worked out here.
    derived_usd: float
    unknown_costs: int
    #: Runs whose cost the platform can still change.
    open_costs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job with this key stands in the ledger already."""

    is_same_line: bool
    is_same_content: bool
    #: The line that claimed the key.
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCost:
    """A Run that has ended and whose cost may not be final yet."""

    job_id: JobId
    attempt_no: int
    run_id: RunId
    started_at: datetime
    finished_at: datetime
    #: What stands for it in the budget until then.
    reserved_usd: float | None
    #: As known so far.
    cost_usd: float | None
    cost_source: CostSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What a batch has spent, in US dollars."""

    #: Final costs; where one is unknown, what was set aside for it.
    spent_usd: float
    #: What may still come of Runs whose cost is not final.
    reserved_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalCost:
    """What a Run cost in the end."""

    job_id: JobId
    attempt_no: int
    cost_usd: float | None
    source: CostSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all jobs of a batch."""

    #: Of all rounds.
    items: int
    #: Records of rounds before the jobs' current ones.
    earlier_records: int
    empty_successes: int
    #: Known costs of Runs that have ended, in US dollars.
    cost_usd: float
    #: Runs that have ended and whose cost nobody knows.
    unknown_costs: int
    #: Runs whose cost the platform can still change.
    open_costs: int
    open_jobs: int
    #: Runs that have not ended, as far as is known.
    live_runs: int
    #: Attempts whose start was not answered: a Run of theirs may live.
    in_doubt: int

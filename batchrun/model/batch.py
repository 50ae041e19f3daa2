"""A batch as a whole: which of its jobs are meant, why it ended, what it has come to."""

from collections.abc import Collection
from enum import StrEnum

from batchrun.model.record import Outcome
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which settled jobs are meant: all that is given must hold, None leaves it open; bad lines are no jobs."""

    #: None: all but succeeded.
    outcomes: Collection[Outcome] | None = None
    error_types: Collection[str] | None = None
    groups: Collection[str] | None = None
    keys: Collection[str] | None = None
    #: As `batchrun failures` names them.
    failures: Collection[str] | None = None


class Ending(StrEnum):
    """Why a process stopped working on its batch."""

    #: Nothing is left to do.
    FINISHED = "finished"
    #: Some starts stay in doubt; everything else is done.
    IN_DOUBT = "in_doubt"
    #: Stopped from outside; the batch can be resumed.
    INTERRUPTED = "interrupted"
    #: Too much of what was paid for failed: the breaker stopped the batch, or a group of it.
    TRIPPED = "tripped"
    #: The next start is not within the budget.
    OUT_OF_BUDGET = "out_of_budget"
    #: `deadlines.max_batch_s` is over.
    OUT_OF_TIME = "out_of_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line that was given in some directory."""

    line: str
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a batch has come to; counts cover its earlier processes too."""

    ending: Ending
    #: Settled jobs by outcome.
    outcomes: dict[Outcome, int]
    #: Lines that repeat a job of another line.
    duplicates: int
    #: Jobs admitted and not settled.
    open_jobs: int
    #: Runs of ours that had not ended when they were last looked at.
    live_runs: int
    #: Starts without an answer: whether they have started a Run is not known.
    in_doubt: int
    #: Items collected from settled jobs, those of earlier rounds included: what the item file holds.
    items: int
    #: Records of earlier rounds: another one of the same job has come after them, or is to come.
    earlier_records: int
    #: Jobs that succeeded with no item at all.
    empty_successes: int
    #: Known costs of all Runs that have ended, in US dollars.
    cost_usd: float
    #: Runs whose cost nobody knows.
    unknown_costs: int
    #: Runs whose cost the platform can still change.
    open_costs: int
    out_dir: str
    #: By this process alone: the share (0 to 1) of the slots' time that was Runs, while jobs waited for one; None if
    #: nothing ran.
    slot_use: float | None = None
    #: From the end of a Run to the next start request: seconds that half of them, and 99 of 100, are not above.
    refill_p50_s: float | None = None
    refill_p99_s: float | None = None

    @property
    def settled(self) -> int:
        """How many jobs are settled."""
        return sum(self.outcomes.values())

    @property
    def has_succeeded(self) -> bool:
        """Whether everything is done and every job succeeded."""
        return self.ending is Ending.FINISHED and self.settled == self.outcomes.get(Outcome.SUCCEEDED, 0)

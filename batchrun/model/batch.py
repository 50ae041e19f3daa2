"""A batch as a whole: which of its jobs are selected, why work on it ended, and the counts of its jobs and Runs."""

from collections.abc import Sequence
from enum import StrEnum

from batchrun.model.record import Outcome
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which settled jobs are selected: those that match every field; a field that is None matches all.

    Bad lines are no jobs and are never selected.
    """

    #: None: all outcomes but succeeded.
    outcomes: Sequence[Outcome] | None = None
    error_types: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    #: Ids of failures, as `batchrun failures` shows them.
    failures: Sequence[str] | None = None


class Ending(StrEnum):
    """Why a process stopped working on its batch."""

    #: No job is left to do.
    FINISHED = "finished"
    #: Attempts stay in doubt; everything else is done.
    IN_DOUBT = "in_doubt"
    #: Stopped from outside; the batch can be resumed.
    INTERRUPTED = "interrupted"
    #: The platform refused the batch; it can be resumed.
    REFUSED = "refused"
    #: Too many jobs failed: the breaker stopped the batch, or a group of it.
    TRIPPED = "tripped"
    #: The next start would exceed the budget.
    OUT_OF_BUDGET = "out_of_budget"
    #: `deadlines.max_batch_s` has passed.
    OUT_OF_TIME = "out_of_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line, and the directory in which it was given."""

    line: str
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The state of a batch when a process ends its work on it. Counts cover earlier processes too."""

    ending: Ending
    #: Settled jobs by outcome.
    outcomes: dict[Outcome, int]
    #: Lines that repeat a job of another line.
    duplicates: int
    #: Jobs admitted and not settled.
    open_jobs: int
    #: Runs of ours that had not ended when they were last looked at.
    live_runs: int
    #: Attempts whose start got no answer: whether a Run was started is unknown.
    in_doubt: int
    #: Items in the item file: those of settled jobs, earlier rounds included.
    items: int
    #: Records of jobs that were retried since: a later record of the job follows, or will.
    earlier_records: int
    #: Jobs that succeeded without an item.
    empty_successes: int
    #: Known costs of all Runs that have ended, in US dollars.
    cost_usd: float
    #: Runs whose cost is unknown.
    unknown_costs: int
    #: Runs whose cost the platform can still change.
    open_costs: int
    #: Runs that repeat the start of another one, since something on the way sent the request twice; all were aborted.
    second_runs: int
    out_dir: str
    #: Runs of settled jobs that could not be followed to their end: they may be live.
    given_up_runs: int = 0
    #: Jobs of the job file that are not read yet, about; None: unknown.
    unread_jobs: int | None = None
    #: Part (0 to 1) of the slots' time in which Runs were live, counted while jobs waited for a slot, of this process
    #: alone; None if nothing ran.
    slot_use: float | None = None
    #: Median and 99th percentile of the seconds from the end of a Run to the next start request.
    refill_p50_s: float | None = None
    refill_p99_s: float | None = None

    @property
    def settled(self) -> int:
        """Number of settled jobs."""
        return sum(self.outcomes.values())

    @property
    def left_jobs(self) -> int:
        """Number of jobs that are not done, as far as it is known: those begun, and the unread ones."""
        return self.open_jobs + (self.unread_jobs or 0)

    @property
    def has_succeeded(self) -> bool:
        """True if everything is done and every job succeeded."""
        return self.ending is Ending.FINISHED and self.settled == self.outcomes.get(Outcome.SUCCEEDED, 0)

"""Events that the engine reports to people, as values. The sentences are in `words/notice_words.py`."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from batchrun.apify.wire import Denied
from batchrun.model import JobKey, RunId
from batchrun.runtime.fast_dataclasses import dataclass

#: Max notices that are kept until a reader takes them. A batch without a reader (a library call) keeps the newest ones.
MAX_UNREAD = 200
#: Max quiet Runs that are kept for those who do not watch; of more, the newest ones.
MAX_QUIET = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUnanswered:
    """A start request got no answer of the API: its Run may exist. Reported once per process."""

    #: Why there is none; "" for a start of an earlier process.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRunsNotListed:
    """The token may not list the account's Runs; starts in doubt are looked for in the task's own list."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageUnbounded:
    """No option limits what Runs use of storages and transfer, so a strict budget counts what Runs have used so far."""

    #: The most that a known Run cost beyond its bound, which each start reserves in addition.
    excess_usd: float
    #: Number of Runs whose costs are known.
    known_runs: int
    #: Max Runs that are live or whose cost is not final.
    max_open_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondRunAborted:
    """One start request has started two Runs; the one that its job does not follow is aborted. Reported once."""

    run_id: RunId
    job_key: JobKey


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsWaitForBudget:
    """The next start does not fit into the budget until final costs release reservations. Reported once."""

    #: Reserved for one start until the cost of its Run is final.
    reserved_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetExhausted:
    """The budget can never pay for the next start."""

    next_start_usd: float
    spent_usd: float
    #: None: the batch has no budget of itself; the one that it shares with other batches is exhausted.
    limit_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsUnbounded:
    """The platform does not report costs and nothing limits them, so no budget can be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerTripped:
    """The breaker has stopped new starts."""

    #: The group of which nothing more is started; None: the whole batch.
    group: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsAllTheSame:
    """The first successes of the batch all brought the same items: their inputs may set nothing."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFailed:
    """The platform refuses the whole batch, or its files were moved or removed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSuspect:
    """A live Run is overdue or quiet, and the configuration leaves it running."""

    run_id: RunId
    job_key: JobKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAborted:
    """A live Run is being aborted because of a deadline."""

    run_id: RunId
    job_key: JobKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyQuiet:
    """Several live Runs are overdue or quiet, or are aborted for it. For those who do not watch."""

    count: int
    #: Some of them.
    samples: Sequence[RunSuspect | RunAborted]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRefused:
    """The platform refuses to abort a Run; it is followed to its end."""

    run_id: RunId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadDenied:
    """The token may not read something that is not needed to run the task. Reported when the batch is opened."""

    what: Denied


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLogWeak:
    """The store of the shared log can lose entries that it has acknowledged. Reported when the batch is opened."""

    #: In words: how, and what to do.
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutOfTime:
    """`deadlines.max_batch_s` is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingForFinalCosts:
    """All Runs have ended; the batch waits for the platform to finalise their costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportNotWritten:
    """The HTML report at the end of the batch could not be written."""

    reason: str
    out_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class UnendedLine:
    """The last line of the job file has no line end: its writer may not have finished it."""

    file: str
    line: int
    #: False: the file may still grow, and the line was left for the next process.
    is_read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsNotWritten:
    """The file of costs at the end of the batch could not be written."""

    reason: str
    out_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyFailed:
    """A larger share of the batch's jobs than `notify.failed_share` did not succeed."""

    failed: int
    settled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetNearlySpent:
    """`notify.budget_share` of the budget is spent."""

    spent_usd: float
    limit_usd: float
    #: True if several batches share the budget.
    is_of_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsStayInDoubt:
    """Starts have been in doubt for longer than it takes to find their Runs."""

    count: int
    lasted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageLasts:
    """The platform cannot be reached, or refuses the account, for longer than `notify.outage_s`."""

    reason: str
    lasted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLow:
    """The disk is almost full: no Run is started until it has room."""

    directory: Path
    free_mb: int
    #: What is to stay free.
    reserved_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded:
    """Work on the batch has ended by itself. For those who do not watch: others see its summary."""

    #: Why it ended before all jobs were done; empty: they are.
    reason: str
    settled: int
    succeeded: int
    #: Jobs that are not done.
    left: int
    items: int
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesDropped:
    """Older notices were dropped before a reader took them."""

    count: int


Notice = (
    StartUnanswered
    | AccountRunsNotListed
    | UsageUnbounded
    | SecondRunAborted
    | StartsWaitForBudget
    | BudgetExhausted
    | CostsUnbounded
    | BreakerTripped
    | ItemsAllTheSame
    | BatchFailed
    | RunSuspect
    | RunAborted
    | ManyQuiet
    | AbortRefused
    | ReadDenied
    | SharedLogWeak
    | BatchOutOfTime
    | WaitingForFinalCosts
    | ReportNotWritten
    | UnendedLine
    | CostsNotWritten
    | ManyFailed
    | BudgetNearlySpent
    | StartsStayInDoubt
    | OutageLasts
    | DiskLow
    | BatchEnded
    | NoticesDropped
)


class Notices:
    """The notices of a batch that its one reader has not taken yet, bounded by `MAX_UNREAD`."""

    __slots__ = ("_dropped", "_quiet", "_unread", "first_of")

    def __init__(self) -> None:
        self._unread: deque[Notice] = deque()
        self._dropped = 0
        self._quiet: deque[RunSuspect | RunAborted] = deque(maxlen=MAX_QUIET)
        #: The first notice of each type.
        self.first_of: dict[type[Notice], Notice] = {}

    def add(self, notice: Notice) -> None:
        """Add a notice; if `MAX_UNREAD` are unread, drop the oldest one."""
        self.first_of.setdefault(type(notice), notice)
        if isinstance(notice, RunSuspect | RunAborted):
            self._quiet.append(notice)
        if len(self._unread) == MAX_UNREAD:
            self._unread.popleft()
            self._dropped += 1
        self._unread.append(notice)

    def take(self) -> list[Notice]:
        """Return the unread notices once, oldest first; `NoticesDropped` comes first if some were dropped."""
        taken: list[Notice] = [NoticesDropped(count=self._dropped)] if self._dropped else []
        taken += self._unread
        self._unread.clear()
        self._dropped = 0
        return taken

    def take_quiet(self) -> list[RunSuspect | RunAborted]:
        """Return the Runs that have become quiet or overdue since the last call, oldest first."""
        taken = list(self._quiet)
        self._quiet.clear()
        return taken

"""The ledger's verbs, and the values they speak in: what each verb promises is said here, once."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from datetime import UTC, datetime
from typing import Protocol

from batchrun.model import (
    Attempt,
    AttemptState,
    BadLine,
    CostSource,
    Intent,
    Job,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Position,
    Problem,
    Record,
    Run,
    RunId,
    Selection,
    WaitReason,
)
from batchrun.policy.breaker import Trip
from batchrun.runtime.fast_dataclasses import dataclass

#: Later than any time in a ledger.
END_OF_TIME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that is admitted and not settled."""

    id: JobId
    key: JobKey
    digest: bytes
    position: Position
    round: int
    admitted_at: datetime
    #: The job is not tried again before this time.
    due_at: datetime | None
    #: In order; all but the last one have ended.
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job of the ledger that has the key of a line."""

    is_same_line: bool
    is_same_content: bool
    #: The line that claimed the key.
    line: int
    #: True if that line has replaced others, or would have.
    replaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTo:
    """How far the job file is read: the ledger has every line before."""

    offset: int
    line: int
    #: Tells the file from an edited one; empty if the file cannot be read from a position.
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A line whose job is that of another line: it repeats that line, or is replaced by it."""

    line: int
    key: JobKey
    #: The line whose job it is.
    repeats: int


@dataclass(frozen=False, slots=True)
class Admission:
    """The ledger's answer to some lines of the job file."""

    #: The new jobs, and those with a new content.
    jobs: list[tuple[Job, OpenJob]] = field(default_factory=list)
    #: What the settled ones of these jobs had ended with, before they got a new content.
    reopened: list[Outcome] = field(default_factory=list)
    #: Records of the bad lines, which are settled with their admission.
    invalid: list[Record] = field(default_factory=list)
    #: Lines whose jobs are those of other lines, and that were not noted before.
    duplicates: list[Duplicate] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The part of a job's record that the ledger keeps."""

    outcome: Outcome
    error_type: str | None = None
    error_message: str | None = None
    exit_code: int | None = None
    items_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledJob:
    """A job or bad line that was settled in some round."""

    id: JobId
    key: JobKey | None
    position: Position
    digest: bytes
    group: str | None
    round: int
    admitted_at: datetime
    settlement: Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCost:
    """A Run that has ended and whose cost may not be final."""

    job_id: JobId
    attempt_no: int
    run_id: RunId
    started_at: datetime
    finished_at: datetime
    #: Counts in the budget until the cost is final; the cost known so far if nothing was reserved.
    reserved_usd: float | None
    #: The cost known so far.
    cost_usd: float | None
    cost_source: CostSource


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedAttempt:
    """The attempt whose start request carried a mark."""

    job_key: JobKey
    state: AttemptState
    run_id: RunId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalCost:
    """The final cost of an attempt's Run."""

    job_id: JobId
    attempt_no: int
    cost_usd: float | None
    source: CostSource


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """The cost of a Run that has ended."""

    key: JobKey
    line: int
    round: int
    attempt_no: int
    run_id: RunId
    cost_usd: float | None
    cost_source: CostSource
    #: True if the platform cannot change the cost any more.
    cost_is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """The spending of a batch, in US dollars."""

    #: Final costs; the reservation of a Run whose final cost is unknown.
    spent_usd: float
    #: Reservations of Runs whose cost is not final.
    reserved_usd: float
    #: Number of these Runs.
    open_runs: int
    #: Number of Runs whose final cost is known and replaced a reservation.
    known_costs: int
    #: The most that the known cost of a Run is above its reservation; 0 if none is above.
    most_excess_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """The sum over some Runs."""

    #: The group, day and outcome of these Runs, each if it was asked for.
    shared: tuple[str | None, ...]
    #: Number of Runs; all have ended.
    runs: int
    #: Known costs, in US dollars.
    cost_usd: float
    #: The part of them that was computed here.
    derived_usd: float
    #: Number of Runs whose cost is unknown.
    unknown_costs: int
    #: Number of Runs whose cost the platform can still change.
    open_costs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """Settled jobs with the same kind of failure."""

    id: str
    count: int
    #: The first of them in the job file.
    sample: SettledJob


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKinds:
    """The most frequent kinds of failure, and the number of all."""

    #: Most frequent first.
    kinds: list[FailureKind]
    kinds_in_all: int
    jobs_in_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all jobs of a batch."""

    #: Items of all rounds.
    items: int
    #: Number of records of rounds before the jobs' current ones.
    earlier_records: int
    empty_successes: int
    #: Known costs of Runs that have ended, in US dollars.
    cost_usd: float
    #: Number of Runs that have ended and whose cost is unknown.
    unknown_costs: int
    #: Number of Runs whose cost the platform can still change.
    open_costs: int
    open_jobs: int
    #: Number of Runs without a noted end.
    live_runs: int
    #: Number of attempts without an answer to their start: each may have a live Run.
    in_doubt: int
    #: Number of Runs that repeat the start of another one; all were aborted.
    second_runs: int


class OpenJobs(Protocol):
    """The open jobs of a ledger: for a process that resumes the batch."""

    def open_jobs(self) -> list[OpenJob]:
        """Return all of them in order of admission. A retry makes them many."""

    def begun_jobs(self) -> list[OpenJob]:
        """Return those with an attempt in their round, or a wait for one, in order of admission: about one a slot."""

    def unbegun_jobs(self, after: JobId, limit: int) -> list[OpenJob]:
        """Return the first `limit` of the others that were admitted later than the job `after`."""


class ReopenableLedger(OpenJobs, Protocol):
    """A ledger whose settled jobs can be opened for another round."""

    def transaction(self) -> AbstractContextManager[None]:
        """Commit everything that is changed inside, or nothing if the block raises."""

    def reopen(self, selection: Selection) -> int:
        """Open settled jobs for another round and return their number. Records of earlier rounds stay as they are."""


class ItemWriter(Protocol):
    """Takes pages of items."""

    async def write_items(self, job_id: JobId, attempt: Attempt, lines: bytes) -> None:
        """Append a page to the item file and note the attempt's `items_offset` and `items_count` after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedWait:
    """What the process that runs the batch waits for."""

    pid: int
    began_at: datetime
    #: When the reasons held; their `left_s` count from then.
    noted_at: datetime
    reasons: Sequence[WaitReason]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notified:
    """What people were notified of, since the batch was begun or went on after an ending."""

    #: The ids of these notifications begin with it.
    id: str
    #: Each is notified once.
    events: Sequence[str] = ()
    #: True if the batch has ended since.
    has_ended: bool = False
    #: The quiet Runs among them, the newest ones.
    quiet_runs: Sequence[RunId] = ()


class CostLedger(Protocol):
    """Knows which costs are not final."""

    async def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        """Return Runs that ended before a time on the platform's clock and whose cost may not be final, oldest first.

        At most `limit` are returned.
        """

    async def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        """Note the final costs of Runs that have ended."""


class Ledger(ItemWriter, CostLedger, Protocol):
    """The memory of a batch, on which every promise rests: intents before their effects, ends with their records.

    Verbs take effect in the order of their calls, each of them whole or not at all. A verb that is awaited is durable
    when it returns; cancelling the wait does not take it back. A verb that is not awaited is durable together with the
    next one that is, or when the ledger is closed: if the process dies before, the platform still knows what it noted.

    A verb that fails has had no effect, and neither have those that were to become durable with it. Nothing is durable
    after a failure: it stops the batch, also if the verb was not awaited.

    Raises:
        Superseded: another owner has taken the batch over.
        OutputError: this machine cannot write.
    """

    async def admit(self, entries: Sequence[Job | BadLine], read_to: ReadTo, held: Collection[JobId] = ()) -> Admission:
        """Admit the new ones among lines of the job file, settle the bad ones, and note how far the file is read.

        A key is claimed by its first line. A line that repeats it with the same content is counted as a duplicate; one
        with other content is a bad line. A line that was admitted before changes nothing.

        A line that `replaces` the earlier one takes its job over. A settled job is opened for another round; an open
        one keeps its round. It must have no attempt in it, and nothing else may be about to start it: `held` names the
        jobs for which that is sure. Otherwise the job is under way, and the line is a bad line.
        """

    async def intend(self, job_id: JobId, intent: Intent) -> Attempt:
        """Note an attempt before its start request is sent; until `bind` or `withdraw` it is in doubt."""

    def may_start(self) -> bool:
        """Return True if this process surely owns the batch: asked right before a start request is sent."""

    def withdraw(self, job_id: JobId, attempt_no: int) -> None:
        """Take back an intent whose request certainly started nothing; an attempt with a Run stays."""

    def bind(self, job_id: JobId, attempt_no: int, run: Run) -> None:
        """Note the Run that an attempt has started."""

    def note_reservation(self, job_id: JobId, attempt_no: int, usd: float) -> None:
        """Note the reservation of a live Run that was started without one."""

    async def note_abort(self, job_id: JobId, attempt_no: int, problem: Problem) -> None:
        """Note why a Run is to be aborted, before the platform is asked for it."""

    def postpone(self, job_id: JobId, ended: Attempt | None, wait_s: float) -> None:
        """Note, in one step, the attempt that has ended and that its job is not tried again for `wait_s` seconds.

        `ended` is None if the job's attempts stand in the ledger as they are.
        """

    async def settle(self, job_id: JobId, ended: Attempt | None, record: Record, item_lines: bytes) -> None:
        """Write, in one step, the attempt that has ended, its last items, and the job's record: once per round.

        `ended` is None if the job's attempts stand in the ledger as they are.
        """

    async def known_runs(self, run_ids: Collection[RunId]) -> set[RunId]:
        """Return those among some Runs that an attempt of this batch has started."""

    async def attempts_marked(self, marks: Collection[Mark]) -> dict[Mark, MarkedAttempt]:
        """Return the attempts of this batch that some marks belong to; others are left out."""

    async def note_second_run(self, mark: Mark, run: Run, ended_at: datetime) -> None:
        """Note a Run that repeats the start of an attempt: from now on it is known, and its cost counts.

        It stands beside the job's attempts and is none of them. What was noted before changes nothing.
        """

    def note_unlisted(self, since: datetime | None) -> None:
        """Note since when, by the Runs' clock, Runs that repeat a start were not looked for; None: all were."""

    async def bound_runs(self) -> list[RunId]:
        """Return the Runs of this batch without a noted end."""

    def note_trip(self, trip: Trip) -> None:
        """Note that the breaker has tripped; the first trip of a process replaces those of earlier processes."""

    def note_echo(self, echoes: bool) -> None:
        """Note whether the platform shows the mark of a Run that was started with it."""

    def note_watched(self, watched_s: Mapping[Mark, float]) -> None:
        """Note for how long the platform was watched for the Runs of attempts in doubt, in all processes together."""

    def note_all_read(self) -> None:
        """Note that the job file is read to its end, so that its jobs are counted and no longer estimated."""

    def note_wait(self, wait: NotedWait | None) -> None:
        """Note what the batch waits for; None: it goes on."""

    async def note_notified(self, notified: Notified) -> None:
        """Note what people were notified of."""

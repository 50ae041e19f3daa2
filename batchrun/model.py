"""The values that flow through batchrun: all frozen, none of them able to wait.

A line of the job file becomes a Job, a Job becomes Attempts, an Attempt a Run, and all of it one Record.
"""

import json
import math
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NewType

import orjson

from batchrun.runtime.frozen import dataclass

JobKey = NewType("JobKey", str)
#: The job's row in the ledger; counts up in order of admission.
JobId = NewType("JobId", int)
RunId = NewType("RunId", str)
TaskId = NewType("TaskId", str)
DatasetId = NewType("DatasetId", str)
StoreId = NewType("StoreId", str)
#: The random string of an attempt that its start request carries in the User-Agent.
Mark = NewType("Mark", str)

#: A JSON object at the edge: as the API or a job file gave it.
JsonObject = dict[str, Any]


class RunStatus(StrEnum):
    """The API's eight statuses of a Run, never extended by us."""

    READY = "READY"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMING_OUT = "TIMING-OUT"
    TIMED_OUT = "TIMED-OUT"
    ABORTING = "ABORTING"
    ABORTED = "ABORTED"

    @property
    def is_terminal(self) -> bool:
        """Whether the Run has ended."""
        return self in _TERMINAL


_TERMINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.ABORTED})


class Outcome(StrEnum):
    """Our verdict on a job, decided once per round."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    #: Succeeded, but with fewer items than expected.
    EMPTY = "empty"
    #: Succeeded, but with items that break the expected schema.
    MALFORMED = "malformed"
    #: The line of the job file could not be read as a job; nothing was started.
    INVALID = "invalid"
    #: The platform refused to start the job; nothing was started.
    REJECTED = "rejected"
    #: We hold the id of a Run that the platform says does not exist.
    LOST = "lost"


class Cause(StrEnum):
    """Why an attempt was no success: what decides whether, when and with what the job is tried again."""

    FAILED = "failed"
    #: Failed because its memory did not suffice.
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    EMPTY = "empty"
    MALFORMED = "malformed"
    LOST = "lost"


class CostSource(StrEnum):
    """Where a cost comes from."""

    #: The platform said it.
    PLATFORM = "platform"
    #: Worked out here from what the Run was charged for and the Actor's prices.
    DERIVED = "derived"
    UNKNOWN = "unknown"


_WEAKEST_FIRST = (CostSource.UNKNOWN, CostSource.DERIVED, CostSource.PLATFORM)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a start asks for besides its input; None leaves it to the task."""

    build: str | None = None
    #: The Run's own time limit; 0 means none.
    timeout_s: int | None = None
    memory_mb: int | None = None
    max_items: int | None = None
    max_total_charge_usd: float | None = None
    restart_on_error: bool | None = None
    #: Ad-hoc webhooks, in the API's own spelling (eventTypes, requestUrl, …).
    webhooks: tuple[JsonObject, ...] | None = None

    def over(self, base: "RunOptions") -> "RunOptions":
        """Return these options, with `base` filling in what they leave open."""
        # Spelled out: it is asked of every job, and looking through the fields takes ten times as long.
        return RunOptions(
            build=base.build if self.build is None else self.build,
            timeout_s=base.timeout_s if self.timeout_s is None else self.timeout_s,
            memory_mb=base.memory_mb if self.memory_mb is None else self.memory_mb,
            max_items=base.max_items if self.max_items is None else self.max_items,
            max_total_charge_usd=(
                base.max_total_charge_usd if self.max_total_charge_usd is None else self.max_total_charge_usd
            ),
            restart_on_error=base.restart_on_error if self.restart_on_error is None else self.restart_on_error,
            webhooks=base.webhooks if self.webhooks is None else self.webhooks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the job file a job or a bad line stands."""

    #: Line number (element number in a JSON array), from 1.
    line: int
    #: Which combination of the matrix this is, from 0.
    variant: int = 0
    #: Bytes from the start of the (uncompressed) file.
    offset: int
    #: Bytes, line end included.
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One line of the job file: a job key and the overrides for the task's input."""

    key: JobKey
    #: First 16 bytes of SHA-256 over the canonical JSON of override and own options.
    digest: bytes
    place: Place
    #: The overrides as the JSON that is posted to start a Run.
    body: bytes
    options: RunOptions | None = None
    #: Higher goes first, within the source's look-ahead.
    priority: int = 0
    group: str | None = None
    #: Any JSON, copied to the record.
    meta: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line of the job file that is no job."""

    place: Place
    #: What is wrong, and what to do.
    reason: str
    #: The line as it stands in the file; undecodable bytes are replaced, very long lines cut.
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A Run as the API last described it."""

    id: RunId
    status: RunStatus
    dataset_id: DatasetId | None
    store_id: StoreId | None
    started_at: datetime
    finished_at: datetime | None
    #: None while nobody knows; never to be read as 0.
    cost_usd: float | None
    cost_source: CostSource = CostSource.UNKNOWN
    #: What it was given; None where the platform does not say, as in lists.
    memory_mb: int | None = None
    timeout_s: int | None = None
    #: The User-Agent of the request that started it; None where the platform does not say.
    user_agent: str | None
    #: Everything the API said of it, as it said it.
    fields: JsonObject


#: How wrong this machine's clock may be where the platform shows no time of its own.
CLOCK_DOUBT = timedelta(days=1)


class AttemptState(StrEnum):
    """Where an attempt's row in the ledger stands."""

    #: Noted before its start request was sent; without more, it is in doubt.
    INTENDED = "intended"
    #: Its Run's id is noted.
    BOUND = "bound"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a job did not succeed."""

    #: An API error type, or a word of ours (bad-line, run-failed, run-lost).
    type: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job: one start request and the Run it produced."""

    #: Counts on from round to round.
    attempt_no: int
    round: int = 1
    mark: Mark
    state: AttemptState
    run_id: RunId | None = None
    #: How its Run ended.
    status: RunStatus | None = None
    #: Why it was no success; None for a success, and before its end.
    cause: Cause | None = None
    #: Why its Run was to be aborted by us, noted before the abort was sent.
    aborted_for: Problem | None = None
    #: What its Run was given, as the platform said it.
    memory_mb: int | None = None
    timeout_s: int | None = None
    #: By this machine's clock, which may be wrong and may be set.
    intended_at: datetime
    #: By the platform's clock, as last seen before the start request was sent; None where it shows none.
    platform_time: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Most that its Run may cost; None where nothing bounds it.
    reserved_usd: float | None = None
    cost_usd: float | None = None
    cost_source: CostSource = CostSource.UNKNOWN
    #: Whether the platform cannot change the cost any more.
    cost_is_final: bool = False
    #: Stored items of its dataset that are committed to the item file.
    items_offset: int = 0
    items_count: int = 0

    @property
    def earliest_start(self) -> datetime:
        """No Run of this attempt began earlier, by the platform's clock."""
        return self.platform_time if self.platform_time is not None else self.intended_at - CLOCK_DOUBT


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An attempt as it is to be noted before its start request is sent."""

    attempt_no: int
    round: int = 1
    mark: Mark
    platform_time: datetime | None = None
    reserved_usd: float | None = None

    def noted_at(self, at: datetime) -> Attempt:
        """Return the attempt that a ledger's note at a time makes of it."""
        return Attempt(
            attempt_no=self.attempt_no,
            round=self.round,
            mark=self.mark,
            state=AttemptState.INTENDED,
            intended_at=at,
            platform_time=self.platform_time,
            reserved_usd=self.reserved_usd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """What a Run left in its dataset, as far as it was collected."""

    #: Items that were collected.
    count: int
    dataset_id: DatasetId | None
    #: The items themselves, where the record is to hold them.
    values: list[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The line that reports a settled job. Its keys are a public format and only ever added to."""

    #: None for a bad line.
    key: JobKey | None
    line: int
    round: int = 1
    group: str | None = None
    meta: Any = None
    outcome: Outcome
    attempts: tuple[Attempt, ...] = ()
    #: The last Run, in the API's own fields.
    run: JsonObject | None = None
    #: The OUTPUT value, where it was asked for.
    output: Any = None
    items: Items | None = None
    error: Problem | None = None
    admitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def cost_usd(self) -> float | None:
        """Sum of the attempts' costs as known now; None when one of them is unknown, for that is not 0."""
        return _cost_of(self.attempts)[0]

    @property
    def cost_source(self) -> CostSource:
        """The weakest source among the attempts' costs."""
        return _cost_of(self.attempts)[1]

    @property
    def cost_is_final(self) -> bool:
        """Whether the platform cannot change the cost any more."""
        return _cost_of(self.attempts)[2]

    def as_line(self) -> bytes:
        """Return the record as one line of JSON, line end included."""
        return json_line(self._as_json())

    def _as_json(self) -> JsonObject:
        cost_usd, cost_source, cost_is_final = _cost_of(self.attempts)
        return {
            "v": 1,
            "key": self.key,
            "line": self.line,
            "round": self.round,
            "group": self.group,
            "meta": self.meta,
            "outcome": self.outcome,
            "attempts": [_attempt_json(attempt) for attempt in self.attempts],
            "run": self.run,
            "output": self.output,
            "items": _items_json(self.items),
            "error": {"type": self.error.type, "message": self.error.message} if self.error else None,
            "times": {
                "admitted_at": self.admitted_at,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
                "queued_s": _seconds_between(self.admitted_at, self.started_at),
                "run_s": _seconds_between(self.started_at, self.finished_at),
            },
            "cost_usd": cost_usd,
            "cost_source": cost_source,
            "cost_is_final": cost_is_final,
        }


def _cost_of(attempts: Collection[Attempt]) -> tuple[float | None, CostSource, bool]:
    """Return what attempts have cost, where that comes from, and whether it is final; all at once, for every record."""
    paid = [attempt for attempt in attempts if attempt.run_id is not None]
    if not paid:
        return None, CostSource.UNKNOWN, True
    known = [attempt.cost_usd for attempt in paid if attempt.cost_usd is not None]
    return (
        math.fsum(known) if len(known) == len(paid) else None,
        min([attempt.cost_source for attempt in paid], key=_WEAKEST_FIRST.index),
        all(attempt.cost_is_final for attempt in paid),
    )


def json_line(value: JsonObject) -> bytes:
    """Return JSON on one line, line end included; times in UTC as ISO with Z."""
    try:
        return orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # It writes 254 levels and no lone surrogates; what an Actor stored must not be lost for that.
        return (json.dumps(value, default=_iso) + "\n").encode()


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _attempt_json(attempt: Attempt) -> JsonObject:
    return {
        "attempt_no": attempt.attempt_no,
        "run_id": attempt.run_id,
        "status": attempt.status,
        "intended_at": attempt.intended_at,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "cause": attempt.cause,
        "memory_mb": attempt.memory_mb,
        "timeout_s": attempt.timeout_s,
        "cost_usd": attempt.cost_usd,
        "cost_source": attempt.cost_source,
    }


def _items_json(items: Items | None) -> JsonObject | None:
    if items is None:
        return None
    values = {} if items.values is None else {"values": items.values}
    return {"count": items.count, "dataset_id": items.dataset_id, **values}


def _seconds_between(earlier: datetime | None, later: datetime | None) -> float | None:
    """Return the seconds from one time to another; 0 where two clocks disagree about the order."""
    if earlier is None or later is None:
        return None
    return max(0.0, round((later - earlier).total_seconds(), 3))


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

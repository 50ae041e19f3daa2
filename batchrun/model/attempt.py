"""One try at a job, from its intent to its end."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

from batchrun.model.run import CostSource, JsonObject, RunId, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass

#: The random string of an attempt that its start request carries in the User-Agent.
Mark = NewType("Mark", str)


class Cause(StrEnum):
    """Why an attempt was no success. It decides whether, when and with what options the job is retried."""

    FAILED = "failed"
    #: Failed for lack of memory.
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    EMPTY = "empty"
    MALFORMED = "malformed"
    LOST = "lost"


#: Error type of a job whose Run was given up: the platform neither described nor listed it. The Run may be live.
RUN_UNREADABLE = "run-unreadable"
#: How far the Runs' clock may be from this machine's, or from the one in the `Date` header, as long as neither
#: difference is measured.
CLOCK_DOUBT = timedelta(days=1)


class AttemptState(StrEnum):
    """The state of an attempt in the ledger."""

    #: Noted before its start request was sent; in doubt until it is bound or ended.
    INTENDED = "intended"
    #: Its Run's id is noted.
    BOUND = "bound"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a job did not succeed."""

    #: An API error type, or one of ours (bad-line, run-failed, run-lost, …).
    type: str
    message: str
    #: Of the Run, if it failed with one; the message ends with it.
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job: one start request and the Run it produced."""

    #: From 1; goes on counting from round to round.
    attempt_no: int
    round: int = 1
    mark: Mark
    state: AttemptState
    run_id: RunId | None = None
    #: The status in which its Run ended.
    status: RunStatus | None = None
    #: Why it was no success; None for a success, and before it has ended.
    cause: Cause | None = None
    #: Why we abort its Run, noted before the abort is sent; None if we do not.
    aborted_for: Problem | None = None
    #: Memory and time limit of its Run, as the platform reports them.
    memory_mb: int | None = None
    timeout_s: int | None = None
    #: By this machine's clock, which may be wrong or be set.
    intended_at: datetime
    #: The `Date` header last seen before the start request was sent, by any clock; None if there was none.
    platform_time: datetime | None = None
    #: By the Runs' clock: its Run began no earlier. None in ledgers of versions that did not measure that clock.
    not_before: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: The storages that its Run names, in the API's own fields, if another attempt follows. The last Run's are in `run`
    #: of the record.
    storages: JsonObject | None = None
    #: The most that its Run may cost, reserved in the budget; None if nothing bounds it.
    reserved_usd: float | None = None
    cost_usd: float | None = None
    cost_source: CostSource = CostSource.UNKNOWN
    #: True if the platform cannot change the cost any more.
    cost_is_final: bool = False
    #: Offset in its dataset up to which items are committed to the item file.
    items_offset: int = 0
    #: Items that are committed to the item file.
    items_count: int = 0

    @property
    def earliest_start(self) -> datetime:
        """The time on the Runs' clock before which no Run of this attempt can have begun."""
        if self.not_before is not None:
            return self.not_before
        return min(self.intended_at, self.platform_time or self.intended_at) - CLOCK_DOUBT


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the ledger notes of an attempt before its start request is sent."""

    attempt_no: int
    round: int = 1
    mark: Mark
    platform_time: datetime | None = None
    not_before: datetime | None = None
    reserved_usd: float | None = None

    def noted_at(self, at: datetime) -> Attempt:
        """Return the attempt that exists once the ledger has noted this intent, at that time."""
        return Attempt(
            attempt_no=self.attempt_no,
            round=self.round,
            mark=self.mark,
            state=AttemptState.INTENDED,
            intended_at=at,
            platform_time=self.platform_time,
            not_before=self.not_before,
            reserved_usd=self.reserved_usd,
        )

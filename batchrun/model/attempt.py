"""One try at a job, from its intent to its end."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType

from batchrun.model.run import CostSource, RunId, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass

#: The random string of an attempt that its start request carries in the User-Agent.
Mark = NewType("Mark", str)


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

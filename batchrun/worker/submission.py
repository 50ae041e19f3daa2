"""A batch that was handed to the worker: what it is made of, how it stands, and what is known of it while it rests."""

from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from batchrun.engine.limits.account_pool import BatchPriority
from batchrun.model import JsonObject, Outcome


class State(StrEnum):
    """What the worker does with a submission."""

    #: It waits for its turn to be carried out; or for the platform, which cannot be reached.
    QUEUED = "queued"
    ACTIVE = "active"
    #: Nothing more is started; its live Runs are followed to their end.
    PAUSING = "pausing"
    PAUSED = "paused"
    #: Nothing more is started, and its live Runs are being aborted.
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    #: It cannot be carried out as it was handed in.
    FAILED = "failed"
    #: The breaker has stopped it.
    TRIPPED = "tripped"
    OUT_OF_BUDGET = "out_of_budget"
    #: Something else has stopped it, and it can be resumed: a refusal of the platform, this machine, doubts.
    STOPPED = "stopped"

    @property
    def is_under_way(self) -> bool:
        """Whether the worker works on it, or will when it is started again."""
        return self in _UNDER_WAY

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self in (State.FINISHED, State.CANCELLED, State.FAILED)


_UNDER_WAY = frozenset({State.QUEUED, State.ACTIVE, State.PAUSING, State.CANCELLING})


class Cause(StrEnum):
    """What has stopped a batch that can be resumed, for programs; the reason says it in words."""

    #: The platform refuses it: the token, the task, no credit.
    PLATFORM = "platform"
    #: This machine: disk, ledger, lock.
    MACHINE = "machine"
    #: Starts stay in doubt.
    DOUBT = "doubt"
    #: `deadlines.max_batch_s` is over.
    DEADLINE = "deadline"


class Counts(BaseModel):
    """What a batch has come to: the same numbers everywhere, for people and for machines."""

    model_config = ConfigDict(frozen=True)

    #: Jobs of the file, about; None where that cannot be told cheaply, or is not known yet.
    jobs: int | None = None
    outcomes: dict[Outcome, int] = {}
    items: int = 0
    #: Known costs of the settled jobs' Runs, in US dollars.
    cost_usd: float = 0.0
    live_runs: int = 0
    #: Jobs that wait for their next attempt.
    postponed: int = 0
    in_doubt: int = 0

    @property
    def settled(self) -> int:
        """How many jobs are settled."""
        return sum(self.outcomes.values())


class Submission(BaseModel):
    """What is noted of a batch that was handed in; every change is a new value, written down before it is acted on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    created_at: datetime
    state: State = State.QUEUED
    #: Why it is in that state, in words; empty where that needs none.
    reason: str = ""
    #: What has stopped it, in the state `stopped`.
    cause: Cause | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    #: The profile it goes by; None: it has a batch file of its own.
    profile: str | None = None
    #: Its batch file, and its job file, where they came with it; relative to its directory.
    batch_file: str | None = None
    jobs_file: str | None = None
    #: Where it lies in the spool, relative to that; None: it came over HTTP.
    spooled: PurePosixPath | None = None
    #: What tells the spooled file from another one that has taken its name since.
    signature: str | None = None
    #: Settings by dotted key, before those of the file.
    settings: JsonObject = {}
    #: What whoever handed it in calls this one attempt to, so that a repeated one is known.
    idempotency_key: str | None = None
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    counts: Counts = Counts()

    @property
    def batch_priority(self) -> BatchPriority:
        """How it stands among the others."""
        return BatchPriority(weight=self.weight, priority=self.priority)

    def but(self, **changes: Any) -> Self:
        """Return this with something changed.

        Raises:
            ValidationError: a value is out of bounds.
        """
        return type(self).model_validate({**dict(self), **changes})

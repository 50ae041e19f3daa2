"""A submitted batch: what was submitted, its state, and its counts while it is not open."""

from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from batchrun.config.jobs_settings import MAX_SHARDS
from batchrun.config.section import Weight
from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.model import JsonObject, Outcome, Selection


class BatchState(StrEnum):
    """What the worker does with a batch."""

    #: It waits for a place among the open batches, or for the platform, which cannot be reached.
    QUEUED = "queued"
    ACTIVE = "active"
    #: No new starts; live Runs are followed to their end.
    PAUSING = "pausing"
    PAUSED = "paused"
    #: No new starts; live Runs are being aborted.
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    #: Its configuration or job file is invalid.
    FAILED = "failed"
    #: The breaker has stopped it.
    TRIPPED = "tripped"
    OUT_OF_BUDGET = "out_of_budget"
    #: Stopped for a `StopCause`; it can be resumed.
    STOPPED = "stopped"

    @property
    def is_under_way(self) -> bool:
        """True if the worker runs it, or resumes it after a restart."""
        return self in _UNDER_WAY

    @property
    def is_stopping(self) -> bool:
        """True if nothing more of it is started, and its live Runs are followed to their end."""
        return self in (BatchState.PAUSING, BatchState.CANCELLING)

    @property
    def is_over(self) -> bool:
        """True if it ended for good: only a person can resume it."""
        return self in (BatchState.FINISHED, BatchState.CANCELLED, BatchState.FAILED)


_UNDER_WAY = frozenset({BatchState.QUEUED, BatchState.ACTIVE, BatchState.PAUSING, BatchState.CANCELLING})

#: States in which a batch can be paused, resumed and cancelled.
PAUSABLE = frozenset({BatchState.QUEUED, BatchState.ACTIVE})
RESUMABLE = frozenset(BatchState) - PAUSABLE - {BatchState.CANCELLING, BatchState.FINISHED}
#: States in which jobs can be retried.
RETRYABLE = frozenset(BatchState) - {BatchState.PAUSING, BatchState.CANCELLING}
CANCELLABLE = frozenset(state for state in BatchState if not state.is_over)
#: States in which a repeated order changes nothing: it was carried out, or is.
PAUSED_ALREADY = frozenset({BatchState.PAUSING, BatchState.PAUSED})
RESUMED_ALREADY = PAUSABLE
CANCELLED_ALREADY = frozenset({BatchState.CANCELLING, BatchState.CANCELLED})


class StopCause(StrEnum):
    """What has stopped a batch in the state `stopped`, for programs; its reason is in words."""

    #: The platform refuses it: token, task, credit.
    PLATFORM = "platform"
    #: An error on this machine: disk, ledger, lock.
    MACHINE = "machine"
    #: Starts are in doubt.
    DOUBT = "doubt"
    #: `deadlines.max_batch_s` is over.
    DEADLINE = "deadline"


#: In a fleet, others may have written anything: sums of these, and millionths, are numbers that arithmetic takes.
Count = Annotated[int, Field(ge=0, le=2**53)]
Dollars = Annotated[float, Field(ge=0, le=1e9)]


class BatchCounts(BaseModel):
    """The counts of a batch, the same for people and programs."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    #: Approximate number of jobs in the file; None: unknown.
    jobs: Count | None = None
    outcomes: dict[Outcome, Count] = {}
    items: Count = 0
    #: Known costs of the settled jobs' Runs, in US dollars.
    cost_usd: Dollars = 0.0
    live_runs: Count = 0
    #: What it has spent and reserved of its budget, in US dollars.
    used_usd: Dollars = 0.0
    #: Jobs that wait for their next attempt.
    postponed: Count = 0
    in_doubt: Count = 0

    @property
    def noted_usd(self) -> float:
        """What the batch has spent and reserved, in US dollars, as far as the worker has noted."""
        return max(self.cost_usd, self.used_usd)

    @property
    def settled(self) -> int:
        """The number of settled jobs."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """The number of settled jobs that did not succeed."""
        return self.settled - self.outcomes.get(Outcome.SUCCEEDED, 0)


#: Files of a batch, by the text field of a form that brings them.
FILES = {"config": "batch.toml", "schema": "item.schema.json"}
#: What a store makes; it names a directory, and a log within a fleet's place.
SubmissionId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]


#: Others may have written it, in a fleet.
_MAX_REASON_CHARS = 20_000


def digest_of(texts: Mapping[str, str], jobs_file: str | None, jobs_digest: str) -> str:
    """Return the SHA-256 of what a batch does: all fields of its form but its rank, and the job file.

    Args:
        texts: the text fields.
        jobs_file: the job file's name in the batch's directory; None: it has none.
        jobs_digest: SHA-256 of the job file, in hexadecimal digits.
    """
    given = sorted((name, text) for name, text in texts.items() if name not in ("weight", "priority"))
    return sha256(orjson.dumps([given, jobs_file, jobs_digest])).hexdigest()


class RetryOrder(BaseModel):
    """A round of a batch that was ordered: the jobs that get it, and an id by which it is carried out once."""

    model_config = ConfigDict(frozen=True)

    id: str
    selection: Selection


class Submission(BaseModel):
    """A submitted batch, as stored on disk; a change makes a new value, which is stored before it takes effect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: SubmissionId
    name: str
    created_at: AwareDatetime
    state: BatchState = BatchState.QUEUED
    #: Why it is in that state, in words; empty if that needs none.
    reason: Annotated[str, AfterValidator(lambda reason: reason[:_MAX_REASON_CHARS])] = ""
    #: What has stopped it, in the state `stopped`.
    cause: StopCause | None = None
    weight: Weight = 1.0
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    #: The profile that configures it; None: it has its own batch file.
    profile: str | None = None
    #: Its uploaded batch file and job file, relative to its directory.
    batch_file: str | None = None
    jobs_file: str | None = None
    #: Its uploaded JSON Schema of an item, likewise.
    schema_file: str | None = None
    #: Its file in the spool, relative to the spool; None: it came over HTTP.
    spooled: PurePosixPath | None = None
    #: Distinguishes the spooled file from a later one of the same name.
    signature: str | None = None
    #: Its content when it was taken, as `spool_taken_files.beginning_of` gives it.
    beginning: str | None = None
    #: Settings by dotted key; they override the batch file.
    settings: JsonObject = {}
    #: The client's key for this submission: a repeated request with it is the same submission.
    idempotency_key: str | None = None
    #: SHA-256 of what was submitted with that key.
    content_digest: str | None = None
    #: The retry that the next opening carries out.
    retry: RetryOrder | None = None
    #: Id of the last retry that was carried out.
    retried: str | None = None
    #: Number of batches of a fleet that carry it out, each a part of its job file; None: it is carried out by itself.
    shards: Annotated[int, Field(ge=2, le=MAX_SHARDS)] | None = None
    #: The batch of whose job file it carries out a part; None: none.
    part_of: SubmissionId | None = None
    #: Number of the last order for that batch which it has obeyed, and of the last one that has resumed it.
    ordered: Count = 0
    resumed: Count = 0
    #: When it was opened first: it has had a ledger since then, and jobs of it may have been started. It is when it was
    #: created for one that finds the results of a batch which its worker does not know, until it is opened.
    begun_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    counts: BatchCounts = BatchCounts()
    #: What batches of earlier files of its name in the spool have spent whose results were moved, in US dollars.
    spent_before_usd: Dollars = 0.0

    @property
    def is_to_adopt_results(self) -> bool:
        """True if it is to go on with results of which its worker knows nothing, and was not opened yet."""
        return self.begun_at == self.created_at

    @property
    def batch_priority(self) -> BatchPriority:
        """Its weight and priority among the batches of the account."""
        return BatchPriority(weight=self.weight, priority=self.priority)

    def has_other_content(self, digest: str | None) -> bool:
        """Return whether it was submitted with other content than that with a digest of `digest_of`."""
        return self.content_digest not in (None, digest)  # an earlier version noted none

    def but(self, **changes: Any) -> Self:
        """Return a changed copy.

        Raises:
            ValidationError: a value is out of bounds.
        """
        return type(self).model_validate({**dict(self), **changes})

"""An order for a batch in shards: each of its parts is carried out by one worker, which obeys it for that part."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from batchrun.worker.submission import RetryOrder


class OrderVerb(StrEnum):
    """What all parts are to do."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    #: Take over weight, priority and settings from the whole batch.
    CHANGE = "change"


#: Orders after which a breaker that has tripped before counts no more.
RESTARTS = frozenset({OrderVerb.RESUME, OrderVerb.RETRY})


class ShardedOrder(BaseModel):
    """One order; a part notes the number of the last one that it has obeyed."""

    model_config = ConfigDict(frozen=True)

    number: Annotated[int, Field(ge=1, le=2**52)]
    verb: OrderVerb
    #: With RETRY: which jobs.
    retry: RetryOrder | None = None

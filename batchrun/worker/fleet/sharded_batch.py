"""A batch in shards: the parts that workers carry out, each a batch by itself, and what they are together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batchrun.model import Outcome
from batchrun.worker.fleet.fleet_list import ListedBatch
from batchrun.worker.fleet.sharded_order import RESTARTS, OrderVerb, ShardedOrder
from batchrun.worker.submission import (
    CANCELLABLE,
    PAUSABLE,
    RESUMABLE,
    RETRYABLE,
    BatchCounts,
    BatchState,
    RetryOrder,
    Submission,
)

#: Of parts that rest in several states, the whole batch rests in the first of these.
_RESTING = (
    BatchState.STOPPED,
    BatchState.FAILED,
    BatchState.TRIPPED,
    BatchState.OUT_OF_BUDGET,
    BatchState.PAUSED,
    BatchState.CANCELLED,
    BatchState.FINISHED,
)
#: The state that a part has once it obeys an order, if its present one allows that.
_OBEYING = {
    OrderVerb.PAUSE: (PAUSABLE, BatchState.PAUSING),
    OrderVerb.RESUME: (RESUMABLE, BatchState.QUEUED),
    OrderVerb.CANCEL: (CANCELLABLE, BatchState.CANCELLING),
    OrderVerb.RETRY: (RETRYABLE, BatchState.QUEUED),
}


class ShardedBatch(NamedTuple):
    """A batch in shards, as the list has it, and its parts."""

    listed: ListedBatch
    parts: Sequence[ListedBatch]

    def orders_for(self, part: Submission) -> list[ShardedOrder]:
        """Return the orders that a part has not obeyed yet, oldest first."""
        return [order for order in self.listed.orders if order.number > part.ordered]

    @property
    def resumed(self) -> int:
        """The number of the last order that has resumed it, or is about to; 0: none."""
        ordered = [order.number for order in self.listed.orders if order.verb in RESTARTS]
        return max([*ordered, *(part.submission.resumed for part in self.parts)])

    def has_retry(self, order_id: str) -> bool:
        """True if a retry was ordered before."""
        ordered = [order.retry.id for order in self.listed.orders if order.retry is not None]
        return order_id in ordered or any(part.submission.retried == order_id for part in self.parts)

    def with_order(self, verb: OrderVerb, changes: Mapping[str, Any], retry: RetryOrder | None) -> ListedBatch:
        """Return what the list has of the batch with one more order; those that all parts have obeyed are left out."""
        obeyed = [part.submission.ordered for part in self.parts]
        number = max([*obeyed, *(order.number for order in self.listed.orders)]) + 1
        kept = [order for order in self.listed.orders if order.number > min(obeyed)]
        orders = [*kept, ShardedOrder(number=number, verb=verb, retry=retry)]
        return self.listed.model_copy(update={"orders": orders, "submission": self.listed.submission.but(**changes)})

    def together(self, parts: Sequence[Submission]) -> Submission:
        """Return the batch with the state and the counts of its parts."""
        states = [self.state_of(part) for part in parts]
        state = _common(states, has_begun=any(part.begun_at is not None for part in parts))
        told = [part for part, each in zip(parts, states, strict=True) if part.reason and each in (state, *_RESTING)]
        ended = [part.ended_at for part in parts if part.ended_at is not None]
        begun = [part.begun_at for part in parts if part.begun_at is not None]
        return self.listed.submission.model_copy(
            update={
                "state": state,
                "reason": _reason([part.reason for part in told]),
                "cause": next((part.cause for part in told if part.cause is not None), None),
                "counts": _sum([part.counts for part in parts]),
                "begun_at": min(begun, default=None),
                "ended_at": max(ended, default=None) if state.is_over else None,
            }
        )

    def state_of(self, part: Submission) -> BatchState:
        """Return the state that a part has once it has obeyed all orders."""
        state = part.state
        for order in self.orders_for(part):
            allowed, wanted = _OBEYING.get(order.verb, (frozenset[BatchState](), state))
            state = wanted if state in allowed else state
        return state


def find_sharded_batches(listed: Mapping[str, ListedBatch]) -> dict[str, ShardedBatch]:
    """Return the batches in shards, by id, without those of which somebody has deleted a part alone."""
    return {
        batch: ShardedBatch(entry, [listed[part] for part in entry.part_ids])
        for batch, entry in listed.items()
        if entry.submission.shards is not None and all(part in listed for part in entry.part_ids)
    }


def _common(states: Sequence[BatchState], *, has_begun: bool) -> BatchState:
    if not any(state.is_under_way for state in states):
        return next(state for state in _RESTING if state in states)
    for state in (BatchState.CANCELLING, BatchState.PAUSING):
        if state in states:
            return state
    return BatchState.ACTIVE if has_begun or BatchState.ACTIVE in states else BatchState.QUEUED


def _reason(reasons: Sequence[str]) -> str:
    different = list(dict.fromkeys(reasons))
    return "" if not different else different[0] + (f" (and {len(different) - 1} more)" if len(different) > 1 else "")


def _sum(counts: Sequence[BatchCounts]) -> BatchCounts:
    outcomes = Counter[Outcome]()
    for each in counts:
        outcomes.update(each.outcomes)
    known = [each.jobs for each in counts if each.jobs is not None]
    return BatchCounts.model_construct(  # a sum may be larger than each may be
        jobs=sum(known) if len(known) == len(counts) else None,
        outcomes=outcomes,
        items=sum(each.items for each in counts),
        cost_usd=sum(each.cost_usd for each in counts),
        used_usd=sum(each.used_usd for each in counts),
        live_runs=sum(each.live_runs for each in counts),
        postponed=sum(each.postponed for each in counts),
        in_doubt=sum(each.in_doubt for each in counts),
    )

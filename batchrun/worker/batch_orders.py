"""Orders for a worker's batches: each is carried out by its runner, by another worker of the fleet, or in the store.

All of these raise:
    WrongState: the state of the batch does not allow it.
    UnknownBatch, OutputError: as the store does.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import anyio
from pydantic import ValidationError

from batchrun.config.load import as_config_error
from batchrun.errors import LedgerError
from batchrun.policy.budget import is_larger
from batchrun.worker.fleet.sharded_order import RESTARTS, OrderVerb, ShardedOrder
from batchrun.worker.submission import (
    CANCELLABLE,
    CANCELLED_ALREADY,
    PAUSABLE,
    PAUSED_ALREADY,
    RESUMABLE,
    RESUMED_ALREADY,
    RETRYABLE,
    BatchState,
    Submission,
)
from batchrun.worker.submission_store import WrongState
from batchrun.worker.worker import Worker


class _Stop(NamedTuple):
    """An order that ends the starts of a batch."""

    verb: OrderVerb
    #: States in which it was obeyed already, and those in which it can be given.
    already: frozenset[BatchState]
    allowed: frozenset[BatchState]
    #: In words.
    done: str
    #: Of the batch until the order is carried out.
    state: BatchState


_PAUSE = _Stop(OrderVerb.PAUSE, PAUSED_ALREADY, PAUSABLE, "paused", BatchState.PAUSING)
_CANCEL = _Stop(OrderVerb.CANCEL, CANCELLED_ALREADY, CANCELLABLE, "cancelled", BatchState.CANCELLING)


async def pause(worker: Worker, submission_id: str) -> Submission:
    """Stop new starts of a batch; it rests when its live Runs have ended. May be repeated."""
    return await _stop(worker, submission_id, _PAUSE)


async def cancel(worker: Worker, submission_id: str) -> Submission:
    """Stop new starts of a batch and abort its live Runs; it ends when all have records. May be repeated."""
    return await _stop(worker, submission_id, _CANCEL)


async def _stop(worker: Worker, submission_id: str, stop: _Stop) -> Submission:
    if worker.store[submission_id].state in stop.already:
        return worker.store[submission_id]
    if (mirrored := worker.orders_for(submission_id)) is not None:
        return await mirrored.order(submission_id, stop.verb, stop.allowed, stop.done)
    await _refuse_moved_results(worker, worker.store[submission_id], stop)
    async with worker.ordered(submission_id):
        changed = await worker.store.change(submission_id, stop.allowed, stop.done, state=stop.state)
        await worker.apply_state(changed)
    return worker.store[submission_id]


async def _refuse_moved_results(worker: Worker, batch: Submission, stop: _Stop) -> None:
    """Refuse to stop a batch that has begun, and whose ledger is gone: it is not known which Runs are live.

    One that is open has its ledger open. In a fleet, its log has what is not here.
    """
    runner = worker.runners.get(batch.id)
    is_open = runner is not None and runner.batch is not None
    if worker.fleet is None and not is_open and batch.state in stop.allowed:
        try:
            await anyio.to_thread.run_sync(worker.directory.refuse_moved_results, batch)
        except LedgerError as error:
            raise WrongState(f"batch {batch.id} cannot be {stop.done}: {error}") from None


async def resume(worker: Worker, submission_id: str) -> Submission:
    """Resume a batch that rests or is pausing. May be repeated."""
    if (mirrored := worker.orders_for(submission_id)) is not None:  # some parts may rest while others go on
        return await mirrored.order(submission_id, OrderVerb.RESUME, RESUMABLE | RESUMED_ALREADY, "resumed")
    if worker.store[submission_id].state not in RESUMED_ALREADY:
        await worker.open_again(submission_id, RESUMABLE, "resumed")
    return worker.store[submission_id]


async def change(worker: Worker, submission_id: str, **changes: Any) -> Submission:
    """Change a batch's weight, priority or settings, also while it is open.

    Raises:
        ConfigError: the changed configuration is invalid; nothing is changed.
    """
    try:
        wanted = worker.store[submission_id].but(**changes)
    except ValidationError as error:
        raise as_config_error(error, None, {}, Submission) from None
    if (mirrored := worker.sharded_with(submission_id)) is not None:
        await mirrored.bring_settings(submission_id)
        await worker.intake.budget_of(wanted)  # it must be valid
        return await mirrored.order(submission_id, OrderVerb.CHANGE, frozenset(BatchState), "changed", **changes)
    budget_usd = await worker.intake.budget_of(wanted)
    is_out = worker.store[submission_id].state is BatchState.OUT_OF_BUDGET
    before_usd = await worker.intake.budget_of(worker.store[submission_id]) if is_out else None
    async with worker.ordered(submission_id):
        await worker.store.change(submission_id, frozenset(BatchState), "changed", **changes)
    if (runner := worker.runners.get(submission_id)) is not None:
        await runner.apply_limits()
    elif is_out and is_larger(budget_usd, before_usd):
        await resume(worker, submission_id)
    return worker.store[submission_id]


async def follow_order(worker: Worker, part_id: str, whole: Submission, order: ShardedOrder) -> None:
    """Carry out an order for a batch in shards on one part, whose state may be one that needs no change.

    Raises:
        ConfigError, OutputError, LogUnreachable: it is not carried out, and may be tried again.
    """
    part = worker.store[part_id]
    with suppress(WrongState):
        match order.verb:
            case OrderVerb.PAUSE:
                await pause(worker, part_id)
            case OrderVerb.RESUME:
                await resume(worker, part_id)
            case OrderVerb.CANCEL:
                await cancel(worker, part_id)
            case OrderVerb.RETRY if order.retry is not None and part.retried != order.retry.id:
                await worker.open_again(part_id, RETRYABLE, "retried", retry=order.retry)
            case OrderVerb.CHANGE:
                settings = {**whole.settings, "jobs.shard": part.settings["jobs.shard"]}
                await change(worker, part_id, weight=whole.weight, priority=whole.priority, settings=settings)
    followed = {"ordered": order.number}
    if order.verb in RESTARTS:
        followed["resumed"] = order.number
    await worker.store.update(part_id, lambda _: followed)

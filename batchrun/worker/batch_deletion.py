"""Deletes batches of a worker, one that a person names or those that have rested for long enough."""

from contextlib import AsyncExitStack
from functools import partial

import anyio
import structlog

from batchrun.errors import OutputError
from batchrun.worker.account_use import AccountUse
from batchrun.worker.retention import Retention
from batchrun.worker.submission import BatchState
from batchrun.worker.submission_store import WrongState
from batchrun.worker.worker import Worker

_log = structlog.get_logger()


async def delete(worker: Worker, submission_id: str) -> None:
    """Delete a batch that is not under way, with its own directory; its costs no longer count in the budget.

    In a fleet, they do, and each worker deletes its directory of the batch once it has read of that.
    """
    if worker.fleet is not None:
        if not worker.connected.is_set():
            raise OutputError(f"batch {submission_id} cannot be deleted yet: {worker.why_not_ready}")
        worker.fleet.refuse_unread()
    if worker.fleet is not None and (parts := worker.fleet.parts_of(submission_id)):
        async with AsyncExitStack() as stack:
            for part in parts:
                _refuse_to_delete(worker, part)
                if worker.store[part].state is BatchState.STOPPED and worker.fleet.carrier(part) is not None:
                    raise WrongState(f"batch {submission_id} is stopped, and another worker has it: cancel it first")
                await stack.enter_async_context(worker.fleet.taken(part))
                _refuse_to_delete(worker, part)
            await worker.fleet.delete(submission_id)
        return
    if worker.fleet is not None:
        if not (submission := worker.store[submission_id]).state.is_over:
            worker.fleet.refuse_from_before(submission)
        _refuse_to_delete(worker, submission_id)
        await drop(worker, submission_id)
        return
    async with worker.store.lock:
        submission = worker.store[submission_id]
        _refuse_to_delete(worker, submission_id)
        use = await anyio.to_thread.run_sync(worker.account_use, submission)
        await anyio.to_thread.run_sync(worker.store.delete, submission)
    # The same sum as after a restart, which adds up the costs of the batches that exist.
    worker.count_again(use, AccountUse())
    _log.info("batch_deleted", batch=submission_id)


async def drop(worker: Worker, submission_id: str) -> None:
    """Delete what is here of a batch that is not on the fleet's list any more."""
    async with worker.store.lock:
        if (submission := worker.store.get(submission_id)) is not None:
            await anyio.to_thread.run_sync(worker.store.delete, submission)
            _log.info("batch_deleted", batch=submission_id)


async def retain(worker: Worker) -> None:
    """Delete the batches that need not be kept, until cancelled; begins once the platform has answered."""
    await worker.connected.wait()
    if worker.fleet is not None:
        await worker.fleet.was_read.wait()
    await Retention(worker.store, worker.directory, lambda: worker.config.worker, partial(_delete_old, worker)).run()


async def _delete_old(worker: Worker, submission_id: str) -> None:
    """Delete a batch that has rested for long enough; in a fleet, the worker that had it last does that."""
    if worker.fleet is None or not worker.fleet.is_left_to_another(submission_id):
        await delete(worker, submission_id)


def _refuse_to_delete(worker: Worker, submission_id: str) -> None:
    submission = worker.store[submission_id]
    if submission.state.is_under_way or submission_id in worker.runners or submission_id in worker.mended:
        raise WrongState(f"batch {submission_id} is {submission.state}; cancel or pause it first")

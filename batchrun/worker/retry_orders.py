"""Retries of a worker's batches: each is ordered and stored once, and the next opening of its batch carries it out."""

from pathlib import Path

import anyio

from batchrun.config import Config
from batchrun.ledger.facts import has_retried
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.maintenance.noted_config import read_config
from batchrun.maintenance.retry_selection import JobsToRetry, WantedJobs, jobs_to_retry
from batchrun.report.shown_failures import ShownFailures, show_causes
from batchrun.worker.data_directory import has_begun
from batchrun.worker.fleet.sharded_order import OrderVerb
from batchrun.worker.submission import RETRYABLE, RetryOrder, Submission
from batchrun.worker.submission_store import WrongState
from batchrun.worker.worker import Worker


async def order_retry(worker: Worker, submission_id: str, wanted: WantedJobs, order_id: str) -> int | None:
    """Open a batch again with another round for jobs that are settled; return their number.

    No job is retried if none matches. The jobs of a batch that is under way are retried at once as well. None: this
    order was given before.

    Raises:
        WrongState: another retry is still being taken up, or the batch has not begun, or is being paused or cancelled.
        ConfigError: as `jobs_to_retry` does.
    """
    async with worker.retrying:
        mirrored = worker.sharded_with(submission_id)
        submission = worker.store[submission_id]
        if order_id == submission.retried or (submission.retry is not None and submission.retry.id == order_id):
            return None
        if submission.retry is not None and submission.state.is_under_way:
            raise WrongState(f"batch {submission_id}: another retry of it is being taken up; try again in a moment")
        await _bring_output(worker, submission_id)
        out_dir = worker.directory.out_dir(submission)
        if await anyio.to_thread.run_sync(_has_retried, out_dir, order_id):
            return None
        found = await anyio.to_thread.run_sync(_found, out_dir, submission, wanted)
        if found.jobs:
            order = RetryOrder(id=order_id, selection=found.selection)
            if mirrored is not None:
                await mirrored.order(submission_id, OrderVerb.RETRY, RETRYABLE, "retried", retry=order)
            else:
                await worker.open_again(submission_id, RETRYABLE, "retried", retry=order)
    return found.jobs


async def show_retry(worker: Worker, submission: Submission, wanted: WantedJobs) -> ShownFailures:
    """Return the jobs of a batch that a retry would reopen, by cause.

    Raises:
        WrongState: the batch has not begun, or another worker has its files.
        ConfigError: as `jobs_to_retry` does.
    """
    await _bring_output(worker, submission.id)
    return await anyio.to_thread.run_sync(_shown, worker.directory.out_dir(submission), submission, wanted)


async def _bring_output(worker: Worker, submission_id: str) -> None:
    """Bring here what other workers of a fleet have written of a batch in shards.

    Raises:
        WrongState: another worker has the batch, which is not in shards, and with it its files.
    """
    if (mirrored := worker.sharded_with(submission_id)) is not None:
        await mirrored.bring_output(submission_id)
    else:
        worker.refuse_without_files(submission_id)


def _has_retried(out_dir: Path, order_id: str) -> bool:
    if not has_begun(out_dir):
        return False
    with open_for_reading(out_dir) as ledger:
        return has_retried(ledger, order_id)


def _found(out_dir: Path, submission: Submission, wanted: WantedJobs) -> JobsToRetry:
    return jobs_to_retry(out_dir, _config(out_dir, submission), wanted)


def _shown(out_dir: Path, submission: Submission, wanted: WantedJobs) -> ShownFailures:
    config = _config(out_dir, submission)
    return show_causes(out_dir, config, jobs_to_retry(out_dir, config, wanted).selection)


def _config(out_dir: Path, submission: Submission) -> Config:
    if not has_begun(out_dir):
        raise WrongState(f"batch {submission.id} is {submission.state}: it has no jobs to retry yet")
    return read_config(out_dir, is_own=True)[0]

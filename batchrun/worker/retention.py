"""Deletion of batches that ended long ago, by `worker.keep_finished_days`."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio
import structlog

from batchrun.errors import OutputError
from batchrun.worker.submission_store import SubmissionStore, UnknownBatch, WrongState

#: Seconds between two checks.
RETENTION_INTERVAL_S = 600.0

_log = structlog.get_logger()


async def delete_old_batches(
    store: SubmissionStore, keep_days: Callable[[], float | None], delete: Callable[[str], Awaitable[None]]
) -> None:
    """Delete batches that are over for more than `keep_days()` days, until cancelled; None keeps all."""
    while True:
        days = keep_days()
        if days is not None:
            await _delete_ended_before(store, datetime.now(UTC) - timedelta(days=days), delete)
        await anyio.sleep(RETENTION_INTERVAL_S)


async def _delete_ended_before(
    store: SubmissionStore, limit: datetime, delete: Callable[[str], Awaitable[None]]
) -> None:
    for submission in list(store):
        if submission.state.is_over and submission.ended_at is not None and submission.ended_at < limit:
            with suppress(WrongState, UnknownBatch):
                try:
                    await delete(submission.id)
                except OutputError as error:
                    _log.warning("batch_not_deleted", batch=submission.id, reason=str(error))

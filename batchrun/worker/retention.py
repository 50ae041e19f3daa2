"""Deletes batches that rest, by age and by size, as `worker.keep_finished_days`, `keep_days` and `keep_mb` say."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import structlog

from batchrun.config.worker_config import ServiceConfig
from batchrun.errors import OutputError
from batchrun.output.worker_batch import SUBMISSION
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.submission import Submission
from batchrun.worker.submission_store import SubmissionStore, UnknownBatch, WrongState

#: Seconds between two checks.
RETENTION_INTERVAL_S = 600.0
_MB = 1 << 20

_log = structlog.get_logger()


class Retention:
    """Decides which batches of a worker are deleted.

    Args:
        store: of the batches.
        directory: of the worker.
        config: returns what is kept.
        delete: deletes a batch by its id.
    """

    def __init__(
        self,
        store: SubmissionStore,
        directory: DataDirectory,
        config: Callable[[], ServiceConfig],
        delete: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._directory = directory
        self._config = config
        self._delete = delete
        #: Bytes of each batch that was measured, by id: a batch that rests does not grow.
        self._sizes: dict[str, int] = {}

    async def run(self) -> None:
        """Delete what is not kept, until cancelled."""
        while True:
            for find in (self._too_old, self._too_large):
                for submission in await anyio.to_thread.run_sync(find, list(self._store), self._config()):
                    await self._delete_one(submission)
            await anyio.sleep(RETENTION_INTERVAL_S)

    async def _delete_one(self, submission: Submission) -> None:
        try:
            await self._delete(submission.id)
        except (WrongState, UnknownBatch):
            pass  # it was resumed or deleted meanwhile
        except OutputError as error:
            _log.warning("batch_not_deleted", batch=submission.id, reason=str(error))

    # Both read files: they are called in a thread.

    def _too_old(self, batches: list[Submission], config: ServiceConfig) -> list[Submission]:
        """Return the batches that rest for longer than their state is kept."""
        now, days = datetime.now(UTC), config.days_kept()
        return [
            each
            for each in batches
            if each.state in days and now - self._rests_since(each) > timedelta(days=days[each.state])
        ]

    def _too_large(self, batches: list[Submission], config: ServiceConfig) -> list[Submission]:
        """Return the oldest batches of each state whose batches together take more than is kept."""
        known = {each.id for each in batches}
        self._sizes = {each: size for each, size in self._sizes.items() if each in known}
        doomed: list[Submission] = []
        for state, limit_mb in config.keep_mb.items():
            total = 0
            resting = [each for each in batches if each.state == state]
            for each in sorted(resting, key=self._rests_since, reverse=True):
                total += self._size(each)
                if total > limit_mb * _MB:
                    doomed.append(each)
        return doomed

    def _rests_since(self, submission: Submission) -> datetime:
        """Return when a batch came to rest; one that can go on again has no end, but its file was written then."""
        if submission.ended_at is not None:
            return submission.ended_at
        with suppress(OSError):
            written_at = (self._directory.of(submission.id) / SUBMISSION).stat().st_mtime
            return datetime.fromtimestamp(written_at, UTC)
        return datetime.now(UTC)

    def _size(self, submission: Submission) -> int:
        if submission.id not in self._sizes:
            self._sizes[submission.id] = sum(_file_sizes(self._directory.of(submission.id)))
        return self._sizes[submission.id]


def _file_sizes(directory: Path) -> Iterator[int]:
    for root, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                yield Path(root, name).lstat().st_size

"""The job file as the engine's source: read in a worker thread, chunk by chunk."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import anyio

from batchrun.config import Config
from batchrun.config.job_format_builder import job_format, shard_of
from batchrun.engine.notices import UnendedLine
from batchrun.engine.ports import Chunk
from batchrun.errors import JobFileError
from batchrun.jobs import JobFile, ReadPoint, Shard
from batchrun.jobs.text_source import QUIET_S
from batchrun.ledger.facts import DUPLICATES, READ_TO
from batchrun.ledger.line_admission import admit_lines
from batchrun.ledger.protocol import ReadTo
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import BadLine, Job, JsonObject
from batchrun.preflight.job_file_head import refuse_bad_lines
from batchrun.preflight.same_batch import refuse_changed_lines
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.long_reads import read_in_thread, read_in_thread_of

#: Bytes of a chunk's lines, and of the memory that they take, after which it ends. A worker has many batches.
MAX_CHUNK_BYTES = 8 << 20
#: Lines of other shards, after which a chunk ends: how far the file is read is noted now and then.
MAX_OTHERS = 10_000


class FileSource:
    """A `JobSource` over one open job file.

    Args:
        job_file: that is read.
        entries: of it, from where earlier processes have read to.
        shard: whose entries are given.
        earlier: how far earlier processes have read.
    """

    def __init__(
        self,
        job_file: JobFile,
        entries: Iterator[Job | BadLine],
        shard: Shard,
        earlier: ReadTo | None,
    ) -> None:
        self.job_file = job_file
        self._entries = entries
        self._shard = shard
        #: The position of earlier processes, until this one has read further.
        self._earlier = earlier
        #: What has become of a last line without line end; None: there is none, or its turn has not come.
        self.unended: UnendedLine | None = None

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        """Return the next lines, or None at the end of the file or of the batch's limit."""
        is_pipe = not self.job_file.is_replayable
        # A line of a pipe is passed on at once: the next one may be long in coming.
        read = partial(read_in_thread_of, is_pipe, self._read, 1 if is_pipe else max_entries)
        chunk = await read()
        if chunk is None and self.unended is None and (last := self.job_file.unended) is not None:
            await self._end_line(last.position.line)
            chunk = await read()
        return chunk

    async def _end_line(self, line: int) -> None:
        """Let a last line without line end be read if the file is at rest; if it may still grow, leave it unread."""
        since = await anyio.to_thread.run_sync(self.job_file.last_change)
        if datetime.now(UTC).timestamp() - since[1] / 1e9 < QUIET_S:
            await anyio.sleep(QUIET_S)
        may_grow = await anyio.to_thread.run_sync(self.job_file.may_grow, since)
        self.unended = UnendedLine(file=self.job_file.name, line=line, is_read=not may_grow)
        if not may_grow:
            # The position stays before the line: should it grow after all, it is read again.
            self._entries = self.job_file.build_unended()

    def _read(self, max_entries: int) -> Chunk | None:
        entries, size, others = list[Job | BadLine](), 0, 0
        for entry in self._entries:
            if self._shard.has(entry):
                entries.append(entry)
            else:
                others += 1
            size += max(entry.position.length, entry.memory_bytes if isinstance(entry, Job) else 0)
            if len(entries) >= max_entries or size >= MAX_CHUNK_BYTES or others >= MAX_OTHERS:
                break
        return Chunk(entries, self._read_to()) if entries or others else None

    def _read_to(self) -> ReadTo:
        point = self.job_file.read_point
        if self._earlier is not None and point.offset <= self._earlier.offset:
            return self._earlier
        return ReadTo(offset=point.offset, line=point.line, fingerprint=point.fingerprint)

    def count_estimate(self) -> int | None:
        """Return an estimate of the jobs in the file; None: counting them would take too long."""
        try:
            count = self.job_file.count_estimate()
        except JobFileError:
            return None  # the damaged part is reported when it is read
        return None if count is None else -(-count // self._shard.count)


@asynccontextmanager
async def open_source(
    config: Config, task_input: JsonObject, ledger: LedgerTables, look_at: Callable[[Job], None] | None = None
) -> AsyncIterator[FileSource]:
    """Open the job file at the position that earlier processes have read to.

    Args:
        config: of the batch.
        task_input: the input that overrides are merged into.
        ledger: of the batch.
        look_at: called with each good job at the head of the file of a batch without jobs.

    Raises:
        JobFileError: the lines that were read have changed.
    """
    source = await read_in_thread(_open, config, task_input, ledger, look_at)
    del look_at  # it remembers the inputs of 10,000 lines, a megabyte, and this frame lives as long as the batch
    try:
        yield source
    finally:
        source.job_file.close()


def _open(
    config: Config, task_input: JsonObject, ledger: LedgerTables, look_at: Callable[[Job], None] | None
) -> FileSource:
    job_file = JobFile(job_format(config, task_input))
    read_to = ledger.fact(READ_TO)
    start = refuse_changed_lines(job_file, read_to, config)
    if start is not None and read_to is not None and config.jobs.limit is None and job_file.is_replayable:
        _replace_jobs(ledger, job_file, start, read_to, shard_of(config))
    if ledger.is_empty:
        bad_lines = job_file.check_head(look_at)  # also finds the `lost_fields`
        if not job_file.is_replayable:
            refuse_bad_lines(bad_lines, config)
    # Lines of known jobs that are read once more change nothing.
    is_read_from_top = config.jobs.limit is not None or not job_file.is_seekable
    if is_read_from_top and next(ledger.duplicates(), None) is None:
        with ledger.transaction():
            ledger.note_fact(DUPLICATES, 0)  # an earlier version counted them and noted no lines: they come again
    entries = job_file.read(start, holds_back=True, limit=config.jobs.limit)
    return FileSource(job_file, entries, shard_of(config), read_to)


def _replace_jobs(ledger: LedgerTables, job_file: JobFile, start: ReadPoint, read_to: ReadTo, shard: Shard) -> None:
    """Give jobs the lines that replace theirs and were not read yet, before a job is started with what it had.

    Lines that replace a job which is under way wait until they are read.
    """
    with ledger.transaction():
        for job in filter(shard.has, job_file.replacing(start)):
            admit_lines(
                [job],
                read_to,
                ledger,
                ledger.admit,
                ledger.replace,
                lambda _, __: False,
                ledger.note_duplicate,
                held=None,
            )
    crash_point("replaced")

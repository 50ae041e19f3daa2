"""The open jobs that earlier processes left in the ledger, read again and given to the engine."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import anyio

from batchrun.engine.ports import Chunk, JobSource
from batchrun.engine.work import Postponed, Work
from batchrun.errors import JobFileError
from batchrun.jobs import JobFile
from batchrun.ledger.facts import Facts, note_retry
from batchrun.ledger.protocol import OpenJob, OpenJobs, ReopenableLedger
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import AttemptState, BadLine, Job, JobId, JobKey, Selection
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.long_reads import read_in_thread

#: Open jobs that are read from the ledger at a time.
JOBS_AT_ONCE = 1000


def take_up(ledger: OpenJobs, job_file: JobFile, max_wait_s: float) -> list[Work | Postponed]:
    """Return the open jobs with an attempt; jobs that may have a live Run come first.

    Open jobs without an attempt are given by `Backlog`; if the job file cannot be read from a position, all are.

    Raises:
        JobFileError: a line has changed since its job was admitted.
    """
    if not job_file.is_seekable:
        return []
    begun_jobs = ledger.begun_jobs()
    begun_jobs.sort(key=_is_idle)
    jobs = _same_jobs(job_file, begun_jobs)
    return [_resumed(job, open_job, max_wait_s) for job, open_job in zip(jobs, begun_jobs, strict=True)]


class NotedRounds(ReopenableLedger, Facts, Protocol):
    """A ledger that notes which retry has reopened its jobs."""


def reopen(
    ledger: NotedRounds, job_file: JobFile, max_wait_s: float, selection: Selection, retry_id: str | None = None
) -> list[Work | Postponed]:
    """Reopen all selected jobs for another round; return the open jobs with an attempt, as `take_up` does.

    `retry_id` is noted in the same commit, so that the same retry is not carried out again.

    Raises:
        JobFileError: a line has changed since its job was admitted; no job was reopened.
    """
    with ledger.transaction():
        ledger.reopen(selection)
        note_retry(ledger, retry_id)
        # All lines are compared before the commit: a job file is often edited before a retry.
        for open_jobs in _unbegun_jobs(ledger) if job_file.is_seekable else ():
            for _ in _same_jobs(job_file, open_jobs):
                pass
        resumed = take_up(ledger, job_file, max_wait_s)
    crash_point("reopened")
    return resumed


class Backlog:
    """A source that gives the open jobs of earlier processes, and then the lines of another source.

    Open jobs without an attempt are reread from their positions. If the job file cannot be read from a position, it is
    read from its first line, and each open job is given when its line comes.
    """

    def __init__(self, ledger: OpenJobs, job_file: JobFile, then: JobSource) -> None:
        #: A read connection; the write connection is used by another thread.
        self._ledger = ledger
        self.job_file = job_file
        self._then = then
        #: The last job without an attempt that was given; None: all were given.
        self._after: JobId | None = JobId(0)
        #: Open jobs whose lines have not come yet; None: no line was read yet.
        self._missing: dict[JobKey, OpenJob] | None = None

    async def next_chunk(self, max_entries: int) -> Chunk | None:
        """Return the next jobs or lines, or None at the end."""
        if not self.job_file.is_seekable:
            return await self._next_with_lines(max_entries)
        if self._after is not None:
            resumed = await read_in_thread(self._unbegun, self._after, max_entries)
            self._after = resumed[-1][1].id if resumed else None
            if resumed:
                return Chunk(resumed=resumed)
        return await self._then.next_chunk(max_entries)

    def _unbegun(self, after: JobId, max_jobs: int) -> list[tuple[Job, OpenJob]]:
        open_jobs = self._ledger.unbegun_jobs(after, max_jobs)
        return list(zip(_same_jobs(self.job_file, open_jobs), open_jobs, strict=True))

    async def _next_with_lines(self, max_entries: int) -> Chunk | None:
        if self._missing is None:
            open_jobs = await anyio.to_thread.run_sync(self._ledger.open_jobs)
            self._missing = {open_job.key: open_job for open_job in open_jobs}
        chunk = await self._then.next_chunk(max_entries)
        if chunk is None or not self._missing:
            return chunk
        entries: list[Job | BadLine] = []
        resumed: list[tuple[Job, OpenJob]] = []
        for entry in chunk.entries:
            open_job = self._missing.get(entry.key) if isinstance(entry, Job) else None
            if isinstance(entry, Job) and open_job is not None and _is_line_of(entry, open_job):
                del self._missing[entry.key]
                resumed.append((entry, open_job))
            else:
                entries.append(entry)
        return Chunk(entries, chunk.read_to, resumed)

    def check_all_came(self) -> None:
        """Check that the line of every open job has come.

        Raises:
            JobFileError: lines are missing; their jobs and Runs stay noted.
        """
        if self._missing:
            lines = sorted(open_job.position.line for open_job in self._missing.values())
            shown = ", ".join(str(line) for line in lines[:10]) + (" …" if len(lines) > 10 else "")
            raise JobFileError(
                f"{len(lines)} unfinished jobs are missing from the input (lines {shown}); give the whole input again,"
                " as it was",
                file=self.job_file.name,
            )


@asynccontextmanager
async def open_backlog(directory: Path, job_file: JobFile, then: JobSource) -> AsyncIterator[Backlog]:
    """Open a source of the open jobs in a batch's ledger, before another source."""
    with ExitStack() as stack:
        ledger = await anyio.to_thread.run_sync(stack.enter_context, open_for_reading(directory))
        yield Backlog(ledger, job_file, then)


def _unbegun_jobs(ledger: OpenJobs) -> Iterator[list[OpenJob]]:
    after = JobId(0)
    while open_jobs := ledger.unbegun_jobs(after, JOBS_AT_ONCE):
        after = open_jobs[-1].id
        yield open_jobs


def _same_jobs(job_file: JobFile, open_jobs: Sequence[OpenJob]) -> Iterator[Job]:
    """Reread the jobs from a seekable file.

    Raises:
        JobFileError: a line has changed since its job was admitted.
    """
    jobs = job_file.reread([open_job.position for open_job in open_jobs])
    for job, open_job in zip(jobs, open_jobs, strict=True):
        if (job.key, job.digest) != (open_job.key, open_job.digest):
            raise JobFileError(
                f"was changed since it was admitted as job {open_job.key!r}; restore it, and append the changed"
                " line at the end of the file",
                file=job_file.name,
                line=job.position.line,
            )
        yield job


def _resumed(job: Job, open_job: OpenJob, max_wait_s: float) -> Work | Postponed:
    work = Work(job=job, open=open_job, attempts=open_job.attempts)
    if open_job.due_at is None or not _is_idle(open_job):
        return work
    # Bounded, since the clock may have been set back.
    wait_s = min(max_wait_s, (open_job.due_at - datetime.now(UTC)).total_seconds())
    return Postponed(work, wait_s) if wait_s > 0 else work


def _is_line_of(job: Job, open_job: OpenJob) -> bool:
    at, admitted_at = job.position, open_job.position
    return (at.line, at.variant, job.digest) == (admitted_at.line, admitted_at.variant, open_job.digest)


def _is_idle(open_job: OpenJob) -> bool:
    return not open_job.attempts or open_job.attempts[-1].state is AttemptState.ENDED

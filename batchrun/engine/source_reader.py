"""Admission: lines of the job file become jobs in the ledger, in chunks and only as they are needed."""

from dataclasses import asdict

import anyio
import structlog

from batchrun.engine.ports import Chunk, JobSource
from batchrun.engine.start_queue import StartQueue
from batchrun.ledger.protocol import Admission, Ledger
from batchrun.model import Job
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.free_space import DiskRoom

_log = structlog.get_logger()


class SourceReader:
    """Reads the source as far as the start queue needs it.

    Args:
        source: of lines and of jobs that earlier processes left open.
        ledger: admits the lines.
        queue: decides how many lines are needed.
        disk_room: of the ledger's disk: lines that are no jobs become records at once. None: it has room.
    """

    def __init__(self, source: JobSource, ledger: Ledger, queue: StartQueue, disk_room: DiskRoom | None = None) -> None:
        self._source = source
        self._ledger = ledger
        self._queue = queue
        self._disk_room = disk_room or DiskRoom()
        self._has_begun = False
        #: Whether lines are being read or admitted.
        self.is_reading = False
        #: Whether a commit of lines is under way.
        self.is_admitting = False

    async def next(self) -> Admission | None:
        """Wait until more jobs are needed, then admit the next lines; None at the end of the source.

        The admission also holds jobs that earlier processes left open.

        Raises:
            JobFileError: the job file cannot be read further.
        """
        while self._has_begun and not self._queue.wants_more:
            await self._queue.reading.wait()
        if self._has_begun:
            await self._disk_room.wait()
        self._has_begun = True
        self.is_reading = True
        try:
            chunk = await self._source.next_chunk(self._queue.wanted_lines)
            return None if chunk is None else await self._admit(chunk)
        finally:
            self.is_reading = False

    async def _admit(self, chunk: Chunk) -> Admission:
        if chunk.read_to is None:
            return Admission(jobs=list(chunk.resumed))
        keys = {entry.key for entry in chunk.entries if isinstance(entry, Job) and entry.replaces}
        # While their new content is noted, no child may start these jobs with their old one.
        held = self._queue.take_back(keys) if keys else []
        # Shielded from a stop: the commit takes place all the same, and admitted jobs must become ready.
        self.is_admitting = True
        with anyio.CancelScope(shield=True):
            admission = await self._ledger.admit(chunk.entries, chunk.read_to, {work.id for work in held})
        self.is_admitting = False
        replaced = {open_job.id for _, open_job in admission.jobs} if held else ()
        for work in held:
            if work.id not in replaced:
                self._queue.push(work, is_first=True)
        crash_point("admitted")
        if admission.duplicates:
            _log.info("duplicates_skipped", lines=[asdict(each) for each in admission.duplicates])
        admission.jobs[:0] = chunk.resumed
        return admission

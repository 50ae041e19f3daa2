"""Which job goes next, and into which slot: admission, refill, the heap of postponed jobs, drain and stop.

Reusable children acquire a slot, take the next job, carry it one attempt further and come back. The source is pulled
as jobs are needed, so that a job file of any size costs constant memory.
"""

import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import count

import anyio
import structlog
from anyio.abc import TaskGroup

from batchrun.engine.attempt import JobRunner, Postponed, Work
from batchrun.engine.ports import Chunk, JobSource, Ledger
from batchrun.engine.progress import Progress
from batchrun.engine.slots import Slot, Slots
from batchrun.engine.start_gate import StartGate
from batchrun.errors import BatchRefused, JobFileError
from batchrun.kill_points import reach
from batchrun.model import Record

#: Most lines admitted in one commit: enough to share its cost, few enough to start at once.
MAX_CHUNK = 256
MIN_CHUNK = 32
#: Postponed jobs are held in memory; beyond so many per slot no new ones are read.
MAX_POSTPONED_PER_SLOT = 8

_log = structlog.get_logger()


class Scheduler:
    """Carries out what a source gives, one Run per slot.

    Args:
        source: gives the lines.
        ledger: admits them.
        runner: carries one job an attempt further.
        slots: how many Runs may be live.
        gate: shut when no more starts are wanted.
        progress: counters to keep.
        on_record: called with each record after it is durable; while it waits, its child takes no further job.
    """

    def __init__(
        self,
        *,
        source: JobSource,
        ledger: Ledger,
        runner: JobRunner,
        slots: Slots,
        gate: StartGate,
        progress: Progress,
        on_record: Callable[[Record], Awaitable[None]],
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._runner = runner
        self._slots = slots
        self._gate = gate
        self._progress = progress
        self._on_record = on_record
        self._ready: deque[Work] = deque()
        self._postponed: list[tuple[float, int, Work]] = []
        self._tie = count()
        self._taking = anyio.Lock()
        self._changed = anyio.Event()
        self._is_read = False
        #: Whether the source was read to its end.
        self.has_read_all = False
        self._reading = anyio.CancelScope()
        self._is_stopping = False
        self._children: TaskGroup | None = None
        self._child_count = 0
        self._idle = 0
        self._failure: BatchRefused | JobFileError | None = None
        #: Jobs that were left open: not started, or in doubt.
        self.left_open = 0

    async def run(self, resumed: Iterable[Work | Postponed] = ()) -> None:
        """Carry out `resumed`, then the source to its end; returns when nothing is left that can go on.

        Raises:
            BatchRefused: the platform refused the batch; what was live has been followed to its end.
            JobFileError: the job file cannot be read any further; what was admitted has been carried out.
        """
        for each in resumed:
            if isinstance(each, Postponed):
                self._postpone(each)
            else:
                self._ready.append(each)
        async with anyio.create_task_group() as children:
            self._children = children
            children.start_soon(self._read)
            self._add_child()
        if self._failure is not None:
            raise self._failure

    def stop_starting(self) -> None:
        """Start nothing more; Runs that are live are followed to their end."""
        self._is_stopping = True
        self._reading.cancel()
        self._slots.close()
        self._gate.shut()
        self._wake()

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to start nothing more."""
        return self._is_stopping

    def _add_child(self) -> None:
        """Add a child when none is idle; half of them may collect and settle while the others hold the slots."""
        if self._children is not None and not self._idle and self._child_count < 2 * self._slots.limit:
            self._child_count += 1
            self._children.start_soon(self._child)

    async def _child(self) -> None:
        try:
            while (slot := await self._free_slot()) is not None:
                try:
                    work = await self._next_work()
                    if work is None:
                        return
                    self._add_child()
                    await self._carry_out(work, slot)
                finally:
                    slot.release()
        finally:
            self._child_count -= 1

    async def _free_slot(self) -> Slot | None:
        self._idle += 1
        try:
            return await self._slots.acquire()
        finally:
            self._idle -= 1

    async def _carry_out(self, work: Work, slot: Slot) -> None:
        try:
            result = await self._runner.run_job(work, slot)
        except BatchRefused as refused:
            self._failure = self._failure or refused
            self.left_open += 1
            self.stop_starting()
            return
        match result:
            case Record():
                await self._settled(result)
            case Postponed():
                self._postpone(result)
            case None:
                self.left_open += 1

    async def _settled(self, record: Record) -> None:
        self._progress.count(record)
        _log.info("job_settled", job_key=record.key, line=record.line, outcome=record.outcome)
        await self._on_record(record)

    async def _next_work(self) -> Work | None:
        """Return the job to go on with: one that is due again, or else the next of the file; None at the end."""
        async with self._taking:
            while not self._is_stopping:
                if self._postponed and self._postponed[0][0] <= anyio.current_time():
                    return self._take_due()
                if self._ready:
                    return self._take_ready()
                if self._is_read and not self._postponed:
                    return None
                await self._wait_until(self._postponed[0][0] if self._postponed else None)
            return None

    def _take_due(self) -> Work:
        self._progress.postponed -= 1
        _, _, work = heapq.heappop(self._postponed)
        if not self._is_holding_back:
            self._wake()
        return work

    def _take_ready(self) -> Work:
        work = self._ready.popleft()
        if len(self._ready) <= self._low_water and not self._is_read:
            self._wake()
        return work

    async def _read(self) -> None:
        """Read on whenever few jobs are ready, so that the next ones are admitted while these are started."""
        with self._reading:
            try:
                await self._read_to_the_end()
            except JobFileError as error:
                # What is admitted, and above all what is paid for, is carried out all the same.
                self._failure = self._failure or error
        self._is_read = True
        self._wake()

    async def _read_to_the_end(self) -> None:
        while (chunk := await self._source.next_chunk(self._chunk_size)) is not None:
            await self._admit(chunk)
            while len(self._ready) > self._low_water or self._is_holding_back:
                await self._changed.wait()
        self.has_read_all = True

    async def _admit(self, chunk: Chunk) -> None:
        # Not to be cut off by a stop: what is admitted becomes ready. The commit ends, whoever waits for it.
        with anyio.CancelScope(shield=True):
            admission = await self._ledger.admit(chunk.entries, chunk.read_to)
        reach("admitted")
        self._ready.extend(Work(job=job, open=noted, attempts=noted.attempts) for job, noted in admission.jobs)
        self._progress.duplicates += admission.duplicates
        self._wake()
        for record in admission.invalid:
            await self._settled(record)

    @property
    def _chunk_size(self) -> int:
        return min(MAX_CHUNK, max(MIN_CHUNK, self._slots.limit))

    @property
    def _low_water(self) -> int:
        return self._chunk_size // 2

    @property
    def _is_holding_back(self) -> bool:
        """Whether so many jobs wait for another attempt that no new ones are read."""
        return len(self._postponed) >= MAX_POSTPONED_PER_SLOT * self._slots.limit

    def _postpone(self, postponed: Postponed) -> None:
        due = anyio.current_time() + postponed.wait_s
        heapq.heappush(self._postponed, (due, next(self._tie), postponed.work))
        self._progress.postponed += 1
        self._wake()

    async def _wait_until(self, due: float | None) -> None:
        with anyio.move_on_after(None if due is None else due - anyio.current_time()):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

"""Carries out what a source gives: admits lines, hands jobs to children, settles, and comes to an end.

Which job goes next is decided by the start queue, how many Runs may be live by the permits, what happens to one job by
the job runner.
"""

from collections.abc import Awaitable, Callable, Iterable

import anyio
import structlog

from batchrun.engine.admission import Admitter
from batchrun.engine.child_pool import ChildPool
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.job_runner import JobRunner, Result
from batchrun.engine.limits.permits import Permit, Permits
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.notices import BreakerTripped, PlatformRefused
from batchrun.engine.progress import Progress
from batchrun.engine.start_queue import StartQueue
from batchrun.engine.work import Postponed, Work
from batchrun.errors import BatchRefused, JobFileError
from batchrun.ledger.protocol import Ledger
from batchrun.model import Ending, Record
from batchrun.policy.breaker import Breaker, Trip

_log = structlog.get_logger()


class Scheduler:
    """Carries out one batch's jobs, one Run per permit.

    Args:
        admitter: reads the source and admits its lines.
        queue: decides which job goes next.
        children: carry jobs.
        permits: how many Runs may be live.
        gate: shut when no more starts are wanted.
        runner: carries one job an attempt further.
        sweep: follows live Runs that no child polls.
        ledger: notes trips of the breaker.
        breaker: watches settled jobs.
        progress: counters to keep.
        keep_log: called with each record, to keep the end of its Run's log; None: no logs are kept.
    """

    def __init__(
        self,
        *,
        admitter: Admitter,
        queue: StartQueue,
        children: ChildPool,
        permits: Permits,
        gate: StartGate,
        runner: JobRunner,
        sweep: Sweep,
        ledger: Ledger,
        breaker: Breaker,
        progress: Progress,
        keep_log: Callable[[Record], None] | None = None,
    ) -> None:
        self._admitter = admitter
        self._queue = queue
        self._children = children
        self._permits = permits
        self._gate = gate
        self._runner = runner
        self._sweep = sweep
        self._ledger = ledger
        self._breaker = breaker
        self._progress = progress
        self._keep_log = keep_log
        self._on_record: Callable[[Record], Awaitable[None]] | None = None
        self._reading = anyio.CancelScope()
        #: Whether the source was read to its end.
        self.has_read_all = False
        #: Why nothing more is started; None while starts go on.
        self.stopped_for: Ending | None = None
        #: Set when the batch is stopped from outside.
        self.is_interrupted = anyio.Event()
        #: Groups that the breaker has stopped; None: the whole batch.
        self._tripped: set[str | None] = set()
        self._failure: BatchRefused | JobFileError | None = None

    async def run(
        self,
        resumed: Iterable[Work | Postponed] = (),
        on_record: Callable[[Record], Awaitable[None]] | None = None,
    ) -> None:
        """Carry out `resumed`, then the source to its end; returns when nothing is left that can go on.

        Args:
            resumed: open jobs of earlier processes.
            on_record: called with each record once it is durable; while it waits, its child takes no further job.

        Raises:
            BatchRefused: the platform refused the batch; what was live has been followed to its end.
            JobFileError: the job file cannot be read any further; what was admitted has been carried out.
        """
        self._on_record = on_record
        async with self._children.open(self._carry_jobs):
            for each in resumed:
                if isinstance(each, Postponed):
                    self._queue.postpone(each)
                else:
                    self._take_in(each)
            self._children.start(self._admit_all)
            self._children.add()
        if self._failure is not None:
            raise self._failure

    def stop_starting(self, ending: Ending = Ending.INTERRUPTED) -> None:
        """Start nothing more; Runs that are live are followed to their end."""
        self.stopped_for = self.stopped_for or ending
        if ending is Ending.INTERRUPTED:
            self.is_interrupted.set()
        self._reading.cancel()
        self._permits.close()
        self._gate.shut()
        self._queue.stop()

    @property
    def has_work(self) -> bool:
        """Whether a job waits for a start, or is about to."""
        return self._queue.has_work or (self._admitter.is_admitting and self.stopped_for is None)

    @property
    def has_tripped(self) -> bool:
        """Whether the breaker has stopped the batch, or groups of it."""
        return bool(self._tripped)

    @property
    def is_out_of_budget(self) -> bool:
        """Whether the budget could not pay for a job."""
        return self._queue.is_out_of_budget

    async def _carry_jobs(self) -> None:
        """Carry one job after another: what each child does."""
        while self._children.may_idle:
            with self._children.idling():
                permit = await self._permits.acquire()
            if permit is None:
                return
            try:
                work = await self._queue.next(permit)
                if work is None:
                    break
                self._children.add()
                await self._conclude(await self._runner.run_job(work, permit))
            finally:
                permit.release()
        if self._queue.has_given_up_on_budget:
            self.stop_starting(Ending.OUT_OF_BUDGET)

    def _take_in(self, work: Work) -> None:
        """Queue a job for its start; an attempt of an earlier process is resumed at once, as its Run may be live."""
        if work.needs_start:
            self._queue.push(work)
        else:
            work, permit = self._runner.adopt(work)
            self._children.start(self._resume, work, permit)

    async def _resume(self, work: Work, permit: Permit) -> None:
        try:
            await self._conclude(await self._runner.resume_job(work, permit))
        finally:
            permit.release()
        self._children.add()  # its job may be due again when all others have found nothing left to do

    def take_up(self, live: LiveRun) -> None:
        """Continue with a Run that the sweep has let go."""
        self._children.start(self._take_up, live)

    async def _take_up(self, live: LiveRun) -> None:
        await self._conclude(await self._runner.take_up(live))
        self._children.add()  # likewise

    async def _conclude(self, result: Result) -> None:
        """Do what follows from one attempt at a job."""
        match result:
            case Record():
                await self._settled(result)
            case Postponed():
                self._queue.postpone(result)
            case LiveRun():
                if self._sweep.add(result):
                    self._children.start(self._sweep.run)
            case BatchRefused():
                self._refused(result)
            case None:
                self._progress.left_open += 1

    def _refused(self, refused: BatchRefused) -> None:
        if self._failure is None:
            self._failure = refused
            self._progress.notices.add(PlatformRefused(reason=str(refused)))
        self._progress.left_open += 1
        self.stop_starting()

    async def _settled(self, record: Record) -> None:
        self._progress.count(record)
        run_id = record.attempts[-1].run_id if record.attempts else None
        _log.info("job_settled", job_key=record.key, run_id=run_id, line=record.line, outcome=record.outcome)
        trip = self._breaker.note(record)
        if trip is not None and None not in self._tripped:
            self._stop_for(trip)
        if self._keep_log is not None:
            self._keep_log(record)
        if self._on_record is not None:
            await self._on_record(record)

    def _stop_for(self, trip: Trip) -> None:
        """Start nothing more of the batch, or of the group, that the breaker has tripped for."""
        self._ledger.note_trip(trip)
        self._tripped.add(trip.group)
        _log.warning("breaker_tripped", group=trip.group, reason=trip.reason)
        self._progress.notices.add(BreakerTripped(group=trip.group, reason=trip.reason))
        if trip.group is None:
            self.stop_starting(Ending.TRIPPED)
        else:
            self._queue.stop_group(trip.group)

    async def _admit_all(self) -> None:
        """Admit the source's lines as they are needed, so that the next ones are ready while these are started."""
        with self._reading:
            try:
                while (admission := await self._admitter.next()) is not None:
                    for job, noted in admission.jobs:
                        self._take_in(Work(job=job, open=noted, attempts=noted.attempts))
                    self._progress.duplicates += admission.duplicates
                    for record in admission.invalid:
                        await self._settled(record)
                self.has_read_all = True
            except JobFileError as error:
                # What is admitted, and above all what is paid for, is carried out all the same.
                self._failure = self._failure or error
        self._queue.end_source()

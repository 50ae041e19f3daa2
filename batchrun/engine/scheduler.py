"""Carries out all jobs of a batch: admits lines, hands jobs to children, counts records, and ends.

The start queue decides which job goes next, the permits how many Runs may be live, and the job runner what happens to
one job.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial

import anyio
import structlog

from batchrun.engine.child_pool import ChildPool
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.job_runner import JobRunner, Result
from batchrun.engine.limits.permits import Permit, Permits
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.notices import BatchFailed, BreakerTripped, ItemsAllTheSame
from batchrun.engine.progress import Progress
from batchrun.engine.source_reader import SourceReader
from batchrun.engine.start_queue import StartQueue
from batchrun.engine.work import Postponed, Work
from batchrun.errors import BatchRefused, JobFileError, JobFileLost, OutputLost
from batchrun.ledger.protocol import Ledger
from batchrun.model import Ending, Record, WaitReason
from batchrun.policy.breaker import SAME_RUNS, Breaker, SameItems, Trip

_log = structlog.get_logger()


class Scheduler:
    """Carries out one batch's jobs, one Run per permit.

    Args:
        source_reader: reads the source and admits its lines.
        queue: decides which job goes next.
        children: carry jobs.
        permits: decide how many Runs may be live.
        gate: shut when no more starts are wanted.
        runner: carries one job through one attempt.
        sweep: follows live Runs that get no poll.
        ledger: notes trips of the breaker.
        breaker: judges the settled jobs.
        progress: counters to update.
    """

    def __init__(
        self,
        *,
        source_reader: SourceReader,
        queue: StartQueue,
        children: ChildPool,
        permits: Permits,
        gate: StartGate,
        runner: JobRunner,
        sweep: Sweep,
        ledger: Ledger,
        breaker: Breaker,
        progress: Progress,
    ) -> None:
        self._source_reader = source_reader
        self._queue = queue
        self._children = children
        self._permits = permits
        self._gate = gate
        self._runner = runner
        self._sweep = sweep
        self._ledger = ledger
        self._breaker = breaker
        self._same_items = SameItems()
        self._progress = progress
        self._log = _log.bind()  # once: else each line of each job binds a logger
        self._on_record: Callable[[Record], Awaitable[None]] | None = None
        self._reading = anyio.CancelScope()
        #: Whether the source is read to its end.
        self.has_read_all = False
        #: Why no more starts are wanted; None while they are.
        self.stopped_for: Ending | None = None
        #: Set once the batch is stopped from outside, or refused.
        self.is_interrupted = anyio.Event()
        #: Groups that the breaker has stopped; None among them: the whole batch.
        self._tripped: set[str | None] = set()
        self._failure: BatchRefused | OutputLost | JobFileError | JobFileLost | None = None

    async def run(
        self,
        resumed: Iterable[Work | Postponed] = (),
        on_record: Callable[[Record], Awaitable[None]] | None = None,
    ) -> None:
        """Carry out `resumed` and the whole source; return when no job is left that can go on.

        Args:
            resumed: jobs that earlier processes have begun and left open.
            on_record: called with each record once it is durable; while it waits, its child takes no further job.

        Raises:
            BatchRefused: the platform refuses the batch; live Runs have been followed to their end.
            OutputLost: files of the batch were moved or removed; live Runs have been followed to their end.
            JobFileError: the job file is damaged; admitted jobs have been carried out.
            JobFileLost: this machine cannot read the job file any further; admitted jobs have been carried out.
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

    async def _carry_jobs(self) -> None:
        """Carry one job after another; each child does this from its first job to its last."""
        while self._children.may_idle:
            with self._children.idling:
                permit = await self._permits.acquire()
            if permit is None:
                return
            try:
                work = await self._queue.next(permit)
                if work is None:
                    break
                self._children.add()
                await self._act_on(await self._runner.run_job(work, permit))
            except (BatchRefused, OutputLost) as refused:
                self._refused(refused)
            finally:
                permit.release()
        if self._queue.has_given_up_on_budget:
            self.stop_starting(Ending.OUT_OF_BUDGET)

    async def _admit_all(self) -> None:
        """Admit the source's lines as they are needed, ahead of their starts."""
        with self._reading:
            try:
                while (admission := await self._source_reader.next()) is not None:
                    for job, noted in admission.jobs:
                        self._take_in(Work(job=job, open=noted, attempts=noted.attempts))
                    self._progress.duplicates += len(admission.duplicates)
                    for outcome in admission.reopened:
                        self._progress.outcomes[outcome] = self._progress.outcomes.get(outcome, 0) - 1
                    for record in admission.invalid:
                        await self._settled(record)
                self.has_read_all = True
                self._ledger.note_all_read()
            except (JobFileError, JobFileLost) as error:
                # The admitted jobs are carried out all the same: their Runs may be live, and are paid for.
                self._failure = self._failure or error
        self._queue.end_source()

    def _take_in(self, work: Work) -> None:
        """Queue a job for its start; an attempt that an earlier process has begun is resumed at once, beyond limits."""
        if work.needs_start:
            self._queue.push(work)
        else:
            work, permit = self._runner.adopt(work)
            self._children.start(self._continue, partial(self._runner.resume_job, work, permit), permit)

    def take_up(self, live: LiveRun) -> None:
        """Continue with a Run that the sweep has let go."""
        self._children.start(self._continue, partial(self._runner.take_up, live), live.permit)

    async def _continue(self, attempt: Callable[[], Awaitable[Result]], permit: Permit) -> None:
        """Carry a job through an attempt that was started before."""
        try:
            await self._act_on(await attempt())
        except (BatchRefused, OutputLost) as refused:
            self._refused(refused)
        finally:
            permit.release()
        self._children.add()  # the job may be due again, and all other children may have ended

    async def _act_on(self, result: Result) -> None:
        """Act on what one attempt at a job has led to."""
        match result:
            case Record():
                await self._settled(result)
            case Postponed():
                self._queue.postpone(result)
            case LiveRun():
                if self._sweep.add(result):
                    self._children.start(self._sweep.run)
            case None:
                self._progress.left_open += 1

    async def _settled(self, record: Record) -> None:
        self._progress.count(record)
        run_id = record.attempts[-1].run_id if record.attempts else None
        self._log.info("job_settled", job_key=record.key, run_id=run_id, line=record.line, outcome=record.outcome)
        trip = self._breaker.note(record)
        if trip is not None and None not in self._tripped:
            self._stop_for(trip)
        if self._same_items.note(record):
            self._log.warning("items_are_all_the_same", jobs=SAME_RUNS)
            self._progress.notices.add(ItemsAllTheSame(count=SAME_RUNS))
        if self._on_record is not None:
            with self._progress.unread:
                await self._on_record(record)

    def trip(self, reason: str) -> None:
        """Start nothing more, for a reason that was found in the jobs of other parts of the batch, too."""
        if None not in self._tripped:
            self._stop_for(self._breaker.trip_for(reason))

    def _stop_for(self, trip: Trip) -> None:
        """Start nothing more of the batch or group for which the breaker has tripped."""
        self._ledger.note_trip(trip)
        self._tripped.add(trip.group)
        self._log.warning("breaker_tripped", group=trip.group, reason=trip.reason)
        self._progress.notices.add(BreakerTripped(group=trip.group, reason=trip.reason))
        if trip.group is None:
            self.stop_starting(Ending.TRIPPED)
        else:
            self._queue.stop_group(trip.group)

    def _refused(self, refused: BatchRefused | OutputLost) -> None:
        self.fail(refused)
        self._progress.left_open += 1

    def fail(self, failure: BatchRefused | OutputLost) -> None:
        """Start nothing more; `run` raises this error once the live Runs have been followed to their end."""
        if self._failure is None:
            self._failure = failure
            self._progress.notices.add(BatchFailed(reason=str(failure)))
        self.stop_starting(Ending.REFUSED if isinstance(failure, BatchRefused) else Ending.INTERRUPTED)

    def stop_starting(self, ending: Ending = Ending.INTERRUPTED) -> None:
        """Start nothing more; live Runs are followed to their end."""
        self.stopped_for = self.stopped_for or ending
        if ending is Ending.INTERRUPTED:
            self.is_interrupted.set()
        self._reading.cancel()
        self._permits.close()
        self._gate.shut()
        self._queue.stop()

    def waits(self) -> Iterator[WaitReason]:
        """Yield what jobs wait for before they are given out."""
        return self._queue.waits()

    @property
    def is_reading(self) -> bool:
        """Whether lines of the source are being read or admitted."""
        return self._source_reader.is_reading

    @property
    def has_work(self) -> bool:
        """Whether a job waits for a start, or lines are being admitted that may."""
        return self._queue.has_work or (self._source_reader.is_admitting and self.stopped_for is None)

    @property
    def has_tripped(self) -> bool:
        """Whether the breaker has stopped the batch or one of its groups."""
        return bool(self._tripped)

    @property
    def is_out_of_budget(self) -> bool:
        """Whether the budget could not pay for a job."""
        return self._queue.is_out_of_budget

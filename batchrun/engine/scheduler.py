"""Which job goes next, and into which slot: admission, refill, the heap of postponed jobs, drain and stop.

Reusable children acquire a slot, take the next job, carry it one attempt further and come back. The source is pulled
as jobs are needed, so that a job file of any size costs constant memory.
"""

import heapq
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count

import anyio
import structlog
from anyio.abc import TaskGroup

from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.job_runner import JobRunner
from batchrun.engine.limits.purse import Purse
from batchrun.engine.limits.slots import Demand, Slot, Slots
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.notices import (
    BreakerTripped,
    BudgetExhausted,
    CostsUnbounded,
    PlatformRefused,
    StartsWaitForBudget,
)
from batchrun.engine.ports import Chunk, JobSource
from batchrun.engine.progress import Progress
from batchrun.engine.work import Postponed, Work
from batchrun.errors import BatchRefused, JobFileError
from batchrun.ledger.protocol import Admission, Ledger
from batchrun.model import Ending, Record
from batchrun.policy.breaker import Breaker, Trip
from batchrun.policy.fair_queue import FairQueue, Fit
from batchrun.runtime.crash_points import crash_point

#: Most lines admitted in one commit: enough to share its cost, few enough to start at once.
MAX_CHUNK = 256
MIN_CHUNK = 32
#: Groups with a weight are to have their share of so many starts ready.
FAIR_DEPTH = MAX_CHUNK // 2
#: Where none of the jobs that are ready fits, or one of those groups has not enough, so many are read to find some,
MAX_LOOK_AHEAD = 10_000
#: and no more than this.
MAX_READY_BYTES = 32 << 20
#: After so many jobs that the budget cannot pay for, no more are looked at.
MAX_TOO_DEAR = 100
#: Postponed jobs are held in memory; beyond so many per slot no new ones are read.
MAX_POSTPONED_PER_SLOT = 8

#: So many children may wait for a slot: a further one costs more in memory than what it takes to start another.
MAX_IDLE = 256
#: So many jobs may wait to be judged without holding up others: those of 400 starts per second, five seconds each.
MAX_PAUSED = 2000

_log = structlog.get_logger()


class Scheduler:
    """Carries out what a source gives, one Run per slot.

    Args:
        source: gives the lines.
        ledger: admits them.
        runner: carries one job an attempt further.
        sweep: keeps live Runs that nobody polls.
        slots: how many Runs may be live.
        gate: shut when no more starts are wanted.
        purse: money that each start sets aside.
        breaker: watches settled jobs.
        weights: of the groups that have one; for their sake alone the source is read ahead of need.
        progress: counters to keep.
        on_record: called with each record after it is durable; while it waits, its child takes no further job. None:
            nobody wants them.
        keep_log: called with each record, to see to its Run's log; None keeps none.
    """

    def __init__(
        self,
        *,
        source: JobSource,
        ledger: Ledger,
        runner: JobRunner,
        sweep: Sweep,
        slots: Slots,
        gate: StartGate,
        purse: Purse,
        breaker: Breaker,
        weights: Mapping[str | None, float],
        progress: Progress,
        on_record: Callable[[Record], Awaitable[None]] | None,
        keep_log: Callable[[Record], None] | None = None,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._runner = runner
        self._sweep = sweep
        self._slots = slots
        self._gate = gate
        self._purse = purse
        self._breaker = breaker
        slots.on_room = purse.budget.on_change = self._note_room
        gate.on_passed = self._note_room
        runner.on_pause = self._add_child
        sweep.on_go = self._take_up
        self._progress = progress
        self.on_record = on_record
        self._keep_log = keep_log
        self._ready: FairQueue[Work] = FairQueue(weights, FAIR_DEPTH)
        self._ready_bytes = 0
        #: Whether jobs are ready and none of them fits.
        self._is_blocked = False
        #: Whether jobs are ready and other batches come first.
        self._awaits_turn = False
        self._has_told_of_waiting = False
        #: Jobs that the budget cannot pay for; they are left open.
        self._too_dear = 0
        #: What the job takes that was looked at last: it is the one that is taken.
        self._demand = Demand()
        #: What is to be set aside for the job that was found to fit last; None: nothing bounds it.
        self._quoted_usd: float | None = None
        #: Groups that the breaker has stopped.
        self._tripped: set[str | None] = set()
        self._postponed: list[tuple[float, int, Work]] = []
        self._tie = count()
        self._taking = anyio.Lock(fast_acquire=True)
        #: Made by who waits, since most changes are waited for by nobody.
        self._changed: anyio.Event | None = None
        self._is_read = False
        #: Whether the source was read to its end.
        self.has_read_all = False
        self._reading = anyio.CancelScope()
        #: Why nothing more is started; None while starts go on.
        self.stopped_for: Ending | None = None
        #: Set when it is told from outside to come to an end.
        self.is_interrupted = anyio.Event()
        self._is_admitting = False
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
        async with anyio.create_task_group() as children:
            self._children = children
            for each in resumed:
                if isinstance(each, Postponed):
                    self._postpone(each)
                else:
                    self._push(each)
            children.start_soon(self._read)
            self._add_child()
        if self._failure is not None:
            raise self._failure

    def stop_starting(self, ending: Ending = Ending.INTERRUPTED) -> None:
        """Start nothing more; Runs that are live are followed to their end."""
        self.stopped_for = self.stopped_for or ending
        if ending is Ending.INTERRUPTED:
            self.is_interrupted.set()
        self._reading.cancel()
        self._slots.close()
        self._gate.shut()
        self._wake()

    @property
    def has_tripped(self) -> bool:
        """Whether the breaker has stopped the batch, or groups of it."""
        return bool(self._tripped)

    @property
    def has_work(self) -> bool:
        """Whether a job waits for a slot: one that is read, or being admitted, or due again."""
        is_due = bool(self._postponed) and self._postponed[0][0] <= anyio.current_time()
        return self.stopped_for is None and (len(self._ready) > 0 or self._is_admitting or is_due)

    @property
    def _is_somebody_coming(self) -> bool:
        """Whether another child has a slot in hand already, or one that is added now gets one."""
        slots = self._slots
        return slots.used > slots.occupied or (slots.used < slots.limit and self._may_add_child)

    @property
    def _may_add_child(self) -> bool:
        busy = self._child_count - min(self._runner.paused, MAX_PAUSED)
        return self._children is not None and not self._idle and busy < 2 * self._slots.limit

    def _add_child(self) -> None:
        """Add a child when none is idle; half of them may collect and settle while the others hold the slots.

        Those that only let time pass do not count, as long as they are not too many.
        """
        if self._children is not None and self._may_add_child:
            self._child_count += 1
            self._children.start_soon(self._child)

    async def _child(self) -> None:
        try:
            while self._idle < MAX_IDLE and (slot := await self._free_slot()) is not None:
                try:
                    work = await self._next_work(slot)
                    if work is None:
                        return
                    self._add_child()
                    await self._carry_out(self._runner.run_job(work, slot))
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

    async def _carry_out(self, carrying: Awaitable[Record | Postponed | LiveRun | None]) -> None:
        try:
            result = await carrying
        except BatchRefused as refused:
            if self._failure is None:
                self._failure = refused
                self._progress.notices.add(PlatformRefused(reason=str(refused)))
            self.left_open += 1
            self.stop_starting()
            return
        match result:
            case Record():
                await self._settled(result)
            case Postponed():
                self._postpone(result)
            case LiveRun():
                self._lay_aside(result)
            case None:
                self.left_open += 1

    def _lay_aside(self, live: LiveRun) -> None:
        """Leave a live Run to the sweep, which costs less memory than a child that waits for its end."""
        assert self._children is not None, "Runs come while the scheduler runs"
        if self._sweep.add(live):
            self._children.start_soon(self._sweep.run)

    def _take_up(self, live: LiveRun) -> None:
        assert self._children is not None, "Runs come back while the scheduler runs"
        self._children.start_soon(self._go_on, live)

    async def _go_on(self, live: LiveRun) -> None:
        await self._carry_out(self._runner.take_up(live))
        # Its job may be due again when everybody else has found nothing left to do.
        self._add_child()

    async def _settled(self, record: Record) -> None:
        self._progress.count(record)
        run_id = record.attempts[-1].run_id if record.attempts else None
        _log.info("job_settled", job_key=record.key, run_id=run_id, line=record.line, outcome=record.outcome)
        trip = self._breaker.note(record)
        if trip is not None and None not in self._tripped:
            self._stop_for(trip)
        if self._keep_log is not None:
            self._keep_log(record)
        if self.on_record is not None:
            await self.on_record(record)

    def _stop_for(self, trip: Trip) -> None:
        """Start nothing more of the batch, or of the group, that the breaker has tripped for."""
        self._ledger.note_trip(trip)
        self._tripped.add(trip.group)
        _log.warning("breaker_tripped", group=trip.group, reason=trip.reason)
        self._progress.notices.add(BreakerTripped(group=trip.group, reason=trip.reason))
        if trip.group is None:
            self.stop_starting(Ending.TRIPPED)
            return
        for work in self._ready.drop(trip.group):
            self._ready_bytes -= len(work.job.body)
            self._push(work)
        self._wake()

    async def _next_work(self, slot: Slot) -> Work | None:
        """Return the job to go on with, its slot fitted out and its money set aside; None at the end."""
        async with self._taking:
            while self.stopped_for is None:
                self._push_due()
                work = self._take()
                if work is not None:
                    slot.fit_out(self._demand)
                    if self._ready and self._is_somebody_coming:
                        self._slots.want_more()
                    return work
                if self._is_done:
                    return None
                self._idle += 1
                try:
                    await self._wait_until(self._postponed[0][0] if self._postponed else None)
                finally:
                    self._idle -= 1
            return None

    @property
    def _is_done(self) -> bool:
        """Whether there will be nothing more to take."""
        return self.stopped_for is not None or (self._is_read and not self._postponed and not self._ready)

    def _push(self, work: Work, *, is_first: bool = False) -> None:
        if not work.starts_anew:
            self._follow_on(work)
            return
        if work.job.group in self._tripped:
            self.left_open += 1
            return
        self._ready.push(work, work.job.group, is_first=is_first)
        self._ready_bytes += len(work.job.body)

    def _follow_on(self, work: Work) -> None:
        """Take up an attempt of an earlier process at once, whatever stops starts: its Run is live, or may be."""
        assert self._children is not None, "jobs come while the scheduler runs"
        work = self._runner.with_money(work)
        self._children.start_soon(self._carry_on, work, self._slots.seat(self._runner.demand(work)))

    async def _carry_on(self, work: Work, slot: Slot) -> None:
        try:
            await self._carry_out(self._runner.run_job(work, slot))
        finally:
            slot.release()
        self._add_child()  # as above

    def _push_due(self) -> None:
        """Put jobs that are due again before those that wait for their first attempt."""
        due: list[Work] = []
        while self._postponed and self._postponed[0][0] <= anyio.current_time():
            due.append(heapq.heappop(self._postponed)[2])
        self._progress.postponed -= len(due)
        for work in reversed(due):
            self._push(work, is_first=True)

    def _take(self) -> Work | None:
        """Take the next job that fits and can be paid for, if there is one."""
        while self.stopped_for is None:
            self._awaits_turn = not self._is_our_turn()
            if self._awaits_turn:
                self._is_blocked = False
                return None
            work = self._ready.take(self._fit)
            self._is_blocked = work is None and len(self._ready) > 0
            if not self._is_read and self._wants_more:
                self._wake()
            if work is None:
                self._slots.pass_on()
                return None
            self._ready_bytes -= len(work.job.body)
            if not self._purse.is_limited:
                return work
            usd = self._quoted_usd
            if self._purse.budget.can_ever_have(usd or 0.0):
                self._purse.budget.reserve(usd or 0.0)
                return replace(work, reserved_usd=usd)
            self._leave_open_for_want_of_money(usd or 0.0)
        return None

    def _is_our_turn(self) -> bool:
        """Whether no other batch of the account comes before this one; without a job, it lets them all go first."""
        if not self._ready:
            self._slots.wait_no_more()
            return True
        if self._gate.is_crowded:
            self._slots.wait_no_more()
            return False
        return self._slots.is_our_turn()

    def _leave_open_for_want_of_money(self, usd: float) -> None:
        self.left_open += 1
        self._too_dear += 1
        if self._too_dear == 1:
            self._tell_of_the_budget(usd)
        if self._too_dear >= MAX_TOO_DEAR:
            self.stop_starting(Ending.OUT_OF_BUDGET)

    @property
    def is_out_of_budget(self) -> bool:
        """Whether the budget could not pay for a job."""
        return self._too_dear > 0

    def _fit(self, work: Work) -> Fit:
        self._demand = self._runner.demand(work)
        fit = self._slots.fit(self._demand)
        if fit is not Fit.YES or not self._purse.is_limited:
            return fit
        self._quoted_usd = self._runner.quote_usd(work)
        usd = self._quoted_usd or 0.0
        if self._purse.budget.has(usd) or not self._purse.budget.can_ever_have(usd):
            return Fit.YES  # what can never be paid for is taken out of the queue
        self._tell_of_waiting_for_money(usd)
        return Fit.TOO_LARGE

    def _tell_of_waiting_for_money(self, usd: float) -> None:
        if not self._has_told_of_waiting:
            self._has_told_of_waiting = True
            self._progress.notices.add(StartsWaitForBudget(reserved_usd=usd))

    def _tell_of_the_budget(self, usd: float) -> None:
        budget = self._purse.budget
        if usd == math.inf:
            self._progress.notices.add(CostsUnbounded())
            return
        self._progress.notices.add(
            BudgetExhausted(next_start_usd=usd, spent_usd=budget.spent_usd, limit_usd=budget.limit_usd)
        )

    def _note_room(self) -> None:
        if self._is_blocked or self._awaits_turn:
            self._wake()

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
        while (chunk := await self._source.next_chunk(self._wanted_lines)) is not None:
            await self._admit(chunk)
            while not self._wants_more:
                await self._change()
        self.has_read_all = True

    async def _admit(self, chunk: Chunk) -> None:
        admission = Admission()
        if chunk.read_to is not None:
            # Not to be cut off by a stop: what is admitted becomes ready. The commit ends, whoever waits for it.
            self._is_admitting = True
            with anyio.CancelScope(shield=True):
                admission = await self._ledger.admit(chunk.entries, chunk.read_to)
            self._is_admitting = False
            crash_point("admitted")
        for job, noted in (*chunk.resumed, *admission.jobs):
            self._push(Work(job=job, open=noted, attempts=noted.attempts))
        self._progress.duplicates += admission.duplicates
        self._wake()
        for record in admission.invalid:
            await self._settled(record)

    @property
    def _chunk_size(self) -> int:
        return min(MAX_CHUNK, max(MIN_CHUNK, self._slots.limit))

    @property
    def _wanted_lines(self) -> int:
        """How many lines are read next; a search goes in long strides, as far as the memory for it allows."""
        if not self._ready_bytes or not self._is_searching:
            return self._chunk_size
        mean_bytes = self._ready_bytes / len(self._ready)
        return int(min(MAX_CHUNK, max(MIN_CHUNK, (MAX_READY_BYTES - self._ready_bytes) / mean_bytes)))

    @property
    def _low_water(self) -> int:
        return self._chunk_size // 2

    @property
    def _wants_more(self) -> bool:
        """Whether more of the file is to be read: few jobs are ready, none of them fits, or a group lacks some."""
        if len(self._postponed) >= MAX_POSTPONED_PER_SLOT * self._slots.limit:
            return False
        if len(self._ready) <= self._low_water:
            return True
        return self._is_searching and len(self._ready) < MAX_LOOK_AHEAD and self._ready_bytes < MAX_READY_BYTES

    @property
    def _is_searching(self) -> bool:
        """Whether lines are read in search of jobs of some kind, beside those that are ready."""
        return self._is_blocked or self._lacks_a_group

    @property
    def _lacks_a_group(self) -> bool:
        """Whether a group with a weight could start jobs and has too few of them ready to get its share."""
        return any(not self._slots.is_full(group) for group in self._ready.short)

    def _postpone(self, postponed: Postponed) -> None:
        due = anyio.current_time() + postponed.wait_s
        heapq.heappush(self._postponed, (due, next(self._tie), postponed.work))
        self._progress.postponed += 1
        self._wake()

    async def _wait_until(self, due: float | None) -> None:
        with anyio.move_on_after(None if due is None else due - anyio.current_time()):
            await self._change()

    async def _change(self) -> None:
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

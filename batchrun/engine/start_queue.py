"""Jobs that wait for a start: ready jobs in fair order, and postponed jobs until they are due."""

import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import count

import anyio

from batchrun.engine.child_pool import ChildPool
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Permit, Permits
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.notices import BudgetExhausted, CostsUnbounded, StartsWaitForBudget
from batchrun.engine.progress import Progress
from batchrun.engine.start_terms import StartTerms
from batchrun.engine.work import Postponed, Work
from batchrun.model import JobKey, WaitKind, WaitReason
from batchrun.policy.fair_group_queue import FairGroupQueue, Fit
from batchrun.runtime.change_signal import ChangeSignal

#: Bounds of the number of lines per admission commit. More lines delay the first start; fewer cost more each.
MAX_CHUNK = 256
MIN_CHUNK = 32
#: Max bytes of ready jobs with which more than one chunk is kept ready.
MAX_AHEAD_BYTES = 1 << 20
#: Number of next starts of which each group with a weight should have its part ready.
FAIR_DEPTH = MAX_CHUNK // 2
#: Max ready jobs, and max bytes of them, while the source is searched for a job that fits.
MAX_LOOK_AHEAD = 10_000
MAX_READY_BYTES = 8 << 20
#: After this many jobs that the budget can never pay for, no further job is tried.
MAX_UNAFFORDABLE = 100
#: Max postponed jobs per permit, held in memory; above it no further lines are read.
MAX_POSTPONED_PER_SLOT = 8
#: Why a job cannot start yet, by how it fits.
_HELD_BY = {Fit.GROUP_IS_FULL: WaitKind.GROUP, Fit.TOO_LARGE: WaitKind.MEMORY}


class StartQueue:
    """Decides which job goes next.

    Args:
        permits: decide how many Runs may be live.
        gate: while it is crowded, no further job is taken.
        reservations: reserves the money of each start.
        terms: what each start needs.
        children: take the jobs.
        weights: of the groups that have one; only for these groups is the source read ahead.
        progress: counters to update.
        changed: notified when a permit, memory or money may have come free.
        chunks_ready: how many chunks of small jobs are kept ready.
    """

    def __init__(
        self,
        *,
        permits: Permits,
        gate: StartGate,
        reservations: CostReservations,
        terms: StartTerms,
        children: ChildPool,
        weights: Mapping[str | None, float],
        progress: Progress,
        changed: ChangeSignal,
        chunks_ready: int = 1,
    ) -> None:
        self._chunks_ready = chunks_ready
        self._permits = permits
        self._gate = gate
        self._reservations = reservations
        self._terms = terms
        self._children = children
        self._progress = progress
        self._changed = changed
        #: Notified when more lines of the source may be needed.
        self.reading = ChangeSignal()
        self._ready: FairGroupQueue[Work] = FairGroupQueue(weights, FAIR_DEPTH)
        self._ready_bytes = 0
        #: Whether jobs are ready and none of them fits.
        self._is_blocked = False
        #: Why the job that was looked at last cannot start yet; None: unknown, or it can.
        self._held_by: WaitKind | None = None
        self._postponed: list[tuple[float, int, Work]] = []
        self._tie = count()
        #: Held by the one child that waits for a change; the others wait for it, so that a change wakes one child.
        self._waiting = anyio.Lock(fast_acquire=True)
        #: Groups of which nothing more is started.
        self._stopped_groups: set[str | None] = set()
        self._is_stopped = False
        self._is_source_read = False
        self._unaffordable = 0
        self._has_noted_waiting_for_money = False

    def push(self, work: Work, *, is_first: bool = False) -> None:
        """Add a job that is ready; a job of a stopped group stays open."""
        if work.job.group in self._stopped_groups:
            self._progress.left_open += 1
            return
        self._ready.push(work, work.job.group, is_first=is_first)
        self._ready_bytes += work.job.memory_bytes
        self._changed.notify()

    def take_back(self, keys: Collection[JobKey]) -> list[Work]:
        """Remove the ready jobs with these keys that no attempt was made at, and return them."""
        taken = self._ready.remove(lambda work: work.job.key in keys and not work.this_round)
        self._ready_bytes -= sum(work.job.memory_bytes for work in taken)
        return taken

    def postpone(self, postponed: Postponed) -> None:
        """Add a job that becomes ready after a wait."""
        due_at = anyio.current_time() + postponed.wait_s
        heapq.heappush(self._postponed, (due_at, next(self._tie), postponed.work))
        self._progress.postponed += 1
        self._changed.notify()

    async def next(self, permit: Permit) -> Work | None:
        """Wait for the next job, and reserve its memory in the permit, and its money; None at the end."""
        # Not in the lock, which is passed on in the next turn of the loop: each job would take a turn, with all others.
        if (work := self._take_for(permit)) is not None:
            return work
        async with self._waiting:
            while (work := self._take_for(permit)) is None and not self._is_done:
                with self._children.idling:
                    await self._changed.wait(self._due_in_s)
            return work

    def _take_for(self, permit: Permit) -> Work | None:
        """Take the next job and reserve what it needs; None if there is none now."""
        if self._is_stopped:
            return None
        self._push_due()
        work = self._take()
        if work is not None:
            permit.reserve(self._terms.demand(work))
            if self._ready and self._children.is_another_coming:
                self._permits.want_more()
        return work

    def _push_due(self) -> None:
        """Put postponed jobs that are due before jobs that wait for their first attempt."""
        due: list[Work] = []
        while self._postponed and self._postponed[0][0] <= anyio.current_time():
            due.append(heapq.heappop(self._postponed)[2])
        self._progress.postponed -= len(due)
        for work in reversed(due):
            self.push(work, is_first=True)

    def _take(self) -> Work | None:
        """Take the next job that fits and can be paid for; None if there is none."""
        self._is_blocked = False
        self._held_by = None
        while self._ready and not self.has_given_up_on_budget:
            if self._gate.is_crowded:
                self._permits.want_none()
                return None
            if not self._permits.may_reserve():
                self._held_by = WaitKind.OTHER_BATCHES if self._permits.is_held_by_others else None
                return None
            work = self._ready.take(self._fit)
            self._is_blocked = work is None and len(self._ready) > 0
            self._read_on()
            if work is None:
                self._permits.let_others_go()
                return None
            self._ready_bytes -= work.job.memory_bytes
            if (paid := self._pay(work)) is not None:
                return paid
        self._permits.want_none()
        self._read_on()
        return None

    def _fit(self, work: Work) -> Fit:
        fit = self._permits.fit(self._terms.demand(work))
        self._held_by = _HELD_BY.get(fit)
        if fit is not Fit.YES or not self._reservations.is_limited:
            return fit
        usd = self._terms.quote_usd(work) or 0.0
        if self._reservations.has(usd) or not self._reservations.can_ever_have(usd):
            return Fit.YES  # a job that can never be paid for is taken out, by `_pay`
        self._note_waiting_for_money(usd)
        self._held_by = WaitKind.BUDGET
        return Fit.TOO_LARGE

    def _pay(self, work: Work) -> Work | None:
        """Reserve the money for a job's start; None if the budget can never pay for it."""
        if not self._reservations.is_limited:
            return work
        quoted_usd = self._terms.quote_usd(work)
        usd = quoted_usd or 0.0
        if self._reservations.can_ever_have(usd):
            if quoted_usd is not None:
                self._reservations.reserve(quoted_usd)
            return replace(work, reserved_usd=quoted_usd)
        self._progress.left_open += 1
        self._unaffordable += 1
        if self._unaffordable == 1:
            self._note_budget_exhausted(usd)
        return None

    def _note_waiting_for_money(self, usd: float) -> None:
        if not self._has_noted_waiting_for_money:
            self._has_noted_waiting_for_money = True
            self._progress.notices.add(StartsWaitForBudget(reserved_usd=self._reservations.with_excess(usd)))

    def _note_budget_exhausted(self, usd: float) -> None:
        if usd == math.inf:
            self._progress.notices.add(CostsUnbounded())
            return
        budget, next_usd = self._reservations.budget, self._reservations.with_excess(usd)
        self._progress.notices.add(
            BudgetExhausted(next_start_usd=next_usd, spent_usd=budget.spent_usd, limit_usd=budget.limit_usd)
        )

    @property
    def _is_done(self) -> bool:
        is_empty = self._is_source_read and not self._postponed and not self._ready
        return self._is_stopped or self.has_given_up_on_budget or is_empty

    @property
    def _due_in_s(self) -> float | None:
        return max(0.0, self._postponed[0][0] - anyio.current_time()) if self._postponed else None

    @property
    def wants_more(self) -> bool:
        """Whether more lines are to be read: few jobs are ready, none of them fits, or a group lacks jobs."""
        if len(self._postponed) >= MAX_POSTPONED_PER_SLOT * self._permits.limit:
            return False
        if len(self._ready) <= self._wanted_ready // 2:
            return True
        return self._is_searching and len(self._ready) < MAX_LOOK_AHEAD and self._ready_bytes < MAX_READY_BYTES

    @property
    def wanted_lines(self) -> int:
        """How many lines to read next: more of them during a search, as far as `MAX_READY_BYTES` allows."""
        if not self._ready_bytes or not self._is_searching:
            return max(self._chunk_size, self._wanted_ready - len(self._ready))
        mean_bytes = self._ready_bytes / len(self._ready)
        return int(min(MAX_CHUNK, max(MIN_CHUNK, (MAX_READY_BYTES - self._ready_bytes) / mean_bytes)))

    @property
    def _chunk_size(self) -> int:
        return min(MAX_CHUNK, max(MIN_CHUNK, self._permits.limit))

    @property
    def _wanted_ready(self) -> int:
        """How many jobs are kept ready: one chunk, or more once it is known that they are small."""
        is_small = 0 < self._ready_bytes <= MAX_AHEAD_BYTES
        return self._chunk_size * (self._chunks_ready if is_small else 1)

    @property
    def _is_searching(self) -> bool:
        """Whether lines are read to find a job that fits, or jobs of a group that has a weight and too few of them."""
        return self._is_blocked or any(not self._permits.is_full(group) for group in self._ready.short)

    def _read_on(self) -> None:
        if not self._is_source_read and self.wants_more:
            self.reading.notify()

    def end_source(self) -> None:
        """Note that the source has ended."""
        self._is_source_read = True
        self._changed.notify()

    def stop_group(self, group: str | None) -> None:
        """Give out no more jobs of a group; they stay open."""
        self._stopped_groups.add(group)
        for work in self._ready.drop(group):
            self._ready_bytes -= work.job.memory_bytes
            self._progress.left_open += 1
        self._changed.notify()
        self.reading.notify()

    def stop(self) -> None:
        """Give out no more jobs."""
        self._is_stopped = True
        self._changed.notify()

    def waits(self) -> Iterator[WaitReason]:
        """Yield what jobs wait for before they are given out."""
        if self._is_stopped:
            return
        if self._held_by is not None:
            yield WaitReason(kind=self._held_by)
        if self._postponed:
            yield WaitReason(kind=WaitKind.RETRIES, count=len(self._postponed), left_s=self._due_in_s)

    @property
    def is_out_of_budget(self) -> bool:
        """Whether the budget could not pay for a job."""
        return self._unaffordable > 0

    @property
    def has_given_up_on_budget(self) -> bool:
        """Whether `MAX_UNAFFORDABLE` jobs could not be paid for, so that no further job is tried."""
        return self._unaffordable >= MAX_UNAFFORDABLE

    @property
    def has_work(self) -> bool:
        """Whether a job waits for a start: it is ready, or postponed and due."""
        is_due = bool(self._postponed) and self._postponed[0][0] <= anyio.current_time()
        return not self._is_stopped and (len(self._ready) > 0 or is_due)

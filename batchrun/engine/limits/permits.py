"""Permits: each is the right to have one Run live. A batch has as many as its own limit and the account's allow.

A permit is acquired first, without a job. It then reserves what the job's Run needs: memory, one of the group's live
Runs, one of the account's. Then it waits at the start gate. It is held from before the intent until the Run is
terminal.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from copy import copy
from typing import NamedTuple

from batchrun.engine.limits.account_pool import AccountPool, PoolMember
from batchrun.engine.limits.batch_priorities import EQUAL, BatchPriority
from batchrun.engine.limits.start_gate import Start, StartGate
from batchrun.policy.fair_group_queue import Fit
from batchrun.runtime.change_signal import ChangeSignal
from batchrun.runtime.resizable_semaphore import ResizableSemaphore


class Demand(NamedTuple):
    """What a Run needs beside a permit."""

    #: In megabytes; 0: not known yet.
    memory_mb: int = 0
    group: str | None = None


class Permit:
    """The right to have one Run live. `release` may be called more than once."""

    __slots__ = ("_demand", "_gate", "_is_lent", "_permits", "_start")

    def __init__(self, permits: "Permits", gate: StartGate) -> None:
        self._permits: Permits | None = permits
        self._gate = gate
        self._demand: Demand | None = None
        #: The last start that the gate let through for this permit.
        self._start: Start | None = None
        #: Whether other starts use it, since no Run is seen behind its own.
        self._is_lent = False

    def reserve(self, demand: Demand) -> None:
        """Reserve what a job's Run needs, until the permit is released."""
        assert self._permits is not None, "a released permit reserves nothing"
        self._demand = demand
        self._permits.reserve(demand)

    def adopt(self, demand: Demand) -> None:
        """Reserve what a Run needs that is live already, whatever the limits, and count the Run as live."""
        assert self._permits is not None, "a released permit reserves nothing"
        self._demand = demand
        self._permits.reserve(demand, is_live=True)
        self._start = self._gate.adopt()

    async def next_start(self) -> Start | None:
        """Wait until one start is allowed, to be sent at once; None once no more starts are wanted."""
        self._start = await self._gate.next_start()
        return self._start

    def note_doubt(self, is_in_doubt: bool) -> None:
        """Note whether it is in doubt that the Run exists."""
        if self._start is not None:
            self._gate.note_doubt(self._start, is_in_doubt)

    def transferred(self) -> "Permit":
        """Return the same permit for another holder; a later `release` of this one does nothing."""
        heir = copy(self)
        self._permits = self._start = None
        return heir

    def lend(self) -> None:
        """Let other starts use it until `take_back`: no Run is seen behind its own start, which was not answered."""
        if self._permits is not None and self._start is not None and not self._is_lent:
            self._is_lent = True
            self._gate.had_no_effect(self._start)
            self._permits.release(self._demand)

    def take_back(self) -> None:
        """Hold it, whatever the limits: the Run of its start was found. No further start is allowed beside it."""
        self._gate.took_effect()
        if self._permits is not None and self._is_lent:
            self._is_lent = False
            self._permits.hold_beyond_limit()
            self.adopt(self._demand or Demand())

    def release(self) -> None:
        """Release the permit and what it has reserved."""
        if self._start is not None:
            self._gate.over(self._start)
        permits, self._permits = self._permits, None
        if permits is not None and not self._is_lent:
            permits.release(self._demand)


class Permits(PoolMember):
    """A batch's permits.

    Args:
        pool: the account's live Runs, divided among its batches.
        gate: lets starts through.
        changed: notified when a permit, memory or a Run of a full group has come free.
        wanted: the batch's own limit; None: as many as the account allows.
        memory_mb: max memory of the batch's live Runs together, in megabytes; None: unlimited.
        group_limits: max live Runs by group; other groups are unlimited.
        batch: identifies the batch in the account.
        priority: among the batches of the account.
        kept: permits to keep for Runs of an earlier process that may be live, until they are adopted.
    """

    def __init__(
        self,
        pool: AccountPool,
        gate: StartGate,
        changed: ChangeSignal,
        *,
        wanted: int | None = None,
        memory_mb: int | None = None,
        group_limits: Mapping[str, int] | None = None,
        batch: Hashable = None,
        priority: BatchPriority = EQUAL,
        kept: int = 0,
    ) -> None:
        super().__init__(priority, kept)
        self._pool = pool
        self._gate = gate
        self._changed = changed
        self._wanted = wanted
        self._memory_mb = memory_mb
        self._group_limits = dict(group_limits or {})
        self._batch = batch
        self._live_in_group: Counter[str] = Counter()
        self._units = ResizableSemaphore(self._limit())
        pool.join(self, batch)

    @property
    def limit(self) -> int:
        """Max Runs of this batch that may be live now."""
        return self._units.limit

    @property
    def used(self) -> int:
        """Number of acquired permits, with or without a job."""
        return self._units.used

    async def acquire(self) -> Permit | None:
        """Wait for a permit; None once the permits are closed."""
        return Permit(self, self._gate) if await self._units.acquire() else None

    def adopt(self, demand: Demand) -> Permit:
        """Return a permit for a Run that is live already, whatever the limits."""
        self.hold_beyond_limit()
        permit = Permit(self, self._gate)
        permit.adopt(demand)
        return permit

    def hold_beyond_limit(self) -> None:
        """Count one more permit as acquired, whatever the limits."""
        self._units.acquire_beyond_limit()

    def may_reserve(self) -> bool:
        """Whether one more Run of this batch may be live; if not, `changed` is notified when one may."""
        self.wants_permit = False
        self.wants_mb = None
        if self._wanted is not None and self.reserved >= self._wanted:  # lowered after the permit was given out
            self.skipped = 0
            self._pool.call_next()
            return False
        self.wants_permit = not self._pool.may_take(self)
        return not self.wants_permit

    @property
    def is_below_own_limit(self) -> bool:
        """Whether the batch's own limit allows one more live Run."""
        return self._wanted is None or self.reserved + self.kept < self._wanted

    @property
    def is_held_by_others(self) -> bool:
        """Whether Runs of other batches, live or next, leave no permit of the account to this one."""
        return self.wants_permit and self._pool.used > self.reserved + self.kept

    def want_more(self) -> None:
        """Count as waiting for another permit, right after one was reserved: the next job asks in a moment.

        Otherwise permits that come free together all go to the batch that asks first.
        """
        self.wants_permit = True

    def want_none(self) -> None:
        """Count as not waiting: no job is ready. Other batches may go first.

        One of them is called in any case: this batch may have been called, and be able to pay for none of its jobs.
        """
        if self.wants_permit or self.wants_mb is not None:
            self.wants_permit = False
            self.wants_mb = None
            self.skipped = 0
        self._pool.call_next()

    def let_others_go(self) -> None:
        """Let other batches go first: none of the ready jobs fits into what is free."""
        self._pool.call_next()

    def fit(self, demand: Demand) -> Fit:
        """Return whether a Run with this demand can be live beside the others."""
        if self.is_full(demand.group):
            return Fit.GROUP_IS_FULL
        # The first Run is always tried: the known limit may be outdated, and the platform refuses what is too large.
        is_first = self.reserved_mb == 0
        if self._memory_mb is not None and not is_first and self.reserved_mb + demand.memory_mb > self._memory_mb:
            return Fit.TOO_LARGE
        if not self._pool.has_memory(demand.memory_mb):
            self.wants_mb = demand.memory_mb if self.wants_mb is None else min(demand.memory_mb, self.wants_mb)
            return Fit.TOO_LARGE
        return Fit.YES

    def is_full(self, group: str | None) -> bool:
        """Whether a group has as many live Runs as it may have."""
        limit = self._group_limits.get(group) if group is not None else None
        return limit is not None and group is not None and self._live_in_group[group] >= limit

    def reserve(self, demand: Demand, *, is_live: bool = False) -> None:
        """Count a Run in its group, its memory and the account; `is_live`: it is live already."""
        self.wants_mb = None
        self.skipped = 0
        if demand.group in self._group_limits:
            self._live_in_group[demand.group] += 1
        take = self._pool.adopt if is_live else self._pool.take
        take(self, demand.memory_mb)

    def release(self, demand: Demand | None) -> None:
        """Take back a permit, and what it has reserved."""
        if demand is not None:
            if demand.group in self._group_limits:
                self._live_in_group[demand.group] -= 1
            self._pool.release(self, demand.memory_mb)
            self._changed.notify()
        self._units.release()

    def resize(self, wanted: int | None) -> None:
        """Change the batch's own limit. A smaller one takes effect as Runs end."""
        self._wanted = wanted
        self.pool_resized()

    def pool_resized(self) -> None:
        """Follow the account's limit."""
        self._units.resize(self._limit())
        self._changed.notify()

    def pool_freed(self) -> None:
        """Let the batch ask again: a permit or memory may be free now."""
        self._changed.notify()

    def close(self) -> None:
        """Give out no more permits; all waiting `acquire` calls return None."""
        self.want_none()
        self._units.close()

    def keep_for_live_runs(self) -> None:
        """Keep permits in the account for the Runs that are live now, until the batch is opened again."""
        self._pool.keep(self._batch, self.reserved + self.kept)

    def leave(self) -> None:
        """Leave the account; its other batches get the permits."""
        self._pool.leave(self)

    def _limit(self) -> int:
        return self._pool.limit if self._wanted is None else min(self._wanted, self._pool.limit)

"""Live Runs and memory of an account, divided among its batches.

A batch asks when a job of it is ready. It takes a permit at once unless a waiting batch ranks before it; otherwise it
waits and is notified when it is next (`batch_priorities.py`). No permit is held for a batch without a ready job, so a
small batch behind a huge one gets the first permit that is released.

Permits are kept for Runs that are live while no process has their batch open. Otherwise other batches would take them,
and the account would be over its limit when the batch resumes.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable

from batchrun.engine.limits.batch_priorities import BatchPriority, Rank

#: Max Runs of later batches that start before a batch that waits for memory; after that, later batches wait for it.
MAX_SKIPPED = 64


class PoolMember(ABC):
    """A batch, as the pool sees it.

    Args:
        priority: among the batches of the account.
        kept: permits that are kept for live Runs of an earlier process, until they are adopted.
    """

    def __init__(self, priority: BatchPriority, kept: int) -> None:
        self.priority = priority
        self.kept = kept
        #: Permits that are reserved for a job, and their memory in megabytes.
        self.reserved = 0
        self.reserved_mb = 0
        #: Stride-scheduling pass: grows by 1 / weight with each permit.
        self.passed = 0.0
        #: Whether the batch waits for a permit.
        self.wants_permit = False
        #: Memory of the smallest Run that waits for memory, in megabytes; None: no Run does.
        self.wants_mb: int | None = None
        #: Runs of later batches that have started since this batch began to wait for memory.
        self.skipped = 0

    @property
    def rank(self) -> Rank:
        """The rank among the batches that wait."""
        return self.priority.rank(self.reserved + self.kept, self.passed)

    @abstractmethod
    def pool_resized(self) -> None:
        """Follow the pool's new limit."""

    @abstractmethod
    def pool_freed(self) -> None:
        """Ask again: a permit or memory may be free now."""


class AccountPool:
    """Our live Runs in an account, and their memory.

    Args:
        limit: max live Runs of ours.
        memory_mb: max memory of all of them together, in megabytes; None: unlimited.
    """

    def __init__(self, limit: int, *, memory_mb: int | None = None) -> None:
        self.limit = limit
        self.memory_mb = memory_mb
        #: True if `memory_mb` is a part of the account's that may change: no Run is tried beyond it.
        self.is_memory_shared = False
        #: Permits that are reserved or kept.
        self.used = 0
        self._peak = 0
        self.used_memory_mb = 0
        self._members: list[PoolMember] = []
        #: Permits that are kept for batches that are not open, by batch.
        self._kept: dict[Hashable, int] = {}
        #: The pass of the batch that was served last; a new batch begins with it.
        self._now = 0.0

    def join(self, member: PoolMember, batch: Hashable) -> None:
        """Add a batch; it takes over the permits that were kept for it."""
        self.used += member.kept - self._kept.pop(batch, 0)
        member.passed = self._now
        self._members.append(member)
        self.call_next()

    def leave(self, member: PoolMember) -> None:
        """Remove a batch and release its permits."""
        self._members.remove(member)
        self.used -= member.reserved + member.kept
        self.used_memory_mb -= member.reserved_mb
        self.call_next()

    def keep(self, batch: Hashable, count: int) -> None:
        """Keep this many permits for live Runs of a batch, until it joins."""
        self.used += count - self._kept.pop(batch, 0)
        if count:
            self._kept[batch] = count
        self.call_next()

    @property
    def kept(self) -> int:
        """Permits that are kept for live Runs of earlier processes."""
        return sum(self._kept.values()) + sum(member.kept for member in self._members)

    def take_peak(self) -> int:
        """Return the most permits that were used at once since the last call."""
        peak, self._peak = max(self._peak, self.used), self.used
        return peak

    @property
    def lacked_memory_mb(self) -> int:
        """Memory of the largest Run that waits for memory, in megabytes; 0: none does."""
        return max((member.wants_mb or 0 for member in self._members), default=0)

    def resize(self, limit: int) -> None:
        """Change how many Runs may be live. A smaller limit takes effect as Runs end."""
        self.limit = limit
        for member in self._members:
            member.pool_resized()
        self.call_next()

    def resize_memory(self, memory_mb: int | None) -> None:
        """Change how much memory all live Runs together may take; None: unlimited."""
        self.memory_mb = memory_mb
        self.call_next()

    def has_memory(self, memory_mb: int) -> bool:
        """Whether this much is free. Without a live Run of ours it always is: the known limit may be outdated."""
        is_first = self.used_memory_mb == 0 and not self.is_memory_shared
        return self.memory_mb is None or is_first or self.used_memory_mb + memory_mb <= self.memory_mb

    def may_take(self, member: PoolMember) -> bool:
        """Whether a permit is free and no waiting batch ranks before this one."""
        if self.used >= self.limit:
            return False
        if len(self._members) == 1:
            return True
        return all(other is member or not _comes_before(other, member) for other in self._members)

    def take(self, member: PoolMember, memory_mb: int) -> None:
        """Count one more live Run of a batch."""
        for other in self._members:
            if other.wants_mb is not None and other.rank < member.rank:
                other.skipped += 1
        self._now = max(self._now, member.passed)
        member.passed = self._now + 1 / member.priority.weight
        member.reserved += 1
        member.reserved_mb += memory_mb
        self.used += 1
        self._peak = max(self._peak, self.used)
        self.used_memory_mb += memory_mb
        self.call_next()

    def adopt(self, member: PoolMember, memory_mb: int) -> None:
        """Count a Run that is live already, whatever the limit; it uses a kept permit if there is one."""
        if member.kept:
            member.kept -= 1
            self.used -= 1
        self.take(member, memory_mb)

    def release(self, member: PoolMember, memory_mb: int) -> None:
        """Count one live Run less and notify the batch that is next."""
        member.reserved -= 1
        member.reserved_mb -= memory_mb
        self.used -= 1
        self.used_memory_mb -= memory_mb
        self.call_next()

    def call_next(self) -> None:
        """Notify the batch that is next for a permit, and all batches whose memory may be free."""
        if self.used >= self.limit:
            return
        first: PoolMember | None = None
        for member in self._members:
            if member.wants_mb is not None and self.has_memory(member.wants_mb):
                member.pool_freed()
            if member.wants_permit and (first is None or member.rank < first.rank):
                first = member
        if first is not None:
            first.pool_freed()


def _comes_before(waiting: PoolMember, asking: PoolMember) -> bool:
    if waiting.wants_mb is not None:
        return waiting.skipped >= MAX_SKIPPED and asking.skipped < MAX_SKIPPED
    return waiting.wants_permit and waiting.rank < asking.rank

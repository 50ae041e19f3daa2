"""Places for live Runs that the batches of one account share: who has least for its weight is next.

A batch asks when it has a job in hand, and takes a place at once unless somebody who waits comes before it. Who is
refused waits, and is called when a place is his. So nothing is set aside for a batch that has no use for it, and a
small batch that comes behind a huge one gets the first place that is freed.

Batches without any live Run come first, in turns (stride scheduling, as in `FairQueue`): no priority and no weight
keeps a batch from having one. Of the others the highest priority is next, and among equals who has the fewest live Runs
for its weight.

Runs that are live while nobody has their batch open keep their places: else others would take them, and there were too
many when the batch is taken up again.
"""

from collections.abc import Callable, Hashable

#: A batch that waits for memory and comes before others lets so many of their Runs go first; then they wait for it.
MAX_PASSED_OVER = 64


class Member:
    """One batch's share in a pool; made by `Pool.join`."""

    def __init__(self, pool: "Pool", *, name: Hashable, weight: float, priority: int, passed: float, kept: int) -> None:
        self.pool = pool
        self.name = name
        self.weight = weight
        self.priority = priority
        #: Places that are taken, and their megabytes.
        self.used = 0
        self.used_memory_mb = 0
        #: Places that are kept for Runs that were live before, and have not been taken up yet.
        self.kept = kept
        #: Called when a place, or the memory that was waited for, may be had.
        self.on_turn: Callable[[], None] = lambda: None
        #: Called when the pool's number of places has changed.
        self.on_resize: Callable[[int], None] = lambda _: None
        #: Grows with each place taken, the less the larger the weight.
        self.passed = passed
        self.waits_for_place = False
        #: Megabytes that are waited for; None: no Run of ours was too large for what is free.
        self.waits_for_mb: int | None = None
        self.passed_over = 0

    @property
    def rank(self) -> tuple[bool, int, float, float]:
        """Where it stands among those who wait, the least first."""
        live = self.used + self.kept
        if not live:
            return (False, 0, 0.0, self.passed)
        return (True, -self.priority, live / self.weight, self.passed)

    def ask(self) -> bool:
        """Whether a place may be taken now; else it waits, and is called. What it waited for before is forgotten."""
        self.waits_for_place = False
        self.waits_for_mb = None
        self.waits_for_place = not self.pool.is_turn_of(self)
        return not self.waits_for_place

    def has_memory(self, memory_mb: int) -> bool:
        """Whether a Run of this size can be live beside the others; else it is waited for."""
        if self.pool.has_memory(memory_mb):
            return True
        self.waits_for_mb = memory_mb if self.waits_for_mb is None else min(memory_mb, self.waits_for_mb)
        return False

    def take(self, memory_mb: int) -> None:
        """Take a place."""
        self.waits_for_mb = None
        self.passed_over = 0
        self.pool.take(self, memory_mb)

    def take_up(self, memory_mb: int) -> None:
        """Take a place for a Run that is live already, whether there is one or not: the one that was kept for it."""
        if self.kept:
            self.kept -= 1
            self.pool.used -= 1
        self.take(memory_mb)

    def give_back(self, memory_mb: int) -> None:
        """Give a place back."""
        self.pool.give_back(self, memory_mb)

    def want_more(self) -> None:
        """Be among those who wait, right after a place was taken: the next job asks for one in a moment.

        Else several places that come free together went to whoever asks fastest.
        """
        self.waits_for_place = True

    def pass_on(self) -> None:
        """Let others go first: there is a place, and none of our jobs fits into what is free."""
        self.pool.call_next()

    def wait_no_more(self) -> None:
        """Let others go first: nothing more is wanted for now."""
        if self.waits_for_place or self.waits_for_mb is not None:
            self.waits_for_place = False
            self.waits_for_mb = None
            self.passed_over = 0
            self.pool.call_next()

    def keep_places(self) -> None:
        """Keep as many places as are taken now, beyond the end of this membership, until the batch joins again."""
        self.pool.keep(self.name, self.used + self.kept)

    def leave(self) -> None:
        """Leave the pool, with what is still taken."""
        self.pool.remove(self)


class Pool:
    """A number of places, and memory, for the live Runs of several batches.

    Args:
        limit: how many Runs may be live.
        memory_mb: their memory together; None: any amount.
    """

    def __init__(self, limit: int, *, memory_mb: int | None = None) -> None:
        self.limit = limit
        self.memory_mb = memory_mb
        #: Places that are taken or kept.
        self.used = 0
        self.used_memory_mb = 0
        self._members: list[Member] = []
        #: Places that are kept for batches that nobody has open, by name.
        self._kept: dict[Hashable, int] = {}
        #: The pass of who was served last: who joins begins there.
        self._now = 0.0

    def join(self, name: Hashable = None, *, weight: float = 1.0, priority: int = 0, live: int = 0) -> Member:
        """Let one more batch have a share.

        Args:
            name: tells it from others; what was kept under this name is its own now.
            weight: of its share.
            priority: higher ones first, once each has a place.
            live: how many Runs of it are live, or may be, and are about to be taken up.
        """
        self.used += live - self._kept.pop(name, 0)
        member = Member(self, name=name, weight=weight, priority=priority, passed=self._now, kept=live)
        self._members.append(member)
        self.call_next()
        return member

    def keep(self, name: Hashable, count: int) -> None:
        """Keep places for live Runs of a batch until it joins, or is released."""
        self.used += count - self._kept.pop(name, 0)
        if count:
            self._kept[name] = count
        self.call_next()

    def release(self, name: Hashable) -> None:
        """Keep places for this batch no more: nobody is about to take its Runs up."""
        self.keep(name, 0)

    def resize(self, limit: int) -> None:
        """Change how many places there are; those taken above a smaller number run out as they are given back."""
        self.limit = limit
        for member in self._members:
            member.on_resize(limit)
        self.call_next()

    def resize_memory(self, memory_mb: int | None) -> None:
        """Change how much memory all live Runs may take."""
        self.memory_mb = memory_mb
        self.call_next()

    def has_memory(self, memory_mb: int) -> bool:
        """Whether there is so much; where nothing of ours is live, the platform is to say so."""
        is_alone = self.used_memory_mb == 0
        return self.memory_mb is None or is_alone or self.used_memory_mb + memory_mb <= self.memory_mb

    def is_turn_of(self, asking: Member) -> bool:
        """Whether a place is free that nobody who waits comes before."""
        if self.used >= self.limit:
            return False
        return all(other is asking or not self._comes_before(other, asking) for other in self._members)

    def _comes_before(self, waiting: Member, asking: Member) -> bool:
        if waiting.waits_for_mb is not None:
            return waiting.passed_over >= MAX_PASSED_OVER and asking.passed_over < MAX_PASSED_OVER
        return waiting.waits_for_place and waiting.rank < asking.rank

    def take(self, member: Member, memory_mb: int) -> None:
        """Note that a member has one more live Run."""
        for other in self._members:
            if other.waits_for_mb is not None and other.rank < member.rank:
                other.passed_over += 1
        self._now = max(self._now, member.passed)
        member.passed = self._now + 1 / member.weight
        member.used += 1
        member.used_memory_mb += memory_mb
        self.used += 1
        self.used_memory_mb += memory_mb
        self.call_next()

    def give_back(self, member: Member, memory_mb: int) -> None:
        """Note that a member has one live Run less, and call who is next."""
        member.used -= 1
        member.used_memory_mb -= memory_mb
        self.used -= 1
        self.used_memory_mb -= memory_mb
        self.call_next()

    def remove(self, member: Member) -> None:
        """Let a member go, and give back what it has."""
        self._members.remove(member)
        self.used -= member.used + member.kept
        self.used_memory_mb -= member.used_memory_mb
        self.call_next()

    def call_next(self) -> None:
        """Call those who may find what they wait for: whoever is next for a place, and all who wait for memory."""
        if self.used >= self.limit:
            return
        first: Member | None = None
        for member in self._members:
            if member.waits_for_mb is not None and self.has_memory(member.waits_for_mb):
                member.on_turn()
            if member.waits_for_place and (first is None or member.rank < first.rank):
                first = member
        if first is not None:
            first.on_turn()

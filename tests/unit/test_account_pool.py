"""Live Runs that several batches share: the next is whose rank is first, and no batch is kept from having one."""

from collections import Counter

import pytest

from batchrun.engine.limits.account_pool import MAX_SKIPPED, AccountPool
from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.engine.limits.permits import Demand, Permits
from batchrun.policy.fair_group_queue import Fit
from batchrun.runtime.change_signal import ChangeSignal
from tests.support.start_gates import gate_of


class _Called(ChangeSignal):
    """Notes that its batch was notified."""

    __slots__ = ("_called", "_name")

    def __init__(self, called: list[str], name: str) -> None:
        super().__init__()
        self._called, self._name = called, name

    def notify(self) -> None:
        self._called.append(self._name)


class Batches:
    """Batches with any number of jobs, each of which takes a permit as soon as it is notified."""

    def __init__(self, pool: AccountPool) -> None:
        self.pool = pool
        self.members: dict[str, Permits] = {}
        self.sizes_mb: dict[str, int] = {}
        self.started: list[str] = []
        self.called: list[str] = []

    def join(self, name: str, *, weight: float = 1.0, priority: int = 0) -> Permits:
        """Return the permits of a batch that asks for nothing by itself."""
        changed = _Called(self.called, name)
        return Permits(self.pool, gate_of(), changed, priority=BatchPriority(weight=weight, priority=priority))

    def add(self, name: str, *, weight: float = 1.0, priority: int = 0, memory_mb: int = 1) -> None:
        """Let a batch begin to ask."""
        self.members[name] = self.join(name, weight=weight, priority=priority)
        self.sizes_mb[name] = memory_mb
        self.called.append(name)
        self.settle()

    def settle(self) -> None:
        """Let every batch that is notified take what there is."""
        while self.called:
            name = self.called.pop(0)
            if name not in self.members:
                continue
            permits, demand = self.members[name], Demand(self.sizes_mb[name])
            while permits.may_reserve():
                if permits.fit(demand) is not Fit.YES:
                    permits.let_others_go()
                    break
                permits.reserve(demand)
                self.started.append(name)

    def end(self, name: str) -> None:
        """End a Run of a batch, and let the batch that is notified take its permit."""
        self.members[name].release(Demand(self.sizes_mb[name]))
        self.settle()


async def test_a_batch_alone_has_every_permit() -> None:
    batches = Batches(AccountPool(4))
    batches.add("only")
    assert batches.started == ["only"] * 4


async def test_a_new_batch_gets_the_first_released_permit() -> None:
    batches = Batches(AccountPool(4))
    batches.add("huge")
    batches.add("small")
    batches.end("huge")
    assert batches.started[4:] == ["small"]


@pytest.mark.parametrize(("weight", "share"), [(1.0, 5), (4.0, 2)])
async def test_weights_divide_the_permits(weight: float, share: int) -> None:
    batches = Batches(AccountPool(10))
    batches.add("a", weight=weight)
    batches.add("b")
    for _ in range(100):
        crowded = max(batches.members.values(), key=lambda member: member.reserved / member.priority.weight)
        batches.end(next(name for name, member in batches.members.items() if member is crowded))
    assert batches.members["b"].reserved == share


async def test_with_fewer_permits_than_batches_they_alternate_by_weight_whatever_their_priority() -> None:
    batches = Batches(AccountPool(1))
    batches.add("first", priority=9)
    batches.add("second")
    batches.add("heavy", weight=2.0)
    for _ in range(400):
        batches.end(batches.started[-1])
    counts = Counter(batches.started)
    assert counts["heavy"] == pytest.approx(200, abs=2)
    assert counts["second"] == pytest.approx(100, abs=2)


async def test_beyond_one_live_run_for_each_the_higher_priority_has_all() -> None:
    batches = Batches(AccountPool(4))
    batches.add("low")
    batches.add("high", priority=1)
    for _ in range(3):
        batches.end("low") if batches.members["low"].reserved > 1 else batches.end("high")
    assert {name: member.reserved for name, member in batches.members.items()} == {"low": 1, "high": 3}


async def test_a_batch_that_wants_nothing_keeps_no_other_waiting() -> None:
    batches = Batches(AccountPool(1))
    batches.add("busy")
    idle = batches.join("idle")
    assert not idle.may_reserve()
    idle.want_none()
    batches.end("busy")
    assert batches.started == ["busy", "busy"]


async def test_a_batch_that_leaves_releases_its_permits() -> None:
    batches = Batches(AccountPool(2))
    batches.add("leaving")
    batches.add("staying")
    batches.members["leaving"].leave()
    batches.settle()
    assert batches.members["staying"].reserved == 2


async def test_a_raised_limit_is_filled_at_once() -> None:
    batches = Batches(AccountPool(1))
    batches.add("only")
    batches.pool.resize(3)
    batches.settle()
    assert batches.members["only"].reserved == 3


async def test_a_run_that_needs_much_memory_is_not_skipped_for_ever() -> None:
    batches = Batches(AccountPool(100, memory_mb=8))
    batches.add("small")
    batches.add("large", memory_mb=8)
    for count in range(MAX_SKIPPED + 20):
        if batches.members["large"].reserved:
            assert count >= MAX_SKIPPED
            return
        batches.end("small")
    pytest.fail("the large Run was never started")


async def test_a_batch_that_is_notified_and_wants_nothing_any_more_notifies_the_next() -> None:
    batches = Batches(AccountPool(1))
    busy, first, second = (batches.join(name) for name in ("busy", "first", "second"))
    busy.reserve(Demand(1))
    assert not first.may_reserve()
    assert not second.may_reserve()
    batches.called.clear()
    busy.release(Demand(1))
    assert [name for name in batches.called if name != "busy"] == ["first"]
    first.want_none()
    assert [name for name in batches.called if name != "busy"] == ["first", "second"]

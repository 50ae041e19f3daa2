"""Places that several batches share: who has least for its weight is next, and nobody is kept from having one."""

from collections import Counter

import pytest

from batchrun.engine.limits.account_pool import MAX_PASSED_OVER, Member, Pool


class Batches:
    """Batches with any number of jobs, each of which takes a place as soon as it is called."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.members: dict[str, Member] = {}
        self.sizes_mb: dict[str, int] = {}
        self.started: list[str] = []
        self._called: list[str] = []

    def add(self, name: str, *, weight: float = 1.0, priority: int = 0, memory_mb: int = 1) -> None:
        """Let a batch begin to ask."""
        member = self.members[name] = self.pool.join(weight=weight, priority=priority)
        self.sizes_mb[name] = memory_mb
        member.on_turn = lambda: self._called.append(name)
        self._called.append(name)
        self.settle()

    def settle(self) -> None:
        """Let everybody who is called take what there is."""
        while self._called:
            name = self._called.pop(0)
            member, size_mb = self.members[name], self.sizes_mb[name]
            while member.ask():
                if not member.has_memory(size_mb):
                    member.pass_on()
                    break
                member.take(size_mb)
                self.started.append(name)

    def end(self, name: str) -> None:
        """End a Run of a batch, and let who is called take its place."""
        self.members[name].give_back(self.sizes_mb[name])
        self.settle()


def test_a_batch_alone_has_every_place() -> None:
    batches = Batches(Pool(4))
    batches.add("only")
    assert batches.started == ["only"] * 4


def test_the_first_place_that_is_freed_is_the_newcomers() -> None:
    batches = Batches(Pool(4))
    batches.add("huge")
    batches.add("small")
    batches.end("huge")
    assert batches.started[4:] == ["small"]


@pytest.mark.parametrize(("weight", "share"), [(1.0, 5), (4.0, 2)])
def test_places_are_shared_by_weight(weight: float, share: int) -> None:
    batches = Batches(Pool(10))
    batches.add("a", weight=weight)
    batches.add("b")
    for _ in range(100):
        crowded = max(batches.members.values(), key=lambda member: member.used / member.weight)
        batches.end(next(name for name, member in batches.members.items() if member is crowded))
    assert batches.members["b"].used == share


def test_with_fewer_places_than_batches_they_take_turns_by_weight_whatever_their_priority() -> None:
    batches = Batches(Pool(1))
    batches.add("first", priority=9)
    batches.add("second")
    batches.add("heavy", weight=2.0)
    for _ in range(400):
        batches.end(batches.started[-1])
    counts = Counter(batches.started)
    assert counts["heavy"] == pytest.approx(200, abs=2)
    assert counts["second"] == pytest.approx(100, abs=2)


def test_beyond_one_live_run_for_each_the_higher_priority_has_all() -> None:
    batches = Batches(Pool(4))
    batches.add("low")
    batches.add("high", priority=1)
    for _ in range(3):
        batches.end("low") if batches.members["low"].used > 1 else batches.end("high")
    assert {name: member.used for name, member in batches.members.items()} == {"low": 1, "high": 3}


def test_who_wants_nothing_keeps_nobody_waiting() -> None:
    pool = Pool(1)
    batches = Batches(pool)
    batches.add("busy")
    idle = pool.join()
    assert not idle.ask()
    idle.wait_no_more()
    batches.end("busy")
    assert batches.started == ["busy", "busy"]


def test_who_leaves_gives_back_what_it_had() -> None:
    batches = Batches(Pool(2))
    batches.add("leaving")
    batches.add("staying")
    batches.members["leaving"].leave()
    batches.settle()
    assert batches.members["staying"].used == 2


def test_more_places_are_filled_at_once() -> None:
    batches = Batches(Pool(1))
    batches.add("only")
    batches.pool.resize(3)
    batches.settle()
    assert batches.members["only"].used == 3


def test_a_run_that_needs_much_memory_is_not_passed_over_for_ever() -> None:
    batches = Batches(Pool(100, memory_mb=8))
    batches.add("small")
    batches.add("large", memory_mb=8)
    for turn in range(MAX_PASSED_OVER + 20):
        if batches.members["large"].used:
            assert turn >= MAX_PASSED_OVER
            return
        batches.end("small")
    pytest.fail("the large one never had its turn")


def test_who_is_called_and_wants_nothing_any_more_lets_the_next_one_know() -> None:
    pool = Pool(1)
    busy, first, second = pool.join(), pool.join(), pool.join()
    called: list[str] = []
    first.on_turn, second.on_turn = (lambda: called.append("first")), (lambda: called.append("second"))
    busy.take(1)
    assert not first.ask()
    assert not second.ask()
    busy.give_back(1)
    assert called == ["first"]
    first.wait_no_more()
    assert called == ["first", "second"]

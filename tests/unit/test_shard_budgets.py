"""The budget of a batch in shards, on a page that several workers change."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.worker.fleet.fleet_limits import Need
from batchrun.worker.fleet.shard_budgets import BudgetShare, BudgetShares

LIMIT, COST, PARTS = 100, 7, 4


@dataclass
class Owner:
    """The process that carries out a part, and what it has read and prepared."""

    part: str
    allowed: int = 0
    #: The number of the page that was read, and the share that is to replace the part's.
    prepared: tuple[int, BudgetShare] | None = None


@dataclass
class World:
    """The page, and what each part has really spent."""

    shares: BudgetShares = field(default_factory=BudgetShares)
    number: int = 0
    used: dict[str, int] = field(default_factory=lambda: {f"p{n}": 0 for n in range(PARTS)})
    owners: dict[str, Owner] = field(default_factory=dict)
    #: Parts that need no more money now.
    sated: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for part in self.used:
            self.die(part)

    def die(self, part: str) -> None:
        """Give a part to another process, which knows what was spent, and nothing of the page."""
        self.owners[part] = Owner(part)

    def look(self, part: str) -> None:
        """Read the page, obey it, and prepare the next share."""
        owner = self.owners[part]
        owner.allowed = self.shares.allowed(part, LIMIT)
        used = self.used[part]
        is_short = part not in self.sated
        need = Need(amount=min(LIMIT, used + 10 * COST) if is_short else used, lump=COST, is_short=is_short, gone=used)
        held = self.shares.held_next(part, LIMIT, used)
        owner.prepared = self.number, BudgetShare(held=held, spent=used, need=need)

    def write(self, part: str) -> None:
        """Write what was prepared, unless another owner has written meanwhile."""
        prepared, self.owners[part].prepared = self.owners[part].prepared, None
        if prepared is not None and prepared[0] == self.number:
            self.shares = BudgetShares(parts={**self.shares.parts, part: prepared[1]})
            self.number += 1
            self.owners[part].allowed = self.shares.allowed(part, LIMIT)

    def spend(self, part: str) -> None:
        """Start all that the part thinks it can pay for."""
        while self.used[part] + COST <= self.owners[part].allowed:
            self.used[part] += COST

    def release(self, part: str) -> None:
        """Give back a reservation: a Run has cost less."""
        self.used[part] = max(0, self.used[part] - COST // 2)

    def change(self, part: str) -> None:
        """Let a part need money, or need none."""
        self.sated ^= {part}

    def settle(self, part: str) -> None:
        """Let all Runs of a part have cost nothing."""
        self.used[part] = 0

    def turn(self, part: str) -> None:
        """Look and write, and spend all the while."""
        self.look(part)
        self.spend(part)
        self.write(part)
        self.spend(part)

    def turns(self, last: str) -> None:
        """Let all parts have their turn, one of them last: it writes what it has read before the others."""
        self.look(last)
        for each in self.used:
            if each != last:
                self.turn(each)
        self.write(last)
        self.spend(last)

    def finish(self, part: str) -> None:
        """Let a part rest: it holds what it has spent, and needs nothing more."""
        used = self.used[part]
        self.shares = BudgetShares(parts={**self.shares.parts, part: BudgetShare.at_rest(used)})
        self.number += 1
        self.die(part)


ACTS: dict[str, Callable[[World, str], None]] = {
    "look": World.look, "write": World.write, "spend": World.spend, "release": World.release, "die": World.die,
    "finish": World.finish, "change": World.change, "settle": World.settle, "turn": World.turn, "turns": World.turns,
}  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(ACTS)), st.integers(0, PARTS - 1)), min_size=20, max_size=120))
def test_all_parts_together_never_spend_more_than_the_budget(acts: list[tuple[str, int]]) -> None:
    """Whatever the order of reading, writing, spending, dying and resting."""
    world = World()
    for act, number in acts:
        ACTS[act](world, f"p{number}")
        assert sum(world.used.values()) <= LIMIT, (act, number)
        assert sum(share.held for share in world.shares.parts.values()) <= LIMIT


def test_nothing_of_the_budget_is_left_to_nobody() -> None:
    """Parts in need use all of it but less than one start; what a resting part has not spent, others get."""
    world = World()
    for _ in range(9):
        for part in world.used:
            world.turn(part)
    assert LIMIT - sum(world.used.values()) < COST
    world = World()
    for _ in range(3):
        world.turn("p0")
        world.turn("p1")
    for part, used in {"p0": COST + 3, "p1": 2 * COST + 5}.items():  # their Runs were cheaper than they could be
        world.used[part] = used
        world.finish(part)
    for _ in range(9):
        world.turn("p2")
        world.turn("p3")
        world.release("p2")
    for _ in range(9):
        world.turn("p2")
        world.turn("p3")
    assert LIMIT - sum(world.used.values()) < COST
    assert world.shares.gone("p2") >= 3 * COST + 8


def test_two_parts_that_have_half_a_start_each_make_one_of_them() -> None:
    """Each would wait for the other one for ever, while others rest with what they have spent."""
    world = World(used={"p0": 30, "p1": 20, "p2": 22, "p3": 21})
    for part in ("p0", "p1"):
        world.finish(part)
    need = Need(amount=LIMIT, lump=COST, is_short=True, gone=21)
    held = {part: BudgetShare(held=25, spent=world.used[part], need=need) for part in ("p2", "p3")}
    world.shares = BudgetShares(parts={**world.shares.parts, **held})
    for _ in range(4):
        world.turn("p2")
        world.turn("p3")
    assert sum(world.used.values()) == LIMIT

"""Workers of a fleet that read and write one page, in any order, while some of them die or sleep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.errors import LedgerError, LogUnreachable
from batchrun.worker.fleet import own_member, shared_page
from batchrun.worker.fleet.fleet_limits import WHOLE_RATE, Need, Resource, next_amount, targets
from batchrun.worker.fleet.fleet_members import Carried, Member, Page
from batchrun.worker.fleet.own_member import OwnMember, Use
from batchrun.worker.fleet.shared_page import PageDamaged, SharedPage
from tests.support.page_log import PageLog

LIMIT, LEASE_S, MB = 7, 2.0, 3
#: An entry of the page's log that none of them has written.
NO_PAGE = b"no page"


@dataclass
class World:
    """Batches and their live Runs, as the platform sees them, and the process that each batch's log obeys."""

    now: float = 0.0
    store: PageLog = field(default_factory=PageLog)
    live: dict[str, int] = field(default_factory=lambda: dict.fromkeys("abcde", 0))
    opened_by: dict[str, "Process | None"] = field(default_factory=lambda: dict.fromkeys("abcde"))
    count: int = 0

    def end_some(self) -> None:
        """End some Runs of the largest batch."""
        batch = max(self.live, key=lambda each: self.live[each])
        self.live[batch] = max(0, self.live[batch] - 3)

    def sleep(self) -> None:
        """Let time pass in which nobody does anything."""
        self.now += 1.1


class Process:
    """A worker that follows the page; how it uses its share is decided from outside."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.page = SharedPage(world.store)
        #: Whether it could use more than it holds; None: as long as it has batches.
        self.is_hungry: bool | None = None
        #: Batches that it cannot open.
        self.refused: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """Become a member under a new id."""
        self.world.count += 1
        self.member = OwnMember(f"m{self.world.count}", Member(name="", address="", lease_s=LEASE_S))
        self.allowed: dict[Resource, int] = {}
        self.proposal: tuple[int, Page, Page] | None = None

    @property
    def opened(self) -> list[str]:
        """The batches that this process has open, as the logs have it."""
        return [batch for batch, process in self.world.opened_by.items() if process is self]

    @property
    def used(self) -> int:
        """Its live Runs."""
        return sum(self.world.live[batch] for batch in self.opened)

    def look(self, *, waits: bool = True) -> None:
        """Read the page, obey it, and prepare the next one."""
        self.proposal = None
        with pytest.MonkeyPatch.context() as clock:
            clock.setattr(shared_page, "boot_time", lambda: self.world.now)
            try:
                page = self.page.read()
            except (LogUnreachable, PageDamaged):
                self.member.hear_nothing(self.world.now)
                return
        if not self.member.see(page, self.world.now):
            for batch in self.opened:
                self.world.opened_by[batch] = None
            self.begin()
            self.member.see(page, self.world.now)
        self.allowed = self.member.allowed(page)
        used = {Resource.RUNS: self.used, Resource.MEMORY: self.used * MB}
        is_short = self.member.id in page.members and bool(page.members[self.member.id].batches)
        is_short = is_short if self.is_hungry is None else self.is_hungry
        needs = {
            Resource.RUNS: Need(amount=LIMIT if is_short else self.used, is_short=is_short),
            Resource.MEMORY: Need(amount=LIMIT * MB if is_short else self.used * MB, lump=MB, is_short=is_short),
            Resource.RATE: Need(amount=WHOLE_RATE if is_short else 20, lump=10, is_short=is_short),
        }
        use = Use(
            used=used,
            needs=needs,
            limits={Resource.RUNS: LIMIT, Resource.MEMORY: LIMIT * MB, Resource.RATE: WHOLE_RATE},
        )
        waiting = [batch for batch in self.world.live if waits and page.carrier(batch) is None]
        number = self.page.number + 1
        left = dict.fromkeys(self.member.aside, 0)
        after = self.member.propose(page, number, self.world.now, use, waiting=waiting, left=left, refused=self.refused)
        self.proposal = None if after is None else (number, page, after)

    def write(self) -> None:
        """Write the page that was prepared, if no other one has come meanwhile."""
        proposal, self.proposal = self.proposal, None
        if proposal is None or proposal[0] != self.page.number + 1:
            return
        try:
            if not self.page.replace(proposal[2]):
                return
        except LogUnreachable:
            return
        self.member.see(proposal[2], self.world.now)
        self.allowed = self.member.allowed(proposal[2])

    def give_away(self) -> None:
        """Close a batch, so that another process can take it."""
        for batch in self.opened[:1]:
            live = self.world.live[batch]
            self.member.set_aside(batch, {Resource.RUNS: live, Resource.MEMORY: live * MB})
            self.world.opened_by[batch] = None
        self.allowed = self.member.allowed(self.page.page)

    def open_batches(self) -> None:
        """Claim the logs of the batches that the page gives to this process."""
        mine = self.page.page.members.get(self.member.id)
        for batch in mine.batches if mine is not None and self.member.may_start_at(self.world.now) else ():
            if batch in self.member.aside:
                continue
            if batch in self.refused:
                if batch in self.member.unsettled:
                    self.member.give_back(batch)
                continue
            holder = self.world.opened_by[batch]
            if holder is None or (holder is not self and self.member.has_left(holder.member.id)):
                self.world.opened_by[batch] = self
            if self.world.opened_by[batch] is self:
                self.member.settle([batch])
        self.allowed = self.member.allowed(self.page.page)

    def start(self) -> None:
        """Start a Run, if this process thinks that it may."""
        has_room = self.used < self.allowed.get(Resource.RUNS, 0)
        has_memory = (self.used + 1) * MB <= self.allowed.get(Resource.MEMORY, 0)
        is_at_work = bool(self.opened) and self.is_hungry is not False
        if is_at_work and has_room and has_memory and self.member.may_start_at(self.world.now):
            self.world.live[self.opened[0]] += 1

    def start_all(self) -> None:
        """Start all that this process thinks it may."""
        for _ in range(LIMIT):
            self.start()


#: "others" lets all but one process have its turn, so that this one seems silent, while it only sleeps.
ACTS = [
    "others",
    "others",
    "others",
    "all",
    "give",
    "look",
    "write",
    "open",
    "start",
    "end",
    "pass",
    "die",
    "lose",
    "refuse",
    "spoil",
    "miss",
]


def act_out(act: str, who: int, processes: list[Process], world: World) -> None:
    """Do one act."""
    process = processes[who]
    others = [each for each in processes if each is not process]
    acts: dict[str, Callable[[], None]] = {
        "look": process.look,
        "write": process.write,
        "open": process.open_batches,
        "give": process.give_away,
        "start": process.start_all,
        "others": partial(turns, others, 2, world),
        "all": partial(turns, processes, 1, world),
        "end": world.end_some,
        "pass": world.sleep,
        "die": partial(processes.__setitem__, who, Process(world)),
        "refuse": partial(process.refused.symmetric_difference_update, "ab"),
        "lose": partial(setattr, world.store, "loses_answer", True),
        "spoil": partial(world.store.entries.append, NO_PAGE),
        "miss": partial(process.member.hear_nothing, world.now),
    }
    acts[act]()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 2)), min_size=20, max_size=60))
def test_all_together_never_use_more_than_the_limit(acts):
    """Whatever the order of reading, writing, starting, dying and sleeping, with lost answers and entries of others."""
    world, processes = fleet_of_three()
    for act, who in acts:
        act_out(act, who, processes, world)
        assert sum(world.live.values()) <= LIMIT, (act, who)
        newest = newest_page(world)
        assert newest.held(Resource.RUNS) <= LIMIT
        assert newest.held(Resource.MEMORY) <= LIMIT * MB
        assert newest.held(Resource.RATE) <= WHOLE_RATE


def fleet_of_three() -> tuple[World, list[Process]]:
    """Return three processes that are members before there are batches."""
    world = World()
    processes = [Process(world) for _ in range(3)]
    for process in processes:
        process.look(waits=False)
        process.write()
    return world, processes


def turns(processes: list[Process], count: int, world: World) -> None:
    """Let processes look and write in turn, and use what they may."""
    for _ in range(count):
        for process in processes:
            process.look()
            process.write()
            process.start_all()
            process.open_batches()
            process.start_all()
        world.now += 0.5


def test_a_silent_member_is_replaced_after_its_leases():
    """Its batches, and what it held, go to the member with the fewest batches; nothing is free before."""
    world, processes = fleet_of_three()
    one, two, three = processes
    turns(processes, 6, world)
    assert sum(world.live.values()) == LIMIT
    assert sorted(len(each.opened) for each in processes) == [1, 2, 2]
    page = SharedPage(world.store)
    turns([two, three], 4, world)
    assert one.member.id in page.read().members
    turns([two, three], 4, world)
    assert one.member.id not in page.read().members
    assert not one.opened
    assert sorted(len(each.opened) for each in (two, three)) == [2, 3]
    assert sum(world.live.values()) == LIMIT


def test_a_store_that_fails_now_and_then_delays_a_take_over_by_that_time_alone():
    """Every third look fails: a silence of 3 s, which is 1.5 leases, takes 4 s instead of never being over."""
    world, processes = fleet_of_three()
    one, *others = processes
    turns(processes, 6, world)
    for _ in range(2):
        turns(others, 2, world)
        world.store.is_down = True
        turns(others, 1, world)
        world.store.is_down = False
        assert one.member.id in newest_page(world).members
    turns(others, 2, world)
    assert one.member.id not in newest_page(world).members


def test_an_outage_of_the_store_is_nobodys_silence():
    """Whoever can read the page first again takes nobody's batches."""
    world, processes = fleet_of_three()
    turns(processes, 6, world)
    opened = [each.opened for each in processes]
    world.store.is_down = True
    turns(processes, 20, world)
    world.store.is_down = False
    turns(processes[:1], 1, world)
    turns(processes, 4, world)
    assert [each.opened for each in processes] == opened
    assert len(newest_page(world).members) == len(processes)


def test_a_member_that_dies_after_another_one_is_not_waited_for():
    """It has the fewest batches, so it would come first; but nothing has been heard of it for two beats."""
    world, (one, two, three) = fleet_of_three()
    turns([one, two], 6, world)
    turns([one, two, three], 1, world)
    assert (len(one.opened), len(two.opened), len(three.opened)) == (3, 2, 0)
    turns([two, three], 3, world)
    turns([two], 3, world)
    world.now += 0.3
    turns([two], 1, world)
    assert two.opened == [*world.live]


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_that_cannot_be_opened_goes_on_to_another_worker(count):
    """The Runs of a dead worker's batch count as long as no worker can open it, and then as its new owner's."""
    world, (one, two, three) = fleet_of_three()
    turns([one, two, three], 6, world)
    world.end_some()
    turns([one, two, three], 2, world)
    batch, refused = one.opened[0], set(one.opened[:count])
    live = world.live[batch]
    assert 0 < live < sum(world.live.values()) == LIMIT
    two.refused = three.refused = refused
    for _ in range(12):
        turns([two, three], 1, world)
        assert (sum(world.live.values()), newest_page(world).held(Resource.RUNS)) == (LIMIT, LIMIT)
    assert {each for each, process in world.opened_by.items() if process is one} == refused
    three.refused = set()
    turns([two, three], 3, world)
    assert all(world.opened_by[each] is three for each in refused)
    world.live[batch] = 0
    turns([two, three], 3, world)
    assert sum(world.live.values()) == LIMIT


def newest_page(world: World) -> Page:
    """Return the newest page that is one."""
    good = [entry for entry in world.store.entries if entry != NO_PAGE]
    store = PageLog()
    store.entries = good
    return SharedPage(store).read()


def test_an_entry_that_is_no_page_is_skipped_once_no_member_replaces_it():
    """Nothing is started after a lease, and nobody is taken for dead; after 1.5 leases all go on as before."""
    world, processes = fleet_of_three()
    turns(processes, 6, world)
    members, opened = set(newest_page(world).members), [each.opened for each in processes]
    world.store.entries.append(NO_PAGE)
    for _ in range(6):  # 3 s: the last look comes half a second before that
        turns(processes, 1, world)
        assert world.store.entries[-1] == NO_PAGE
    world.end_some()
    live = sum(world.live.values())
    for process in processes:
        process.start_all()
    assert sum(world.live.values()) == live < LIMIT
    turns(processes, 4, world)
    assert set(newest_page(world).members) == members
    assert [each.opened for each in processes] == opened
    assert sum(world.live.values()) == LIMIT


def test_the_member_whose_page_was_damaged_goes_on_from_it():
    """It may use more by that page, which the others cannot read: they wait for its next one."""
    world, processes = fleet_of_three()
    turns(processes, 6, world)
    writer = processes[0]
    world.now += LEASE_S / 2
    writer.look()
    writer.write()
    written = writer.page.number
    assert written == len(world.store.entries) - 1
    world.store.entries[written] = NO_PAGE
    for _ in range(3):
        turns(processes[1:], 1, world)
        assert world.store.entries[-1] == NO_PAGE
    turns([writer, *processes[1:]], 2, world)
    assert writer.page.number > written
    assert newest_page(world).members.keys() == {each.member.id for each in processes}
    assert sum(world.live.values()) == LIMIT


def test_a_page_of_a_newer_batchrun_is_not_skipped():
    """Its members know what it says: whoever skips it would use what they hold."""
    world = World()
    pages = SharedPage(world.store)
    world.store.entries.append(zstandard.compress(b'{"v": 2}'))
    for _ in range(2):
        with pytest.raises(LedgerError, match="newer batchrun"):
            pages.read()


def test_so_many_entries_in_a_row_are_skipped(monkeypatch):
    """One who comes new reads only so far back for the page that counts; those who know it go on from it."""
    monkeypatch.setattr(shared_page, "MAX_SKIPPED", 3)
    world = World()
    known = SharedPage(world.store)
    assert known.replace(Page(spent_micro_usd=7))
    world.store.entries += [NO_PAGE] * 3
    assert (known.read().spent_micro_usd, known.number) == (7, 3)
    assert SharedPage(world.store).read().spent_micro_usd == 7
    world.store.entries += [NO_PAGE] * 2
    assert known.replace(Page()) is False
    with pytest.raises(LedgerError, match="nor can the 3 before it"):
        SharedPage(world.store).read()
    assert (known.read().spent_micro_usd, known.number) == (7, 5)


def test_a_batch_that_is_given_away_takes_its_runs_along():
    """Its next owner has it with its Runs; the first one does not use their share meanwhile."""
    world, processes = fleet_of_three()
    turns(processes, 6, world)
    one = processes[0]
    batch, live = one.opened[0], world.live[one.opened[0]]
    one.give_away()
    turns(processes, 3, world)
    assert world.opened_by[batch] is not None
    assert world.live[batch] >= live
    assert sum(world.live.values()) == LIMIT


def test_no_member_writes_a_page_that_none_could_read(monkeypatch):
    """A full page takes no new member; what one of its members leaves stays with that one, as one."""
    world, processes = fleet_of_three()
    turns(processes, 6, world)
    monkeypatch.setattr(own_member, "MAX_MEMBERS", 3)
    carried = {batch for each in newest_page(world).members.values() for batch in each.batches}
    one = max(processes, key=lambda each: len(each.opened))
    while one.opened:
        one.give_away()
    world.now += LEASE_S / 2
    for process in (*processes, Process(world)):
        process.look()
        assert (process.proposal is not None) == (process in processes), "its lease goes on"
        process.write()
        assert len(newest_page(world).members) == 3
    after = one.member.leave(newest_page(world), world.now, {}, dict.fromkeys(one.member.aside, 0))
    assert len(after.members) == 3
    assert {batch for each in after.members.values() for batch in each.batches} == carried


def test_an_idle_share_moves_to_the_one_that_is_short():
    """A worker without a need gives up what it does not use, and keeps what it uses."""
    needs = {"a": Need(amount=2), "b": Need(amount=9, is_short=True), "c": Need(amount=0)}
    assert targets(10, needs, {"a": 5, "b": 5}) == {"a": 2, "b": 8, "c": 0}
    assert next_amount(limit=10, held=5, held_by_others=5, target=2, used=3) == 3
    assert next_amount(limit=10, held=5, held_by_others=3, target=8, used=5) == 7


@pytest.mark.parametrize("used", [0, 2])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_an_idle_share_moves_within_two_looks(order, used):
    """Whoever looks first, the one that is short has all that the others do not use: a look comes every 0.4 s."""
    world, processes = fleet_of_three()
    one, two, three = (processes[n] for n in order)
    one.is_hungry, two.is_hungry, three.is_hungry = True, False, False
    world.opened_by["a"] = one
    look_and_start(processes, 5)
    assert world.live["a"] == LIMIT
    one.is_hungry, two.is_hungry = False, True
    world.live["a"], world.opened_by["b"] = used, two
    look_and_start(processes, 2)
    assert (world.live["a"], world.live["b"]) == (used, LIMIT - used)


def look_and_start(processes: list[Process], times: int) -> None:
    """Let processes look in turn, write, and use what they may."""
    for _ in range(times):
        for process in processes:
            process.look(waits=False)
            process.write()
            process.start_all()
        processes[0].world.now += 0.4


def test_what_is_divided_fits_the_runs():
    """Memory goes out in pieces that a Run can use, and to each in turn."""
    needs = {each: Need(amount=9000, lump=4096, is_short=True) for each in "abc"}
    assert targets(8192, needs, {}) == {"a": 4096, "b": 4096, "c": 0}
    assert targets(8192, needs, {"a": 4096, "b": 4096}) == {"a": 4096, "b": 0, "c": 4096}


def test_money_that_is_gone_leaves_room_for_whole_starts():
    """What a worker has spent is added to what its next starts reserve: otherwise it could pay for one fewer."""
    needs = {each: Need(amount=900, lump=40, is_short=True, gone=gone) for each, gone in (("a", 3), ("b", 0))}
    assert targets(165, needs, {"a": 80, "b": 80}) == {"a": 83, "b": 80}
    assert targets(2, needs, {}) == {"a": 2, "b": 0}


MONEY_LIMIT = 1000


class Payer:
    """A worker that only spends: what it may is decided by the page."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.page = world, SharedPage(world.store)
        self.member = OwnMember(name, Member(name="", address="", lease_s=LEASE_S))
        #: What it has counted as spent, of batches that it has opened.
        self.spent: dict[str, int] = {}

    def turn(self, rested: Mapping[str, int] = {}, over: Mapping[str, int] = {}, *, is_short: bool = False) -> None:
        """Read the page, take what has rested, and leave what is over; ask for all if it is short."""
        self.world.now += 0.1
        page = self.page.read()
        self.member.see(page, self.world.now)
        self.member.count_money(self.spent)
        used = sum(self.spent.values())
        need = Need(amount=MONEY_LIMIT if is_short else used, is_short=is_short, gone=used)
        use = Use(used={Resource.MONEY: used}, needs={Resource.MONEY: need}, limits={Resource.MONEY: MONEY_LIMIT})
        number = self.page.number + 1
        after = self.member.propose(
            page, number, self.world.now, use, waiting=[*rested], rested=rested, over=over, is_urgent=True
        )
        assert after is not None
        assert self.page.replace(after)
        self.member.see(after, self.world.now)
        for each in over:
            self.spent.pop(each, None)

    @property
    def allowed(self) -> int:
        """What it may have spent now."""
        return self.member.allowed(self.page.page)[Resource.MONEY]

    @property
    def held(self) -> int:
        """What it holds."""
        return self.page.page.members[self.member.id].held.get(Resource.MONEY, 0)


def _payers() -> tuple[World, Payer, Payer]:
    """Return two members of which the second is short; much is spent for good."""
    world = World()
    one, two = Payer(world, "one"), Payer(world, "two")
    assert SharedPage(world.store).replace(Page(spent_micro_usd=600))
    one.turn()
    two.turn(is_short=True)
    return world, one, two


def test_a_batch_that_is_taken_from_rest_brings_back_what_it_had_spent():
    """Its money counts once, as spent for good or as held by its worker, also while another worker is short."""
    world, one, two = _payers()
    one.turn(rested={"a": 500})
    page = newest_page(world)
    assert (page.spent_micro_usd, one.held, one.allowed) == (100, 500, 0)
    for _ in range(3):
        two.turn(is_short=True)
        one.turn()
    assert (newest_page(world).spent_micro_usd, one.held, two.held) == (100, 500, 400)
    one.spent["a"] = 500  # it is opened
    for _ in range(2):
        one.turn()
        two.turn(is_short=True)
    assert (one.allowed, one.held, two.held) == (500, 500, 400)
    one.turn(over={"a": 500})
    assert (newest_page(world).spent_micro_usd, one.held, two.held) == (600, 0, 400)


def test_a_batch_at_rest_that_only_obeys_an_order_costs_nothing_more():
    """It is taken and left without being opened; so is one that its next worker inherits meanwhile."""
    world, one, two = _payers()
    for _ in range(3):
        one.turn(rested={"a": 500})
        two.turn(is_short=True)
        one.turn(over={"a": 500})
        assert (newest_page(world).spent_micro_usd, one.held) == (600, 0)
    one.turn(rested={"a": 500})
    for _ in range(40):
        two.turn(is_short=True)
    assert newest_page(world).members["two"].batches["a"].spent_before == 500
    two.turn(over={"a": 500}, is_short=True)
    assert (newest_page(world).spent_micro_usd, two.held) == (600, 400)


def test_the_newest_page_is_found_among_many():
    """From nothing, and from any page before it."""
    world = World()
    writer, reader, late = SharedPage(world.store), SharedPage(world.store), SharedPage(world.store)
    for n in range(40):
        assert writer.replace(Page(spent_micro_usd=n))
        if n % 7 == 0:
            assert reader.read().spent_micro_usd == n
    assert (late.read().spent_micro_usd, late.number) == (39, 39)
    assert not reader.replace(Page(spent_micro_usd=99))


class _FarPages(PageLog):
    """A log in which somebody has put copies of its only page far behind it, where a look for the newest one is led."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = {2**power - 2: zstandard.compress(b'{"spent_micro_usd": 1}') for power in range(1, 60)}

    def append(self, number: int, entry: bytes) -> bool:
        """Append an entry, whatever is before it."""
        return self.pages.setdefault(number, entry) is entry

    def read(self, number: int) -> bytes | None:
        """Return an entry."""
        return self.pages.get(number)


def test_pages_far_behind_the_newest_lead_to_no_number_that_a_page_cannot_hold():
    """A member that goes on from there can still take batches."""
    page = SharedPage(_FarPages())
    assert page.read().spent_micro_usd == 1
    member = Member(name="", address="", lease_s=LEASE_S, batches={"a": Carried(taken_at=page.number + 1)})
    assert page.replace(Page(members={"m": member}))

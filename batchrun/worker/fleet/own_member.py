"""A worker's end of the page: what it may use, and what it writes next. It knows neither the store nor the batches.

A member that replaces another one takes over all that it had, its batches and what it held, in one change of the page:
its live Runs count against what it held until the new owner has found them.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from batchrun.runtime.steady_time import boot_time
from batchrun.worker.fleet.fleet_limits import Amounts, Need, Resource, next_amount, targets
from batchrun.worker.fleet.fleet_members import MAX_MEMBERS, Carried, Member, Page
from batchrun.worker.fleet.takeover import BEAT_PART, Takeover
from batchrun.worker.submission import BatchCounts

#: New counts are written this many seconds after the last change of the page, if nothing else is.
COUNTS_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a worker uses and needs now. It must have applied `OwnMember.allowed` before."""

    used: Amounts
    needs: Mapping[Resource, Need]
    #: The account's limits, as this worker knows them.
    limits: Amounts
    #: Of the batches that it has open.
    counts: Mapping[str, BatchCounts] = field(default_factory=dict)


class OwnMember:
    """One process on the page, under an id that no other process has. Times are those of `boot_time`.

    Args:
        member_id: of this process.
        blank: what the page says of it at first.
        predecessor: id of the process that had the same directory before; it is dead.
    """

    def __init__(self, member_id: str, blank: Member, predecessor: str = "") -> None:
        self._id = member_id
        self._blank = blank
        self._succession = Takeover(member_id, predecessor)
        #: What inherited members held, and those of their batches whose live Runs are not known yet.
        self._unsettled: dict[str, tuple[Amounts, set[str]]] = {}
        #: Those of them that this member could not open, and leaves to the others.
        self._given_back: set[str] = set()
        #: What batches use that this member has closed, and is about to leave to the others.
        self._aside: dict[str, Amounts] = {}
        #: What batches had spent before this member has taken them from rest, as long as it is not counted as used.
        self._spent_before: dict[str, int] = {}
        #: Batches of which all that they have spent counts as used.
        self._counted: set[str] = set()
        self._sent: tuple[int, float] = (-1, float("-inf"))
        #: The page that this member wants to replace, and by which; the answer of the store may be lost.
        self._proposed: tuple[Page, Page] | None = None
        self._confirmed_at = float("-inf")
        self._beat = 0
        self._is_on_page = False

    def introduce(self, address: str) -> None:
        """Note the address that the page is to show."""
        self._blank = self._blank.model_copy(update={"address": address})

    @property
    def id(self) -> str:
        return self._id

    @property
    def lease_s(self) -> float:
        return self._blank.lease_s

    def may_start(self) -> bool:
        return self.may_start_at(boot_time())

    def may_start_at(self, now: float) -> bool:
        """Return True if the others surely count this process as a member at that time."""
        return self._is_on_page and now - self._confirmed_at < self.lease_s

    def has_left(self, member_id: str) -> bool:
        return self._succession.is_gone(member_id)

    def see(self, page: Page, now: float) -> bool:
        """Take in the newest page; return False if this process has been replaced: it carries out nothing any more."""
        self._succession.see(page, now)
        mine = page.members.get(self._id)
        if mine is None:
            was_on_page, self._is_on_page = self._is_on_page, False
            return not was_on_page
        self._is_on_page = True
        self._aside = {each: amounts for each, amounts in self._aside.items() if each in mine.batches}
        self._spent_before = {each: carried.spent_before for each, carried in mine.batches.items()}
        self._beat = mine.beat
        if mine.beat == self._sent[0]:
            self._confirmed_at = self._sent[1]
            if self._proposed is not None:
                self._take_over(*self._proposed)
                self._proposed = None
        return True

    def hear_nothing(self, now: float) -> None:
        """Count the time since the last look as nobody's silence: the page could not be read, and nobody heard."""
        self._succession.hear_nothing(now)

    def _take_over(self, before: Page, after: Page) -> None:
        """Note what this member has inherited by a page that it has written."""
        for each in before.members.keys() - after.members.keys():
            member = before.members[each]
            if member.batches:
                self._unsettled[each] = (member.held, set(member.batches))
        for each, (held, batches) in list(self._unsettled.items()):
            self._unsettled[each] = (held, batches & after.members[self._id].batches.keys())
        self._given_back &= after.members[self._id].batches.keys()
        self.settle(())

    @property
    def unsettled(self) -> set[str]:
        """Batches of which it is not known yet how many of their Runs are live."""
        return {batch for _, batches in self._unsettled.values() for batch in batches}

    def settle(self, batches: Collection[str]) -> None:
        """Note that the live Runs of batches count as used from now on."""
        for each, (_, left) in list(self._unsettled.items()):
            left.difference_update(batches)
            if not left:
                del self._unsettled[each]

    def count_money(self, batches: Collection[str]) -> None:
        """Note of which batches all that they have spent counts as used."""
        self._counted = set(batches)

    def give_back(self, batch: str) -> None:
        """Leave a batch to the others whose live Runs are not known: they go on to count against what is held."""
        self._given_back.add(batch)

    def set_aside(self, batch: str, uses: Amounts) -> None:
        """Use what a batch uses for nothing else, from now on: it is about to be closed, and left to the others.

        Args:
            batch: that starts nothing more.
            uses: its live Runs and their memory.
        """
        self._aside[batch] = uses

    @property
    def aside(self) -> set[str]:
        """Batches that are set aside, until others can take them."""
        return set(self._aside)

    def allowed(self, page: Page) -> dict[Resource, int]:
        """Return what this worker may use of each limited resource."""
        mine = page.members.get(self._id, self._blank)
        allowed = {}
        for resource in Resource:
            if page.limit(resource) is not None:
                most = min(mine.held.get(resource, 0), self._target(page, resource))
                allowed[resource] = max(0, most - self._unsettled_of(resource))
        return allowed

    def _target(self, page: Page, resource: Resource) -> int:
        limit = page.limit(resource)
        assert limit is not None, "only what is limited is divided"
        is_within = page.held(resource) <= limit
        if resource is Resource.MONEY:
            limit = max(0, limit - page.spent_micro_usd)
        needs = {each: member.needs.get(resource, Need()) for each, member in page.members.items()}
        if is_within and not any(need.is_short for each, need in needs.items() if each != self._id):
            needs[self._id] = self._whole(page, resource, needs.get(self._id, Need()))
        held = {each: member.held.get(resource, 0) for each, member in page.members.items()}
        return targets(limit, needs, held).get(self._id, 0)

    def _whole(self, page: Page, resource: Resource, need: Need) -> Need:
        """Return a need that includes all that this worker holds: nobody else is short of it."""
        held = page.members[self._id].held.get(resource, 0) if self._id in page.members else 0
        return need.model_copy(update={"amount": max(need.amount, held)})

    def _unsettled_of(self, resource: Resource) -> int:
        if resource is Resource.RATE:
            return 0  # a member that is gone sends nothing
        aside = sum(uses.get(resource, 0) for uses in self._aside.values())
        if resource is Resource.MONEY:
            aside += sum(spent for each, spent in self._spent_before.items() if each not in self._counted)
        return aside + sum(held.get(resource, 0) for held, _ in self._unsettled.values())

    def propose(
        self,
        page: Page,
        number: int,
        now: float,
        use: Use,
        *,
        waiting: Sequence[str] = (),
        rested: Mapping[str, int] = {},
        wanted: Collection[str] = (),
        over: Mapping[str, int] = {},
        left: Mapping[str, int] = {},
        refused: Collection[str] = (),
        max_batches: int = 1_000_000,
        is_urgent: bool = False,
    ) -> Page | None:
        """Return the page that this worker wants to write next; None: nothing is to be changed yet.

        Args:
            page: that was read last, and its number.
            number: of the new page.
            now: the time.
            use: of this worker.
            waiting: batches that wait for an owner, the oldest first.
            rested: what some of them have spent before, in millionths of a US dollar; it counts as spent for good.
            wanted: batches among them that this worker takes in any case.
            over: batches of this worker that are over or rest, and what they have cost, in millionths of a US dollar.
            left: batches that are set aside and closed, and what they have spent and reserved, likewise.
            refused: batches that this worker could not open a while ago: another one is to take them.
            max_batches: this worker takes none beyond this number.
            is_urgent: True if others wait for the counts of this worker's batches.
        """
        before = page.members.get(self._id, self._blank)
        members = {each: member for each, member in page.members.items() if each != self._id}
        batches = {
            each: carried.model_copy(update={"counts": use.counts.get(each, carried.counts)})
            for each, carried in before.batches.items()
        }
        held, inherited = Counter(before.held), Counter[Resource]()
        for each in self._succession.heritage(page, now, refused):
            member = members.pop(each)
            batches |= {
                batch: carried.model_copy(update={"taken_at": number}) for batch, carried in member.batches.items()
            }
            held.update(member.held)
            inherited.update(member.held if member.batches else {})
        spent = page.spent_micro_usd
        for each, cost in over.items():
            if batches.pop(each, None) is not None:
                held[Resource.MONEY] = max(0, held[Resource.MONEY] - cost)
                spent += cost
        for each in sorted(left.keys() & batches.keys())[: _room(members)]:  # the others are left later
            members[f"{self._id}.{each}"], holds = self._estate(before, each, left[each])
            del batches[each]
            held = +(held - Counter(holds))
            inherited.subtract(holds)
        for each, (spare, given_back) in list(self._to_give_back(held, use.used).items())[: _room(members)]:
            estate = {batch: batches.pop(batch) for batch in given_back & batches.keys()}
            members[f"{self._id}.{number}.{each[:16]}"] = self._left_by(before, estate, spare)
            held = +(held - Counter(spare))
        for each in self._succession.takes(page, now, waiting, wanted, len(batches), max_batches):
            back = min(spent, rested.get(each, 0))
            batches[each] = Carried(taken_at=number, spent_before=back)
            held[Resource.MONEY] += back  # it will count as used here
            inherited[Resource.MONEY] += back
            spent -= back
        mine = before.model_copy(
            update={"held": held, "needs": use.needs, "limits": dict(use.limits), "batches": batches}
        )
        after = page.model_copy(update={"members": {**members, self._id: mine}, "spent_micro_usd": spent})
        gone = sum(
            cost if each in self._counted else self._spent_before.get(each, 0)
            for each, cost in over.items()
            if each in before.batches
        )
        next_held = {}
        for resource in Resource:
            used = use.used.get(resource, 0) - (gone if resource is Resource.MONEY else 0)
            used += self._unsettled_of(resource) + (inherited[resource] if resource is not Resource.RATE else 0)
            if (amount := self._next_held(after, resource, held[resource], max(0, used))) > 0:
                next_held[resource] = amount
        silent_s = now - self._sent[1]
        is_due = silent_s >= self.lease_s * BEAT_PART or (silent_s >= COUNTS_S and batches != before.batches)
        is_news = (
            after.members.keys() != page.members.keys()
            or batches.keys() != before.batches.keys()
            or next_held != before.held
            or use.limits != before.limits
            or self._is_news_to_others(before.needs, use.needs, members)
        )
        is_full = len(after.members) > MAX_MEMBERS  # this worker is none of them yet
        if is_full or (not is_due and not is_news and not is_urgent):
            return None
        beat = max(self._beat, self._sent[0]) + 1
        self._sent = (beat, now)
        mine = mine.model_copy(update={"held": next_held, "beat": beat})
        after = after.model_copy(update={"members": {**members, self._id: mine}})
        self._proposed = (page, after)
        return after

    def _next_held(self, page: Page, resource: Resource, held: int, used: int) -> int:
        limit = page.limit(resource)
        if limit is None:
            return used
        others = page.held(resource) - page.members[self._id].held.get(resource, 0)
        target = self._target(page, resource)
        return next_amount(limit=limit, held=held, held_by_others=others, target=target, used=used)

    def _is_news_to_others(
        self, before: Mapping[Resource, Need], now: Mapping[Resource, Need], others: Mapping[str, Member]
    ) -> bool:
        """True if this worker has become short of something, or is not any more and another one is."""
        for resource, need in now.items():
            was_short = resource in before and before[resource].is_short
            if need.is_short and (not was_short or before[resource].lump != need.lump):
                return True
            if was_short and not need.is_short:
                is_other_short = (each.needs.get(resource, Need()).is_short for each in others.values())
                if any(is_other_short):
                    return True
        return False

    def _estate(self, mine: Member, batch: str, money: int) -> tuple[Member, Amounts]:
        """Return a batch that is set aside as a member of its own that has left, and what it holds."""
        holds = {**self._aside[batch], Resource.MONEY: money}
        holds = {resource: amount for resource, amount in holds.items() if amount}
        return self._left_by(mine, {batch: mine.batches[batch]}, holds), holds

    def _left_by(self, mine: Member, batches: Mapping[str, Carried], holds: Amounts) -> Member:
        """Return batches that this member leaves to the others, with what they hold, as a member that has left."""
        return mine.model_copy(update={"has_left": True, "held": holds, "needs": {}, "batches": batches})

    def _to_give_back(self, held: Amounts, used: Amounts) -> dict[str, tuple[Amounts, set[str]]]:
        """Return batches that are given back, by the member they are inherited from, and what their Runs may use.

        That is what it held, less what its other batches use by now: they must be open.
        """
        found: dict[str, tuple[Amounts, set[str]]] = {}
        for each, (inherited, batches) in self._unsettled.items():
            if batches <= self._given_back:
                spare = {
                    resource: min(
                        amount, held[resource] - used.get(resource, 0) - self._unsettled_of(resource) + amount
                    )
                    for resource, amount in inherited.items()
                    if resource is not Resource.RATE
                }
                found[each] = ({resource: amount for resource, amount in spare.items() if amount > 0}, batches)
        return found

    def leave(self, page: Page, now: float, over: Mapping[str, int], left: Mapping[str, int]) -> Page:
        """Return the page on which this worker has left its batches to the others.

        Args:
            page: that was read last.
            now: the time.
            over: batches of this worker that are over or rest, and what they have cost, in millionths of a US dollar.
            left: batches that are set aside and closed, and what they have spent and reserved, likewise.
        """
        mine = page.members[self._id]
        members = {each: member for each, member in page.members.items() if each != self._id}
        open_batches = mine.batches.keys() - over
        is_room = len(open_batches) <= _room(members)
        if open_batches <= self._aside.keys() and is_room:  # each for itself, so that several members can take them
            spent = page.spent_micro_usd + sum(over.values())
            members |= {f"{self._id}.{each}": self._estate(mine, each, left[each])[0] for each in open_batches}
            return page.model_copy(update={"members": members, "spent_micro_usd": spent})
        beat = max(self._beat, self._sent[0]) + 1
        self._sent, self._proposed = (beat, now), None
        whole = mine.model_copy(update={"has_left": True, "beat": beat, "needs": {}})
        return page.model_copy(update={"members": {**members, self._id: whole}})


def _room(others: Mapping[str, Member]) -> int:
    """Return how many members a page can have beside some others, and the one that writes it."""
    return max(0, MAX_MEMBERS - 1 - len(others))

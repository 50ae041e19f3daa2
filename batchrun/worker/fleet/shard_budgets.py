"""What the parts of a batch in shards have of its budget, and whether its breaker has tripped: as the page has it.

The rules are those of `fleet_limits.py`: a part never uses more than it holds. Only the worker that carries a part out
changes its share there. The share of a part that nobody carries out is the one in the list.
"""

from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from batchrun.policy.breaker import BreakerLimits
from batchrun.worker.fleet.fleet_limits import Amount, Need, next_amount, targets
from batchrun.worker.submission import SubmissionId


class PartShare(BaseModel):
    """A part's share of the budget, in millionths of a US dollar."""

    model_config = ConfigDict(frozen=True)

    held: Amount = 0
    #: Of what it holds, this is spent for good.
    spent: Amount = 0
    need: Need = Need()

    @classmethod
    def at_rest(cls, used: int) -> Self:
        """Return the share of a part that has used this much, and uses nothing more."""
        return cls(held=used, spent=used, need=Need(amount=used, gone=used))


class WholeTrip(BaseModel):
    """The breaker of a batch in shards has tripped."""

    model_config = ConfigDict(frozen=True)

    reason: Annotated[str, Field(max_length=500)]
    #: Number of the last order that had resumed the batch; 0: none. A part that a later one has resumed goes on.
    after: Amount = 0


class WholeShares(BaseModel):
    """A batch in shards, as the page has it."""

    model_config = ConfigDict(frozen=True)

    parts: dict[SubmissionId, PartShare] = {}
    trip: WholeTrip | None = None

    def others(self, part: str) -> dict[str, PartShare]:
        """Return the shares of the other parts."""
        return {each: share for each, share in self.parts.items() if each != part}

    def allowed(self, part: str, limit: int) -> int:
        """Return what a part may use of the budget."""
        return min(self.parts.get(part, PartShare()).held, self._target(part, limit))

    def gone(self, part: str) -> int:
        """Return what the other parts have spent for good."""
        return sum(share.spent for share in self.others(part).values())

    def held_next(self, part: str, limit: int, used: int) -> int:
        """Return what a part that has obeyed `allowed`, and uses this much, holds next."""
        held_by_others = sum(share.held for share in self.others(part).values())
        held = self.parts.get(part, PartShare()).held
        target = self._target(part, limit)
        return max(used, next_amount(limit=limit, held=held, held_by_others=held_by_others, target=target, used=used))

    def _target(self, part: str, limit: int) -> int:
        needs = {each: share.need for each, share in self.parts.items()}
        held = {each: share.held for each, share in self.parts.items()}
        own = needs.get(part, Need())
        if sum(held.values()) <= limit and not any(need.is_short for each, need in needs.items() if each != part):
            own = own.model_copy(update={"amount": max(own.amount, held.get(part, 0))})  # nobody else needs it
        asked = tuple((each, need, held.get(each, 0) > 0) for each, need in {**needs, part: own}.items())
        return _targets(limit, asked)[part]


@lru_cache(maxsize=16)
def _targets(limit: int, asked: tuple[tuple[str, Need, bool], ...]) -> Mapping[str, int]:
    """Return the targets of all parts, by what each of them needs, and whether it holds anything."""
    needs = {part: need for part, need, _ in asked}
    return targets(limit, needs, {part: int(holds) for part, _, holds in asked})


class WholeWindow:
    """The last jobs of a batch in shards, as a worker has seen their sums: settled ones, and those without success."""

    def __init__(self) -> None:
        self._of_parts: dict[str, tuple[int, int]] = {}
        self._sums: deque[tuple[int, int]] = deque()
        self._after = -1

    def note(self, sums: Mapping[str, tuple[int, int]], after: int, before: Mapping[str, tuple[int, int]]) -> None:
        """Note the sums of each part, since the batch was begun.

        Args:
            sums: by part; they never shrink, but those of a part that has just changed its owner may be old ones.
            after: number of the order that has resumed the batch; after another one, the window is empty.
            before: the sums when it was resumed.
        """
        if after != self._after:
            self._of_parts, self._after = dict(before), after
            self._sums = deque([self._total])
        for part, (settled, failed) in sums.items():
            known = self._of_parts.get(part, (0, 0))
            self._of_parts[part] = max(known[0], settled), max(known[1], failed)
        if self._sums[-1] != self._total:
            self._sums.append(self._total)

    @property
    def _total(self) -> tuple[int, int]:
        settled, failed = [each[0] for each in self._of_parts.values()], [each[1] for each in self._of_parts.values()]
        return sum(settled), sum(failed)

    def reason_to_trip(self, limits: BreakerLimits) -> str:
        """Return why too many of the last jobs did not succeed; empty: they are not too many.

        They are at least the `window` last ones, where that many were seen: all that came with one change of the page.
        """
        if limits.max_failed is None:
            self._sums = deque(list(self._sums)[-1:])
        if limits.max_failed is None or len(self._sums) < 2:
            return ""
        settled_now, failed_now = self._sums[-1]
        while settled_now - self._sums[1][0] >= limits.window:
            self._sums.popleft()  # the later ones are enough
        settled, failed = settled_now - self._sums[0][0], failed_now - self._sums[0][1]
        if not failed or (limits.is_fraction and settled < limits.window):
            return ""
        most = (
            limits.max_failed * settled if limits.is_fraction else limits.max_failed * max(1, settled / limits.window)
        )
        return f"{failed:,} of the last {settled:,} jobs of all shards did not succeed" if failed >= most else ""

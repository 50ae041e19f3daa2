"""How the budget of a batch in shards is divided among its parts, as the page of the fleet has it.

The rules are those of `fleet_limits.py`: a part never uses more than it holds. Only the worker that carries a part out
changes its share there. The share of a part that nobody carries out is the one in the list.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Self

from pydantic import BaseModel, ConfigDict

from batchrun.worker.fleet.fleet_limits import Amount, Need, next_amount, targets
from batchrun.worker.fleet.shard_breaker import ShardTrip
from batchrun.worker.submission import SubmissionId


class BudgetShare(BaseModel):
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


class BudgetShares(BaseModel):
    """A batch in shards, as the page has it."""

    model_config = ConfigDict(frozen=True)

    parts: dict[SubmissionId, BudgetShare] = {}
    trip: ShardTrip | None = None

    def others(self, part: str) -> dict[str, BudgetShare]:
        """Return the shares of the other parts."""
        return {each: share for each, share in self.parts.items() if each != part}

    def allowed(self, part: str, limit: int) -> int:
        """Return what a part may use of the budget."""
        return min(self.parts.get(part, BudgetShare()).held, self._target(part, limit))

    def gone(self, part: str) -> int:
        """Return what the other parts have spent for good."""
        return sum(share.spent for share in self.others(part).values())

    def held_next(self, part: str, limit: int, used: int) -> int:
        """Return what a part that has obeyed `allowed`, and uses this much, holds next."""
        held_by_others = sum(share.held for share in self.others(part).values())
        held = self.parts.get(part, BudgetShare()).held
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

"""A batch's money in the engine's hands: what a start sets aside, and what came of it."""

import math

from batchrun.model import RunOptions
from batchrun.policy.budget import Budget, ObservedCosts, Prices, most_a_run_may_cost

#: Where nothing bounds a Run's cost: so many Runs whose cost nobody tells, and none whose cost is told, are enough.
MAX_UNKNOWN = 50


class Purse:
    """Sets money aside for starts and takes it back.

    Args:
        budget: how much there is.
        prices: what Runs are charged for.
        task_options: options of the task, under those of batch and job.
        is_strict: whether nothing is started whose cost nothing bounds.
    """

    def __init__(self, budget: Budget, prices: Prices, *, task_options: RunOptions, is_strict: bool) -> None:
        self.budget = budget
        self.prices = prices
        self._task_options = task_options
        self._is_strict = is_strict
        self._observed = ObservedCosts()
        self._unknown = 0
        #: Whether there is a budget at all; without one, nothing is set aside. One that comes later is kept by opening
        #: the batch anew: what is live then gets money set aside, and prices are read.
        self.is_limited = budget.is_limited

    def quote(self, options: RunOptions) -> float | None:
        """Return what to set aside for a start; None when nothing bounds it and that is not allowed."""
        bound = most_a_run_may_cost(self.prices, options.over(self._task_options))
        if bound.usd is not None:
            return bound.usd
        if self._is_strict:
            return None
        # Nothing bounds it and nobody tells what Runs cost: a budget cannot be kept by guessing 0 for ever.
        is_blind = not self._observed.count and self._unknown >= MAX_UNKNOWN
        return math.inf if is_blind else self._observed.p95_usd()

    def give_back(self, reserved_usd: float | None) -> None:
        """Take back what was set aside for a start that started nothing."""
        if reserved_usd:
            self.budget.release(reserved_usd)

    def settle(self, reserved_usd: float, cost_usd: float | None) -> None:
        """Note what a Run cost in the end."""
        self.budget.settle(reserved_usd, cost_usd)
        if cost_usd is not None:
            self._observed.note(cost_usd)
        else:
            self._unknown += 1


def no_budget() -> Purse:
    """Return the purse of who may spend what it takes."""
    return Purse(Budget(None), Prices(), task_options=RunOptions(), is_strict=False)

"""A batch's money: what each start reserves, and what its Run cost in the end."""

import math

from batchrun.model import RunOptions
from batchrun.policy.budget import Budget, ObservedCosts, Prices, most_a_run_may_cost

#: Max Runs of unknown cost, while no cost is known and nothing bounds one; after them, nothing is started.
MAX_UNKNOWN = 50


class Purse:
    """Reserves money for starts and settles what their Runs cost.

    Args:
        budget: the batch's money.
        prices: the prices of the Actor's Runs.
        task_options: the task's own options, under those of batch and job.
        is_strict: whether Runs without a bound on their cost are not started.
    """

    def __init__(self, budget: Budget, prices: Prices, *, task_options: RunOptions, is_strict: bool) -> None:
        self.budget = budget
        self.prices = prices
        self._task_options = task_options
        self._is_strict = is_strict
        self._observed = ObservedCosts()
        self._unknown = 0
        #: Whether there is a budget; without one, starts reserve nothing. To get one later, the batch is opened again:
        #: its live Runs then reserve money, and prices are read.
        self.is_limited = budget.is_limited

    def quote(self, options: RunOptions) -> float | None:
        """Return what a start reserves, in US dollars; None if nothing bounds its cost and a bound is required."""
        bound = most_a_run_may_cost(self.prices, options.over(self._task_options))
        if bound.usd is not None:
            return bound.usd
        if self._is_strict:
            return None
        # With no bound and no known cost, the estimate stays 0, and no budget can be kept by it.
        is_blind = not self._observed.count and self._unknown >= MAX_UNKNOWN
        return math.inf if is_blind else self._observed.p95_usd()

    def give_back(self, reserved_usd: float | None) -> None:
        """Give back what was reserved for a start that started nothing."""
        if reserved_usd:
            self.budget.release(reserved_usd)

    def settle(self, reserved_usd: float, cost_usd: float | None) -> None:
        """Note what a Run cost in the end; None: unknown."""
        self.budget.settle(reserved_usd, cost_usd)
        if cost_usd is not None:
            self._observed.note(cost_usd)
        else:
            self._unknown += 1

"""Reserves in the budget what each start may cost, and settles what its Run cost in the end.

The arithmetic is below: of the budget in `policy/budget.py`, of a Run's cost in `policy/run_cost.py`.
"""

import math

from batchrun.model import Attempt, RunOptions
from batchrun.policy.budget import Budget, ExcessCosts
from batchrun.policy.run_cost import ObservedCosts, Prices, most_a_run_may_cost

#: Max Runs of unknown cost, while no cost is known and nothing bounds one; after them, nothing is started.
MAX_UNKNOWN = 50


class CostReservations:
    """Reserves money for starts and settles what their Runs cost.

    Args:
        budget: the batch's money.
        prices: the prices of the Actor's Runs.
        task_options: the task's own options, under those of batch and job.
        is_strict: whether Runs without a bound on their cost are not started.
        excess: what earlier Runs cost beyond their bounds, and the Runs of earlier processes whose cost is not final.
        observed: what earlier Runs cost.
        is_priced: False if the prices were read without a budget in mind. One that all batches get while this one is
            being opened is none to it yet: it would refuse its jobs as unbounded.
    """

    def __init__(
        self,
        budget: Budget,
        prices: Prices,
        *,
        task_options: RunOptions,
        is_strict: bool,
        excess: ExcessCosts | None = None,
        observed: ObservedCosts | None = None,
        is_priced: bool = True,
    ) -> None:
        self.budget = budget
        self.prices = prices
        self._task_options = task_options
        self._is_strict = is_strict
        self._observed = observed or ObservedCosts()
        self._unknown = 0
        #: Whether there is a budget; without one, starts reserve nothing. To get one later, the batch is opened again:
        #: its live Runs then reserve money, and prices are read.
        self.is_limited = is_priced and budget.is_limited
        #: None: what starts reserve is all that their Runs can cost, or an estimate of it.
        self.excess = (excess or ExcessCosts()) if is_strict and self.is_limited and prices.is_open_ended else None
        self._expect()

    def quote(self, options: RunOptions) -> float | None:
        """Return what a start reserves, in US dollars; None if nothing bounds its cost and a bound is required."""
        bound = most_a_run_may_cost(self.prices, options.over(self._task_options))
        if self._is_strict:
            return bound.usd
        if bound.usd is not None:
            return max(bound.usd, self._observed.p95_usd())
        # With no bound and no known cost, the estimate stays 0, and no budget can be kept by it.
        is_blind = not self._observed.count and self._unknown >= MAX_UNKNOWN
        return math.inf if is_blind else self._observed.p95_usd()

    def with_excess(self, usd: float) -> float:
        """Return a reservation and what is expected beyond it."""
        return usd + (self.excess.most_usd if self.excess is not None else 0.0)

    def has(self, usd: float) -> bool:
        """True if a start with this reservation can be paid for now."""
        is_open = self.excess is None or self.excess.open_runs < self.excess.max_open_runs
        return is_open and self.budget.has(self.with_excess(usd))

    def can_ever_have(self, usd: float) -> bool:
        """True if it could be paid for once all costs are final."""
        return self.budget.can_ever_have(self.with_excess(usd))

    def reserve(self, usd: float) -> None:
        """Reserve money for a start."""
        self.budget.reserve(usd)
        self._count_open(1)

    def give_back(self, reserved_usd: float | None) -> None:
        """Give back what was reserved for a start that started nothing."""
        if reserved_usd is not None:
            self._count_open(-1)
            self.budget.release(reserved_usd)

    def note_so_far(self, attempt: Attempt, cost_usd: float | None) -> None:
        """Learn from what a Run has cost so far."""
        if self.excess is None or cost_usd is None or attempt.reserved_usd is None:
            return
        excess_usd = cost_usd - attempt.reserved_usd
        if excess_usd > self.excess.most_usd:
            self.excess.most_usd = excess_usd
            self._expect()
            self.budget.notify()  # the next start may never be paid for

    def settle(self, reserved_usd: float, cost_usd: float | None) -> None:
        """Note what a Run cost in the end; None: unknown."""
        if cost_usd is None:
            self._unknown += 1
        else:
            self._observed.note(cost_usd)
            if self.excess is not None:
                self.excess.known += 1
                self.excess.most_usd = max(self.excess.most_usd, cost_usd - reserved_usd)
        self._count_open(-1)
        self.budget.settle(reserved_usd, cost_usd)

    def pay(self, cost_usd: float | None) -> None:
        """Note what a Run cost for which no start reserved money."""
        self.budget.settle(0.0, cost_usd)

    def _count_open(self, change: int) -> None:
        if self.excess is not None:
            self.excess.open_runs += change
            self._expect()

    def _expect(self) -> None:
        if self.excess is not None:
            self.budget.expect(self.excess.expected_usd)

"""How much may still be spent: money is reserved before a start, and given back when the Run's cost is final.

A reservation is the most that a Run may cost. So all reservations and all final costs together never exceed the budget.
A Run whose cost stays unknown keeps its reservation: null is never 0.

No option limits what a Run uses of storages and transfer. What Runs are expected to use of them counts besides; see
`ExcessCosts`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from batchrun.model import RunOptions

#: US dollars by which a sum may exceed a budget: sums of many small amounts are a little off.
_ROUNDING_USD = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The prices of an Actor's Runs, in US dollars."""

    #: The API's pricingModel; None for an Actor without one, whose users pay for platform usage alone.
    model: str | None = None
    #: Pay-per-result: for each stored item.
    per_item_usd: float | None = None
    #: Pay-per-event: the lowest cap that a Run may be given.
    least_cap_usd: float | None = None
    #: True if we pay for platform usage besides the Actor's charges, as its owner does.
    pays_usage: bool = False
    #: Of a compute unit, 1 GB for 1 hour; None if the account does not report it.
    compute_unit_usd: float | None = None

    @property
    def is_open_ended(self) -> bool:
        """True if we pay for storages and transfer, which no option of a Run limits."""
        return self.pays_usage or self.model not in ("PAY_PER_EVENT", "PRICE_PER_DATASET_ITEM")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBound:
    """The most that a Run may cost."""

    #: None: there is no bound.
    usd: float | None
    #: The keys that bound it, or that would.
    reason: str


def most_a_run_may_cost(prices: Prices, options: RunOptions) -> CostBound:
    """Return the most that a Run may cost with these options, the task's included."""
    match prices.model:
        case "PAY_PER_EVENT":
            capped = CostBound(usd=options.max_total_charge_usd, reason="run.max_total_charge_usd")
            return _with_usage(prices, options, capped)
        case "PRICE_PER_DATASET_ITEM":
            return _with_usage(prices, options, _most_items(prices, options))
        case _:
            return _most_compute(prices, options)


def _most_items(prices: Prices, options: RunOptions) -> CostBound:
    if options.max_items is None or prices.per_item_usd is None:
        return CostBound(usd=None, reason="run.max_items")
    return CostBound(usd=options.max_items * prices.per_item_usd, reason="run.max_items")


def _with_usage(prices: Prices, options: RunOptions, charges: CostBound) -> CostBound:
    """Add the platform usage to the Actor's charges, if we pay for both."""
    if charges.usd is None or not prices.pays_usage:
        return charges
    compute = _most_compute(prices, options)
    if compute.usd is None:
        return compute
    return CostBound(usd=charges.usd + compute.usd, reason=f"{charges.reason}, {compute.reason}")


def _most_compute(prices: Prices, options: RunOptions) -> CostBound:
    if prices.compute_unit_usd is None:
        return CostBound(usd=None, reason="limits.compute_unit_usd")
    if not options.timeout_s:
        return CostBound(usd=None, reason="run.timeout_s")
    if options.memory_mb is None:
        return CostBound(usd=None, reason="run.memory_mb")
    units = options.memory_mb / 1024 * options.timeout_s / 3600
    return CostBound(usd=units * prices.compute_unit_usd, reason="run.memory_mb and run.timeout_s")


@dataclass(slots=True)
class ObservedCosts:
    """What Runs have cost so far: the estimate for Runs without a bound."""

    #: Number of costs by the power of 2^(1/4) just above them: a small histogram for any number of Runs.
    _counts: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def note(self, cost_usd: float) -> None:
        """Note a final cost."""
        step = math.ceil(4 * math.log2(max(cost_usd, 1e-9)))
        self._counts[step] = self._counts.get(step, 0) + 1
        self.count += 1

    def p95_usd(self) -> float:
        """Return the 95th percentile of the costs, at most a fifth too high; 0 before any cost is known."""
        left = math.ceil(0.95 * self.count)
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return float(2.0 ** (step / 4))
        return 0.0


@dataclass(slots=True)
class ExcessCosts:
    """What Runs have cost beyond the most that their options allow: their use of storages and transfer.

    Each open Run, one whose cost is not final, is expected to use as much as the one that used most. The fewer costs
    are known, the fewer Runs may be open: of k known costs and n open Runs, n/(k + 1) cost more than the highest of
    the k on average, whatever the costs are, if the jobs come in no order.
    """

    #: Open Runs that are allowed before any cost is known, and in addition for each known cost.
    OPEN_BEFORE_ANY: ClassVar[int] = 3
    OPEN_PER_KNOWN: ClassVar[int] = 3

    #: Number of known costs.
    known: int = 0
    #: Of a single Run, in US dollars.
    most_usd: float = 0.0
    open_runs: int = 0

    @property
    def expected_usd(self) -> float:
        """The excess of all open Runs together."""
        return max(0, self.open_runs) * self.most_usd

    @property
    def max_open_runs(self) -> int:
        """How many Runs may be open."""
        return self.OPEN_BEFORE_ANY + self.OPEN_PER_KNOWN * self.known


class Budget:
    """A batch's money: its limit, final costs, and the reservations of Runs whose cost is not final.

    `shared` is a budget of several batches, which must cover each reservation too. It counts the two amounts already.
    """

    def __init__(
        self,
        limit_usd: float | None,
        *,
        spent_usd: float = 0.0,
        reserved_usd: float = 0.0,
        shared: "Budget | None" = None,
    ) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.reserved_usd = reserved_usd
        #: What Runs whose cost is not final are expected to cost beyond their reservations.
        self.expected_usd = 0.0
        self._shared = shared
        self._listeners: list[Callable[[], None]] = []
        if shared is not None:
            shared.subscribe(self.notify)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever money has become free, here or in the shared budget."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Call the listener no more."""
        self._listeners.remove(listener)

    def notify(self) -> None:
        """Call all listeners: money has become free."""
        for listener in self._listeners:
            listener()

    @property
    def is_limited(self) -> bool:
        """True if there is a limit, here or in the shared budget."""
        return self.limit_usd is not None or (self._shared is not None and self._shared.is_limited)

    def has(self, usd: float) -> bool:
        """True if this amount is free now."""
        if self._shared is not None and not self._shared.has(usd):
            return False
        return self._fits(self.spent_usd + self.reserved_usd + self.expected_usd + usd)

    def can_ever_have(self, usd: float) -> bool:
        """True if this amount would be free once all reservations were given back."""
        if self._shared is not None and not self._shared.can_ever_have(usd):
            return False
        return self._fits(self.spent_usd + usd)

    def expect(self, usd: float) -> None:
        """Replace what is expected beyond the reservations."""
        added_usd = usd - self.expected_usd
        self.expected_usd = usd
        if self._shared is not None:
            self._shared.expect(self._shared.expected_usd + added_usd)
        if added_usd < 0:
            self.notify()

    def reserve(self, usd: float) -> None:
        """Reserve the most that a Run may cost."""
        self.reserved_usd += usd
        if self._shared is not None:
            self._shared.reserve(usd)

    def release(self, usd: float) -> None:
        """Give back the reservation of a Run that was not started."""
        self.reserved_usd -= usd
        if self._shared is not None:
            self._shared.release(usd)
        self.notify()

    def settle(self, reserved_usd: float, cost_usd: float | None) -> None:
        """Replace a Run's reservation by its final cost; None, an unknown cost, counts the reservation as spent."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += reserved_usd if cost_usd is None else cost_usd
        if self._shared is not None:
            self._shared.settle(reserved_usd, cost_usd)
        self.notify()

    def leave(self, *, spent_usd: float, reserved_usd: float) -> None:
        """Stop sharing; these two amounts are what the shared budget counts of this one from now on."""
        if self._shared is not None:
            self._shared.spent_usd += spent_usd - self.spent_usd
            self._shared.reserved_usd += reserved_usd - self.reserved_usd
            self._shared.expected_usd -= self.expected_usd
            self._shared.unsubscribe(self.notify)
            self._shared.notify()

    def _fits(self, usd: float) -> bool:
        return self.limit_usd is None or usd <= self.limit_usd + _ROUNDING_USD

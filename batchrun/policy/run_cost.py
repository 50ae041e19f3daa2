"""What one Run may cost: the bound that its prices and options give, and estimates from what Runs have cost so far."""

import math
from dataclasses import field

from batchrun.model import RunOptions
from batchrun.runtime.fast_dataclasses import dataclass


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

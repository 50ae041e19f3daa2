"""The budget: what a Run may cost, what is reserved, and that it is never exceeded."""

import pytest

from batchrun.model import RunOptions
from batchrun.policy.budget import Budget
from batchrun.policy.run_cost import ObservedCosts, Prices, most_a_run_may_cost

PER_EVENT = Prices(model="PAY_PER_EVENT")
PER_RESULT = Prices(model="PRICE_PER_DATASET_ITEM", per_item_usd=0.002)
OWN = Prices(model="PAY_PER_EVENT", pays_usage=True, compute_unit_usd=0.25)
BY_USAGE = Prices(compute_unit_usd=0.25)


@pytest.mark.parametrize(
    ("prices", "options", "usd", "reason"),
    [
        (PER_EVENT, RunOptions(max_total_charge_usd=0.5), 0.5, "run.max_total_charge_usd"),
        (PER_EVENT, RunOptions(max_items=5, timeout_s=1, memory_mb=128), None, "run.max_total_charge_usd"),
        (OWN, RunOptions(max_total_charge_usd=0.5, memory_mb=2048, timeout_s=1800), 0.75,
         "run.max_total_charge_usd, run.memory_mb and run.timeout_s"),
        (OWN, RunOptions(max_total_charge_usd=0.5, memory_mb=2048), None, "run.timeout_s"),
        (PER_RESULT, RunOptions(max_items=100), 0.2, "run.max_items"),
        (PER_RESULT, RunOptions(max_total_charge_usd=1.0), None, "run.max_items"),
        (Prices(model="PRICE_PER_DATASET_ITEM"), RunOptions(max_items=100), None, "run.max_items"),
        (BY_USAGE, RunOptions(memory_mb=2048, timeout_s=1800), 0.25, "run.memory_mb and run.timeout_s"),
        (BY_USAGE, RunOptions(memory_mb=2048, timeout_s=0), None, "run.timeout_s"),
        (BY_USAGE, RunOptions(memory_mb=2048), None, "run.timeout_s"),
        (BY_USAGE, RunOptions(timeout_s=60), None, "run.memory_mb"),
        (Prices(), RunOptions(memory_mb=2048, timeout_s=60), None, "limits.compute_unit_usd"),
        (Prices(model="FLAT_PRICE_PER_MONTH", compute_unit_usd=0.4), RunOptions(memory_mb=1024, timeout_s=3600), 0.4,
         "run.memory_mb and run.timeout_s"),
    ],
)  # fmt: skip
def test_what_bounds_a_cost(prices: Prices, options: RunOptions, usd: float | None, reason: str) -> None:
    """Each row: prices, options, the most that a Run may cost, and what bounds it or would."""
    bound = most_a_run_may_cost(prices, options)
    assert (bound.usd, bound.reason) == (pytest.approx(usd) if usd is not None else None, reason)


def test_reserved_money_is_not_free() -> None:
    """A released reservation is free again; spent money is not."""
    budget = Budget(1.0)
    budget.reserve(0.7)
    assert (budget.has(0.3), budget.has(0.31), budget.can_ever_have(1.0)) == (True, False, True)
    budget.settle(0.7, 0.1)
    assert (budget.has(0.9), budget.has(0.91), budget.can_ever_have(0.91)) == (True, False, False)
    budget.reserve(0.9)
    budget.release(0.9)
    assert (budget.spent_usd, budget.reserved_usd) == pytest.approx((0.1, 0.0))


def test_what_is_expected_beyond_reservations_is_not_free() -> None:
    """Neither here nor in the budget of all batches, until the batch leaves it."""
    shared = Budget(1.0)
    one, two = (Budget(None, shared=shared) for _ in range(2))
    one.reserve(0.2)
    one.expect(0.5)
    assert (one.has(0.3), two.has(0.3), two.has(0.31), two.can_ever_have(1.0)) == (True, True, False, True)
    one.expect(0.1)
    assert (two.has(0.7), two.has(0.71)) == (True, False)
    one.leave(spent_usd=0.0, reserved_usd=0.2)
    assert (round(shared.expected_usd, 9), two.has(0.8)) == (0.0, True)


def test_an_unknown_cost_keeps_its_reservation() -> None:
    """Null is never 0."""
    budget = Budget(1.0)
    budget.reserve(0.6)
    budget.settle(0.6, None)
    assert (budget.spent_usd, budget.has(0.4), budget.has(0.5)) == (0.6, True, False)


def test_many_small_amounts_do_not_exceed_it_by_rounding() -> None:
    """A thousand times a thousandth fits exactly."""
    budget = Budget(1.0)
    for _ in range(1000):
        assert budget.has(0.001)
        budget.reserve(0.001)
        budget.settle(0.001, 0.001)
    assert not budget.has(0.001)


def test_without_a_limit_there_is_always_money() -> None:
    """Of any amount."""
    assert Budget(None).has(1e12)
    assert not Budget(0.0).has(0.01)


def test_observed_costs_give_the_95th_percentile() -> None:
    """At most a fifth too high; 0 before the first cost."""
    observed = ObservedCosts()
    assert observed.p95_usd() == 0.0
    for number in range(1, 1001):
        observed.note(number / 1000)
    assert 0.95 <= observed.p95_usd() <= 0.95 * 1.2
    observed.note(0.0)

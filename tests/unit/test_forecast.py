"""Time and cost estimated from earlier Runs: arithmetic that can be followed by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.policy.forecast import Estimate, elapsed, memory_slots, one_run, quantile, total


def test_quantiles_lie_between_neighbours():
    """They are interpolated; of a single value, all are that value."""
    assert quantile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.5
    assert one_run([7.0]) == Estimate(p50=7.0, p90=7.0)
    assert one_run([float(n) for n in range(11)]) == Estimate(p50=5.0, p90=9.0)


def test_a_total_goes_by_the_mean():
    """The total of Runs of equal cost is certain: their number times the cost."""
    assert total(1000, [0.25] * 40) == Estimate(p50=250.0, p90=250.0)
    assert total(10, [1.0, 3.0]).p50 == 20.0


def test_nine_of_ten_batches_stay_below_the_p90():
    """With costs as skewed as those of Runs, the p90 from 50 samples holds in about 9 of 10 cases."""
    draw = random.Random(1)

    def cost() -> float:
        return draw.lognormvariate(0, 1)

    held = [0, 0]
    for _ in range(400):
        forecast = total(300, [cost() for _ in range(50)])
        true = sum(cost() for _ in range(300))
        held[0] += true <= forecast.p50
        held[1] += true <= forecast.p90
    assert 0.38 <= held[0] / 400 <= 0.62
    assert 0.78 <= held[1] / 400 <= 0.95


@pytest.mark.parametrize(
    ("runs", "slots", "rate", "seconds"),
    [
        (0, 10, 100.0, 0.0),
        (1, 10, 100.0, 20.0),
        (10, 1, 100.0, 200.0),
        (10, 10, 100.0, 20.0 + 0.9 * 20.0),
        (1000, 10, 100.0, 2000.0 + 0.9 * 20.0),
        (100_000, 5000, 100.0, 1000.0 + (1 - 1 / 5000) * 20.0),
    ],
)
def test_the_scarcer_of_starts_and_slots_decides(runs, slots, rate, seconds):
    """Work over slots, or Runs over the start rate; and the last Run's end."""
    assert elapsed(runs, [20.0], slots=slots, start_rate_per_s=rate).p50 == pytest.approx(seconds)


@given(
    runs=st.integers(0, 10**7),
    durations=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    slots=st.integers(1, 10**4),
    rate=st.floats(0.01, 1000),
)
def test_a_forecast_is_in_order(runs, durations, slots, rate):
    """Finite, not negative, p90 never below p50, and never faster than starts allow."""
    found = elapsed(runs, durations, slots=slots, start_rate_per_s=rate)
    assert runs / rate <= found.p50 <= found.p90 < float("inf")


def test_memory_bounds_slots():
    """As many Runs as fit, at least one."""
    assert (memory_slots(8192, 1024), memory_slots(8192, 1000.5), memory_slots(512, 1024)) == (8, 8, 1)
    assert memory_slots(-5, 128) == 1

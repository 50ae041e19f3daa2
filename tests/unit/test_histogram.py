import pytest

from batchrun.runtime.histogram import FINE_SECONDS, Histogram


def test_quantiles_are_right_within_a_bucket() -> None:
    """Of 1 to 1,000 ms the half are not above 500 ms and 99 % not above 990 ms, within 5 %."""
    latencies = Histogram(FINE_SECONDS)
    for ms in range(1, 1001):
        latencies.note(ms / 1000)
    assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert latencies.quantile(0.99) == pytest.approx(0.99, rel=0.05)


def test_the_outermost_buckets_hold_what_is_beyond() -> None:
    """Zero counts as the smallest bound, a day as the largest; without a value there is no quantile."""
    latencies = Histogram(FINE_SECONDS)
    assert latencies.quantile(0.5) is None
    for length_s in (0.0, 1e-9, 86_400.0, 1e9):
        latencies.note(length_s)
    assert latencies.quantile(0.5) == 1e-4
    assert (latencies.quantile(1.0) or 0) > 7 * 3600

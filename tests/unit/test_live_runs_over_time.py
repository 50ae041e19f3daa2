"""How many Runs were live over time, as adding it up by hand says."""

import math
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.timed_ledger import AT, UNTIL, holding


def test_idle_times_separate_stretches(tmp_path: Path) -> None:
    """Only those of the minimum length, and the longest of them; a live Run ends at the given time."""
    spans: list[tuple[float, float | None]] = [(0, 10), (5, 8), (30, 40), (200, 210), (900, None)]
    with holding(tmp_path, spans) as ledger:

        def stretches(min_idle_s: float, count: int = 8) -> list[tuple[float, float]]:
            found = ledger.live_runs.stretches(UNTIL, min_idle_s, count)
            return [((begin - AT).total_seconds(), (end - AT).total_seconds()) for begin, end in found]

        assert stretches(60) == [(0, 40), (200, 210), (900, 1000)]
        assert stretches(10) == [(0, 10), (30, 40), (200, 210), (900, 1000)]
        assert stretches(20) == [(0, 40), (200, 210), (900, 1000)]
        assert stretches(10, 2) == [(0, 210), (900, 1000)]
        assert stretches(10, 1) == [(0, 1000)]


moments = st.floats(min_value=0, max_value=300)


@given(
    st.lists(st.tuples(moments, st.none() | st.floats(min_value=0, max_value=100)), min_size=1, max_size=20),
    st.floats(min_value=0, max_value=100),
    st.floats(min_value=0.1, max_value=50),
    st.integers(min_value=1, max_value=12),
)
def test_live_runs_are_averages_over_each_interval(
    runs: list[tuple[float, float | None]], from_s: float, interval_s: float, intervals: int
) -> None:
    """For any Runs, live ones too, and any intervals: the sum of the parts of an interval that the Runs fill."""
    spans = [(began, began + took if took is not None else None) for began, took in runs]
    with TemporaryDirectory() as directory, holding(Path(directory), spans) as ledger:
        found = ledger.live_runs.averages(AT + timedelta(seconds=from_s), interval_s, intervals, UNTIL)
    edges = [from_s + interval_s * number for number in range(intervals + 1)]
    for value, (begin, end) in zip(found, pairwise(edges), strict=True):
        filled = [
            max(0.0, min(end, ended if ended is not None else 1000.0) - max(begin, began)) for began, ended in spans
        ]
        # The ledger's times are seconds since 1970: floats of about a microsecond.
        assert value == pytest.approx(math.fsum(filled) / (end - begin), abs=1e-4)

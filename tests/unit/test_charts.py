"""Charts: well-formed, of bounded size, true to their numbers, for any numbers."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.report.charts import (
    MAX_BARS,
    MAX_POINTS,
    MAX_STRETCHES,
    BarPart,
    Stretch,
    histogram,
    live_runs_chart,
    log_edges,
    small_bar,
    spending_bar,
    stacked_bar,
)
from batchrun.report.html_elements import Html
from batchrun.style_sheet import Tone

SVG = "{http://www.w3.org/2000/svg}"
BEGAN = datetime(2026, 3, 4, 9, 58, 21, tzinfo=UTC)
HOSTILE = "</script><b onmouseover='x'>\"&\u202e\x00\ud800" + "w" * 5000

counts = st.integers(min_value=0, max_value=10**12)
seconds = st.floats(min_value=0, max_value=1e9)
amounts = st.floats(min_value=0, max_value=1e9)
moments = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def _parsed(chart: Html) -> Element:
    """Parse a chart and check what all charts have: a role, a title, a description, nothing outside."""
    root = ET.fromstring(chart)
    assert (root.tag, root.get("role")) == (f"{SVG}svg", "img")
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    for element in root.iter():
        assert not any(word in value for value in element.attrib.values() for word in ("nan", "inf"))
        for name in ("x", "width"):
            assert -0.01 <= float((element.get(name) or "0").rstrip("%").replace("-8", "0")) <= 100.02, (name, chart)
        assert float(element.get("height", "0").rstrip("%")) >= 0
    return root


def _described(chart: Html) -> str:
    return _parsed(chart)[1].text or ""


def _bars(chart: Html) -> list[Element]:
    return [each for each in _parsed(chart).iter(f"{SVG}rect") if "tone" in each.get("class", "")]


def _texts(chart: Html) -> list[str]:
    return [each.text or "" for each in _parsed(chart).iter(f"{SVG}text")]


def _width(bar: Element) -> float:
    return float(bar.get("width", "").rstrip("%"))


def test_parts_are_as_wide_as_their_counts() -> None:
    """Their names and percentages stand in the description and the tooltips."""
    chart = stacked_bar(
        "Jobs",
        [
            BarPart(name="succeeded", count=750, tone=Tone.SUCCEEDED),
            BarPart(name="lost", count=0, tone=Tone.LOST),
            BarPart(name="failed", count=250, tone=Tone.FAILED),
        ],
    )
    assert _described(chart) == "750 succeeded, 250 failed."
    assert [round(_width(bar)) for bar in _bars(chart)] == [75, 25]
    assert [bar[0].text for bar in _bars(chart)] == ["750 succeeded (75 %)", "250 failed (25 %)"]


def test_one_failure_among_a_million_can_be_seen() -> None:
    """It has a minimum width, and its percentage is neither 0 nor 100."""
    parts = [
        BarPart(name="succeeded", count=999_999, tone=Tone.SUCCEEDED),
        BarPart(name="failed", count=1, tone=Tone.FAILED),
    ]
    good, bad = _bars(stacked_bar("Jobs", parts))
    assert _width(bad) > 0.2
    assert (good[0].text, bad[0].text) == ("999,999 succeeded (over 99.9 %)", "1 failed (under 0.1 %)")


@given(st.lists(st.tuples(st.text(), counts, st.sampled_from(Tone)), max_size=15), st.text())
def test_any_parts_make_a_bar(parts: list[tuple[str, int, Tone]], title: str) -> None:
    """Any name and any count; all parts stay within the bar."""
    chart = stacked_bar(title + HOSTILE, [BarPart(name=name + HOSTILE, count=n, tone=tone) for name, n, tone in parts])
    assert len(_bars(chart)) == sum(n > 0 for _, n, _ in parts)
    ends = [float(bar.get("x", "").rstrip("%")) + _width(bar) for bar in _bars(chart)]
    assert all(end <= 100.05 for end in ends)
    assert len(chart) < 12_000 + len(parts) * 7_000


@given(seconds, seconds)
def test_edges_ascend_and_enclose_all_durations(one: float, other: float) -> None:
    """Bars of equal width on the scale, at most MAX_BARS."""
    low, high = sorted((one, other))
    edges = log_edges(low, high)
    assert len(edges) <= MAX_BARS + 1
    assert all(a < b for a, b in pairwise(edges))
    assert edges[0] <= max(low, 0.001)
    assert edges[-1] > high
    ratios = [b / a for a, b in pairwise(edges)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-6)


@given(st.lists(seconds, min_size=1, max_size=50), st.text())
def test_any_durations_make_a_histogram(values: list[float], title: str) -> None:
    """One bar per count above 0."""
    edges = log_edges(min(values), max(values))
    counted = [sum(a <= max(v, edges[0]) < b for v in values) for a, b in pairwise(edges)]
    marks = {"p50": min(values), title: max(values)}
    chart = histogram(title, edges, counted, marks)
    assert len(_bars(chart)) == sum(count > 0 for count in counted)
    assert sum(counted) == len(values)


def test_a_histogram_is_labelled() -> None:
    """Bars with their counts and limits, the scale with round durations, marks with their values."""
    edges = log_edges(0.5, 90)
    counted = [1] * (len(edges) - 1)
    chart = histogram("Run time", edges, counted, {"p50": 6}, "Runs")
    assert _described(chart) == f"{len(counted)} Runs, 500 ms to 1.5 min; p50 6 s."
    assert _texts(chart) == ["p50", "500 ms", "2 s", "10 s", "30 s"]
    assert (_bars(chart)[0][0].text or "").startswith("1 Runs from 500 ms to ")


@pytest.mark.parametrize("value", [0.0, 0.004, 2.0, 86_400 * 400.0])
def test_equal_durations_are_one_bar_in_the_middle(value: float) -> None:
    """The scale still has a width."""
    edges = log_edges(value, value)
    counted = [sum(a <= max(0.001, v) < b for v in [value] * 7) for a, b in pairwise(edges)]
    (bar,) = _bars(histogram("t", edges, counted, {}))
    middle = float(bar.get("x", "").rstrip("%")) + _width(bar) / 2
    assert middle == pytest.approx(50, abs=0.5)


def _series(*lengths: int, interval_s: float = 2.0, value: float = 5, idle_s: float = 3600):
    stretches, at = [], BEGAN
    for length in lengths:
        stretches.append(Stretch(began_at=at, interval_s=interval_s, values=[value] * length))
        at += timedelta(seconds=length * interval_s + idle_s)
    return stretches


def test_a_series_shows_its_peak_its_times_and_its_limit() -> None:
    """In its description, on its axes and as a line."""
    chart = live_runs_chart(_series(200, value=40), limit=64)
    assert _described(chart) == "40 live Runs at most, from 2026-03-04 09:58:21 to 2026-03-04 10:05:01 UTC; limit 64."
    assert _texts(chart) == ["limit 64", "0", "20", "40", "60", "10:00", "10:02", "10:04"]
    assert len(list(_parsed(chart).iter(f"{SVG}path"))) == 2
    assert 'class="limit"' in chart


def test_a_limit_far_above_the_curve_is_written_not_drawn() -> None:
    """A drawn one would flatten the curve."""
    chart = live_runs_chart(_series(20, value=3), limit=1000)
    assert "limit 1,000, far above" in _texts(chart)
    assert 'class="limit"' not in chart
    assert _texts(chart)[1:5] == ["0", "1", "2", "3"]


def test_idle_time_is_cut_out_and_its_length_shown() -> None:
    """Each stretch is labelled with its begin, each gap with its length."""
    chart = live_runs_chart(_series(100, 50, idle_s=86_400))
    assert "1,440 min" not in chart
    assert "24 h 00 min without any" in chart
    assert [text for text in _texts(chart) if "Mar" in text] == ["Mar 4, 09:58", "Mar 5, 10:01"]


def test_a_series_of_any_length_has_a_bounded_number_of_points() -> None:
    """Neighbours are averaged, and the last MAX_STRETCHES stretches are drawn."""
    chart = live_runs_chart(_series(100_003, interval_s=1))
    (edge,) = re.findall(r'<path d="([^"]*)" class="edge', chart)
    assert MAX_POINTS / 2 < edge.count("H") <= MAX_POINTS
    assert len(chart) < 20_000
    many = live_runs_chart(_series(*[3] * 1000))
    assert many.count('class="edge') == MAX_STRETCHES


@given(
    st.lists(st.tuples(moments, st.floats(min_value=0.01, max_value=1e5), st.lists(amounts, max_size=20)), max_size=12),
    st.none() | st.floats(min_value=1, max_value=1e6),
)
def test_any_series_makes_a_curve(given_: list[tuple[datetime, float, list[float]]], limit: float | None) -> None:
    """Also stretches that are out of order, empty, or a century long."""
    stretches = [Stretch(began_at=at, interval_s=width, values=values) for at, width, values in given_]
    chart = live_runs_chart(stretches, limit)
    drawn = [each for each in stretches if each.values][-MAX_STRETCHES:]
    assert chart.count('class="edge') == len(drawn)


@given(amounts, amounts, amounts)
def test_any_money_makes_a_bar(budget: float, spent: float, reserved: float) -> None:
    """Spent, spent beyond the budget, reserved: never wider than the bar."""
    chart = spending_bar(budget_usd=budget, spent_usd=spent, reserved_usd=reserved)
    ends = [float(bar.get("x", "").rstrip("%")) + _width(bar) for bar in _bars(chart)]
    assert all(end <= 100.02 for end in ends)


def test_money_beyond_the_budget_is_another_colour() -> None:
    """The labels name all three amounts."""
    chart = spending_bar(budget_usd=20, spent_usd=22, reserved_usd=3)
    assert [bar.get("class") for bar in _bars(chart)] == ["tone-live", "tone-failed", "tone-open"]
    assert [round(_width(bar)) for bar in _bars(chart)] == [80, 8, 12]
    assert _texts(chart) == ["$22.00 spent · $3.00 reserved", "of $20.00 (110 %)"]


def test_a_chart_without_data_says_so() -> None:
    """Every kind of chart does."""
    assert _described(stacked_bar("t", [])) == "Nothing yet."
    assert _described(histogram("t", [1, 2], [0], {})) == "Nothing to show yet."
    assert _described(live_runs_chart([])) == "Nothing to show yet."
    assert _texts(spending_bar(budget_usd=5, spent_usd=0)) == ["$0.00 spent", "of $5.00 (0 %)"]


@given(st.floats(min_value=0, max_value=3))
def test_the_bar_of_a_cell_is_hidden_from_screen_readers(fraction: float) -> None:
    """It is never wider than its cell."""
    root = ET.fromstring(small_bar(fraction))
    assert root.get("aria-hidden") == "true"
    assert all(float(each.get("width", "0").rstrip("%")) <= 100 for each in root.iter())

"""Charts as inline SVG, made from values alone; their size is bounded, whatever the size of the batch.

Every chart has a title and a description for screen readers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from batchrun.model import Outcome
from batchrun.report.html_elements import Html, tag
from batchrun.report.svg_elements import Tick, chart, empty_chart, fitting, label, level_line, rect, tick_labels, track
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.style_sheet import Tone
from batchrun.words.number_words import duration, money

#: Max points of a curve: more cannot be seen.
MAX_POINTS = 400
#: Max bars of a histogram.
MAX_BARS = 40

#: Min width of a bar that stands for more than 0, in per cent of the chart's width.
_MIN_BAR_WIDTH = 0.5
#: Max stretches of time in one chart; the last ones are drawn.
MAX_STRETCHES = 8
#: Distance between two stretches, in per cent of the chart's width.
_BREAK_WIDTH = 5.0
#: A limit above this multiple of the peak is written, not drawn: the curve would be flat.
_FAR_LIMIT = 4.0
#: Width of a curve's own coordinate system.
_CURVE_WIDTH = 1000.0

#: Durations at which people expect a tick, in seconds.
_ROUND_S = (
    *(base * power for power in (0.001, 0.01, 0.1) for base in (1, 2, 5)),
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200),
    *(86_400 * days for days in (1, 2, 7, 14, 30, 90, 365)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPart:
    """A part of a stacked bar, such as the jobs of one outcome."""

    name: str
    count: int
    tone: Tone


def outcome_parts(outcomes: Mapping[Outcome, int], open_jobs: int) -> list[BarPart]:
    """Return a part for each outcome, and one for open jobs; some may be 0."""
    parts = [BarPart(name=each.replace("_", " "), count=outcomes.get(each, 0), tone=Tone(each)) for each in Outcome]
    return [*parts, BarPart(name="open", count=open_jobs, tone=Tone.OPEN)]


def stacked_bar(title: str, parts: Sequence[BarPart], height: int = 22) -> Html:
    """Return one bar with its parts side by side, in the given order; even the smallest part is visible."""
    parts = [part for part in parts if part.count > 0]
    if not parts:
        return chart(title, "Nothing yet.", height, track(0, height))
    whole = sum(part.count for part in parts)
    widths = _widths([part.count / whole for part in parts])
    gap = 0.25 if len(parts) > 1 else 0.0
    bars, x = [], 0.0
    for part, width in zip(parts, widths, strict=True):
        words = f"{part.count:,} {part.name} ({_percent(part.count / whole)})"
        bars.append(rect(x, 0, max(width - gap, width / 2), height, part.tone, words))
        x += width
    described = ", ".join(f"{part.count:,} {part.name}" for part in parts)
    return chart(title, f"{described}.", height, *bars)


def _widths(fractions: list[float]) -> list[float]:
    """Return widths in per cent that add up to 100, for fractions that add up to 1."""
    wanted = [max(_MIN_BAR_WIDTH, 100 * fraction) for fraction in fractions]
    return [100 * width / sum(wanted) for width in wanted]


def small_bar(fraction: float) -> Html:
    """Return a bar of a fraction (0 to 1) for a table cell; screen readers read the number in another cell."""
    width = min(100.0, max(_MIN_BAR_WIDTH, 100 * fraction)) if fraction > 0 else 0.0
    bar = rect(0, 2, width, 8, Tone.LIVE) if width else None
    return tag("svg", track(2, 8), bar, height=12, width="100%", aria_hidden="true")


def log_edges(shortest_s: float, longest_s: float) -> list[float]:
    """Return the edges of a histogram of durations in seconds: bars of equal width on a logarithmic scale.

    Durations below a millisecond fall into the first bar.
    """
    low = max(0.001, shortest_s)
    high = max(low, longest_s)
    # At least a factor of two, so that equal durations make one bar among empty ones.
    room = max(1.0, math.sqrt(2 * low / high))
    low, high = low / room, high * room * 1.0001
    # An odd number, so that equal durations stand in the middle bar.
    bars = min(MAX_BARS - 1, max(8, math.ceil(12 * math.log10(high / low)))) // 2 * 2 + 1
    step = math.log(high / low) / bars
    return [low * math.exp(step * number) for number in range(bars)] + [high]


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], marks: Mapping[str, float], noun: str = "jobs"
) -> Html:
    """Return a histogram of durations on a logarithmic scale, with its marks as named lines.

    The edges, in seconds, are where each bar begins, and where the last one ends: one more than counts.
    """
    height, counted = 150, sum(counts)
    if not counted:
        return empty_chart(title, height)
    low, high = edges[0], edges[-1]

    def x_of(seconds: float) -> float:
        return 100 * math.log(min(max(seconds, low), high) / low) / math.log(high / low)

    top, ground = 20, height - 20
    scale = (ground - top) / max(counts)
    bars = []
    for (begin, end), count in zip(pairwise(edges), counts, strict=True):
        if count:
            x, tall = x_of(begin), max(1.5, count * scale)
            words = f"{count:,} {noun} from {_short(begin)} to {_short(end)}"
            gap = 0.06 * (x_of(end) - x)
            bars.append(rect(x + gap, ground - tall, x_of(end) - x - 2 * gap, tall, Tone.LIVE, words))
    labels = tick_labels(_time_ticks(low, high, x_of), height - 4)
    lines = _marks(marks, x_of, top, ground)
    described = f"{counted:,} {noun}, {_short(low)} to {_short(high)}"
    marked = "".join(f"; {name} {_short(value)}" for name, value in marks.items())
    return chart(title, f"{described}{marked}.", height, level_line(ground), *bars, *lines, *labels)


def _marks(marks: Mapping[str, float], x_of: Callable[[float], float], top: float, ground: float) -> list[Html]:
    lines = []
    for name, value in marks.items():
        x = f"{x_of(value):.2f}%"
        tooltip = tag("title", f"{name}: {_short(value)}")
        lines.append(tag("line", tooltip, class_="mark", x1=x, x2=x, y1=top - 4, y2=ground))
    names = sorted((x_of(value), name) for name, value in marks.items())
    return [*lines, *tick_labels(fitting(names), top - 8, "strong")]


def _time_ticks(low: float, high: float, x_of: Callable[[float], float]) -> list[Tick]:
    """Return round durations within a scale as ticks; its two ends if fewer than two fit."""
    inside = [(x_of(each), _short(each)) for each in _ROUND_S if low <= each <= high]
    # If too many fit, keep every second or third, so that the steps are even.
    for step in range(1, len(inside)):
        ticks = inside[::step]
        if len(ticks) > 1 and fitting(ticks) == ticks:
            return ticks
    return [(0.0, _short(low)), (100.0, _short(high))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Values at equal intervals over a stretch of time."""

    began_at: datetime
    #: Seconds that one value covers.
    interval_s: float
    values: Sequence[float]

    @property
    def lasted_s(self) -> float:
        """Its length, in seconds."""
        return self.interval_s * len(self.values)

    @property
    def ended_at(self) -> datetime:
        """Its end."""
        return self.began_at + timedelta(seconds=self.lasted_s)


def live_runs_chart(stretches: Sequence[Stretch], limit: float | None = None) -> Html:
    """Return a curve of live Runs over time, each value as wide as its interval; times are UTC.

    The last MAX_STRETCHES stretches are drawn, without the time between them. If they have more than MAX_POINTS values
    together, neighbours are averaged.
    """
    title, height = "Live Runs over time", 180
    stretches = _thinned([each for each in stretches if each.values][-MAX_STRETCHES:])
    if not stretches:
        return empty_chart(title, height)
    peak = max(max(each.values) for each in stretches)
    is_limit_far = limit is not None and limit > max(_FAR_LIMIT * peak, 1)
    most = max(peak, limit if limit is not None and not is_limit_far else 0, 1)
    ticks = _round_ticks(most)
    top, ground = 18, height - 22

    def y_of(value: float) -> float:
        return round(ground - (ground - top) * value / most, 1)

    lines = [level_line(y_of(tick)) for tick in ticks]
    curves = [_curve(each, x, width, y_of) for each, (x, width) in zip(stretches, _places(stretches), strict=True)]
    # Left of the chart, in the margin that the style sheet leaves.
    numbers = [tag("text", _count(tick), x=-8, y=y_of(tick) + 4, text_anchor="end") for tick in ticks]
    described = f"{_count(peak)} live Runs at most, from {_moment(stretches[0].began_at)} to"
    described += f" {_moment(stretches[-1].ended_at)} UTC"
    described += f"; limit {_count(limit)}" if limit is not None else ""
    return chart(
        title,
        f"{described}.",
        height,
        *lines,
        *curves,
        *_breaks(stretches, top, ground),
        *_limit(limit, is_limit_far, y_of, top),
        *numbers,
        *_clock_labels(stretches, height - 5),
        has_axis=True,
    )


def _thinned(stretches: Sequence[Stretch]) -> list[Stretch]:
    points = sum(len(each.values) for each in stretches)
    together = math.ceil(points / MAX_POINTS)
    return [_averaged(each, together) for each in stretches] if together > 1 else list(stretches)


def _averaged(stretch: Stretch, together: int) -> Stretch:
    groups = [stretch.values[at : at + together] for at in range(0, len(stretch.values), together)]
    values = [math.fsum(group) / len(group) for group in groups]
    return Stretch(began_at=stretch.began_at, interval_s=stretch.lasted_s / len(values), values=values)


def _places(stretches: Sequence[Stretch]) -> list[tuple[float, float]]:
    """Return the position and width of each stretch, in per cent."""
    room = 100 - _BREAK_WIDTH * (len(stretches) - 1)
    whole_s = sum(each.lasted_s for each in stretches)
    # A tenth of the width is divided equally, so that short stretches are visible; the rest is divided by time.
    least = 0.1 * room / len(stretches) if len(stretches) > 1 else 0.0
    shared = room - least * len(stretches)
    places, x = [], 0.0
    for each in stretches:
        width = least + shared * each.lasted_s / whole_s
        places.append((x, width))
        x += width + _BREAK_WIDTH
    return places


def _curve(stretch: Stretch, x: float, width: float, y_of: Callable[[float], float]) -> Html:
    step = _CURVE_WIDTH / len(stretch.values)
    ground = y_of(0)
    edge = [f"M0,{y_of(stretch.values[0]):g}"]
    for number, value in enumerate(stretch.values):
        edge.append(f"V{y_of(value):g}H{step * (number + 1):.4g}")
    line = "".join(edge)
    return tag(
        "svg",
        tag("path", d=f"{line}V{ground:g}H0Z", class_=f"area tone-{Tone.LIVE}"),
        tag("path", d=line, class_=f"edge tone-{Tone.LIVE}"),
        x=f"{x:.2f}%",
        y=0,
        width=f"{width:.2f}%",
        height=ground,
        viewBox=f"0 0 {_CURVE_WIDTH:g} {ground:g}",
        preserveAspectRatio="none",
    )


def _breaks(stretches: Sequence[Stretch], top: float, ground: float) -> list[Html]:
    """Return a mark for each gap, with its length as a tooltip."""
    drawn = []
    for (x, width), (before, after) in zip(_places(stretches), pairwise(stretches), strict=False):
        idle = f"{duration((after.began_at - before.ended_at).total_seconds())} without any"
        dots = label(x + width + _BREAK_WIDTH / 2, (top + ground) / 2, "⋯", "middle")
        drawn.append(tag("g", tag("title", idle), dots))
    return drawn


def _limit(limit: float | None, is_far: bool, y_of: Callable[[float], float], top: float) -> list[Html]:
    if limit is None:
        return []
    if is_far:
        return [label(100, top - 7, f"limit {_count(limit)}, far above", "end", "limit-text")]
    y = y_of(limit)
    line = tag("line", class_="limit", x1=0, x2="100%", y1=y, y2=y)
    return [line, label(100, y - 5, f"limit {_count(limit)}", "end", "limit-text")]


def _clock_labels(stretches: Sequence[Stretch], y: float) -> list[Html]:
    if len(stretches) == 1:
        return tick_labels(_clock_ticks(stretches[0]), y)
    whole_s = (stretches[-1].ended_at - stretches[0].began_at).total_seconds()
    form = "%b %-d, %H:%M" if whole_s > 86_400 else "%H:%M"
    begins = [(x, each.began_at.strftime(form)) for each, (x, _) in zip(stretches, _places(stretches), strict=True)]
    return tick_labels(fitting(begins), y)


def _clock_ticks(stretch: Stretch) -> list[Tick]:
    """Return as many round times as fit, as ticks; the beginning and the end if fewer than two fit."""
    for step_s in (each for each in _ROUND_S if stretch.lasted_s / 10 <= each <= stretch.lasted_s and each >= 1):
        form = "%b %-d" if step_s >= 86_400 else "%H:%M" if step_s >= 60 else "%H:%M:%S"
        ticks = [
            (100 * (at - stretch.began_at).total_seconds() / stretch.lasted_s, at.strftime(form))
            for at in _round_times(stretch, step_s)
        ]
        if len(ticks) > 1 and fitting(ticks) == ticks:
            return ticks
    return [(0.0, f"{stretch.began_at:%H:%M:%S}"), (100.0, f"{stretch.ended_at:%H:%M:%S}")]


def _round_times(stretch: Stretch, step_s: float) -> list[datetime]:
    first = math.ceil(stretch.began_at.timestamp() / step_s)
    last = math.floor(stretch.ended_at.timestamp() / step_s)
    return [datetime.fromtimestamp(number * step_s, UTC) for number in range(first, last + 1)]


def spending_bar(*, budget_usd: float, spent_usd: float, reserved_usd: float = 0.0) -> Html:
    """Return a bar of spent and reserved money against the budget; money beyond it is a part in another colour."""
    height, tall = 44, 20
    whole = max(budget_usd, spent_usd + reserved_usd)
    within = min(spent_usd, budget_usd)
    words = f"{money(spent_usd)} spent"
    words += f" · {money(reserved_usd)} reserved" if reserved_usd > 0 else ""
    budget = f"of {money(budget_usd)}"
    budget += f" ({_percent(spent_usd / budget_usd)})" if budget_usd > 0 else ""
    bars, x = [track(0, tall)], 0.0
    for usd, tone, what in (
        (within, Tone.LIVE, "spent"),
        (spent_usd - within, Tone.FAILED, "spent beyond the budget"),
        (reserved_usd, Tone.OPEN, "reserved"),
    ):
        if usd > 0:
            width = max(_MIN_BAR_WIDTH, 100 * usd / whole)
            bars.append(rect(min(x, 100 - width), 0, width, tall, tone, f"{money(usd)} {what}"))
            x += width
    labels = [label(0, height - 6, words, "start", "strong"), label(100, height - 6, budget, "end")]
    return chart("Cost against the budget", f"{words}, {budget}.", height, *bars, *labels)


def _round_ticks(most: float) -> list[float]:
    """Return 0 and two to five whole numbers up to `most`, at equal steps."""
    rough = most / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(1.0, next(base * power for base in (1, 2, 5, 10) if base * power >= rough))
    return [step * number for number in range(math.floor(most / step) + 1)]


def _count(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _percent(fraction: float) -> str:
    """Return a fraction in per cent; 0 % and 100 % are exact, never rounded."""
    if fraction > 10:
        return "over 1,000 %"
    if 0 < fraction < 0.001:
        return "under 0.1 %"
    if 0.999 < fraction < 1:
        return "over 99.9 %"
    return f"{100 * fraction:.1f} %".replace(".0 %", " %")


def _short(seconds: float) -> str:
    """Return a duration as short as a label needs: 20 ms, 1.5 s, 2 min, 1 h, 3 d."""
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= unit_s * 0.9995:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"

"""SVG elements of charts: bars, lines and labels, with widths in per cent and heights in pixels.

A chart therefore fills the width of its container, and its letters keep their size.
"""

from collections.abc import Iterable

from batchrun.report.html_elements import TITLE_CHARS, Html, tag
from batchrun.style_sheet import Tone
from batchrun.words.terminal_text import one_line

#: A position on a scale, in per cent of the width, and its label.
Tick = tuple[float, str]

_LABEL_CHARS = 40
#: Width of a letter on a phone, and min distance between two labels, both in per cent of the chart's width.
_LETTER_WIDTH = 2.0
_LABEL_GAP = 2.5


def chart(title: str, description: str, height: float, *content: str | None, has_axis: bool = False) -> Html:
    """Return a chart with a title and a description for screen readers; an axis adds a margin at its left."""
    return tag(
        "svg",
        tag("title", one_line(title, TITLE_CHARS)),
        tag("desc", one_line(description, TITLE_CHARS)),
        *content,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        width="100%",
        height=height,
        class_="chart with-axis" if has_axis else "chart",
    )


def empty_chart(title: str, height: float) -> Html:
    """Return a chart without data."""
    words = label(50, height / 2, "Nothing to show yet", "middle")
    return chart(title, "Nothing to show yet.", height, level_line(height - 20), words)


def rect(x: float, y: float, width: float, height: float, tone: Tone, title: str | None = None) -> Html:
    """Return a bar; `title` is its tooltip."""
    return tag(
        "rect",
        tag("title", one_line(title, TITLE_CHARS)) if title else None,
        x=f"{x:.2f}%",
        y=round(y, 1),
        width=f"{width:.2f}%",
        height=round(height, 1),
        rx=1.5,
        class_=f"tone-{tone}",
    )


def track(y: float, height: float) -> Html:
    """Return the empty bar on which others are drawn."""
    return tag("rect", x=0, y=y, width="100%", height=height, rx=1.5, class_="track")


def level_line(y: float) -> Html:
    """Return a horizontal grid line."""
    return tag("line", x1=0, x2="100%", y1=y, y2=y, class_="grid")


def label(x: float, y: float, words: str, anchor: str, kind: str | None = None) -> Html:
    """Return a label; `anchor` (start, middle, end) is the part of it that stands at x."""
    return tag("text", one_line(words, _LABEL_CHARS), x=f"{x:.2f}%", y=round(y, 1), text_anchor=anchor, class_=kind)


def tick_labels(ticks: Iterable[Tick], y: float, kind: str | None = None) -> list[Html]:
    """Return the labels of a scale, all within the chart."""
    return [label(x, y, words, _extent(x, words)[0], kind) for x, words in ticks]


def fitting(ticks: Iterable[Tick]) -> list[Tick]:
    """Return the ticks, given from left to right, whose labels do not overlap, not even on a phone."""
    fit, free_from = [], 0.0
    for x, words in ticks:
        _, left, right = _extent(x, words)
        if left >= free_from:
            fit.append((x, words))
            free_from = right + _LABEL_GAP
    return fit


def _extent(x: float, words: str) -> tuple[str, float, float]:
    """Return the anchor that keeps a label at x (per cent) within the chart, and the label's left and right end."""
    width = _LETTER_WIDTH * len(words)
    if x < width / 2:
        return "start", x, x + width
    if x > 100 - width / 2:
        return "end", x - width, x
    return "middle", x - width / 2, x + width / 2

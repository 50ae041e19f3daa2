"""Pieces of a chart in SVG: bars, lines and labels, by widths in per cent and heights in pixels.

So a chart is as wide as its place, and its letters are always of the same size.
"""

from collections.abc import Iterable

from batchrun.report.html_elements import TITLE_CHARS, Html, tag
from batchrun.report.style_sheet import Tone
from batchrun.report.terminal_text import one_line

#: A place on a scale, in per cent of the width, and its label.
Tick = tuple[float, str]

_LABEL_CHARS = 40
#: Per cent of the width that a letter needs on a phone, and room between two labels.
_LETTER_WIDTH = 2.0
_LABEL_GAP = 2.5


def chart(title: str, description: str, height: float, *content: str | None, has_axis: bool = False) -> Html:
    """Return a chart that says in words what it shows; with an axis, a margin is kept at its left."""
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
    """Return a chart of nothing."""
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
    """Return the empty bar that others are laid on."""
    return tag("rect", x=0, y=y, width="100%", height=height, rx=1.5, class_="track")


def level_line(y: float) -> Html:
    """Return a line of the grid."""
    return tag("line", x1=0, x2="100%", y1=y, y2=y, class_="grid")


def label(x: float, y: float, words: str, anchor: str, kind: str | None = None) -> Html:
    """Return a text on one line; `anchor` says which of its ends (start, middle, end) stands at x."""
    return tag("text", one_line(words, _LABEL_CHARS), x=f"{x:.2f}%", y=round(y, 1), text_anchor=anchor, class_=kind)


def tick_labels(ticks: Iterable[Tick], y: float, kind: str | None = None) -> list[Html]:
    """Return the labels of a scale; none sticks out of the chart."""
    return [label(x, y, words, _extent(x, words)[0], kind) for x, words in ticks]


def fitting(ticks: Iterable[Tick]) -> list[Tick]:
    """Return those of some ticks, given from left to right, whose labels stand on no other one, not even on a phone."""
    fit, free_from = [], 0.0
    for x, words in ticks:
        _, left, right = _extent(x, words)
        if left >= free_from:
            fit.append((x, words))
            free_from = right + _LABEL_GAP
    return fit


def _extent(x: float, words: str) -> tuple[str, float, float]:
    """Return how a label at a place (per cent) is set so that it does not stick out, and where it begins and ends."""
    width = _LETTER_WIDTH * len(words)
    if x < width / 2:
        return "start", x, x + width
    if x > 100 - width / 2:
        return "end", x - width, x
    return "middle", x - width / 2, x + width / 2

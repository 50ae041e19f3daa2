"""HTML elements of the report.

A plain `str` is text and is escaped; only `Html` is markup. A mistake therefore shows markup as text, never text as
markup. The output is well-formed XML as well as HTML.
"""

import re
from collections.abc import Iterable, Sequence

from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.style_sheet import STYLE, Tone
from batchrun.words.terminal_text import one_line

#: Content-Security-Policy of a page that loads and runs nothing, even if a text in it were taken for markup.
INERT = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
#: Max characters of a tooltip.
TITLE_CHARS = 1000

#: Elements without content.
_VOID = frozenset({"br", "hr", "input", "meta", "wbr"})
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
#: Characters that move or hide other text, or are not allowed in XML: controls, direction marks, surrogates,
#: non-characters.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff\ud800-\udfff]"
)


class Html(str):
    """Markup: `escape` returns it unchanged."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Return a text as markup; markup is returned unchanged."""
    if isinstance(text, Html):
        return text
    return Html(_UNFIT.sub("\N{REPLACEMENT CHARACTER}", text).translate(_ESCAPES))


def join(parts: Iterable[str | None]) -> Html:
    """Return parts joined; texts are escaped, None is left out."""
    return Html("".join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *content: str | None, **attributes: str | float | bool | None) -> Html:
    """Return an element with its content: texts, which are escaped, and markup. None is left out.

    The attribute `class_` is class; an underscore within a name is a hyphen. None and False are left out.
    """
    given = "".join(
        f' {_attribute_name(key)}="{_attribute_value(key, value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given} />" if name in _VOID else f"<{name}{given}>{join(content)}</{name}>")


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _attribute_value(key: str, value: str | float | bool) -> str:
    if value is True:
        return _attribute_name(key)
    return escape(value) if isinstance(value, str) else f"{value:g}"


def foreign(text: str, max_chars: int = 200) -> Html:
    """Return foreign text on one line, with isolated text direction; if it is cut, its tooltip has more of it."""
    shown = one_line(text, max_chars)
    return tag("bdi", shown, title=one_line(text, TITLE_CHARS) if shown.endswith("…") else None)


def command(words: str) -> Html:
    """Return a command; one click selects all of it."""
    return tag("code", words, class_="command")


def link(address: str | None, text: str) -> Html:
    """Return a link, or only its text if the address is None or is neither HTTP nor a path."""
    if address is None or not address.startswith(("https://", "http://", "/")):
        return escape(text)
    return tag("a", text, href=address, rel="noreferrer")


def card(title: str, *content: str | None, note: str | None = None, is_half: bool = False) -> Html:
    """Return a titled block; on a wide screen two half-wide blocks stand side by side."""
    noted = tag("span", note, class_="note") if note else None
    header = tag("header", tag("h2", title), noted)
    return tag("section", header, *content, class_="card half" if is_half else "card")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A key figure: a number and its name."""

    name: str
    value: str
    #: Small print below the number.
    note: str | None = None


def tiles(shown: Iterable[Tile]) -> Html:
    """Return key figures in a row."""
    return tag("dl", *(_tile(each) for each in shown), class_="tiles")


def _tile(shown: Tile) -> Html:
    note = tag("dd", shown.note) if shown.note else None
    return tag("div", tag("dt", shown.name), tag("dd", shown.value), note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table."""

    heading: str
    #: number, text or bar: how its cells are laid out. A bar is hidden on a phone.
    kind: str = "text"
    #: True if it is hidden on a phone.
    is_minor: bool = False

    @property
    def classes(self) -> str:
        """The CSS classes of its cells."""
        return f"{self.kind} minor" if self.is_minor else self.kind


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], total: Sequence[str] | None = None) -> Html:
    """Return a table; a row has one cell, text or markup, per column."""
    heads = tag("tr", *(tag("th", column.heading, class_=column.classes, scope="col") for column in columns))
    body = tag("tbody", *(_row(columns, row) for row in rows))
    foot = tag("tfoot", _row(columns, total)) if total is not None else None
    return tag("div", tag("table", tag("thead", heads), body, foot), class_="scroll")


def _row(columns: Sequence[Column], cells: Sequence[str]) -> Html:
    return tag("tr", *(tag("td", cell, class_=column.classes) for column, cell in zip(columns, cells, strict=True)))


def facts(rows: Iterable[tuple[str, str | None]]) -> Html:
    """Return names with their values, one per line; a name without a value is left out."""
    known = [(name, value) for name, value in rows if value is not None]
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in known), class_="facts")


def legend(keys: Iterable[tuple[Tone, str]]) -> Html:
    """Return a legend of colours, each with its meaning."""
    items = (tag("li", tag("span", class_=f"swatch tone-{tone}", aria_hidden="true"), text) for tone, text in keys)
    return tag("ul", *items, class_="legend")


def page(title: str, *content: str | None) -> Html:
    """Return a whole page; by its Content-Security-Policy it loads and runs nothing."""
    whole = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=INERT),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", name="referrer", content="no-referrer"),
            tag("title", one_line(title, TITLE_CHARS)),
            tag("style", Html(STYLE)),
        ),
        tag("body", tag("main", *content)),
        lang="en",
    )
    return Html(f"<!DOCTYPE html>\n{whole}\n")

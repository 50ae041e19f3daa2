"""Writes dataset items in the API's formats, page by page, so that no whole dataset is in memory. Pure.

Tables (CSV, HTML, XLSX) need the names of all columns before the first row, so their items are read twice.
"""

import csv
import html
import io
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import orjson

from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.content.item_views import Making, leaves
from batchrun.server.content.query_parameters import Query
from batchrun.server.content.zip_stream import ZipStream
from batchrun.server.error_answers import value_invalid

#: Max columns of a table, and max characters of a column name. Source: the API reference.
MAX_COLUMNS, _MAX_COLUMN_NAME = 2000, 200
#: Max cells that are written at once: empty ones make a table that is far larger than its items.
MAX_CELLS = 100_000
#: The cell of a value that is nested more than 254 levels deep.
TOO_DEEP = "(nested too deep)"
_XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NOT_IN_XML_NAME = re.compile(r"[^\w.-]", re.ASCII)
#: Characters that XML forbids.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class FormatWriter:
    """Writes one selection of items: the bytes before them, of each page of them, and after them."""

    opening: bytes
    page: Callable[[Sequence[Any]], bytes]
    #: Called last, once.
    closing: Callable[[], bytes]
    #: Max items of one call of `page`.
    items_at_once: int = sys.maxsize
    #: Returns the items of a page as they are shown.
    shown: Callable[[Sequence[Any]], Sequence[Any]] = tuple
    #: True if it joins items as they are stored, which is quick.
    is_plain: bool = False

    def pieces(self, page: Sequence[Any]) -> Iterator[tuple[bytes, bool]]:
        """Yield the bytes of a page, piece by piece, and whether it is the last; no piece keeps the page in memory."""
        items, most = self.shown(page), self.items_at_once
        parts = deque(items[at : at + most] for at in range(0, max(1, len(items)), most))
        del page, items
        while parts:
            yield self.page(parts.popleft()), not parts


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFormat:
    """One format: its content type, and its writer, made from columns, query and the dataset's id."""

    content_type: str
    #: True if the writer needs all columns; other writers get none.
    is_table: bool = False
    writer: Callable[[Sequence[str], Query, str], FormatWriter]


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """A format that joins items as they are stored."""

    content_type: str
    opening: bytes
    separator: bytes
    closing: bytes


JSON_FORMATS = {
    "json": JsonFormat("application/json; charset=utf-8", b"[", b",", b"]"),
    "jsonl": JsonFormat("application/jsonl; charset=utf-8", b"", b"\n", b"\n"),
}


def add_columns(known: dict[str, None], items: Iterable[Any]) -> None:
    """Add the columns of these items to the known ones, in order of first appearance, until MAX_COLUMNS are known."""
    for item in items:
        if len(known) >= MAX_COLUMNS:
            return
        known.update(dict.fromkeys(_columns_of(item)))


def _rows_at_once(names: Sequence[str]) -> int:
    return max(1, MAX_CELLS // max(1, len(names)))


def _rows(names: Sequence[str], items: Iterable[Any]) -> Iterator[list[str]]:
    for item in items:
        columns = _columns_of(item)
        yield [_cell(columns.get(name)) for name in names]


def _columns_of(item: Any) -> JsonObject:
    whole = item if isinstance(item, dict) else {"value": item}
    return {name[:_MAX_COLUMN_NAME]: value for name, value in leaves(whole, whole).items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return TOO_DEEP


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _mark(query: Query, *, default: bool = False) -> str:
    return "\ufeff" if query.boolean("bom", default=default) else ""


def _csv(columns: Sequence[str], query: Query, _: str) -> FormatWriter:
    delimiter = query.text("delimiter") or ","
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise value_invalid("Parameter delimiter must be one character")

    def lines(rows: Iterable[Sequence[str]]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
        return text.getvalue()

    header = "" if query.boolean("skipHeaderRow") else lines([columns])
    opening = _encoded(_mark(query, default=True) + header)
    return FormatWriter(opening, lambda items: _encoded(lines(_rows(columns, items))), bytes, _rows_at_once(columns))


def _html(columns: Sequence[str], query: Query, _: str) -> FormatWriter:
    def row(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    opening = f'{_mark(query)}<!doctype html>\n<meta charset="utf-8">\n<table>\n{row("th", columns)}'
    return FormatWriter(
        _encoded(opening),
        lambda items: _encoded("".join(row("td", cells) for cells in _rows(columns, items))),
        lambda: b"</table>\n",
        _rows_at_once(columns),
    )


def _xml(_: Sequence[str], query: Query, __: str) -> FormatWriter:
    root = _tag(query.text("xmlRoot") or "items")
    opening = f"{_mark(query)}{_XML_HEAD}<{root}>\n"
    return _elements_writer(opening, query.text("xmlRow") or "item", f"</{root}>\n")


def _rss(_: Sequence[str], query: Query, dataset_id: str) -> FormatWriter:
    title = _text(query.text("feedTitle") or f"Dataset {dataset_id}")
    description = _text(query.text("feedDescription") or f'Items in dataset with id "{dataset_id}".')
    channel = f"<title>{title}</title>\n<description>{description}</description>\n"
    opening = f'{_mark(query)}{_XML_HEAD}<rss version="2.0"><channel>\n{channel}'
    return _elements_writer(opening, "item", "</channel></rss>\n")


def _elements_writer(opening: str, row: str, closing: str) -> FormatWriter:
    def page(items: Sequence[Any]) -> bytes:
        making = Making("XML")
        return _encoded("".join(piece + "\n" for item in items for piece in _elements(row, item, making)))

    return FormatWriter(_encoded(opening), page, lambda: _encoded(closing))


def _elements(name: str, value: Any, making: Making) -> Iterator[str]:
    """Yield a value as elements of this name, an array as several. Key `@` holds attributes, `#` the text."""
    if isinstance(value, list):
        for part in value:
            yield from _elements(name, part, making)
        return
    tag, attributes = _tag(name), ""
    if isinstance(value, dict):
        given = value.get("@")
        attributes = _attributes(given) if isinstance(given, dict) else ""
        children = [
            piece for key, part in value.items() if key not in ("@", "#") for piece in _elements(key, part, making)
        ]
        inside = "".join(children) or _text(_cell(value.get("#")))
    else:
        inside = _text(_cell(value))
    element = f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"
    making.count(sys.getsizeof(element))
    yield element


def _attributes(given: JsonObject) -> str:
    return "".join(f" {_tag(name)}={quoteattr(_clean(_cell(value)))}" for name, value in given.items())


def _tag(name: str) -> str:
    """Return a name as one in XML, cut like a column's: each part of an array repeats it twice."""
    return _safe_tag(name[:_MAX_COLUMN_NAME])


@lru_cache(1000)
def _safe_tag(name: str) -> str:
    tag = _NOT_IN_XML_NAME.sub("_", name) or "_"
    return tag if tag[0].isalpha() or tag[0] == "_" else f"_{tag}"


def _text(text: str) -> str:
    return escape(_clean(text))


def _clean(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)


_XLSX_PARTS = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'spreadsheetml.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" ContentType="application/'
        'vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>'
    ),
    "_rels/.rels": (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/workbook.xml": (
        '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
        'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>'
        '<sheet name="Data" sheetId="1" r:id="r1"/></sheets></workbook>'
    ),
    "xl/_rels/workbook.xml.rels": (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" '
        'Target="worksheets/sheet1.xml"/></Relationships>'
    ),
}


def _xlsx(columns: Sequence[str], query: Query, _: str) -> FormatWriter:
    """Write a ZIP archive whose last part is the sheet, so that rows can be sent as they are written."""
    archive = ZipStream()
    parts = [archive.begin(name) + archive.write(_encoded(_XML_HEAD + part)) for name, part in _XLSX_PARTS.items()]
    sheet = archive.begin("xl/worksheets/sheet1.xml")
    head = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    names = "" if query.boolean("skipHeaderRow") else _xlsx_row(columns)
    return FormatWriter(
        b"".join(parts) + sheet + archive.write(_encoded(f"{_XML_HEAD}{head}{names}")),
        # Row by row: a page of small items may have thousands of columns, which are short once they are compressed.
        lambda items: b"".join(archive.write(_encoded(_xlsx_row(row))) for row in _rows(columns, items)),
        lambda: archive.write(b"</sheetData></worksheet>") + archive.close(),
        _rows_at_once(columns),
    )


def _xlsx_row(cells: Sequence[str]) -> str:
    # Always text, so that a spreadsheet does not run scraped content as a formula.
    inside = "".join(f'<c t="inlineStr"><is><t xml:space="preserve">{_text(cell)}</t></is></c>' for cell in cells)
    return f"<row>{inside}</row>"


_XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
FORMATS: Mapping[str, ItemFormat] = {
    "csv": ItemFormat(content_type="text/csv; charset=utf-8", is_table=True, writer=_csv),
    "html": ItemFormat(content_type="text/html; charset=utf-8", is_table=True, writer=_html),
    "xml": ItemFormat(content_type="application/xml; charset=utf-8", writer=_xml),
    "rss": ItemFormat(content_type="application/rss+xml; charset=utf-8", writer=_rss),
    "xlsx": ItemFormat(content_type=_XLSX_TYPE, is_table=True, writer=_xlsx),
}

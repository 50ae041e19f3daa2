"""The formats that dataset items are written in. Pure.

JSON and JSON lines can be written chunk by chunk; all others need to see every item first.
"""

import csv
import html
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import orjson

from batchrun.model import JsonObject
from batchrun.server.faults import value_invalid
from batchrun.server.item_views import leaves
from batchrun.server.query import Query

#: Columns of a table, and characters of their names. Source: the API reference.
_MAX_COLUMNS, _MAX_COLUMN_NAME = 2000, 200
_XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NOT_IN_XML_NAME = re.compile(r"[^\w.-]", re.ASCII)
#: Characters that no XML document may hold.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class ItemFormat:
    """One format: its content type, and how a chunk of items is written."""

    content_type: str
    opening: bytes
    separator: bytes
    closing: bytes


#: Formats that can be written chunk by chunk.
STREAMED = {
    "json": ItemFormat("application/json; charset=utf-8", b"[", b",", b"]"),
    "jsonl": ItemFormat("application/jsonl; charset=utf-8", b"", b"\n", b"\n"),
}


def _table(items: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Return names of columns and rows of cells; nested values are spread over columns."""
    rows = [_columns_of(item) for item in items]
    names = list(dict.fromkeys(name for row in rows for name in row))[:_MAX_COLUMNS]
    return names, [[_cell(row.get(name)) for name in names] for row in rows]


def _columns_of(item: Any) -> JsonObject:
    found: JsonObject = {}
    for name, value in item.items() if isinstance(item, dict) else [("value", item)]:
        found |= leaves(name, value)
    return {name[:_MAX_COLUMN_NAME]: value for name, value in found.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _encoded(text: str, query: Query, *, has_mark: bool = False) -> bytes:
    return (("\ufeff" if query.boolean("bom", default=has_mark) else "") + text).encode(errors="replace")


def _render_csv(items: Sequence[Any], query: Query, _: str) -> bytes:
    names, rows = _table(items)
    text = io.StringIO()
    delimiter = query.text("delimiter") or ","
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise value_invalid("Parameter delimiter must be one character")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    if not query.boolean("skipHeaderRow"):
        writer.writerow(names)
    writer.writerows(rows)
    return _encoded(text.getvalue(), query, has_mark=True)


def _render_html(items: Sequence[Any], query: Query, _: str) -> bytes:
    names, rows = _table(items)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    body = "\n".join(lines)
    text = f'<!doctype html>\n<meta charset="utf-8">\n<table>\n<tr>{head}</tr>\n{body}\n</table>\n'
    return _encoded(text, query)


def _render_xml(items: Sequence[Any], query: Query, _: str) -> bytes:
    root = _tag(query.text("xmlRoot") or "items")
    row = _tag(query.text("xmlRow") or "item")
    body = "".join(piece + "\n" for item in items for piece in _elements(row, item))
    return _encoded(f"{_XML_HEAD}<{root}>\n{body}</{root}>\n", query)


def _render_rss(items: Sequence[Any], query: Query, dataset_id: str) -> bytes:
    title = query.text("feedTitle") or f"Dataset {dataset_id}"
    description = query.text("feedDescription") or f'Items in dataset with id "{dataset_id}".'
    body = "".join(piece + "\n" for item in items for piece in _elements("item", item))
    channel = f"<title>{_text(title)}</title>\n<description>{_text(description)}</description>\n{body}"
    return _encoded(f'{_XML_HEAD}<rss version="2.0"><channel>\n{channel}</channel></rss>\n', query)


def _elements(name: str, value: Any) -> Iterator[str]:
    """Yield a value as elements of this name: an array as several; `@` gives attributes, `#` the text."""
    if isinstance(value, list):
        for part in value:
            yield from _elements(name, part)
        return
    tag, attributes, inside = _tag(name), "", _text(_cell(value))
    if isinstance(value, dict):
        given = value.get("@")
        attributes = _attributes(given) if isinstance(given, dict) else ""
        children = [piece for key, part in value.items() if key not in ("@", "#") for piece in _elements(key, part)]
        inside = "".join(children) or _text(_cell(value.get("#")))
    yield f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"


def _attributes(given: JsonObject) -> str:
    return "".join(f" {_tag(name)}={quoteattr(_clean(_cell(value)))}" for name, value in given.items())


def _tag(name: str) -> str:
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


def _render_xlsx(items: Sequence[Any], query: Query, _: str) -> bytes:
    names, rows = _table(items)
    lines = rows if query.boolean("skipHeaderRow") else [names, *rows]
    sheet = "".join(f"<row>{''.join(map(_xlsx_cell, line))}</row>" for line in lines)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, content in _XLSX_PARTS.items():
            parts.writestr(name, _XML_HEAD + content)
        opening = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
        parts.writestr("xl/worksheets/sheet1.xml", f"{_XML_HEAD}{opening}{sheet}</sheetData></worksheet>")
    return archive.getvalue()


def _xlsx_cell(text: str) -> str:
    # Text always: a spreadsheet must not take what was scraped for a formula.
    return f'<c t="inlineStr"><is><t xml:space="preserve">{_text(text)}</t></is></c>'


#: Formats that need all items at once: content type, and a writer that is given items, query and the dataset's id.
WHOLE: dict[str, tuple[str, Callable[[Sequence[Any], Query, str], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", _render_csv),
    "html": ("text/html; charset=utf-8", _render_html),
    "xml": ("application/xml; charset=utf-8", _render_xml),
    "rss": ("application/rss+xml; charset=utf-8", _render_rss),
    "xlsx": ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", _render_xlsx),
}

"""How dataset items are shown: chosen fields, unwound, flattened, cleaned, and in which format. Pure."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from batchrun.model import JsonObject
from batchrun.server.faults import value_invalid
from batchrun.server.query import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """What is done to each item, in this order: unwind, flatten, fields, omit, hidden fields, empty items."""

    unwind: Sequence[str] = ()
    flatten: Sequence[str] = ()
    fields: Sequence[str] = ()
    omit: Sequence[str] = ()
    output_fields: Sequence[str] = ()
    skips_hidden: bool = False
    skips_empty: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether items are shown as they are stored."""
        return self == ItemView()

    def apply(self, items: Iterable[Any]) -> list[Any]:
        """Return what is shown of the items; there may be more or fewer of them."""
        shown = list(items)
        for name in self.unwind:
            shown = [piece for item in shown for piece in _unwind(item, name)]
        shown = [self._shape(item) if isinstance(item, dict) else item for item in shown]
        return [item for item in shown if item or not self.skips_empty]

    def _shape(self, item: JsonObject) -> JsonObject:
        for name in self.flatten:
            item = _flatten(item, name)
        if self.fields:
            names = self.output_fields or self.fields
            item = {shown: item[name] for name, shown in zip(self.fields, names, strict=False) if name in item}
        if self.omit:
            item = {name: value for name, value in item.items() if name not in self.omit}
        if self.skips_hidden:
            item = {name: value for name, value in item.items() if not name.startswith("#")}
        return item


def view_of(query: Query) -> ItemView:
    """Return the view that a request asks for."""
    is_clean = query.boolean("clean")
    fields, output_fields = query.names("fields"), query.names("outputFields")
    if output_fields and len(output_fields) != len(fields):
        raise value_invalid("Parameter outputFields must name as many fields as parameter fields")
    return ItemView(
        unwind=tuple(query.names("unwind")),
        flatten=tuple(query.names("flatten")),
        fields=tuple(fields),
        omit=tuple(query.names("omit")),
        output_fields=tuple(output_fields),
        skips_hidden=is_clean or query.boolean("skipHidden"),
        skips_empty=is_clean or query.boolean("skipEmpty"),
    )


def _unwind(item: Any, name: str) -> list[Any]:
    value = item.get(name) if isinstance(item, dict) else None
    rest = {key: kept for key, kept in item.items() if key != name} if isinstance(item, dict) else {}
    if isinstance(value, list):
        return [{**rest, **part} if isinstance(part, dict) else {**rest, name: part} for part in value]
    return [{**rest, **value}] if isinstance(value, dict) else [item]


def _flatten(item: JsonObject, name: str) -> JsonObject:
    flat: JsonObject = {}
    for key, value in item.items():
        flat.update(_leaves(key, value) if key == name and isinstance(value, dict | list) else {key: value})
    return flat


def _leaves(prefix: str, value: Any) -> JsonObject:
    if not isinstance(value, dict | list) or not value:
        return {prefix: value}
    pairs = value.items() if isinstance(value, dict) else ((str(index), part) for index, part in enumerate(value))
    leaves: JsonObject = {}
    for key, part in pairs:
        leaves |= _leaves(f"{prefix}.{key}" if isinstance(value, dict) else f"{prefix}/{key}", part)
    return leaves


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


def _render_csv(items: Sequence[Any], query: Query) -> bytes:
    rows = [_leaves_of(item) for item in items]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    delimiter = query.text("delimiter") or ","
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise value_invalid("Parameter delimiter must be one character")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    if not query.boolean("skipHeaderRow"):
        writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    mark = "\ufeff" if query.boolean("bom", default=True) else ""
    return (mark + text.getvalue()).encode(errors="replace")


def _leaves_of(item: Any) -> JsonObject:
    if not isinstance(item, dict):
        return {"value": item}
    leaves: JsonObject = {}
    for name, value in item.items():
        leaves |= _leaves(name, value)
    return leaves


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


#: Formats that need all items at once: content type and writer.
WHOLE: dict[str, tuple[str, Callable[[Sequence[Any], Query], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", _render_csv),
}

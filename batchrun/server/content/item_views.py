"""How dataset items are shown: chosen fields, unwound, flattened, cleaned. Pure."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import orjson

from batchrun.model import JsonObject
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server.content.query_parameters import Query
from batchrun.server.error_answers import value_invalid

#: Max bytes that unwinding, or XML, may make of a page of 9 MB at most; and what a part takes besides its text.
_MAX_MADE_BYTES, _PIECE_BYTES = 256 * 1024 * 1024, 200
#: Max properties of an item whose nested values are shown by path: 75 MB of paths at most. A table shows 2,000.
_MAX_LEAVES = 100_000
#: Max names in a list of a request. Each name to unwind or to flatten is one more pass over all items of a page.
_MAX_NAMES, _MAX_PASSES = 2000, 50
#: Max lookups of properties in a page for which no thread is used.
_MAX_LOOKUPS = 20_000
#: Characters of a path that may still be extended: the platform's max length of a column name.
_MAX_PATH = 200


class Making:
    """Counts what one way of showing makes of a page: arrays multiply, and each part may repeat a long name.

    Args:
        way: as in a sentence, "Unwinding a".
    """

    def __init__(self, way: str) -> None:
        self._way, self._left_bytes = way, _MAX_MADE_BYTES

    def count(self, text_bytes: int, parts: int = 1) -> None:
        """Count parts, each with a text of so many bytes. Refuses what is too much."""
        self._left_bytes -= parts * (text_bytes + _PIECE_BYTES)
        if self._left_bytes < 0:
            raise value_invalid(f"{self._way} makes too much of an item; read the items without it")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """Changes to items, made in this order: skip failed, simplify, unwind, flatten, fields, omit, hidden, empty."""

    skips_failed: bool = False
    is_simplified: bool = False

    unwind: Sequence[str] = ()
    flatten: frozenset[str] = frozenset()
    fields: Sequence[str] = ()
    omit: frozenset[str] = frozenset()
    output_fields: Sequence[str] = ()
    skips_hidden: bool = False
    skips_empty: bool = False

    @property
    def is_plain(self) -> bool:
        return self == ItemView()

    def is_quick(self, items: int) -> bool:
        """Return whether a small page of so many items is shown at once, without a thread."""
        has_passes = self.unwind or self.flatten or self.is_simplified
        return not has_passes and items * len(self.fields) <= _MAX_LOOKUPS

    def apply(self, items: Iterable[Any]) -> list[Any]:
        """Return the items as shown; there may be more or fewer of them."""
        shown = [item for item in items if not (self.skips_failed and isinstance(item, dict) and item.get("errorInfo"))]
        if self.is_simplified:
            shown = _unwind_all(map(_simplified, shown), "pageFunctionResult")
        for name in self.unwind:
            shown = _unwind_all(shown, name)
        shown = [self._shape(item) if isinstance(item, dict) else item for item in shown]
        return [item for item in shown if item or not self.skips_empty]

    def _shape(self, item: JsonObject) -> JsonObject:
        if self.flatten:
            item = leaves(item, self.flatten)
        if self.fields:
            names = self.output_fields or self.fields
            item = {shown: item[name] for name, shown in zip(self.fields, names, strict=False) if name in item}
        if self.omit:
            item = {name: value for name, value in item.items() if name not in self.omit}
        if self.skips_hidden:
            item = {name: value for name, value in item.items() if not name.startswith("#")}
        return item


def view_of(query: Query, transformation: JsonObject | None = None) -> ItemView:
    """Return the view that a request asks for. Its parameters win over the dataset schema's transformation."""
    is_clean = query.boolean("clean")
    fields, output_fields = query.names("fields"), query.names("outputFields")
    for name, most in {"fields": _MAX_NAMES, "omit": _MAX_NAMES, "unwind": _MAX_PASSES, "flatten": _MAX_PASSES}.items():
        if len(query.names(name)) > most:
            raise value_invalid(f"Parameter {name} may have up to {most} names")
    if output_fields and len(output_fields) != len(fields):
        raise value_invalid("Parameter outputFields must name as many fields as parameter fields")
    view = transformation or {}
    return ItemView(
        unwind=tuple(query.names("unwind") or _names(view.get("unwind"))),
        flatten=frozenset(query.names("flatten") or _names(view.get("flatten"))),
        fields=tuple(fields or _names(view.get("fields"))),
        omit=frozenset(query.names("omit") or _names(view.get("omit"))),
        output_fields=tuple(output_fields),
        skips_failed=query.boolean("skipFailedPages"),
        is_simplified=query.boolean("simplified"),
        skips_hidden=is_clean or query.boolean("skipHidden"),
        skips_empty=is_clean or query.boolean("skipEmpty"),
    )


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _simplified(item: Any) -> Any:
    """Return the item as the platform's old crawler showed it. Source: the API reference, "simplified"."""
    names = ("url", "pageFunctionResult", "errorInfo")
    return {name: item[name] for name in names if name in item} if isinstance(item, dict) else item


def _unwind_all(items: Iterable[Any], name: str) -> list[Any]:
    """Unwind the items of a page. Refused if that would repeat too much: an array repeats the rest of its item."""
    pieces: list[Any] = []
    making = Making(f"Unwinding {name}")
    for item in items:
        value = item.get(name) if isinstance(item, dict) else None
        if isinstance(value, list):
            rest = {key: kept for key, kept in item.items() if key != name}
            making.count(len(orjson.dumps(rest)), len(value))
        pieces += _unwind(item, name)
    return pieces


def _unwind(item: Any, name: str) -> list[Any]:
    value = item.get(name) if isinstance(item, dict) else None
    rest = {key: kept for key, kept in item.items() if key != name} if isinstance(item, dict) else {}
    if isinstance(value, list):
        return [{**rest, **part} if isinstance(part, dict) else {**rest, name: part} for part in value]
    return [{**rest, **value}] if isinstance(value, dict) else [item]


def leaves(item: Mapping[str, Any], names: Container[str]) -> JsonObject:
    """Return an item with the leaves of nested values by path in their place: `a.b` in objects, `a/0` in arrays.

    Each leaf repeats its path. So a path of more than 200 characters is not extended, and neither is one to a value
    with which the item would have more than 100,000 properties: they lead to the nested value.

    Args:
        item: is not changed.
        names: of the properties whose leaves are looked for.
    """
    found: JsonObject = {}
    for name, value in item.items():
        if name in names:
            _add_leaves(found, name, value)
        else:
            found[name] = value
    return found


def _add_leaves(found: JsonObject, path: str, value: Any) -> None:
    is_nested = isinstance(value, dict | list) and value
    if not is_nested or len(path) > _MAX_PATH or len(found) + len(value) > _MAX_LEAVES:
        found[path] = value
    elif isinstance(value, dict):
        for key, part in value.items():
            _add_leaves(found, f"{path}.{key}", part)
    else:
        for index, part in enumerate(value):
            _add_leaves(found, f"{path}/{index}", part)

"""Templates: a tree whose strings hold `{{column}}`, compiled once, filled for every row.

    {{sku}}             the cell as it is; of a JSON line, the property with its type
    {{a.b}}             the property `b` of the object `a`, unless a column is named `a.b`
    {{n:int}}           a whole number; {{x:float}}, {{b:bool}}, {{x:json}}: a number, a boolean, any JSON
    {{tags:split(|)}}   a list of the parts between separators, trimmed; an empty cell gives an empty list
    {{tag:list?}}       a list of this one value, left out where the cell is empty: ["{{tag?}}"] is an empty list then
    {{l:objects(url)}}  a list of objects with that property: `{"url": element}`; elements that are objects stay
    {{q:url}}           percent-encoded, to be a part of an address; :trim, :upper, :lower change the text
    {{d:prefix(https://)}} text after another one; with ? nothing where the cell is empty
    {{n:default(1)}}    another text where the cell is empty, null or missing
    {{d:date(%d.%m.%Y)}} a date like 2026-03-31, in another format
    {{n:trim:int?}}     filters one after the other; with ? the property (or list element, or key) is left out when the
                        cell is empty, null or missing
    {{"dc:title"}}      a column whose name holds a colon, a brace or a question mark
    {{{{                two literal braces; single braces and closing ones need no escape

A string that is one placeholder takes the converted value's type; any other text stays a string.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from batchrun.errors import ConfigError
from batchrun.jobs.rows import NotAJob, json_text, kind_of, parts_problem, quoted
from batchrun.model import MAX_BODY_BYTES, JsonObject, read_json
from batchrun.policy.secret_fields import is_secret_name

#: A row: column -> cell, or property -> value.
Cells = Mapping[str, Any]
Fill = Callable[[Cells], Any]


class Filter(NamedTuple):
    """A converter or a change of text between the cell and what is filled in."""

    name: str
    #: Raises ValueError for a value that does not fit.
    apply: Callable[[Any], Any]
    #: What the filter wants, for messages.
    wanted: str


#: Filters whose messages quote the cell. What the others read may be a list of cookies, or another secret.
_OF_SCALARS = frozenset({"int", "float", "bool", "date"})
_MISSING: Final = object()
#: What a placeholder with `?` gives for an empty cell: its property is left out.
DROPPED: Final = object()

_PIECE = re.compile(r"\{\{\{\{|\{\{(?P<inside>.*?)\}\}", re.DOTALL)
_INSIDE = re.compile(
    r'\s*(?:"(?P<quoted>[^"]+)"|(?P<bare>[^":?{}\s](?:[^":{}]*?[^":{}\s])??))\s*'
    r"(?P<filters>(?::.*?)?)(?P<optional>\?)?\s*",
    re.DOTALL,
)
_FILTER = re.compile(r":\s*(?P<name>\w+)(?:\((?P<argument>.*?)\))?\s*(?=:|\Z)", re.DOTALL)
_INT = re.compile(r"([+-]?[0-9]+)(\.0*)?")
#: Max characters inside a placeholder: reading one that is not well formed takes the square of its length.
_MAX_INSIDE = 1000
#: Max parts into which a cell is split, or elements that become objects: each takes 200 bytes.
_MAX_PARTS = 100_000
#: Whole numbers below it are the same as text and as JSON of any consumer.
_MAX_EXACT = 2**53
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Template:
    """A compiled template of JSON whose strings may hold placeholders; its dotted key is for messages.

    Raises:
        ConfigError: A placeholder is not well formed, or its converter is unknown.
    """

    def __init__(self, tree: Any, key: str) -> None:
        #: Columns that the template reads -> dotted key of the first string that reads it.
        self.columns: dict[str, str] = {}
        #: How often an empty cell was filled into a text, by the dotted key of the text.
        self.empty_in_text: Counter[str] = Counter()
        #: Characters that a row may still fill in.
        self._left = 0
        self._compiled = self._compile(tree, key)

    def fill(self, cells: Cells) -> Any:
        """Return the template, filled with a row; DROPPED if all of it is an optional placeholder of an empty cell.

        Raises:
            NotAJob: A cell cannot be converted, a property is missing, or more is filled in than an input may hold.
        """
        self._left = MAX_BODY_BYTES
        return self._compiled(cells)

    def _limited(self, fetch: Fill) -> Fill:
        """Return what counts the text that a placeholder fills in: a long cell may stand in thousands of them."""

        def fill(cells: Cells) -> Any:
            value = fetch(cells)
            self._left -= len(value) if type(value) is str else _chars(value, self._left)
            if self._left < 0:
                raise NotAJob(f"fills the templates with more than the {MAX_BODY_BYTES:,} bytes that an input may have")
            return value

        return fill

    def _compile(self, tree: Any, key: str) -> Fill:
        if isinstance(tree, str):
            return self._compile_text(tree, key)
        if isinstance(tree, dict):
            return self._compile_object(tree, key)
        if isinstance(tree, list):
            return self._compile_list(tree, key)
        return _constant(tree)

    def _compile_object(self, tree: JsonObject, key: str) -> Fill:
        parts = [(name, self._compile(value, f"{key}.{name}")) for name, value in tree.items()]

        def fill(cells: Cells) -> JsonObject:
            return {name: value for name, part in parts if (value := part(cells)) is not DROPPED}

        return fill

    def _compile_list(self, tree: list[Any], key: str) -> Fill:
        parts = [self._compile(value, f"{key}.{index}") for index, value in enumerate(tree)]

        def fill(cells: Cells) -> list[Any]:
            return [value for part in parts if (value := part(cells)) is not DROPPED]

        return fill

    def _compile_text(self, text: str, key: str) -> Fill:
        pieces = self._pieces(text, key)
        if all(isinstance(piece, str) for piece in pieces):
            return _constant("".join(str(piece) for piece in pieces))
        if len(pieces) == 1 and not isinstance(pieces[0], str):
            return pieces[0]
        return self._joined(pieces, key)

    def _joined(self, pieces: list[str | Fill], key: str) -> Fill:
        def fill(cells: Cells) -> Any:
            texts = []
            for piece in pieces:
                value = piece if isinstance(piece, str) else piece(cells)
                if value is DROPPED:
                    return DROPPED
                texts.append(as_text(value))
            if "" in texts:
                self.empty_in_text[key] += 1
            return "".join(texts)

        return fill

    def _pieces(self, text: str, key: str) -> list[str | Fill]:
        pieces: list[str | Fill] = []
        end = 0
        for found in _PIECE.finditer(text):
            _append_text(pieces, text[end : found.start()], key)
            inside = found["inside"]
            pieces.append("{{" if inside is None else self._placeholder(inside, key))
            end = found.end()
        _append_text(pieces, text[end:], key)
        return pieces

    def _placeholder(self, inside: str, key: str) -> Fill:
        if len(inside) > _MAX_INSIDE:
            raise ConfigError(f"has a placeholder of {len(inside):,} characters; {_MAX_INSIDE:,} are allowed", key=key)
        parts = _INSIDE.fullmatch(inside)
        filters = None if parts is None else _filters(parts["filters"], key)
        if parts is None or filters is None:
            problem = f"'{{{{{inside}}}}}' is no placeholder; write it like {{{{column}}}} or {{{{column:int?}}}}"
            raise ConfigError(problem, key=key)
        column = parts["quoted"] or parts["bare"]
        self.columns.setdefault(column, key)
        return self._limited(_fetch(column, filters, key, is_optional=parts["optional"] is not None))


def _append_text(pieces: list[str | Fill], text: str, key: str) -> None:
    if "{{" in text:
        raise ConfigError("'{{' is never closed with '}}'; two literal braces are written '{{{{'", key=key)
    if text:
        pieces.append(text)


def _chars(value: Any, most: int) -> int:
    """Return how many characters lists and objects take as JSON, at least; the rest above `most` is not counted."""
    chars, parts = 0, [value]
    while parts and chars <= most:
        part = parts.pop()
        if isinstance(part, str):
            chars += len(part)
        elif isinstance(part, dict):
            chars += sum(map(len, part)) + 2 * len(part)
            parts += part.values()
        elif isinstance(part, list):
            chars += 2 * len(part)
            parts += part
    return chars


def _constant(value: Any) -> Fill:
    return lambda _: value


def as_text(value: Any) -> str:
    """Return a value as it reads inside a text: null is empty, any other value that is no string is JSON.

    A float without a fraction reads like the whole number, of which it is another notation.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        value = int(value)
    return "" if value is None else json_text(value)


def _fetch(column: str, filters: list[Filter], key: str, *, is_optional: bool) -> Fill:
    path = column.split(".")
    has_default = any(each.name == "default" for each in filters)

    def fill(cells: Cells) -> Any:
        value = cells.get(column, _MISSING)
        if value is _MISSING:
            value = _nested(cells, path)
        if value is _MISSING and not (is_optional or has_default):
            raise NotAJob(f"has no property {column!r}, which {key} uses")
        value = None if value is _MISSING else value
        for each in filters:
            if is_optional and not has_default and (value is None or value == ""):
                return DROPPED
            try:
                value = each.apply(value)
            except ValueError:
                raise NotAJob(_unfit(column, value, each, key)) from None
        return DROPPED if is_optional and (value is None or value == "") else value

    return fill


def _nested(cells: Cells, path: list[str]) -> Any:
    """Return the value at a path of at least two names, or _MISSING."""
    value: Any = cells if len(path) > 1 else None
    for name in path:
        value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
    return value


def _unfit(column: str, value: Any, unfit: Filter, key: str) -> str:
    if value is None or value == "":
        return f"column {column!r} is empty and {key} expects {unfit.wanted}; a trailing ? leaves it out when empty"
    is_secret = unfit.name not in _OF_SCALARS or is_secret_name(column) or is_secret_name(key)
    shown = kind_of(value) if is_secret else quoted(value)
    return f"column {column!r} is {shown} and {key} expects {unfit.wanted}"


def _filters(text: str, key: str) -> list[Filter] | None:
    """Return the filters of a placeholder; None if they are not written like filters."""
    filters, end = [], 0
    for found in _FILTER.finditer(text):
        if found.start() == end:
            filters.append(_filter(found["name"], found["argument"], key))
            end = found.end()
    return filters if end == len(text) else None


def _filter(name: str, argument: str | None, key: str) -> Filter:
    if name in _WITH_ARGUMENT:
        make, wanted, example = _WITH_ARGUMENT[name]
        if not argument and (argument is None or name != "default"):
            raise ConfigError(f"{name} names nothing in parentheses; write it like {example}", key=key)
        return Filter(name, make(argument), wanted)
    if argument is not None:
        takers = ", ".join(_WITH_ARGUMENT)
        raise ConfigError(f"the filter {name!r} takes nothing in parentheses; only {takers} do", key=key)
    try:
        return Filter(name, *_PLAIN[name])
    except KeyError:
        known = ", ".join([*_PLAIN, *(f"{each}(…)" for each in _WITH_ARGUMENT)])
        problem = f"there is no filter {name!r}, only {known}; a column with ':' in its name is quoted: "
        raise ConfigError(problem + '{{"a:b"}}', key=key) from None


def to_int(value: Any) -> int:
    """Return a whole number given as text or as JSON; a fraction of zeros does not count.

    Raises:
        ValueError: It is not a whole number, or has thousands of digits.
    """
    if type(value) is str and (found := _INT.fullmatch(value.strip())):
        value = int(found[1])
    elif type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int:
        return value
    raise ValueError


def to_float(value: Any) -> float:
    """Return a number given as text or as JSON.

    Raises:
        ValueError: It is not a number, or beyond the range of a double.
    """
    if type(value) is str and not _FLOAT.fullmatch(value := value.strip()):
        raise ValueError
    try:
        number = float(value) if type(value) in (str, int, float) else math.nan
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def to_bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    try:
        return _BOOLS[as_text(value).strip().lower()]
    except KeyError:
        raise ValueError from None


def _to_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if problem := parts_problem(value):
        raise NotAJob(f"has a cell that {problem}")
    return read_json(value)


def _to_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]


def _check_parts(count: int) -> None:
    if count > _MAX_PARTS:
        raise NotAJob(f"has a cell of {count:,} parts; {_MAX_PARTS:,} are allowed")


def _splitter(separator: str) -> Callable[[Any], list[Any]]:
    def split(value: Any) -> list[Any]:
        if isinstance(value, list):
            return value
        if not isinstance(value, str):
            raise ValueError
        _check_parts(value.count(separator))
        return [part.strip() for part in value.split(separator)] if value.strip() else []

    return split


def _wrapper(name: str) -> Callable[[Any], list[Any]]:
    def wrap(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError
        _check_parts(len(value))
        return [part if isinstance(part, dict) else {name: part} for part in value]

    return wrap


def _dater(form: str) -> Callable[[Any], str]:
    return lambda value: datetime.fromisoformat(as_text(value).strip()).strftime(form)


def _prefixer(prefix: str) -> Callable[[Any], str]:
    return lambda value: f"{prefix}{as_text(value)}"


def _defaulter(default: str) -> Callable[[Any], Any]:
    return lambda value: default if value is None or value == "" else value


_PLAIN: Final[dict[str, tuple[Callable[[Any], Any], str]]] = {
    "int": (to_int, "a whole number"),
    "float": (to_float, "a number"),
    "bool": (to_bool, "true or false"),
    "json": (_to_json, "JSON"),
    "url": (lambda value: quote(as_text(value), safe=""), "text"),
    "list": (_to_list, "a value"),
    "trim": (lambda value: as_text(value).strip(), "text"),
    "upper": (lambda value: as_text(value).upper(), "text"),
    "lower": (lambda value: as_text(value).lower(), "text"),
}
#: What makes a filter of an argument, what the filter wants, and an example.
_WITH_ARGUMENT: Final[dict[str, tuple[Callable[[str], Callable[[Any], Any]], str, str]]] = {
    "split": (_splitter, "text to split", "{{tags:split(|)}}"),
    "objects": (_wrapper, "a list", "{{links:split(|):objects(url)}}"),
    "prefix": (_prefixer, "text", "{{site:prefix(https://)}}"),
    "default": (_defaulter, "text", "{{n:default(1)}}"),
    "date": (_dater, "a date like 2026-03-31", "{{day:date(%d.%m.%Y)}}"),
}

"""Templates: a tree whose strings hold `{{column}}`, compiled once, filled for every row.

    {{sku}}             the cell as it is; of a JSON line, the property with its type
    {{n:int}}           a whole number; {{x:float}}, {{b:bool}}, {{x:json}}: a number, a boolean, any JSON
    {{tags:split(|)}}   a list of the parts between separators, trimmed; an empty cell gives an empty list
    {{n:int?}}          leaves the property (or list element, or key) out when the cell is empty, null or missing
    {{"dc:title"}}      a column whose name holds a colon, a brace or a question mark
    {{{{                two literal braces; single braces and closing ones need no escape

A string that is one placeholder takes the converted value's type; any other text stays a string.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from batchrun.errors import ConfigError
from batchrun.jobs.rows import NotAJob, brief, json_text
from batchrun.model import JsonObject

#: A row: column -> cell, or property -> value.
Cells = Mapping[str, Any]
Fill = Callable[[Cells], Any]

#: What a placeholder with `?` gives for an empty cell: its property is left out.
DROPPED: Final = object()

_PIECE = re.compile(r"\{\{\{\{|\{\{(?P<inside>.*?)\}\}", re.DOTALL)
_INSIDE = re.compile(
    r'\s*(?:"(?P<quoted>[^"]+)"|(?P<bare>[^":?{}\s](?:[^":{}]*?[^":{}\s])??))\s*'
    r"(?::\s*(?P<converter>\w+)(?:\((?P<argument>.*)\))?\s*)?(?P<optional>\?)?\s*",
    re.DOTALL,
)
_INT = re.compile(r"[+-]?[0-9]+")
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
        #: Fills the template with a row; DROPPED if the whole template is an optional placeholder of an empty cell.
        #: Raises NotAJob when a cell cannot be converted, or a property is missing.
        self.fill: Fill = self._compile(tree, key)

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
        return _joined(pieces)

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
        parts = _INSIDE.fullmatch(inside)
        if parts is None:
            problem = f"'{{{{{inside}}}}}' is no placeholder; write it like {{{{column}}}} or {{{{column:int?}}}}"
            raise ConfigError(problem, key=key)
        column = parts["quoted"] or parts["bare"]
        self.columns.setdefault(column, key)
        convert, wanted = _converter(parts["converter"], parts["argument"], key)
        return _fetch(column, convert, wanted, key, is_optional=parts["optional"] is not None)


def _append_text(pieces: list[str | Fill], text: str, key: str) -> None:
    if "{{" in text:
        raise ConfigError("'{{' is never closed with '}}'; two literal braces are written '{{{{'", key=key)
    if text:
        pieces.append(text)


def _constant(value: Any) -> Fill:
    return lambda _: value


def _joined(pieces: list[str | Fill]) -> Fill:
    def fill(cells: Cells) -> Any:
        texts = []
        for piece in pieces:
            value = piece if isinstance(piece, str) else piece(cells)
            if value is DROPPED:
                return DROPPED
            texts.append(as_text(value))
        return "".join(texts)

    return fill


def as_text(value: Any) -> str:
    """Return a value as it reads inside a text: null is empty, any other value that is no string is JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json_text(value)


def _fetch(column: str, convert: Callable[[Any], Any] | None, wanted: str, key: str, *, is_optional: bool) -> Fill:
    def fill(cells: Cells) -> Any:
        try:
            value = cells[column]
        except KeyError:
            if is_optional:
                return DROPPED
            raise NotAJob(f"has no property {column!r}, which {key} uses") from None
        if is_optional and (value is None or value == ""):
            return DROPPED
        if convert is None:
            return value
        try:
            return convert(value)
        except ValueError:
            raise NotAJob(_unfit(column, value, wanted, key)) from None

    return fill


def _unfit(column: str, value: Any, wanted: str, key: str) -> str:
    if value is None or value == "":
        return f"column {column!r} is empty and {key} expects {wanted}; a trailing ? leaves it out when empty"
    return f"column {column!r} is {brief(value)} and {key} expects {wanted}"


def _converter(name: str | None, argument: str | None, key: str) -> tuple[Callable[[Any], Any] | None, str]:
    if name == "split":
        if not argument:
            raise ConfigError("split names no separator; write it like {{tags:split(|)}}", key=key)
        return _splitter(argument), "text to split"
    if argument is not None:
        raise ConfigError(f"the converter {name!r} takes nothing in parentheses; only split does", key=key)
    if name is None:
        return None, ""
    try:
        return _CONVERTERS[name]
    except KeyError:
        known = ", ".join([*_CONVERTERS, "split(|)"])
        problem = f"there is no converter {name!r}, only {known}; a column with ':' in its name is quoted: "
        raise ConfigError(problem + '{{"a:b"}}', key=key) from None


def to_int(value: Any) -> int:
    """Return a whole number given as text or as JSON.

    Raises:
        ValueError: It is not a whole number, or does not fit 64 bits.
    """
    if type(value) is str and _INT.fullmatch(text := value.strip()) and len(text) < 30:
        value = int(text)
    elif type(value) is float and value.is_integer():
        value = int(value)
    # The range of orjson.
    if type(value) is int and -(2**63) <= value < 2**64:
        return value
    raise ValueError


def _to_float(value: Any) -> float:
    if type(value) is str and not _FLOAT.fullmatch(value := value.strip()):
        raise ValueError
    if type(value) not in (str, int, float) or not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _to_bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    try:
        return _BOOLS[as_text(value).strip().lower()]
    except KeyError:
        raise ValueError from None


def _to_json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value


def _splitter(separator: str) -> Callable[[Any], list[Any]]:
    def split(value: Any) -> list[Any]:
        if isinstance(value, list):
            return value
        if not isinstance(value, str):
            raise ValueError
        return [part.strip() for part in value.split(separator)] if value.strip() else []

    return split


_CONVERTERS: Final[dict[str, tuple[Callable[[Any], Any], str]]] = {
    "int": (to_int, "a whole number"),
    "float": (_to_float, "a number"),
    "bool": (_to_bool, "true or false"),
    "json": (_to_json, "JSON"),
}

"""Which column of a job file fills which property of an Actor's input, by names, types and examples; and the template.

Pure functions over names, sample values and an input schema. They guess: their caller shows the guess to a person.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from batchrun.jobs.template import to_bool, to_float, to_int
from batchrun.model import JsonObject, read_json
from batchrun.policy.secret_fields import is_secret_name
from batchrun.preflight.job_column import JobColumn, name_words, plain_words
from batchrun.preflight.key_column import key_column
from batchrun.runtime.fast_dataclasses import dataclass

#: Score from which on a column is matched with a property. Equal names alone score `_NAME_WEIGHT`.
THRESHOLD = 0.5
#: Difference of scores below which two columns are rivals for one property.
RIVAL_MARGIN = 0.1
#: Max unused columns that are copied into records.
MAX_META = 10

_NAME_WEIGHT = 0.7
#: Addresses in a column, for a property that takes addresses.
_URL_BONUS = 0.5
#: Values among the allowed ones of a property.
_ENUM_BONUS = 0.5
#: Values shaped like the example of a property, as "US" and "DE".
_SHAPE_BONUS = 0.2
#: Values that convert to a number or a boolean, for a property that takes one.
_TYPE_BONUS = 0.1
#: Addresses in a column, for a property that takes any text.
_URL_IN_TEXT = -0.3

_URL = re.compile(r"(https?://\S+|/\S*)")
_DOMAIN = re.compile(r"([\w-]+\.)+[A-Za-z]{2,}(/\S*)?")
#: Separators of several values in one cell.
_SEPARATORS = "|;,"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMatch:
    """A column that fills a property."""

    property: str
    column: str
    #: What the template has for the property.
    value: Any
    #: Other columns that would fill it as well.
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How the columns of a job file become an Actor's input."""

    #: In the order of the schema.
    matches: tuple[ColumnMatch, ...]
    #: Required properties that neither a column nor the task fills.
    missing: tuple[str, ...]
    #: The column that identifies a line; None: none does.
    key: str | None
    #: Columns that are copied into the record: the key, and those that fill no property. None of them is secret.
    meta: tuple[str, ...]

    @property
    def template(self) -> JsonObject:
        """The `[jobs.template]`."""
        return {each.property: each.value for each in self.matches}


def match_columns(
    columns: Sequence[JobColumn],
    fields: Mapping[str, JsonObject],
    required: Collection[str],
    *,
    given: Collection[str] = (),
    chosen: Mapping[str, str] | None = None,
) -> Matching:
    """Match columns with the properties of an input schema, each at most once.

    Args:
        columns: of the job file.
        fields: the schema's properties; empty: there is no schema, and each column fills the property of its name.
        required: the properties that the schema requires.
        given: the properties that the task sets, or the schema's defaults.
        chosen: columns by property that a person has chosen; they are not guessed.
    """
    usable = [column for column in columns if is_usable(column.name)]
    by_name = {column.name: column for column in usable}
    pairs, rivals = _assign(usable, fields, chosen or {})
    order = [*(name for name in fields if name in pairs), *(name for name in pairs if name not in fields)]
    matches = tuple(
        ColumnMatch(
            property=name,
            column=pairs[name],
            value=placeholder(by_name[pairs[name]], name, fields.get(name, {}), is_required=name in required),
            rivals=rivals.get(name, ()),
        )
        for name in order
    )
    secret = {pairs[name] for name in pairs if fields.get(name, {}).get("isSecret")}
    shown = [column for column in usable if column.name not in secret and not is_secret_name(column.name)]
    key = key_column(shown)
    return Matching(
        matches=matches,
        missing=tuple(name for name in required if name not in pairs and name not in given),
        key=key,
        meta=_meta(shown, key, pairs.values()),
    )


def is_usable(column: str) -> bool:
    """True if a placeholder can read a column of this name, and it is not one of batchrun's (`@key`)."""
    return bool(column.strip()) and not column.startswith("@") and '"' not in column and "}}" not in column


def _assign(
    columns: Sequence[JobColumn], fields: Mapping[str, JsonObject], chosen: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the column of each property that one fills, and the rivals of guessed ones."""
    pairs = dict(chosen)
    rivals: dict[str, tuple[str, ...]] = {}
    if not fields:
        pairs = {**{column.name: column.name for column in columns}, **pairs}
    scores = _scores(columns, fields, pairs)
    for score, name, column in scores:
        if name not in pairs and column not in pairs.values():
            pairs[name] = column
            rivals[name] = tuple(
                other for near, of, other in scores if of == name and other != column and score - near < RIVAL_MARGIN
            )
    return pairs, rivals


def _meta(columns: Sequence[JobColumn], key: str | None, taken: Collection[str]) -> tuple[str, ...]:
    """Return the columns that are copied into the record."""
    unused = [column.name for column in columns if column.name not in taken and column.name != key]
    return tuple(([key] if key else []) + unused[:MAX_META])


def _scores(
    columns: Sequence[JobColumn], fields: Mapping[str, JsonObject], taken: Mapping[str, str]
) -> list[tuple[float, str, str]]:
    """Return score, property and column of each pair that may match, the best first."""
    found = [
        (score, name, column.name)
        for name, field in fields.items()
        for column in columns
        if name not in taken and column.name not in taken.values() and (score := _score(column, name, field))
    ]
    return sorted((each for each in found if each[0] >= THRESHOLD), key=lambda each: -each[0])


def _score(column: JobColumn, name: str, field: JsonObject) -> float:
    """Return how well a column fits a property; 0: its values do not convert."""
    bonus = _value_bonus(column, name, field)
    if bonus is None or not column.values:
        return 0.0
    words = name_words(column.name)
    by_name = max(_likeness(words, name_words(name)), 0.9 * _likeness(words, name_words(str(field.get("title") or ""))))
    return _NAME_WEIGHT * by_name + bonus


def _likeness(these: frozenset[str], those: frozenset[str]) -> float:
    return len(these & those) / len(these | those) if these and those else 0.0


def _value_bonus(column: JobColumn, name: str, field: JsonObject) -> float | None:
    """Return what the values say for a match; None: the property cannot take them."""
    kind = field.get("type")
    if column.values and all(isinstance(value, list) for value in column.values):
        return _TYPE_BONUS if kind == "array" else None
    allowed = field.get("enum")
    if isinstance(allowed, list):
        return _ENUM_BONUS if all(value in allowed for value in column.values) else None
    if takes_urls(name, field):
        return _URL_BONUS if _are_urls(column) or _all(column, _DOMAIN.fullmatch) else None
    return _kind_bonus(column, str(kind), field)


def _kind_bonus(column: JobColumn, kind: str, field: JsonObject) -> float | None:
    converters: dict[str, Callable[[Any], Any]] = {"integer": to_int, "number": to_float, "boolean": to_bool}
    if (convert := converters.get(kind)) is not None:
        return _TYPE_BONUS if _converts(column, convert) else None
    if kind == "object":
        return 0.0 if _converts(column, _to_object) else None
    if _are_urls(column):
        return _URL_IN_TEXT
    return _SHAPE_BONUS if _shapes(column.values[:20]) & _shapes(_examples(field)) else 0.0


def takes_urls(name: str, field: JsonObject) -> bool:
    """Whether a property takes addresses of pages, by its editor, its name or its pattern."""
    is_text = field.get("type") in ("string", "array")
    is_named = not {"url", "urls"}.isdisjoint(plain_words(name))
    return _takes_sources(field) or (
        is_text and (is_named or str(field.get("pattern") or "").startswith(("^http", "^(http")))
    )


def _takes_sources(field: JsonObject) -> bool:
    """Whether the elements of a list are objects with a `url`, which the schema's own type does not say."""
    return field.get("editor") == "requestListSources"


def _are_urls(column: JobColumn) -> bool:
    return bool(column.values) and _all(
        column, lambda text: all(_URL.fullmatch(part.strip()) for part in text.split("|"))
    )


def _all(column: JobColumn, fits: Callable[[str], object]) -> bool:
    return all(isinstance(value, str) and fits(value.strip()) for value in column.values)


def _converts(column: JobColumn, convert: Callable[[Any], Any]) -> bool:
    try:
        for value in column.values:
            convert(value)
    except (ValueError, TypeError):
        return False
    return True


def _to_object(value: Any) -> JsonObject:
    found = read_json(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise TypeError
    return found


def _examples(field: JsonObject) -> list[Any]:
    given = [field[name] for name in ("prefill", "default", "example") if field.get(name)]
    return [part for each in given for part in (each if isinstance(each, list) else [each])]


def _shapes(values: Sequence[Any]) -> frozenset[str]:
    """Return the shapes of short texts: "AA" of "US", "aa-AA" of "en-GB", "99999" of a postcode."""
    texts = [value for value in values if isinstance(value, str) and len(value) <= 10]
    return frozenset(
        re.sub(r"\d", "9", re.sub(r"[a-z]", "a", re.sub(r"[A-Z]", "A", text))) for text in texts if " " not in text
    )


def placeholder(column: JobColumn, name: str, field: JsonObject, *, is_required: bool = False) -> Any:
    """Return what a template has for a property that a column fills: a placeholder, in a list if need be."""
    optional = "?" if column.has_empty and not is_required else ""
    is_array = field.get("type") == "array"
    objects = ":objects(url)" if is_array and _takes_sources(field) else ""
    if is_array and (converter := _list_converter_of(column)) is not None:
        return placeholder_of(column.name, converter + objects + optional)
    scheme = _scheme_of(column, name, field)
    if is_array and optional:
        # An empty cell leaves the task's list as it is; in a list, it would replace that by an empty one.
        prefix = f":prefix({scheme})" if scheme else ""
        return placeholder_of(column.name, f"{_converter_of(column, field)}{prefix}:list{objects}?")
    text = f"{scheme}{placeholder_of(column.name, _converter_of(column, field) + optional)}"
    return wrapped(text, field) if is_array else text


def wrapped(text: str, field: JsonObject) -> list[Any]:
    """Return a list of one text, as a property that takes a list wants it."""
    return [{"url": text}] if _takes_sources(field) else [text]


def _scheme_of(column: JobColumn, name: str, field: JsonObject) -> str:
    """Return the scheme that the cells lack: they are domains, and the property takes URLs."""
    are_domains = bool(column.values) and _all(column, _DOMAIN.fullmatch)
    return "https://" if are_domains and takes_urls(name, field) else ""


def _list_converter_of(column: JobColumn) -> str | None:
    """Return the converter that makes a list of each value; None: each value is an element of a list."""
    if not column.has_cells:
        return "" if all(isinstance(value, list) for value in column.values) else None
    if column.values and _converts(column, _to_list):
        return ":json"
    separator = _separator(column.values)
    return f":split({separator})" if separator else None


def _converter_of(column: JobColumn, field: JsonObject) -> str:
    """Return the converter of a single value."""
    kind = str(field.get("type"))
    if not column.has_cells:  # a number of a JSON line becomes the text that the property wants
        return ":trim" if kind == "string" and not any(isinstance(each, str) for each in column.values) else ""
    if not field:  # without a schema, the values decide
        kind = next((kind for kind, convert in _BY_VALUE if _converts(column, convert)), "")
    return _CONVERTERS.get(kind, "")


def placeholder_of(column: str, filters: str = "") -> str:
    """Return the placeholder of a column: `{{sku}}`, `{{n:int?}}`, `{{"a:b"}}`."""
    named = column if re.fullmatch(r"\w[\w .\-/()]*", column) else f'"{column}"'
    return f"{{{{{named}{filters}}}}}"


_CONVERTERS = {"integer": ":int", "number": ":float", "boolean": ":bool", "object": ":json"}


def _plain_number(value: Any) -> None:
    """Refuse texts that would lose something as a number: 007, 1e5, numbers beyond 2^53."""
    if not re.fullmatch(r"-?(0|[1-9]\d{0,14})(\.\d{1,10})?", str(value).strip()):
        raise ValueError


def _whole(value: Any) -> None:
    _plain_number(value)
    to_int(value)


_BY_VALUE: tuple[tuple[str, Callable[[Any], Any]], ...] = (("integer", _whole), ("number", _plain_number))


def _to_list(value: Any) -> list[Any]:
    found = read_json(value)
    if not isinstance(found, list):
        raise TypeError
    return found


def _separator(texts: Sequence[str]) -> str:
    """Return the separator of several values in one cell; empty: each cell is one value."""
    if any("://" in text for text in texts):
        return "|" if any("|" in text for text in texts) else ""
    return next((each for each in _SEPARATORS if 2 * sum(_separates(each, text) for text in texts) > len(texts)), "")


def _separates(separator: str, text: str) -> bool:
    """Whether a text holds a separator: a comma before a blank is punctuation, as in "Berlin, Germany"."""
    return separator in (text if separator != "," else re.sub(r",\s", "", text))

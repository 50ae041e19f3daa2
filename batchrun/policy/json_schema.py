"""JSON Schemas, which others wrote: compiled without following a reference out of the schema, and bounded in cost.

A schema whose references double at each level is small and yet evaluated 2^n times for one value. So the evaluations
of one value are counted from the schema alone, before it is compiled.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from batchrun.model import JsonObject, write_json
from batchrun.policy.rewritten_schema import (
    APART,
    HERE,
    IN_LISTS,
    IN_OBJECTS,
    MAX_SUBSCHEMAS,
    refuse_reference,
    rewritten,
    under,
)
from batchrun.runtime.fast_dataclasses import dataclass

if TYPE_CHECKING:
    import jsonschema_rs

V = TypeVar("V")

#: Max evaluations of subschemas for one value within an item. Each takes 0.01 to 1 µs.
MAX_EVALUATIONS = 1_000
#: Max evaluations for one item: at most some seconds, in which nothing else happens. A thousand values with a thousand
#: evaluations each stay below.
MAX_ITEM_EVALUATIONS = 5_000_000
#: Max evaluations of subschemas within each other. Each takes a piece of the stack, of which a thread has 2 MB.
MAX_NESTED_EVALUATIONS = 5_000
#: Max bytes of an item, times its levels, times the evaluations of one value, for which an error of anyOf or oneOf is
#: made. It holds the errors of all branches, each with a copy of its part of the item, again at each level: up to 130
#: times as many bytes.
_MAX_EXPLAINED_BYTES = 200_000
#: Keywords with lists that are gone through for a value, and how many of what they list counts as one evaluation.
_LISTS, _LISTED_AS_ONE = ("required", "dependentRequired", "dependencies"), 10
#: The count of a repeat in a pattern, which makes as many states.
_REPEAT = re.compile(r"(?:\{|,)(\d{1,9})(?=[,}])")
#: Characters of a text that count as one value.
_TEXT_CHARS = 64
#: Max patterns: a compiled one takes up to MAX_PATTERN_BYTES.
MAX_PATTERNS = 100
MAX_PATTERN_BYTES = 1 << 20
#: Max steps back of one match, and the fewest that a long text leaves. A pattern without references and look-around
#: takes none.
MAX_BACKTRACKS, _MIN_BACKTRACKS = 10_000, 10
#: Max characters that such patterns look at in one value, some 0.4 s: each step back may look at all of a text.
_MAX_LOOKED_AT = 100_000_000
#: How many patterns may look at one value of an Actor's input, as a rule.
_INPUT_EVALUATIONS = 10
#: Max bytes of an input of which all errors are found, some 5,000. Each takes 24 µs and 500 bytes.
_MAX_BYTES_OF_ALL_ERRORS = 10_000
#: Errors of a pattern that takes too long to match.
_UNDECIDED = ("BacktrackLimitExceeded", "RegexEngineFailure")
#: Max nesting of a value that jsonschema-rs checks.
_MAX_DEPTH = 255


class PatternBounds(Generic[V]):
    """Chooses the validator of a schema for a value, so that patterns take bounded time, however long its texts are.

    Args:
        make: compiles the schema, with `pattern_options`.

    Raises:
        jsonschema_rs.ValidationError: it is no JSON Schema.
    """

    def __init__(self, make: Callable[..., V]) -> None:
        import jsonschema_rs  # noqa: PLC0415 - three megabytes that most batches have no use for

        self._make = make
        self._by_backtracks: dict[int, V] = {}
        #: Takes time in proportion to a text; None: a pattern has references or look-around.
        self._linear: V | None = None
        try:
            self._linear = make(pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES))
        except jsonschema_rs.ValidationError:
            self._with_backtracks(MAX_BACKTRACKS)

    def validator(self, value: Any, evaluations: int) -> V:
        """Return the validator for a value; each part of it is evaluated `evaluations` times."""
        if self._linear is not None:
            return self._linear
        allowed = _MAX_LOOKED_AT // (evaluations * max(1, int(min(_bytes_of(value), _MAX_LOOKED_AT))))
        fewer = 1 << max(0, allowed.bit_length() - 1)  # few validators in all
        return self._with_backtracks(min(MAX_BACKTRACKS, max(_MIN_BACKTRACKS, fewer)))

    def _with_backtracks(self, limit: int) -> V:
        import jsonschema_rs  # noqa: PLC0415 - as above

        if limit not in self._by_backtracks:
            options = jsonschema_rs.FancyRegexOptions(backtrack_limit=limit, size_limit=MAX_PATTERN_BYTES)
            self._by_backtracks[limit] = self._make(pattern_options=options)
        return self._by_backtracks[limit]


class InputValidator:
    """Checks inputs of an Actor, each in bounded time.

    Args:
        schema: of the inputs, as JSON Schema.

    Raises:
        ValueError: it is none, or refers to another schema.
    """

    def __init__(self, schema: JsonObject) -> None:
        import jsonschema_rs  # noqa: PLC0415 - as above

        self._bounds = PatternBounds(partial(jsonschema_rs.Draft7Validator, schema, retriever=refuse_reference))

    def errors(self, value: Any) -> "Iterator[jsonschema_rs.ValidationError]":
        """Yield what is wrong with an input, of a large one the first error only; skip those that are `is_undecided`.

        Raises:
            ValueError: it is nested too deeply.
        """
        validator = self._bounds.validator(value, _INPUT_EVALUATIONS)
        if validator.is_valid(value):  # the quicker question, and almost every input is
            return
        if _bytes_of(value) <= _MAX_BYTES_OF_ALL_ERRORS:
            yield from validator.iter_errors(value)
            return
        import jsonschema_rs  # noqa: PLC0415 - as above

        try:
            validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            yield error


def is_undecided(error: "jsonschema_rs.ValidationError") -> bool:
    """Return whether a pattern takes too long to match; that is no problem of the input."""
    return type(error.kind).__name__ in _UNDECIDED


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A JSON Schema that can check values, each in bounded time."""

    bounds: "PatternBounds[jsonschema_rs.Validator]"
    #: Max evaluations of subschemas for one value within an item, and how many of these are within each other.
    evaluations: int
    nested_evaluations: int
    #: True if it has anyOf or oneOf.
    has_branches: bool

    def error_of(self, item: Any) -> str | None:
        """Return why an item does not fit the schema, or why it cannot be checked; None: it fits."""
        import jsonschema_rs  # noqa: PLC0415 - three megabytes that most batches have no use for

        size, levels = _bytes_of(item), _levels_of(item)
        try:
            self._refuse_costly(item, size, levels)
            validator = self.bounds.validator(item, self.evaluations)
            if validator.is_valid(item):
                return None
            if self.has_branches and size * (levels + 1) * self.evaluations > _MAX_EXPLAINED_BYTES:
                return "does not fit; the item is too large for a closer look at the branches of the schema"
            validator.validate(item)
        except jsonschema_rs.ValidationError as error:
            path = ".".join(str(part) for part in error.instance_path)
            return f"{path}: {error.message}"[:500] if path else error.message[:500]
        except ValueError as error:
            return f"cannot be checked: {error}"
        return None

    def _refuse_costly(self, item: Any, size: float, levels: int) -> None:
        """Check that an item takes bounded time and stack.

        Raises:
            ValueError: it does not.
        """
        most = MAX_ITEM_EVALUATIONS // self.evaluations
        # Almost every item is small; each of its values has a byte at least.
        if size > most and _size_of(item, most) > most:
            raise ValueError("the item is too large for a schema with so many parts for one value")
        if levels * self.nested_evaluations > MAX_NESTED_EVALUATIONS:
            raise ValueError("the item nests too deeply for a schema whose parts refer to one another so often")


def _bytes_of(item: Any) -> float:
    """Return the length of an item as JSON; infinite if it cannot be written."""
    try:
        return len(write_json(item))
    except TypeError:
        return math.inf


def _size_of(item: Any, enough: int) -> int:
    """Return the number of values in an item, a long text counted as several; counting may stop above `enough`."""
    size, left = 0, [item]
    while left and size <= enough:
        value = left.pop()
        size += 1
        match value:
            case str():
                size += len(value) // _TEXT_CHARS
            case list():
                left += value
            case dict():
                left += value.keys()
                left += value.values()
    return size


def _levels_of(item: Any) -> int:
    """Return how many objects and lists of an item are within each other."""
    levels = 0
    here: list[Any] = [[item]]
    while here := [part for value in here for part in _parts_of(value) if isinstance(part, dict | list)]:
        levels += 1
    return levels


def _parts_of(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()


def compile_schema(schema: JsonObject) -> CompiledSchema:
    """Return a schema that checks items.

    Raises:
        ValueError: it is not a JSON Schema, refers to something outside, or could take too long; the text says so.
    """
    import jsonschema_rs  # noqa: PLC0415 - three megabytes that most batches have no use for

    if not isinstance(schema, dict):
        raise ValueError("it is not a JSON Schema: a schema must be an object")
    own = rewritten(schema)
    evaluations, nested = _most_evaluations(own)
    try:
        bounds = PatternBounds(partial(jsonschema_rs.validator_for, own, retriever=refuse_reference))
    except jsonschema_rs.ValidationError as error:
        raise ValueError(f"it is not a JSON Schema: {error.message[:500]}") from error
    text = write_json(own)
    return CompiledSchema(bounds, evaluations, nested, has_branches=b'"anyOf":' in text or b'"oneOf":' in text)


@dataclass(frozen=True, slots=True)
class _Subschema:
    """A subschema's own subschemas, by the values that they are evaluated on."""

    #: How many evaluations it counts as by itself.
    weight: int
    here: list[JsonObject]
    apart: list[JsonObject]
    in_lists: list[JsonObject]
    in_objects: list[JsonObject]
    #: Of `in_lists`, what is evaluated again by who looks which parts of the value were evaluated; whether it looks.
    contains: list[JsonObject]
    is_looking: bool


def _most_evaluations(schema: JsonObject) -> tuple[int, int]:
    """Return the max evaluations of one value at any depth of an item, and how many of one are within each other.

    Raises:
        ValueError: they are too many, or subschemas or patterns are.
    """
    subschemas = _subschemas_of(schema)
    try:
        order = list(TopologicalSorter({each: map(id, sub.here) for each, sub in subschemas.items()}).static_order())
    except CycleError:
        raise ValueError("a part of it refers to itself for the same value, without an end") from None
    nested: dict[int, int] = {}
    for each in order:
        nested[each] = 1 + max((nested[id(one)] for one in subschemas[each].here), default=0)
    counts: dict[int, int] = dict.fromkeys(subschemas, 0)
    most = 1
    for depth in range(_MAX_DEPTH):
        above, counts, looks = counts, {}, dict[int, int]()
        for name in order:
            sub = subschemas[name]
            # A look asks each subschema whether it is valid, and what it has evaluated: that looks again.
            look = sum(counts[id(one)] + looks[id(one)] for one in sub.here) + sum(
                above[id(one)] for one in sub.contains
            )
            count = (
                (sub.weight if depth == 0 else 0)
                + sum(counts[id(one)] for one in sub.here)
                + max(sum(above[id(one)] for one in each) for each in (sub.in_lists, sub.in_objects))
                + max((above[id(one)] for one in sub.apart), default=0)
                + (look if sub.is_looking else 0)
            )
            counts[name], looks[name] = min(count, MAX_EVALUATIONS + 1), min(look, MAX_EVALUATIONS + 1)
        if counts[id(schema)] > MAX_EVALUATIONS:
            words = f"one value would be checked more than {MAX_EVALUATIONS:,} times, by references, lists or patterns"
            raise ValueError(f"{words} that multiply; let fewer of its parts apply to the same value")
        most = max(most, counts[id(schema)])
        if counts == above:
            break
    return most, max(nested.values())


def _subschemas_of(schema: JsonObject) -> dict[int, _Subschema]:
    """Return all subschemas that can be evaluated, by identity; `schema` keeps them alive."""
    found: dict[int, _Subschema] = {}
    left, patterns = [schema], 0
    while left:
        node = left.pop()
        if id(node) in found:
            continue
        here = [*_meant_by(schema, node), *under(node, HERE)]
        apart, in_lists, in_objects, contains = (
            list(under(node, words)) for words in (APART, IN_LISTS, IN_OBJECTS, ("contains",))
        )
        is_looking = "unevaluatedProperties" in node or "unevaluatedItems" in node
        found[id(node)] = _Subschema(_weight_of(node), here, apart, in_lists, in_objects, contains, is_looking)
        left += [*here, *apart, *in_lists, *in_objects]
        by_pattern = node.get("patternProperties")
        patterns += ("pattern" in node) + (len(by_pattern) if isinstance(by_pattern, dict) else 0)
        if len(found) > MAX_SUBSCHEMAS or patterns > MAX_PATTERNS:
            raise ValueError(f"it has more than {MAX_SUBSCHEMAS:,} parts or {MAX_PATTERNS} patterns")
    return found


def _weight_of(node: JsonObject) -> int:
    """Return how many evaluations a subschema counts as: lists of names and values, and repeats, take their time."""
    lists = [node[word] for word in _LISTS if word in node]
    lists += [each for each in _parts_of(node.get("enum")) if isinstance(each, dict | list)]  # a text is found at once
    size = sum(_size_of(each, MAX_ITEM_EVALUATIONS) for each in lists)
    switches = sum(isinstance(part, bool) for word in HERE for part in _parts_of(node.get(word)))
    by_pattern = node.get("patternProperties")
    patterns = [node.get("pattern"), *(by_pattern if isinstance(by_pattern, dict) else ())]
    return 1 + (size + switches) // _LISTED_AS_ONE + sum(_states_of(each) for each in patterns if isinstance(each, str))


def _states_of(pattern: str) -> int:
    """Return in how many states each character may be looked at, as far as they are many."""
    states = 1
    for repeat in _REPEAT.finditer(pattern):
        states = min(states * max(1, int(repeat[1])), MAX_EVALUATIONS + 1)
    return states


def _meant_by(schema: JsonObject, node: JsonObject) -> list[JsonObject]:
    """Return the object that a subschema's reference means."""
    if "$ref" not in node:
        return []
    reference = str(node["$ref"])
    meant = schema if reference == "#" else schema["definitions"][reference.removeprefix("#/definitions/")]
    return [meant] if isinstance(meant, dict) else []

"""Rewrites a JSON Schema of others, so that the validator evaluates the very parts that are counted.

References are resolved here, once, and become `#/definitions/N`; of the keywords, the ones that are known here remain.
Where a reader of references differs from ours, as at percent signs or an `$id`, nothing depends on it.
"""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from batchrun.model import JsonObject

#: Max subschemas, and max characters of a property's name: the validator keeps the path to each of its parts.
MAX_SUBSCHEMAS = 5_000
MAX_NAME_CHARS = 250

#: Keywords whose subschemas are evaluated on the value itself.
HERE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
#: Keywords of which each subschema is evaluated on another value in the value.
APART = ("properties", "prefixItems")
#: Keywords whose subschemas may all be evaluated on one value in a list, and on one in an object.
IN_LISTS = ("items", "additionalItems", "unevaluatedItems", "contains")
IN_OBJECTS = ("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames")
TOGETHER = (*IN_LISTS, *IN_OBJECTS)
#: Keywords whose value is an object of subschemas by name.
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
#: Keywords without subschemas that check a value.
_PLAIN = (
    "type", "enum", "const", "format", "required", "dependentRequired", "pattern", "multipleOf", "maximum", "minimum",
    "exclusiveMaximum", "exclusiveMinimum", "maxLength", "minLength", "maxItems", "minItems", "uniqueItems",
    "maxContains", "minContains", "maxProperties", "minProperties", "contentEncoding", "contentMediaType",
)  # fmt: skip


def rewritten(schema: JsonObject) -> JsonObject:
    """Return a schema that judges every value as the given one does.

    Raises:
        ValueError: it refers to something outside, or to nothing; it has too many parts, or one with an `$id`.
    """
    references = _References(schema)
    targets = _targets(schema, references)
    names = {target: f"#/definitions/{number}" if number else "#" for number, target in enumerate(targets)}

    def copy(value: Any, *, is_target: bool = False) -> Any:
        if not isinstance(value, dict):
            return value
        if id(value) in names and not is_target:
            return {"$ref": names[id(value)]}
        made = {word: value[word] for word in _PLAIN if word in value}
        for word in (*HERE, *APART, *TOGETHER):
            if word in value:
                made[word] = _copied(value[word], copy, is_named=word in _NAMED)
        meant = [{"$ref": names[id(target)]} for target in references.of(value)]
        for one in meant[:1]:
            made.update(one)
        if len(meant) > 1:  # `$ref` beside one of the others
            made["allOf"] = [*(made.get("allOf") or ()), *meant[1:]]
        return made

    definitions = {
        str(number): copy(target, is_target=True) for number, target in enumerate(targets.values()) if number
    }
    draft = {"$schema": schema["$schema"]} if "$schema" in schema else {}
    return {**draft, **copy(schema, is_target=True), "definitions": definitions}


def _copied(value: Any, copy: Callable[[Any], Any], *, is_named: bool) -> Any:
    if isinstance(value, dict) and is_named:
        return {name: copy(part) for name, part in value.items()}
    return [copy(part) for part in value] if isinstance(value, list) else copy(value)


def under(node: JsonObject, keywords: tuple[str, ...]) -> Iterator[JsonObject]:
    """Yield the subschemas that are objects, of some keywords of a schema."""
    for word in keywords:
        value = node.get(word)
        if isinstance(value, dict):
            value = list(value.values()) if word in _NAMED else [value]
        yield from (each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _targets(schema: JsonObject, references: "_References") -> dict[int, Any]:
    """Return the schema and what references in it lead to, by identity; `schema` keeps them alive."""
    targets: dict[int, Any] = {id(schema): schema}
    seen: set[int] = set()
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        if len(seen) > MAX_SUBSCHEMAS:
            raise ValueError(f"it has more than {MAX_SUBSCHEMAS:,} parts")
        for word in _NAMED & node.keys():
            if isinstance(node[word], dict) and any(len(name) > MAX_NAME_CHARS for name in node[word]):
                raise ValueError(f"it has a name of more than {MAX_NAME_CHARS} characters")
        if node is not schema and any(_is_address(node.get(word)) for word in ("$id", "id")):
            raise ValueError("a part of it has an $id of its own, which changes what its references mean; leave it out")
        found = references.of(node)
        targets.update({id(each): each for each in found})
        left += [*found, *under(node, (*HERE, *APART, *TOGETHER))]
    return targets


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("#")


class _References:
    """Finds what the references in a schema mean, in the words of its draft."""

    def __init__(self, schema: JsonObject) -> None:
        self._schema = schema
        self._anchors = _anchors(schema)
        draft = str(schema.get("$schema", ""))
        is_old = "draft-0" in draft
        self._words = ("$ref",) if is_old else ("$ref", "$recursiveRef" if "2019-09" in draft else "$dynamicRef")

    def of(self, node: JsonObject) -> list[Any]:
        """Return the parts that a subschema refers to; there is one schema, so that each reference has one meaning.

        Raises:
            ValueError: it refers to something outside, or to nothing.
        """
        return [self._target(word, node[word]) for word in self._words if isinstance(node.get(word), str)]

    def _target(self, word: str, reference: str) -> Any:
        fragment = unquote(reference.removeprefix(str(self._schema.get("$id", "")).rstrip("#")))
        if not fragment.startswith("#") or (word == "$recursiveRef" and fragment != "#"):
            refuse_reference(reference)
        if fragment == "#":
            return self._schema
        is_pointer = fragment.startswith("#/")
        found = list(_at(self._schema, fragment[2:])) if is_pointer else self._anchors.get(fragment[1:], [])
        if len(found) != 1:
            raise ValueError(f"it refers to {reference[:200]}, and has {len(found)} such parts")
        return found[0]


def refuse_reference(uri: str) -> Any:
    """Refuse a reference out of a schema; given to jsonschema-rs, which else reads files and sends requests.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"it refers to {uri[:200]}, and only references within the schema are followed")


def _at(schema: JsonObject, pointer: str) -> Iterator[Any]:
    """Yield what a JSON pointer means (RFC 6901), if it is there."""
    node: Any = schema
    for part in pointer.split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name[:9]) < len(node):
            node = node[int(name[:9])]
        elif isinstance(node, dict) and name in node:
            node = node[name]
        else:
            return
    yield node


def _anchors(schema: JsonObject) -> dict[str, list[JsonObject]]:
    """Return the objects in a schema by anchor; it may stand in data, too, where no reference finds it."""
    found: dict[str, list[JsonObject]] = {}
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            given = [node.get(word) for word in ("$anchor", "$dynamicAnchor", "$id", "id")]
            for name in {each.removeprefix("#") for each in given if isinstance(each, str)}:
                found.setdefault(name, []).append(node)
            left += node.values()
        elif isinstance(node, list):
            left += node
    return found

"""JSON Schemas of others: what they refer to, and how much they make of one value."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.policy import json_schema
from batchrun.policy.expectation import Expectation
from batchrun.policy.json_schema import InputValidator, compile_schema
from batchrun.policy.rewritten_schema import rewritten
from tests.unit.test_expectation import judge


def doubling(levels: int, **last: Any) -> dict[str, Any]:
    """Return a schema whose references double at each level, and end in `last`."""
    parts: dict[str, Any] = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": {**parts, f"a{levels}": last or {"type": "integer"}}, "$ref": "#/$defs/a0"}


def twice(child: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that applies another one twice to the property x."""
    return {"allOf": [{"properties": {"x": child}}, {"properties": {"x": child}}]}


def looking(levels: int, word: str) -> dict[str, Any]:
    """Return a schema that asks each part of a chain what it has evaluated, which asks the next one."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"allOf": [schema], word: {}}
    return schema


TREE = {"properties": {"name": {"type": "string"}, "left": {"$ref": "#"}, "right": {"$ref": "#"}}}
CONTAINER = {
    "$defs": {"base": {"properties": {"children": {"items": {"$ref": "#/$defs/base"}}}}},
    "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"children": {"items": {"$ref": "#"}}}}],
}


@pytest.mark.parametrize(
    "schema",
    [
        TREE,
        CONTAINER,
        doubling(6, type="object"),
        looking(3, "unevaluatedProperties"),
        {**TREE, "unevaluatedProperties": {}},
        {"$ref": "#item", "$defs": {"i": {"$anchor": "item"}}},
        {"$defs": {"unused": {"$ref": "http://127.0.0.1:1/x"}}},
        {"items": {"$ref": "#"}, "additionalProperties": {"$ref": "#"}},
        {"properties": {f"p{n}": {"pattern": "^.{1,200}$"} for n in range(90)}, "required": ["left"]},
        {"properties": {"code": {"enum": [f"code {n}" for n in range(50_000)]}}},
    ],
)
def test_a_schema_may_refer_to_itself(schema: dict[str, Any]) -> None:
    """As trees, inheritance and anchors do: each value is checked a few times."""
    item = {"left": {"left": {"name": "x"}}, "children": [{"children": [{}]}]}
    assert compile_schema(schema).error_of(item) is None


@pytest.mark.parametrize(
    "schema",
    [
        doubling(30),
        {"$id": "https://example.com/item.json", **doubling(30)},
        {"$defs": {"a": twice({"$ref": "#/%24defs/a"})}, "$ref": "#/$defs/a"},
        {**twice({"$ref": "#"}), "items": {"$ref": "#"}},
        {"patternProperties": {"x": {"$ref": "#"}, "y": {"$ref": "#"}}},
        {"anyOf": [{}] * 1001},
        looking(10, "unevaluatedProperties"),
        looking(10, "unevaluatedItems"),
        {"contains": {"$ref": "#"}, "unevaluatedItems": False},
        {"allOf": [True] * 20_000},
        {"dependentRequired": {f"n{number}": ["a"] for number in range(10_000)}},
        {"enum": [{"n": number} for number in range(10_000)]},
        {"pattern": "[ab]*a[ab]{10000}c"},
        {"pattern": "(a{40}){40}"},
    ],
)
def test_a_schema_whose_references_multiply_is_refused(schema: dict[str, Any]) -> None:
    """At one value, or at each level of an item; before it is compiled."""
    with pytest.raises(ValueError, match="one value would be checked more than 1,000 times, by"):
        compile_schema(schema)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "file:///etc/hosts.json"}, "it refers to file:///etc/hosts.json, and only references within"),
        ({"$ref": "http://127.0.0.1:1/x"}, "only references within"),
        ({"$id": "http://127.0.0.1:1/", "$ref": "x"}, "only references within"),
        ({"$schema": "http://127.0.0.1:1/x"}, "Unknown meta-schema"),
        ({"properties": {"x": {"$id": "http://127.0.0.1/", "$ref": "#"}}}, "an \\$id of its own"),
        ({"$ref": "#/$defs/none"}, "and has 0 such parts"),
        ({"$ref": "#a", "$defs": {"a": {"$anchor": "a"}, "b": {"$anchor": "a"}}}, "and has 2 such parts"),
        ({"allOf": [{"$ref": "#"}]}, "refers to itself for the same value"),
        ({"allOf": [{"pattern": f"a{n}"} for n in range(101)]}, "or 100 patterns"),
        ({"properties": {str(n): {} for n in range(5_000)}}, "more than 5,000 parts"),
        ({"patternProperties": {f"a{n}": True for n in range(101)}}, "or 100 patterns"),
        ({"properties": {"a" * 251: {}}}, "a name of more than 250 characters"),
        ([], "^it is not a JSON Schema: a schema must be an object"),
        ({"type": 7}, "^it is not a JSON Schema: 7 is not valid"),
    ],
)
def test_a_schema_that_is_not_its_own_is_refused(schema: dict[str, Any], words: str) -> None:
    """It refers to a file or an address, to nothing, or to itself without an end; or it has too many parts."""
    with pytest.raises(ValueError, match=words):
        compile_schema(schema)


D4, D7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
D2019 = "https://json-schema.org/draft/2019-09/schema"
HIDDEN = {**doubling(40), "$id": "%23/definitions/b"}
RECURSION = {"$recursiveRef": "#/$defs/b"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": D7, "$ref": "%23/definitions/b", "definitions": {"b": {}, "x": HIDDEN}},
        {
            "$schema": D4,
            "$id": "#/definitions/e",
            "$ref": "#/definitions/e%23f0",
            "x-anchors": [{"$id": "#f0"}],
            "definitions": {"e#f0": doubling(40)["$defs"]["a0"]},
            "$defs": doubling(40)["$defs"],
        },
        {
            "$schema": D2019,
            "$defs": {"b": {}},
            "allOf": [{"items": RECURSION}, {"items": {"allOf": [RECURSION]}}],
            "items": {"not": {"not": RECURSION}},
        },
    ],
)
def test_a_reference_has_one_meaning(schema: dict[str, Any]) -> None:
    """What is counted is what is evaluated: none of these takes longer than its count says."""
    item: Any = 1
    for _ in range(30):
        item = [item]
    with suppress(ValueError):
        compile_schema(schema).error_of(item)


WORDS = st.sampled_from([{"type": "integer"}, {"minimum": 3}, {"required": ["a"]}, {"maxItems": 1}, {"enum": [1, "x"]}])
REFERENCES = st.sampled_from(["#", "#/$defs/b", "#/$defs/c", "#named"]).map(lambda each: {"$ref": each})
AROUND: list[Callable[[Any], dict[str, Any]]] = [
    *(lambda part, word=word: {word: part} for word in ("not", "items", "contains", "additionalProperties")),
    *(lambda part, word=word: {word: [part]} for word in ("allOf", "anyOf", "oneOf", "prefixItems")),
    *(lambda part, word=word: {word: [part, {"type": "object"}]} for word in ("allOf", "anyOf", "oneOf")),
    *(lambda part, word=word: {word: part} for word in ("propertyNames", "unevaluatedProperties")),
    *(lambda part, word=word: {word: {"a": part}} for word in ("properties", "dependentSchemas", "patternProperties")),
    lambda part: {"if": part, "then": False},
]
PARTS: st.SearchStrategy[Any] = st.recursive(
    WORDS | REFERENCES | st.booleans(),
    lambda part: st.tuples(st.sampled_from(AROUND), part).map(lambda made: made[0](made[1])),
    max_leaves=4,
)
VALUES = [1, 5, "x", None, [], [1], [1, "x"], {}, {"a": 1}, {"a": "x", "b": 5}, {"a": {"a": [1]}}]


@given(part=PARTS, b=PARTS, c=PARTS, draft=st.sampled_from([D4, D7, D2019, None]))
def test_a_rewritten_schema_judges_as_the_given_one(part: Any, b: Any, c: Any, draft: str | None) -> None:
    """Every value, in every draft."""
    named = {"$anchor": "named", "$id": "#named"} if draft == D7 else {"$anchor": "named"}
    schema = {"$defs": {"b": b, "c": c, "d": {**named, "type": "string"}}, "allOf": [part]}
    schema |= {} if draft is None else {"$schema": draft}
    try:
        given_one = jsonschema_rs.validator_for(schema)
        own = jsonschema_rs.validator_for(rewritten(schema))
    except (jsonschema_rs.ValidationError, ValueError):
        return
    assert [own.is_valid(value) for value in VALUES] == [given_one.is_valid(value) for value in VALUES]


def test_no_file_is_read_for_a_reference(tmp_path: Path) -> None:
    """Not even one that would be a fine schema."""
    file = tmp_path / "part.json"
    file.write_text(json.dumps({"type": "string"}))
    with pytest.raises(ValueError, match="it refers to file://"):
        Expectation(items_min=None, schema={"$ref": file.as_uri()})


def test_a_pattern_that_tries_for_long_is_given_up() -> None:
    """After 10,000 steps; by default it would be a million for each text, on the event loop."""
    expectation = Expectation(items_min=None, schema={"pattern": r"^(a|aa)+\1x"})
    verdict = judge(expectation, ["a" * 18 + "b"])
    assert verdict is not None
    assert "Max limit for backtracking" in verdict.problem.message


def test_the_longer_a_text_the_fewer_steps_a_pattern_with_look_around_has() -> None:
    """Each step may look at all of it: 10,000 of them on a text of 800 KB took more than a minute."""
    expectation = Expectation(items_min=None, schema={"pattern": "foo(?!bar)"})
    text = "foobar" * 1_000 + "foo"
    assert judge(expectation, [text]) is None
    verdict = judge(expectation, [text + "x" * 2_000_000])
    assert verdict is not None
    assert "Max limit for backtracking" in verdict.problem.message
    plain = Expectation(items_min=None, schema={"pattern": "foob|fooa"})
    assert judge(plain, ["foo" * 700_000 + "fooa"]) is None, "without look-around, time grows with the text alone"


def test_one_error_of_an_item_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All errors of a doubling schema would take memory for each of its 2^18 paths."""
    monkeypatch.setattr(json_schema, "MAX_EVALUATIONS", 1 << 20)
    expectation = Expectation(items_min=None, schema=doubling(18))
    verdict = judge(expectation, ["x"])
    assert verdict is not None
    assert verdict.problem.message.endswith('item 1: "x" is not of type "integer"')


@pytest.mark.parametrize(
    ("schema", "item"),
    [
        ({"items": {"allOf": [{"not": {"const": n}} for n in range(1, 446)]}}, [0] * 20_000),
        ({"patternProperties": {f"^{n}": {} for n in range(98)}}, {f"key {n}": 0 for n in range(80_000)}),
        ({"allOf": [{"pattern": f"x{n}$"} for n in range(99)]}, "x" * 9_000_000),
    ],
)
def test_an_item_that_would_take_too_long_is_not_checked(schema, item):
    """The process that checks it does nothing else meanwhile."""
    expectation = Expectation(items_min=None, schema=schema)
    assert expectation.error_of(item) == (
        "cannot be checked: the item is too large for a schema with so many parts for one value"
    )


def test_a_large_item_is_checked_against_a_usual_schema():
    """Ten times as many values as a page of a shop has, each with a part of its own."""
    schema = {"items": {"properties": {f"p{n}": {"type": "integer"} for n in range(50)}}}
    item = [{f"p{n}": n for n in range(50)} for _ in range(2_000)]
    assert Expectation(items_min=None, schema=schema).error_of(item) is None


@pytest.mark.parametrize(("values", "errors"), [(3, 3), (100_000, 1)])
def test_of_a_large_input_the_first_error_is_found_only(values: int, errors: int) -> None:
    """Each takes time and memory, and a few KB on the wire may be millions."""
    validator = InputValidator({"properties": {"urls": {"items": {"type": "string"}}}})
    found = [*validator.errors({"urls": [1] * values})]
    assert (len(found), list(found[0].instance_path)) == (errors, ["urls", 0])


@pytest.mark.parametrize(("links", "levels", "is_checked"), [(300, 200, False), (300, 5, True), (5, 240, True)])
def test_an_item_that_would_take_all_of_the_stack_is_not_checked(links: int, levels: int, is_checked: bool) -> None:
    """Each level of it is checked by all parts of a chain, each within the one before."""
    parts: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}]} for n in range(links)}
    parts[f"a{links}"] = {"items": {"$ref": "#"}}
    compiled = compile_schema({"$defs": parts, "$ref": "#/$defs/a0"})
    item: Any = 1
    for _ in range(levels):
        item = [item]
    found: list[str] = []

    def check() -> None:  # in a thread, as of a command: by itself its stack is smaller than that of the process
        found.append(compiled.error_of(item) or "")

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert ("nests too deeply" in found[0]) is not is_checked, found


@pytest.mark.parametrize("word", ["anyOf", "oneOf"])
@pytest.mark.parametrize(("levels", "is_explained"), [(2, True), (100, False)])
def test_the_error_of_a_large_item_is_not_made(word: str, levels: int, is_explained: bool) -> None:
    """It would hold copies of the item for each branch and level: 4 GB for 220 KB."""
    reply = {"required": ["text"], "properties": {"text": {"type": "string"}, "replies": {"items": {"$ref": "#"}}}}
    item: Any = {"text": 1}
    for _ in range(levels):
        item = {"text": "x", "replies": [item] * (1 if levels > 2 else 2)}
    item["replies"] += [{"text": 1}] * (20_000 if levels > 2 else 1)
    error = compile_schema({word: [{"type": "null"}, reply]}).error_of(item)
    assert error is not None
    assert ("does not fit; the item is too large" in error) is not is_explained, error

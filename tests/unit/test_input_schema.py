"""The messages with which the platform would refuse an input, for any schema."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.preflight.input_schema import MAX_MESSAGE_CHARS, MAX_PROBLEMS_PER_INPUT, InputSchema, SchemaUnusable
from batchrun.server.catalog import actor_input_schema as server_schema
from batchrun.server.error_answers import ErrorAnswer

SCHEMA: dict[str, Any] = {
    "title": "Some",
    "type": "object",
    "schemaVersion": 1,
    "properties": {
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 5, "prefill": 7, "unit": "pages"},
        "mode": {"type": "string", "enum": ["a", "b"], "nullable": True, "editor": "select", "enumTitles": ["A", "B"]},
        "name": {"type": "string", "pattern": "^[a-zö]+$", "minLength": 2, "maxLength": 4, "sectionCaption": "Who"},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": True, "items": {"type": "string"}},
        "people": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"age": {"type": "integer", "nullable": True}, "of": {"type": "string"}},
                "required": ["of"],
                "additionalProperties": False,
            },
        },
        "any": {"type": ["string", "object"], "editor": "json"},
        "hidden": {"type": "string", "editor": "hidden", "default": "s"},
        "token": {"type": "object", "isSecret": True, "editor": "json"},
        "store": {"type": "string", "resourceType": "dataset"},
    },
    "required": ["name"],
}


def test_secret_fields_are_found_at_any_depth():
    """In objects, in items of arrays, and in properties without a name; a secret object is secret as a whole."""
    word = {"type": "string", "isSecret": True}
    nested = {
        "login": {"type": "object", "properties": {"word": word, "user": {"type": "string"}}},
        "shops": {"type": "array", "items": {"type": "object", "properties": {"word": word}}},
        "headers": {"type": "object", "additionalProperties": word},
        "token": {"type": "object", "isSecret": True, "properties": {"word": word}},
    }
    secrets = InputSchema({"type": "object", "properties": nested}).secrets
    assert secrets.paths == (("login", "word"), ("shops", "*", "word"), ("headers", "*"), ("token",))
    assert InputSchema(SCHEMA).secrets.paths == (("token",),)


def test_defaults_and_prefills_are_read():
    """Defaults lie under every input; prefills are the input of a new task."""
    schema = InputSchema(SCHEMA)
    assert schema.defaults == {"count": 5, "hidden": "s"}
    assert schema.prefills == {"count": 7, "hidden": "s"}


@pytest.mark.parametrize(
    ("value", "problems"),
    [
        ({"name": "ab"}, []),
        ({"name": "öö", "unknown": {"x": [1]}}, []),
        ({"name": "ab", "mode": None, "people": [{"of": "x", "age": None}]}, []),
        ({"name": "ab", "any": {}, "store": "x"}, []),
        ({"name": "ab", "count": 9.0}, []),
        ({}, ["Field input.name is required"]),
        ({"name": None}, ["Field input.name must be string"]),
        ({"name": "ab", "count": 0}, ["Field input.count must be >= 1"]),
        ({"name": "ab", "count": 1e300}, ["Field input.count must be <= 9"]),
        ({"name": "ab", "count": True}, ["Field input.count must be integer"]),
        ({"name": "ab", "count": 1.5}, ["Field input.count must be integer"]),
        ({"name": "ab", "any": 1}, ["Field input.any must be string,object"]),
        ({"name": "ab", "mode": "c"}, ['Field input.mode must be equal to one of the allowed values: "a", "b"']),
        ({"name": "AB"}, ["Field input.name must match regular expression ^[a-zö]+$"]),
        (
            {"name": "\U0001d51e"},
            ["Field input.name must NOT have fewer than 2 characters", "Field input.name must match regul"],
        ),
        ({"name": "abcde"}, ["Field input.name must NOT have more than 4 characters"]),
        ({"name": "ab", "list": []}, ["Field input.list must NOT have fewer than 1 items"]),
        ({"name": "ab", "list": ["a", "a"]}, ["Field input.list must NOT have items that are equal"]),
        ({"name": "ab", "list": ["a", 2]}, ["Field input.list.* must be string"]),
        (
            {"name": "ab", "people": [{"of": 1}, {}, {"of": "x", "x": 1}, {"of": 2}]},
            [
                "Field input.people.*.of must be string",
                "Field input.people.*.of is required",
                "Property input.people.*.x is not allowed",
            ],
        ),
    ],
)
def test_an_invalid_input_has_problems(value, problems):
    """Each problem is one sentence, the same at every position of an array, and without a value."""
    found = InputSchema(SCHEMA).problems(value)
    assert len(found) == len(problems)
    for expected in problems:
        assert any(each.startswith(expected) for each in found), (expected, found)


def test_apifys_own_keywords_are_checked():
    """Patterns of keys and values, and the sources of a request list."""
    schema = InputSchema(
        {
            "properties": {
                "headers": {"type": "object", "patternKey": "^X-", "patternValue": "^[0-9]+$"},
                "pairs": {"type": "array", "editor": "keyValue", "patternKey": "^k", "patternValue": "^v"},
                "words": {"type": "array", "editor": "stringList", "patternValue": "^w"},
                "startUrls": {"type": "array", "editor": "requestListSources"},
            }
        }
    )
    good = {
        "headers": {"X-A": "1"},
        "pairs": [{"key": "k1", "value": "v1"}],
        "words": ["w"],
        "startUrls": [{"url": "https://example.com"}, {"requestsFromUrl": "https://example.com/list.txt"}],
    }
    assert schema.problems(good) == []
    bad = {"headers": {"Y": "a"}, "pairs": [{"key": "x"}, {"value": "x"}], "words": ["x"], "startUrls": [{}, "u"]}
    assert sorted(schema.problems(bad)) == [
        "Field input.headers has names of properties that do not fit",
        "Field input.headers.Y must match regular expression ^[0-9]+$",
        "Field input.pairs.*.key must match regular expression ^k",
        "Field input.pairs.*.value must match regular expression ^v",
        "Field input.startUrls.* must be object",
        "Field input.startUrls.* needs url or requestsFromUrl",
        "Field input.words.* must match regular expression ^w",
    ]


def test_a_stored_secret_is_not_checked():
    """The platform shows a task's secrets encrypted, so they cannot be checked."""
    schema = InputSchema(SCHEMA)
    assert schema.problems({"name": "ab", "token": "ENCRYPTED_JSON:abc:def"}) == []
    assert schema.problems({"name": "ab", "token": "plain"}) == ["Field input.token must be object"]


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"properties": {"a": 1}},
        {"properties": {"a": {"type": "nope"}}},
        {"properties": {"a": {"type": "integer", "minimum": "one"}}},
        {"properties": {"a": {"type": [1]}}},
        {"properties": {"a": {"type": "string", "enum": "abc"}}},
        {"properties": {"a": {"type": "array", "items": {"properties": {"b": []}}}}},
        {"required": [1]},
    ],
    ids=str,
)
def test_a_broken_schema_is_unusable(schema):
    """Every broken schema raises SchemaUnusable with one line."""
    with pytest.raises(SchemaUnusable) as caught:
        InputSchema(schema)
    assert "\n" not in str(caught.value)


def test_a_schema_that_nests_too_deeply_is_unusable():
    """A schema of thousands of levels raises SchemaUnusable."""
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(SchemaUnusable):
        InputSchema(schema)


def test_references_are_not_followed():
    """A schema with `$ref` makes the check read no address and no file."""
    schema = InputSchema({"$ref": "file:///etc/passwd", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}})
    assert schema.problems({"a": 1}) == []


def test_a_pattern_that_cannot_be_compiled_is_left_out_and_named():
    """The other checks of the schema stay."""
    schema = InputSchema({"properties": {"a": {"type": "string", "pattern": "("}, "b": {"type": "integer"}}})
    assert schema.untried_patterns == ["input.a"]
    assert schema.problems({"a": "x", "b": 1}) == []
    assert schema.problems({"a": 1, "b": ""}) == ["Field input.a must be string", "Field input.b must be integer"]


def test_a_pattern_that_takes_too_long_is_no_problem():
    """A pattern that exceeds the backtrack limit is not reported."""
    schema = InputSchema({"properties": {"a": {"type": "string", "pattern": r"(?<!x)^(?:(a+)\1?)+$"}}})
    assert schema.problems({"a": "a" * 50 + "!"}) == []


def test_problems_of_deep_and_long_inputs_are_bounded():
    """254 levels are read; an input with a million problems reports a few; long messages are cut."""
    deep: Any = 1
    for _ in range(250):
        deep = {"a": deep}
    assert InputSchema(SCHEMA).problems({"name": "ab", "x": deep}) == []
    many = InputSchema({"properties": {f"f{n}": {"type": "string"} for n in range(100)}})
    assert len(many.problems({f"f{n}": n for n in range(100)})) == MAX_PROBLEMS_PER_INPUT
    long = InputSchema({"properties": {"a": {"enum": ["x" * 50] * 1 + [f"{n:050}" for n in range(1000)]}}})
    assert len(long.problems({"a": 1})[0]) <= MAX_MESSAGE_CHARS + 2


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "count": _JSON | st.integers(0, 10),
        "mode": _JSON | st.sampled_from(["a", "b"]),
        "name": _JSON | st.text(alphabet="abö", max_size=5),
        "list": _JSON | st.lists(st.text(), max_size=3),
        "any": _JSON,
        "other": _JSON,
    },
)


@settings(max_examples=50)
@given(_INPUTS)
def test_it_agrees_with_the_embedded_server(value):
    """Two implementations that share no code refuse the same inputs."""
    value = orjson.loads(orjson.dumps(value))
    try:
        server_schema.ActorInputSchema(SCHEMA).check(value)
        is_taken = True
    except ErrorAnswer:
        is_taken = False
    assert (InputSchema(SCHEMA).problems(value) == []) is is_taken

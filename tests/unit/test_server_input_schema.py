"""Apify's input schemas: defaults, prefills, and the platform's sentences."""

import pytest

from batchrun.server.catalog.actor_input_schema import ActorInputSchema
from batchrun.server.error_answers import ErrorAnswer

SCHEMA = {
    "title": "Some",
    "type": "object",
    "schemaVersion": 1,
    "properties": {
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 5, "prefill": 7},
        "mode": {"type": "string", "enum": ["a", "b"], "nullable": True, "editor": "select"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "secret": {"type": "string", "editor": "hidden", "default": "s"},
        "flag": {"type": "boolean", "prefill": True},
    },
    "required": ["name"],
}


def test_defaults_fill_and_prefills_only_seed() -> None:
    """Defaults stand under every input; prefills (and hidden defaults) are a new task's input."""
    schema = ActorInputSchema(SCHEMA)
    assert schema.filled({"count": 2, "more": 1}) == {"count": 2, "secret": "s", "more": 1}
    assert schema.prefilled() == {"count": 7, "secret": "s", "flag": True}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({}, "Field input.name is required"),
        ({"name": "ab", "count": 0}, "Field input.count must be >= 1"),
        ({"name": "ab", "count": 10**40}, "Field input.count must be <= 9"),
        ({"name": "ab", "count": "1"}, "Field input.count must be integer"),
        ({"name": "ab", "count": True}, "Field input.count must be integer"),
        ({"name": "ab", "mode": "c"}, 'Field input.mode must be equal to one of the allowed values: "a", "b"'),
        ({"name": "AB"}, "Field input.name must match regular expression ^[a-z]+$"),
        ({"name": "a"}, "Field input.name must NOT have fewer than 2 characters"),
        ({"name": "abcde"}, "Field input.name must NOT have more than 4 characters"),
        ({"name": "ab", "list": []}, "Field input.list must NOT have fewer than 1 items"),
        ({"name": "ab", "list": ["a", 2]}, "Field input.list.1 must be string"),
        ({"name": None}, "Field input.name must be string"),
    ],
)
def test_an_input_that_does_not_fit_is_told_why(value: dict[str, object], sentence: str) -> None:
    """One sentence, naming the field."""
    with pytest.raises(ErrorAnswer) as caught:
        ActorInputSchema(SCHEMA).check(value)
    assert (caught.value.status, caught.value.type) == (400, "invalid-input")
    assert caught.value.message == f"Input is not valid: {sentence}"


def test_null_is_taken_where_it_is_allowed() -> None:
    """`nullable` allows null, also beside an enum; unknown fields are allowed by default."""
    ActorInputSchema(SCHEMA).check({"name": "ab", "mode": None, "other": {"x": 1}})


@pytest.mark.parametrize("schema", [{"properties": {"a": {"type": "strong"}}}, {"properties": {"a": {"pattern": "("}}}])
def test_a_schema_that_cannot_be_used_is_said_to_be(schema: dict[str, object]) -> None:
    """400 `invalid-input-schema`."""
    with pytest.raises(ErrorAnswer) as caught:
        ActorInputSchema(schema)
    assert caught.value.type == "invalid-input-schema"


def test_a_pattern_that_takes_too_long_refuses_no_input() -> None:
    """Whether it matches is not known; others are served meanwhile."""
    field = {"title": "A", "type": "string", "editor": "textfield", "pattern": r"^(a|aa)+\1x"}
    schema = ActorInputSchema({"properties": {"a": field}})
    schema.check({"a": "a" * 30 + "b"})
    with pytest.raises(ErrorAnswer):
        schema.check({"a": "b"})

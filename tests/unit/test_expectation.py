"""What a succeeded Run must have in its dataset: counts and schemas."""

from collections.abc import Sequence
from typing import Any

import pytest

from batchrun.model import Outcome
from batchrun.policy.expectation import Expectation, Verdict

PRICED = {"type": "object", "required": ["price"], "properties": {"price": {"type": "number", "minimum": 0}}}


@pytest.mark.parametrize(("count", "message"), [(0, "no item"), (1, "1 item"), (9, "9 items"), (10, None), (11, None)])
def test_too_few_items_are_empty(count: int, message: str | None) -> None:
    """As many as expected are enough."""
    verdict = Expectation(items_min=10, schema=None).judge_count(count)
    if message is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert verdict.outcome is Outcome.EMPTY
        assert verdict.problem.message == f"{message}, where 10 or more were expected"


def judge(expectation: Expectation, items: Sequence[Any]) -> Verdict | None:
    """Return the verdict on items."""
    return expectation.judge_errors([expectation.error_of(item) for item in items])


def test_items_that_break_the_schema_are_malformed() -> None:
    """The most common error is named, with the first item that has it."""
    items = [{"price": 1}, {"price": -1}, {}, {"cost": 2}, "text"]
    verdict = judge(Expectation(items_min=None, schema=PRICED), items)
    assert verdict is not None
    assert (verdict.outcome, verdict.problem.type) == (Outcome.MALFORMED, "item-schema")
    assert verdict.problem.message == (
        '4 of the first 5 items break the schema; item 3: "price" is a required property'
    )


def test_good_items_and_no_items_fit_the_schema() -> None:
    """Their number is checked separately."""
    expectation = Expectation(items_min=None, schema=PRICED)
    assert judge(expectation, [{"price": 0}] * 100) is None
    assert judge(expectation, []) is None
    assert expectation.judge_count(0) is None


def test_without_a_schema_no_items_are_needed() -> None:
    """Any item is good."""
    expectation = Expectation(items_min=1, schema=None)
    assert (expectation.sample, judge(expectation, [None])) == (0, None)


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"pattern": "["}, {"required": 3}])
def test_what_is_no_schema_is_refused(schema: dict[str, object]) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match="not a JSON Schema"):
        Expectation(items_min=None, schema=schema)

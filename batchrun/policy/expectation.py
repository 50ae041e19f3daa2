"""What a succeeded Run must have in its dataset; otherwise its outcome is `empty` or `malformed`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchrun.model import JsonObject, Outcome, Problem
from batchrun.policy.json_schema import compile_schema

#: Items of each Run that are checked against the schema: its first ones.
SAMPLE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a Run with the status SUCCEEDED is no success."""

    outcome: Outcome
    problem: Problem


class Expectation:
    """What is expected of a dataset: a number of items, and the JSON Schema of an item.

    Raises:
        ValueError: `schema` cannot be used; the text says why.
    """

    def __init__(self, *, items_min: int | None, schema: JsonObject | None) -> None:
        self.items_min = items_min
        self._validator = None if schema is None else compile_schema(schema)

    @property
    def sample(self) -> int:
        """Number of first items that `judge_items` needs."""
        return SAMPLE if self._validator is not None else 0

    def judge_count(self, count: int) -> Verdict | None:
        """Return why there are too few items, or None; counting may stop at `items_min`."""
        if self.items_min is None or count >= self.items_min:
            return None
        found = {0: "no item", 1: "1 item"}.get(count, f"{count:,} items")
        message = f"{found}, where {self.items_min:,} or more were expected"
        return Verdict(outcome=Outcome.EMPTY, problem=Problem(type="too-few-items", message=message))

    def judge_items(self, items: Sequence[Any]) -> Verdict | None:
        """Return why the first items do not fit the schema, or None."""
        if self._validator is None:
            return None
        errors = [(number, error) for number, item in enumerate(items, 1) if (error := self._error_of(item))]
        if not errors:
            return None
        (error, _), *_ = Counter(error for _, error in errors).most_common(1)
        first = next(number for number, each in errors if each == error)
        message = f"{len(errors)} of the first {len(items)} items break the schema; item {first}: {error}"
        return Verdict(outcome=Outcome.MALFORMED, problem=Problem(type="item-schema", message=message))

    def _error_of(self, item: Any) -> str | None:
        import jsonschema_rs  # noqa: PLC0415 - three megabytes that most batches have no use for

        assert self._validator is not None, "asked only where there is a schema"
        try:
            self._validator.validate(item)  # up to the first error: `iter_errors` collects all of them
        except jsonschema_rs.ValidationError as error:
            path = ".".join(str(part) for part in error.instance_path)
            return f"{path}: {error.message}"[:500] if path else error.message[:500]
        except ValueError as unfit:
            return f"cannot be checked: {unfit}"
        return None

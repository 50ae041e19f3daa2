"""What a succeeded Run must have in its dataset; otherwise its outcome is `empty` or `malformed`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from batchrun.model import JsonObject, Outcome, Problem
from batchrun.policy.json_schema import compile_schema
from batchrun.runtime.fast_dataclasses import dataclass

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
        self._schema = None if schema is None else compile_schema(schema)

    @property
    def sample(self) -> int:
        """Number of first items that `judge_errors` needs."""
        return SAMPLE if self._schema is not None else 0

    def judge_count(self, count: int) -> Verdict | None:
        """Return why there are too few items, or None; counting may stop at `items_min`."""
        if self.items_min is None or count >= self.items_min:
            return None
        found = {0: "no item", 1: "1 item"}.get(count, f"{count:,} items")
        message = f"{found}, where {self.items_min:,} or more were expected"
        return Verdict(outcome=Outcome.EMPTY, problem=Problem(type="too-few-items", message=message))

    def judge_errors(self, errors: Sequence[str | None]) -> Verdict | None:
        """Return why the first items do not fit the schema, or None.

        Args:
            errors: of the first items, from `error_of`.
        """
        found = [(number, error) for number, error in enumerate(errors, 1) if error is not None]
        if not found:
            return None
        (error, _), *_ = Counter(error for _, error in found).most_common(1)
        first = next(number for number, each in found if each == error)
        message = f"{len(found)} of the first {len(errors)} items break the schema; item {first}: {error}"
        return Verdict(outcome=Outcome.MALFORMED, problem=Problem(type="item-schema", message=message))

    def error_of(self, item: Any) -> str | None:
        """Return why an item does not fit the schema, or None."""
        return None if self._schema is None else self._schema.error_of(item)

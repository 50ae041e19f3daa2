"""`[jobs.matrix]`: every combination of its lists makes a job of each line."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from batchrun.errors import ConfigError
from batchrun.jobs.job_key import MAX_KEY_CHARS
from batchrun.jobs.template import as_text
from batchrun.model import JsonObject

#: Jobs of one line: they are made together, in memory.
MAX_COMBINATIONS = 100_000
#: Max values in all combinations together: each takes 100 bytes.
MAX_VALUES = 2_000_000


class Combination(NamedTuple):
    """One value of each list of the matrix."""

    #: Columns for the template.
    columns: JsonObject
    #: Added to the `@key` of a line, so that each of its jobs has its own key. None: no key may be so long.
    key_suffix: str | None


def check_matrix(matrix: Mapping[str, Any]) -> None:
    """Check that the combinations of a matrix can be made.

    Raises:
        ConfigError: A value is no list or an empty one, or there are too many combinations.
    """
    for name, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise ConfigError("must be a list with at least one value", key=f"jobs.matrix.{name}")
    count = math.prod(len(values) for values in matrix.values())
    if count > MAX_COMBINATIONS:
        problem = f"makes {count:,} jobs of each line; at most {MAX_COMBINATIONS:,} are allowed"
        raise ConfigError(problem, key="jobs.matrix")
    if count * len(matrix) > MAX_VALUES:
        problem = f"makes {count:,} jobs of each line with {len(matrix):,} values each; put some of them into [input]"
        raise ConfigError(problem, key="jobs.matrix")


def combinations(matrix: Mapping[str, Any]) -> list[Combination]:
    """Return every combination; none without a matrix.

    Raises:
        ConfigError: See `check_matrix`.
    """
    check_matrix(matrix)
    if not matrix:
        return []
    choices = product(*([(value, f"{name}={as_text(value)}") for value in values] for name, values in matrix.items()))
    return [
        Combination({name: value for name, (value, _) in zip(matrix, choice, strict=True)}, _key_suffix(choice))
        for choice in choices
    ]


def _key_suffix(choice: tuple[tuple[Any, str], ...]) -> str | None:
    # Looked at first: a value may be long, and stand in all combinations.
    if sum(len(text) + 1 for _, text in choice) >= MAX_KEY_CHARS:
        return None
    return "/" + ",".join(text for _, text in choice)

"""`[jobs.matrix]`: every combination of its lists makes a job of each line."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from batchrun.errors import ConfigError
from batchrun.jobs.template import as_text
from batchrun.model import JsonObject

#: Jobs of one line: they are made together, in memory.
MAX_COMBINATIONS = 100_000


class Combination(NamedTuple):
    """One value of each list of the matrix."""

    #: Columns for the template.
    columns: JsonObject
    #: Added to the `@key` of a line, so that each of its jobs has its own key.
    key_suffix: str


def combinations(matrix: Mapping[str, Any]) -> list[Combination]:
    """Return every combination; none without a matrix.

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
    if not matrix:
        return []
    choices = (dict(zip(matrix, values, strict=True)) for values in product(*matrix.values()))
    return [Combination(columns, _key_suffix(columns)) for columns in choices]


def _key_suffix(columns: JsonObject) -> str:
    return "/" + ",".join(f"{name}={as_text(value)}" for name, value in columns.items())

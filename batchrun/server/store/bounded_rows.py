"""Limits the bytes that are read at once."""

from collections.abc import Iterable
from typing import Any, TypeVar

Row = TypeVar("Row", bound=tuple[Any, ...])


def up_to(max_bytes: int, rows: Iterable[Row]) -> tuple[list[Row], bool]:
    """Return the first rows, up to `max_bytes` in their last columns, and whether rows are left out.

    The first row is always returned, however large it is.
    """
    taken: list[Row] = []
    size = 0
    for row in rows:
        size += len(row[-1])
        if size > max_bytes and taken:
            return taken, True
        taken.append(row)
    return taken, False

"""JSON lines: of job files, records and items."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson


def to_lines(values: Iterable[Any]) -> bytes:
    """Return values as JSON lines."""
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the values of a file of JSON lines; none if there is no file."""
    return [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []

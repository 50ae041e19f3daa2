"""Data as JSON on stdout."""

import sys
from typing import Any

import orjson


def print_json(value: Any, *, is_indented: bool = False) -> None:
    """Print a value as JSON; times in UTC with Z."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
    sys.stdout.buffer.write(orjson.dumps(value, option=options | (orjson.OPT_INDENT_2 if is_indented else 0)))
    sys.stdout.flush()

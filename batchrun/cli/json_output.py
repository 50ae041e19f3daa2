"""Data as JSON on stdout."""

from typing import Any

import orjson

from batchrun.cli.terminal import write_data
from batchrun.model import write_json


def print_json(value: Any, *, is_indented: bool = False) -> None:
    """Print a value as JSON; times in UTC with Z."""
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if is_indented else 0)
    write_data(write_json(value, option=options) + b"\n")

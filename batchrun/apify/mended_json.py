"""JSON that Actors store although no JSON holds it: lone surrogates, NaN and infinity, which are replaced."""

import json
import math
import re
from typing import Any

import orjson

from batchrun.model import read_json

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = "it is nested too deep"


def parse_json(body: bytes) -> Any:
    """Read JSON, also with what orjson refuses and Actors store; see `parse_mended`.

    Raises:
        ValueError: it is not JSON, nested too deep, or holds an integer of thousands of digits.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return parse_mended(body)[0]


def parse_mended(body: bytes) -> tuple[Any, int]:
    """Read JSON with lone surrogates, NaN and numbers out of range; also return how many of them were replaced.

    Lone surrogates become U+FFFD, NaN and infinity null, so that the value can be written as JSON that all consumers
    read.

    Raises:
        ValueError: it is not JSON, nested too deep, or holds an integer of thousands of digits.
    """
    lost = 0

    def read_float(text: str) -> float | None:
        nonlocal lost
        number = float(text)
        if math.isfinite(number):
            return number
        lost += 1
        return None

    try:
        value = json.loads(body, parse_int=_integer, parse_float=read_float, parse_constant=read_float)
        text, surrogates = _LONE_SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    return read_json(text), lost + surrogates


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's message names a setting of Python
        raise ValueError(f"it holds an integer of {len(digits):,} digits") from None

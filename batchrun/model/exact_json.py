"""JSON whose whole numbers keep all their digits, also beyond 64 bits, where orjson would round or refuse them."""

import json
from typing import Any

import orjson

_ANY_DIGIT = bytes.maketrans(b"123456789", b"0" * 9)
#: Every number beyond 64 bits has one of these in its digits. Comparing bytes is many times faster than a pattern.
_BEYOND = (b"0" * 20, b"-" + b"0" * 19)


def has_long_digits(raw: bytes) -> bool:
    """True if a JSON text may hold a whole number beyond 64 bits; a text in it may look like one."""
    digits = raw.translate(_ANY_DIGIT)
    # `in` would first try to read these bytes as one number, which takes longer than the search.
    return digits.find(_BEYOND[0]) >= 0 or digits.find(_BEYOND[1]) >= 0


def read_json(raw: bytes | str) -> Any:
    """Read JSON.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
    """
    value = orjson.loads(raw)
    if has_long_digits(raw if isinstance(raw, bytes) else raw.encode()):
        try:
            return json.loads(raw)
        except (RecursionError, ValueError):
            return value  # nested too deep to be written again; or thousands of digits, which no consumer reads
    return value


def write_json(value: Any, option: int = 0) -> bytes:
    """Write compact JSON; of orjson's options, only OPT_SORT_KEYS holds for every value.

    Raises:
        orjson.JSONEncodeError: it cannot be written as JSON.
    """
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error):
            raise
    is_sorted = bool(option & orjson.OPT_SORT_KEYS)
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=is_sorted).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise orjson.JSONEncodeError(str(error)) from error

"""The JSON of dataset items, in which half a surrogate pair may stand, as in JavaScript."""

import json
import re
from typing import Any

import orjson

from batchrun.server.content.request_bodies import load_json

#: Half a pair, as it stands in a JSON text.
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
#: All up to the next half pair. No part is tried twice: `*+`.
_WHOLE = re.compile(rb"(?:[^\\]++|\\(?!u[dD][89a-fA-F]).|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+", re.DOTALL)
#: Characters of a half pair.
_HALF_LENGTH = 6


def may_hold_half_pairs(body: bytes) -> bool:
    """Return whether a body that is no JSON of orjson's may be one with half pairs."""
    return _HALF_PAIR.search(body) is not None


def load_with_half_pairs(body: bytes) -> Any:
    """Return the JSON value of a body with half pairs. It takes seconds for megabytes: callers use a thread.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    load_json(_with_whole_pairs(body))
    # orjson refuses half a pair. Numbers beyond 64 bits become the nearest double, as orjson reads them.
    return json.loads(body, parse_int=orjson.loads)


def dump_item(item: Any) -> bytes:
    """Return the JSON text of an item as it is stored; half a surrogate pair stays an escape.

    It is a copy: behind each text of its own that is kept, orjson leaves a hole of 4 KB, for `{}` too.
    """
    try:
        return bytes(memoryview(orjson.dumps(item)))
    except orjson.JSONEncodeError:
        return json.dumps(item, separators=(",", ":")).encode()


def load_stored(text: bytes) -> Any:
    """Return a stored item; half a surrogate pair becomes U+FFFD, as it does where text is written as UTF-8."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(_with_whole_pairs(text))


def _with_whole_pairs(text: bytes) -> bytes:
    whole, at = bytearray(), 0
    while (found := _WHOLE.match(text, at)) is not None:
        whole += found[0]
        if found.end() == len(text):
            break
        whole += rb"\ufffd"
        at = found.end() + _HALF_LENGTH
    return bytes(whole)

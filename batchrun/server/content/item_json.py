"""The JSON of dataset items, in which half a surrogate pair may stand, as in JavaScript."""

import json
import re
from typing import Any

import orjson

from batchrun.server.content.request_bodies import load_json

#: An escape in a JSON text; the first group matches half a pair.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


def load_pushed(body: bytes) -> Any:
    """Return the JSON value of a body with items.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return load_json(body)
    except orjson.JSONDecodeError:
        load_json(_with_whole_pairs(body))
        # orjson refuses half a pair. Numbers beyond 64 bits become the nearest double, as orjson reads them.
        return json.loads(body, parse_int=orjson.loads)


def dump_item(item: Any) -> bytes:
    """Return the JSON text of an item as it is stored; half a surrogate pair stays an escape."""
    try:
        return orjson.dumps(item)
    except orjson.JSONEncodeError:
        return json.dumps(item, separators=(",", ":")).encode()


def load_stored(text: bytes) -> Any:
    """Return a stored item; half a surrogate pair becomes U+FFFD, as it does where text is written as UTF-8."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.loads(_with_whole_pairs(text))


def _with_whole_pairs(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], text)

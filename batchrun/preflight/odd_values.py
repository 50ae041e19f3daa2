"""Values of an input that its author may not have meant: numbers that others round, and what spreadsheets have lost."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from batchrun.model import read_json

#: Max odd values of one input that are looked for, and max characters of a path in a message.
_MAX_ODD = 1_000
_MAX_PATH = 200
#: Whole numbers up to it are exact where numbers are doubles, as in JavaScript.
_MAX_EXACT = 2**53
_ANY_DIGIT = bytes.maketrans(b"123456789", b"0" * 9)
_LOST = re.compile(r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!)")
#: Alone, or with the digits that Excel shows, in a longer text.
_SCIENTIFIC = re.compile(r"^[+-]?\d([.,]\d+)?E\+\d+$|\b\d[.,]\d{4,}E\+\d\d\b")


def odd_values(body: bytes) -> list[str]:
    """Return a message for each kind of odd value in an input, as a line of a plan shows it."""
    # Most inputs have none of these bytes, and are not read again.
    if b"#" not in body and b"E+" not in body and b"0" * 16 not in body.translate(_ANY_DIGIT):
        return []
    return sorted(set(islice(_messages(read_json(body), ""), _MAX_ODD)))


def _messages(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _messages(part, (f"{path}.{name}" if path else name)[:_MAX_PATH])
    elif isinstance(value, list):
        for part in value:
            yield from _messages(part, path)
    elif type(value) is int and abs(value) > _MAX_EXACT:
        yield f"{path} holds a whole number beyond 2^53, which JavaScript and others round; write it as a text"
    elif isinstance(value, str) and _LOST.search(value):
        yield f"{path} holds an error of a spreadsheet, like #N/A; mend the cell"
    elif isinstance(value, str) and _SCIENTIFIC.search(value):
        yield f"{path} holds a number that a spreadsheet has shortened, like 1.23457E+15; format its column as text"

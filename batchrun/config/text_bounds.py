"""TOML and JSON that others wrote: what is read takes bounded memory, and what was accepted can be read again.

tomllib makes several hundred bytes of each part of a dotted key, recurses into brackets and gives up on long numbers.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import orjson

from batchrun.runtime.private_files import input_opener

#: Max bytes of a file.
MAX_BYTES = 1 << 20
#: Max parts of a dotted key like `limits.start_rate`, which has two.
MAX_KEY_PARTS = 16
#: Max parts of all keys longer than two parts, together.
MAX_ALL_KEY_PARTS = 10_000
#: Max levels of objects and lists. Pydantic reads 200 from JSON, Python's recursion a few hundred.
MAX_NESTING = 64
#: Max characters of a number: Python reads and writes 4,300 decimal digits, which are 3,570 hexadecimal ones.
MAX_DIGITS = 3_500

#: A text or a comment; one without an end goes to where tomllib gives up. No part is tried twice: `++`.
_TEXT = re.compile(
    r'''"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5}+|\Z)|\'\'\'(?:[^']++|'(?!\'\'))*+(?:'{3,5}+|\Z)'''
    r"""|"(?:[^"\\\n]++|\\[^\n])*+["\\]?|'[^'\n]*+'?|\#[^\n]*+""",
    re.DOTALL,
)
_LONG_NUMBER = re.compile(rf"(?<![\w-])[\w-]{{{MAX_DIGITS + 1}}}")
_LONG_KEY = re.compile(r"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){2,}+")


def read_bounded(file: Path) -> bytes:
    """Return a file's content.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large; the text says so, as after "it ".
    """
    with open(file, "rb", opener=input_opener) as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES:,} bytes")
    return data


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: it is not TOML, or exceeds a bound; the text says which, as after "it ".
    """
    bare = _TEXT.sub(lambda match: "" if match[0][0] == "#" else "s", text.replace("\r\n", "\n"))
    if _LONG_NUMBER.search(bare):
        raise ValueError(f"has a number or a name of more than {MAX_DIGITS:,} characters")
    parts = [match[0].count(".") + 1 for match in _LONG_KEY.finditer(bare)]
    if parts and (max(parts) > MAX_KEY_PARTS or sum(parts) > MAX_ALL_KEY_PARTS):
        raise ValueError(f"has a key of more than {MAX_KEY_PARTS} parts, or too many such keys; write tables instead")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not valid TOML: {error}") from error
    except RecursionError:
        raise ValueError(f"nests more than {MAX_NESTING} levels deep") from None
    check_nesting(values)
    return values


def parse_json(data: bytes | str) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is not JSON, or nests too deep; the text says which, as after "it ".
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error
    check_nesting(value)
    return value


def check_nesting(value: Any) -> None:
    """Refuse objects and lists that nest too deep.

    Raises:
        ValueError: the text says so, as after "it ".
    """
    level = [value]
    for _ in range(MAX_NESTING):
        deeper = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for values in deeper for each in values]
    if any(isinstance(each, dict | list) for each in level):
        raise ValueError(f"nests more than {MAX_NESTING} levels deep")

"""Rows: the parts of a job file, whatever its format, and their positions."""

import re
from dataclasses import field
from typing import Any, NamedTuple

from batchrun.model import BadLine, JsonObject, Position, write_json
from batchrun.runtime.fast_dataclasses import dataclass

#: Bytes of a row; a longer one is skipped unread. More than the API takes as input: a template may leave columns out.
MAX_ROW_BYTES = 16 << 20
#: Bytes of a longer row that are kept for its report.
KEPT_BYTES = 40_000
#: Objects and lists in a row, each of which takes 64 to 232 bytes of memory, and two in the text.
MAX_PARTS = 500_000

#: What to do about a first line that most rows do not fit.
NAMES_FIRST = "the first line must hold the names of the columns: delete the lines above them"

#: Texts that are quoted: a short word, or what begins like a number or a date. A longer one may be a password, from
#: another column of a row that lacks one.
_QUOTED = re.compile(r"\S{0,6}|\s*[-+.]?\d.{0,11}", re.DOTALL)


class NotAJob(Exception):
    """A row is no job; the text is the reason. This package turns it into a BadLine and never lets it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPoint:
    """A point between two rows of a job file, up to which everything was read."""

    #: Bytes from the start of the uncompressed file.
    offset: int = 0
    #: Lines (elements of a JSON array) before it.
    line: int = 0
    #: A hash of the text before it, as it was read; empty if none was taken.
    fingerprint: bytes = field(default=b"", compare=False)


class Row(NamedTuple):
    """One row: an object, or the reason why it is not one."""

    position: Position
    #: None when there is a problem.
    data: JsonObject | None
    #: What is wrong with the row; empty when nothing is.
    problem: str
    #: The row's bytes in the file; of a row that is too long, the first ones.
    raw: bytes
    #: The last line of the row: a CSV cell may hold line ends.
    last_line: int


def bad_line(row: Row, reason: str) -> BadLine:
    """Return the BadLine that reports this row, whole as far as it was read; undecodable bytes are replaced."""
    is_cut = row.position.length > len(row.raw)
    content = row.raw.decode("utf-8", "replace").rstrip("\r\n") + ("…" if is_cut else "")
    return BadLine(position=row.position, reason=reason, content=content)


def brief(value: Any) -> str:
    """Return a JSON value as a message quotes it: at most 80 characters."""
    text = json_text(value)
    return text if len(text) <= 80 else text[:79] + "…"


def quoted(value: Any) -> str:
    """Return a value of a line as a message quotes it: its kind where it may be a secret.

    Messages about lines go to logs, records and notifications.
    """
    is_quoted = _QUOTED.fullmatch(value) is not None if isinstance(value, str) else not isinstance(value, list | dict)
    return brief(value) if is_quoted else kind_of(value)


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words, and nothing that it holds."""
    if isinstance(value, str):
        return f"text of length {len(value):,}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return "null" if value is None else "true or false" if isinstance(value, bool) else "a number"


def json_text(value: Any) -> str:
    """Return a JSON value as JSON."""
    return write_json(value).decode()


def parts_problem(text: bytes | str) -> str:
    """Return why JSON is not parsed, if its objects and lists would take too much memory; empty: it may be parsed."""
    if len(text) <= MAX_PARTS:
        return ""
    count = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    return f"holds {count:,} objects and lists; {MAX_PARTS:,} are allowed" if count > MAX_PARTS else ""


def not_encoded(error: UnicodeDecodeError, encoding: str) -> str:
    """Return the reason for a row that is not in the encoding it should be in."""
    byte = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
    return f'is not {encoding.upper()} ({byte}); convert the file, or name its encoding: jobs.encoding = "cp1252"'

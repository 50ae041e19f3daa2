"""Rows: what a job file is split into, whatever its format, and where each stands."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from batchrun.model import BadLine, JsonObject, Position

#: A longer line is skipped unread. The API takes 9,437,184 bytes; room for what a template leaves out.
MAX_ROW_BYTES = 16 << 20
#: Characters of a bad line that are kept to show.
MAX_CONTENT_CHARS = 10_000
#: Bytes that surely hold them: a character takes four at most.
KEPT_BYTES = 4 * MAX_CONTENT_CHARS + 4


class NotAJob(Exception):
    """A row that is no job; its text is the reason. Becomes a BadLine within this package, never leaves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPoint:
    """A point between two rows of a job file, up to which everything was read."""

    #: Bytes from the start of the uncompressed file.
    offset: int = 0
    #: Lines (elements of a JSON array) before it.
    line: int = 0


class Row(NamedTuple):
    """One row: an object, or the reason why it is none."""

    position: Position
    #: None when there is a problem.
    data: JsonObject | None
    #: What is wrong with it; empty when nothing is.
    problem: str
    #: As it stands in the file; of a row that is too long, its beginning.
    raw: bytes
    #: The last line that it covers: a cell may hold line ends.
    last_line: int


def bad_line(row: Row, reason: str) -> BadLine:
    """Return the BadLine that reports this row."""
    return BadLine(position=row.position, reason=reason, content=shown(row.raw))


def shown(raw: bytes) -> str:
    """Return a row as text that is safe to show: undecodable bytes replaced, very long rows cut."""
    text = raw[:KEPT_BYTES].decode("utf-8", "replace").rstrip("\r\n")
    return text if len(text) <= MAX_CONTENT_CHARS else text[:MAX_CONTENT_CHARS] + "…"


def brief(value: Any) -> str:
    """Return a JSON value as a message quotes it."""
    text = json_text(value)
    return text if len(text) <= 80 else text[:79] + "…"


def json_text(value: Any) -> str:
    """Return a JSON value as JSON."""
    return orjson.dumps(value).decode()


def not_encoded(error: UnicodeDecodeError, encoding: str) -> str:
    """Return the reason for a row that is not in the encoding it should be in."""
    byte = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
    return f'is not {encoding.upper()} ({byte}); convert the file, or name its encoding: jobs.encoding = "cp1252"'

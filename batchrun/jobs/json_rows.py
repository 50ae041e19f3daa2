"""Rows of JSON lines and of JSON arrays."""

import mmap
import re
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import orjson

from batchrun.errors import JobFileError
from batchrun.jobs.raw_streams import Note
from batchrun.jobs.rows import KEPT_BYTES, MAX_ROW_BYTES, ReadPoint, Row, brief, not_encoded, parts_problem
from batchrun.jobs.skipped_lines import RowlessBytes, is_blank_line, skip_line
from batchrun.model import MAX_BODY_BYTES, JsonObject, Position, read_json
from batchrun.runtime.free_memory import check_memory, parsed_bytes

#: Max bytes of a JSON array; and of one that is held in memory while the batch goes on. A worker has many batches.
MAX_ARRAY_BYTES, _MAX_HELD_BYTES = 64 << 20, 1 << 20
#: Bytes of a longer array that are read at once.
_PIECE_BYTES = 1 << 20
#: Bytes of a row from which on it is checked that there is memory for what it holds.
_LARGE_BYTES = 1 << 16

#: An object, or None; and what is wrong, or an empty text.
Parsed = tuple[JsonObject | None, str]

_EXAMPLE = 'an object like {"url": "https://example.com"}'
_TOO_LONG = f"is longer than {MAX_ROW_BYTES:,} bytes and was skipped; the API takes at most {MAX_BODY_BYTES:,} bytes"


def line_rows(stream: BufferedIOBase, start: ReadPoint, encoding: str, note: Note | None = None) -> Iterator[Row]:
    """Yield the rows of JSON lines from `start` on, where the stream is, in one pass; blank lines are skipped.

    The encoding is UTF-8, or one that codes each character as one byte. Before each row, `note` is called with the text
    from the end of the last one to the end of this one.

    Raises:
        NoRow: the file goes on for long without one.
    """
    parse, rowless = _parser(encoding), RowlessBytes()
    offset, line = start.offset, start.line
    while raw := stream.readline(MAX_ROW_BYTES):
        if note is not None:
            note(raw)
        line += 1
        if not offset and raw.startswith(BOM_UTF8):
            raw, offset = raw[3:], 3
        length = len(raw)
        skipped, end = skip_line(stream, note) if length > KEPT_BYTES and raw[-1] != 0x0A else (0, b"")
        if skipped:
            rowless.end()
            length += skipped
            position = Position(line=line, offset=offset, length=length)
            yield Row(position, None, _TOO_LONG, raw[:KEPT_BYTES] + end, line)
        elif is_blank_line(raw):
            rowless.add(length)
        else:
            rowless.end()
            data, problem = parse(raw)
            yield Row(Position(line=line, offset=offset, length=length), data, problem, raw, line)
        offset += length


def array_rows(
    stream: BufferedIOBase, encoding: str, name: str, directory: Path, note: Note | None = None
) -> Iterator[Row]:
    """Yield the elements of a JSON array as rows; `line` counts elements, offsets are those of the element.

    Before each element, `note` is called with the text from the end of the last one to the end of this one. A large
    array is in a file without a name meanwhile, in `directory` if that can be written: such pages need no memory. If
    the disk has no room for it, it is in memory.

    Raises:
        JobFileError: The file is no array, is broken between two elements, or is too large to hold.
    """
    data = _held(stream, name, directory)
    parse, noted = _parser(encoding), 0
    for line, (begin, end) in enumerate(_elements(data, name), start=1):
        raw = data[begin:end]
        if note is not None:
            note(data[noted:end])
            noted = end
        value, problem = parse(raw)
        yield Row(Position(line=line, offset=begin, length=end - begin), value, problem, raw, line)


def _held(stream: BufferedIOBase, name: str, directory: Path) -> bytes | mmap.mmap:
    head = stream.read(_MAX_HELD_BYTES + 1)
    if len(head) <= _MAX_HELD_BYTES:
        return head
    data: bytes | mmap.mmap
    with _unnamed_file(directory) as file:
        size, piece = 0, head
        while piece and _takes(file, piece):
            size += len(piece)
            piece = stream.read(min(_PIECE_BYTES, MAX_ARRAY_BYTES + 1 - size))
        if piece:  # the disk is full: the array is held in memory
            file.seek(0)
            data = file.read(size) + piece + stream.read(MAX_ARRAY_BYTES + 1 - size - len(piece))
        else:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(data) > MAX_ARRAY_BYTES:
        problem = f"is larger than {MAX_ARRAY_BYTES >> 20} MB; write one object per line and name it .jsonl"
        raise JobFileError(problem, file=name)
    return data


def _unnamed_file(directory: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0, dir=directory)
    except OSError:
        return tempfile.TemporaryFile(buffering=0)


def _takes(file: IO[bytes], piece: bytes) -> bool:
    """Write bytes to a file; return False if the disk has no room for all of them."""
    try:
        return file.write(piece) == len(piece)
    except OSError:
        return False


_WRAPPED = re.compile(rb'\{\s*"([^"\\]+)"\s*:\s*\[')
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(_STRING + rb'|[^ \t\r\n\[\]{},"]++', re.DOTALL)
_NESTING = re.compile(_STRING + rb'|[\[\]{}"]', re.DOTALL)


def _elements(data: bytes | mmap.mmap, name: str) -> Iterator[tuple[int, int]]:
    """Yield where each element of the array begins and ends, without checking what is inside."""
    at = _past_space(data, len(BOM_UTF8) if data[: len(BOM_UTF8)] == BOM_UTF8 else 0)
    if at == len(data):
        return
    if found := _WRAPPED.match(data, at):
        within = found[1].decode("utf-8", "replace")
        problem = f"is an object whose list is {within!r}; write the list alone, as with: jq '.\"{within}\"' FILE"
        raise JobFileError(problem, file=name)
    if data[at] != ord("["):
        raise JobFileError("is not a JSON array; a file of one object per line is named .jsonl", file=name)
    at = _past_space(data, at + 1)
    line = 0
    closed = data[at : at + 1] == b"]"
    while not closed:
        line += 1
        end = _end_of_value(data, at, name, line)
        yield at, end
        at = _past_space(data, end)
        closed = data[at : at + 1] == b"]"
        if not closed and data[at : at + 1] != b",":
            raise JobFileError(_broken(data, at, "a comma or the end of the array"), file=name, line=line)
        at = _past_space(data, at + 1)
    at = at if line else at + 1
    if _past_space(data, at) != len(data):
        raise JobFileError(_broken(data, at, "nothing after the array"), file=name, line=line or None)


def _past_space(data: bytes | mmap.mmap, at: int) -> int:
    found = _SPACE.match(data, at)
    return found.end() if found else at


def _end_of_value(data: bytes | mmap.mmap, at: int, name: str, line: int) -> int:
    if data[at : at + 1] not in (b"{", b"["):
        scalar = _SCALAR.match(data, at)
        if scalar is None:
            raise JobFileError(_broken(data, at, "an object"), file=name, line=line)
        return scalar.end()
    depth = 0
    for token in _NESTING.finditer(data, at):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if not depth:
                return token.end()
        elif mark == b'"':
            # A quote alone: the string that it opens never ends.
            break
    raise JobFileError("begins here and never ends; the file may be cut off", file=name, line=line)


def _broken(data: bytes | mmap.mmap, at: int, wanted: str) -> str:
    # Not more than one character: what follows may be a secret.
    found = brief(data[at : at + 4].decode("utf-8", "replace")[0]) if at < len(data) else "the end of the file"
    return f"the array is broken at byte {at + 1:,}: expected {wanted}, found {found}"


def _parser(encoding: str) -> Callable[[bytes], Parsed]:
    if encoding == "utf-8":
        return parse_object

    def parse(raw: bytes) -> Parsed:
        try:
            return parse_object(raw.decode(encoding))
        except UnicodeDecodeError as error:
            return None, not_encoded(error, encoding)

    return parse


def parse_object(raw: bytes | str) -> Parsed:
    """Parse one JSON object; of a property given twice, the last one wins, as in JavaScript."""
    if problem := parts_problem(raw):
        return None, problem
    if len(raw) > _LARGE_BYTES:
        check_memory(parsed_bytes(raw if isinstance(raw, bytes) else raw.encode(errors="replace")))
    try:
        value = read_json(raw)
    except orjson.JSONDecodeError as error:
        return None, _not_json(raw, error)
    if type(value) is dict:
        return value, ""
    return None, f"is {_WORDS[type(value)]}; each line must be {_EXAMPLE}"


def _not_json(raw: bytes | str, error: orjson.JSONDecodeError) -> str:
    try:
        text = raw if isinstance(raw, str) else raw.decode()
    except UnicodeDecodeError as wrong:
        return not_encoded(wrong, "utf-8")
    if text.strip() in ("[", "{"):
        return "is only the beginning of a JSON value; write one object per line, or name an array .json"
    return f"is not JSON ({error.msg}, at character {error.pos + 1}); each line must be {_EXAMPLE}"


#: The kinds of JSON values, as a message names them.
_WORDS: dict[type, str] = {
    dict: "a JSON object",
    list: "a JSON array",
    str: "a JSON string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}

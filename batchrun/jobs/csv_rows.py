"""Rows of CSV and TSV: a header, then cells; a cell may hold line ends."""

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import chain
from typing import NamedTuple, Self

from batchrun.errors import ConfigError, JobFileError
from batchrun.jobs.raw_streams import skip_line
from batchrun.jobs.rows import KEPT_BYTES, MAX_ROW_BYTES, NotAJob, ReadPoint, Row, not_encoded
from batchrun.model import Position

# csv limits a cell to 128 KB, for the whole process; the limit of a row is the one that counts here.
csv.field_size_limit(MAX_ROW_BYTES)


class Header(NamedTuple):
    """The first row that is not blank."""

    columns: tuple[str, ...]
    delimiter: str
    #: Where the rows begin.
    end: ReadPoint


def read_header(stream: BufferedIOBase, encoding: str, delimiter: str | None, name: str) -> Header:
    """Read the header of a CSV file; the stream is at its beginning, and at the end of the header afterwards.

    The encoding is UTF-8, or one that codes each character as one byte. Without a delimiter, comma, semicolon or tab is
    chosen, whichever the header has most of.

    Raises:
        JobFileError: There is no header, or one of its names is empty or occurs twice.
        ConfigError: `delimiter` is not one character.
    """
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        raise ConfigError(f"must be one character like ';', not {delimiter!r}", key="jobs.delimiter")
    lines = _Lines(stream, ReadPoint(), encoding)
    try:
        text = next((line for line in lines if line.strip()), "")
        if not text:
            raise JobFileError("holds no jobs: the file is empty", file=name)
        delimiter = _likely_delimiter(text) if delimiter is None else delimiter
        # A quoted name may hold line ends: the reader then takes further lines.
        columns = tuple(cell.strip() for cell in next(_reader(chain([text], lines), delimiter)))
    except (NotAJob, csv.Error) as error:
        raise JobFileError(f"the header is not CSV: {error}", file=name, line=lines.line) from None
    _check_names(columns, name, lines.line)
    return Header(columns, delimiter, ReadPoint(offset=lines.offset, line=lines.line))


def csv_rows(stream: BufferedIOBase, start: ReadPoint, encoding: str, header: Header) -> Iterator[Row]:
    """Yield the rows of CSV from `start` on, where the stream is, in one pass; blank rows are skipped."""
    lines = _Lines(stream, start, encoding)
    reader = _reader(lines, header.delimiter)
    columns, width = header.columns, len(header.columns)
    while True:
        lines.begin_row()
        try:
            cells, problem = next(reader), ""
        except StopIteration:
            return
        except NotAJob as bad:
            cells, problem = [], str(bad)
        except csv.Error as error:
            cells, problem = [], _teach(error)
        if not problem:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != width:
                problem = _ragged(len(cells), width, header.delimiter)
        data = None if problem else dict(zip(columns, cells, strict=True))
        yield Row(lines.position, data, problem, lines.raw, lines.line)


class _Lines:
    """Give csv.reader the lines of a stream, and count the lines and bytes that it takes.

    csv.reader takes exactly the lines of one row, so that offsets hold although cells may hold line ends.
    An iterator, not a generator: it goes on after it has raised.
    """

    def __init__(self, stream: BufferedIOBase, start: ReadPoint, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding
        self.offset, self.line = start.offset, start.line
        self.begin_row()

    def begin_row(self) -> None:
        self._row_offset, self._row_line = self.offset, self.line
        self._row: list[bytes] = []

    @property
    def position(self) -> Position:
        return Position(line=self._row_line + 1, offset=self._row_offset, length=self.offset - self._row_offset)

    @property
    def raw(self) -> bytes:
        return b"".join(self._row)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MAX_ROW_BYTES)
        if not raw:
            raise StopIteration
        self.line += 1
        if not self.offset and raw.startswith(BOM_UTF8):
            raw = raw[len(BOM_UTF8) :]
            self.offset = self._row_offset = len(BOM_UTF8)
        self._take(raw)
        if b"\0" in raw:
            raise NotAJob("holds a NUL byte; the file may be damaged: write it again")
        try:
            return raw.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise NotAJob(not_encoded(error, self._encoding)) from None

    def _take(self, raw: bytes) -> None:
        self._row.append(raw)
        self.offset += len(raw)
        if len(raw) > KEPT_BYTES and raw[-1] != 0x0A:
            self.offset += skip_line(self._stream)
        if self.offset - self._row_offset > MAX_ROW_BYTES:
            self._row = [self.raw[:KEPT_BYTES]]
            raise NotAJob(
                f"is longer than {MAX_ROW_BYTES:,} bytes and was skipped; "
                "look for a quote that is opened in this row and never closed"
            )


def _reader(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _likely_delimiter(header: str) -> str:
    """Return the delimiter that occurs most often in the header, outside quotes."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=bare.count)


def _check_names(columns: tuple[str, ...], name: str, line: int) -> None:
    for number, column in enumerate(columns, start=1):
        if not column:
            raise JobFileError(
                f"column {number} has no name; the first row must name every column", file=name, line=line
            )
        if column in columns[: number - 1]:
            raise JobFileError(f"two columns are named {column!r}; rename one", file=name, line=line)


def _teach(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return (
            "opens a quote that is never closed, before the end of the file; close it, or write a literal quote twice"
        )
    if "new-line" in str(error):
        return "holds a bare carriage return; put the cell in quotes, or convert the file's line ends"
    return f"is not CSV: {error}; write a quote inside a quoted cell twice"


def _ragged(found: int, width: int, delimiter: str) -> str:
    return (
        f"has {found} cells where the header names {width} columns; "
        f"put a cell that holds {delimiter!r} or a line end in quotes"
    )

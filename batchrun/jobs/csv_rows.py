"""Rows of CSV and TSV: a header, then cells; a cell may hold line ends."""

import csv
import re
from codecs import BOM_UTF8
from collections import Counter, deque
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from itertools import chain, islice
from typing import NamedTuple, Self

from batchrun.errors import JobFileError
from batchrun.jobs.raw_streams import Note
from batchrun.jobs.rows import KEPT_BYTES, MAX_ROW_BYTES, NAMES_FIRST, NotAJob, ReadPoint, Row, not_encoded
from batchrun.jobs.skipped_lines import RowlessBytes, is_blank_line, is_blank_row, skip_line
from batchrun.model import Position

#: The problem of a row whose quote is still open at the end of the file.
NEVER_CLOSED = (
    "opens a quote that is never closed; close it, write a literal quote twice, or set"
    ' jobs.quote = "none" if quotes are ordinary characters in this file'
)
#: The problem of a row whose quote is closed further down, but not as a row of the file.
NOT_ONE_ROW = (
    "opens a quote that is not closed on this line, and the next lines do not complete it to one row; close it, or"
    " write a literal quote twice"
)
_NOT_READ_FURTHER = (
    "opens a quote that is not closed on this line, as so many lines before it that the file is read no further; close"
    " them, write a literal quote twice, or set"
    ' jobs.quote = "none" if quotes are ordinary characters in this file'
)
_REPEATED_HEADER = "repeats the header; leave out the header of each file but the first when you join files"
#: What Excel reads as the delimiter, and never shows.
_SEP = re.compile(r"sep=(.)\s*", re.IGNORECASE)

_LONE_CR = re.compile(r"\r(?!\n)")

#: What names no column: addresses of pages, and, where every name is like that, numbers and addresses of people.
_URL = re.compile(r"https?://", re.IGNORECASE)
_DATA = re.compile(r"[-+]?[.,]?\d[\d.,]*$|[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+$")

# csv limits a cell to 128 KB, for the whole process; the limit of a row is the one that counts here.
#: Max columns, as many as a spreadsheet has. A job file of others could have a million, in each of 10,000 rows.
MAX_COLUMNS = 16_384
#: Max lines of a row; each takes some 40 bytes besides its own.
MAX_ROW_LINES = 500_000
#: Max bytes that one reading of a file reads again, after rows that take several lines and are none, and how many more
#: for each byte of the file. A line counts some bytes more than it has: for its call.
_MAX_AGAIN_BYTES, _AGAIN_PER_BYTE, _LINE_BYTES = 512 << 20, 8, 64
#: Rows that are compared with the header.
_COMPARED_ROWS = 200
csv.field_size_limit(MAX_ROW_BYTES)


class CsvDialect(NamedTuple):
    """How a CSV file separates and quotes its cells."""

    delimiter: str
    #: None: quotes are ordinary characters.
    quote: str | None
    #: Whether blanks around a cell are left out.
    trim: bool
    #: Whether a backslash escapes the next character, instead of a quote that is written twice.
    escapes: bool = False

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Read cells; a row that is not of this dialect raises csv.Error, and the next call reads the next row."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            quoting=csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL,
            doublequote=not self.escapes,
            escapechar="\\" if self.escapes else None,
            # A quote counts at the beginning of a cell only, and blanks before it would make it a literal one.
            skipinitialspace=self.trim and self.delimiter != " ",
            strict=True,
        )


class Header(NamedTuple):
    """The first row that is not blank."""

    columns: tuple[str, ...]
    #: Empty cells behind the last name, which rows may have, too.
    unnamed: int
    dialect: CsvDialect
    #: Where the rows begin.
    end: ReadPoint
    #: False: most rows have another number of cells, so it may be a title above the names.
    fits_rows: bool = True


def named_delimiter(head: str) -> str | None:
    """Return the delimiter that a first line like `sep=;` names."""
    found = _SEP.fullmatch(head.lstrip("\ufeff").lstrip().split("\n", 1)[0])
    return found[1] if found else None


def read_header(stream: BufferedIOBase, encoding: str, dialect: CsvDialect, name: str) -> Header:
    """Read the header of a CSV file; the stream is at its beginning, and at the end of the header afterwards.

    The encoding is UTF-8, or one that codes each character as one byte. Columns without a name at the end are dropped.

    Raises:
        JobFileError: There is no header, or one of its names is empty or occurs twice.
    """
    lines = _Lines(stream, ReadPoint(), encoding)
    try:
        text = next((line for line in lines if not (is_blank_line(line) or named_delimiter(line))), "").lstrip("\ufeff")
        if not text:
            raise JobFileError("holds no jobs: the file is empty", file=name)
        # A quoted name may hold line ends: the reader then takes further lines.
        cells = next(dialect.reader(chain([text], lines)))
        if any(_LONE_CR.search(cell) for cell in cells):
            problem = "the header holds a carriage return alone; convert the line ends: tr '\\r' '\\n' < FILE"
            raise JobFileError(problem, file=name, line=1)
        cells = [cell.strip() for cell in cells]
    except (NotAJob, csv.Error) as error:
        raise JobFileError(f"the header is not CSV: {error}", file=name, line=lines.line) from None
    row_cells = len(cells)
    while len(cells) > 1 and not cells[-1]:
        del cells[-1]
    _check_names(cells, name, lines.line)
    return Header(tuple(cells), row_cells - len(cells), dialect, ReadPoint(offset=lines.offset, line=lines.line))


def compared_with_rows(header: Header, sample: bytes, encoding: str) -> Header:
    """Return a header that says whether it fits the rows of a sample, which is the beginning of the file."""
    stream = BytesIO(sample)
    stream.seek(header.end.offset)
    rows = islice(csv_rows(stream, header.end, encoding, header, ""), _COMPARED_ROWS)
    try:
        problems = Counter(row.problem for row in rows)
    except JobFileError:
        return header
    if not problems:
        return header
    # The same number of cells is the same problem.
    problem, count = problems.most_common(1)[0]
    return header._replace(fits_rows=not problem or count < 2 or 2 * count <= problems.total())


def csv_rows(
    stream: BufferedIOBase,
    start: ReadPoint,
    encoding: str,
    header: Header,
    name: str,
    note: Note | None = None,
    *,
    holds_back: bool = False,
) -> Iterator[Row]:
    """Yield the rows of CSV from `start` on, where the stream is, in one pass; blank rows are skipped.

    A row that takes several lines and is none costs its first line; the next lines are read again as rows. If
    `holds_back`, a row whose quote is still open at the end of the file takes all lines up to there, and is the last.
    Before each row, `note` is called with the text from the end of the last one to the end of this one.

    Raises:
        JobFileError: too much was read again after rows that take several lines and are none.
        NoRow: the file goes on for long without a row.
    """
    lines = _Lines(stream, start, encoding, note)
    columns, trim = header.columns, header.dialect.trim
    widest = len(columns) + header.unnamed
    reader, rowless = header.dialect.reader(lines), RowlessBytes()
    while True:
        lines.begin_row()
        cells, problem = [], ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except NotAJob as bad:
            problem = str(bad)
        except csv.Error as error:
            problem = _teach(error, spans_lines=lines.spans_lines)
        if trim:
            cells = [cell.strip() for cell in cells]
        if not problem and len(cells) <= widest and is_blank_row(cells):
            lines.end_row()
            rowless.add(lines.position.length)
            continue
        rowless.end()
        problem = problem or _misfit(cells, header, spans_lines=lines.spans_lines)
        if problem == NEVER_CLOSED and holds_back:
            yield Row(lines.position, None, problem, lines.raw, lines.line)
            return
        if problem and not lines.keep_first():
            raise JobFileError(_NOT_READ_FURTHER, file=name, line=lines.position.line)
        lines.end_row()
        data = None if problem else dict(zip(columns, cells, strict=False))
        yield Row(lines.position, data, problem, lines.raw, lines.line)


class _Lines:
    """Give csv.reader the lines of a stream, and count the lines and bytes that it takes.

    csv.reader takes exactly the lines of one row, so that offsets hold although cells may hold line ends.
    An iterator, not a generator: it goes on after it has raised.
    """

    def __init__(self, stream: BufferedIOBase, start: ReadPoint, encoding: str, note: Note | None = None) -> None:
        self._stream, self._encoding, self._note = stream, encoding, note
        self.offset, self.line = start.offset, start.line
        #: Lines that are given again.
        self._again: deque[bytes] = deque()
        #: Bytes that may still be given again.
        self._left = _MAX_AGAIN_BYTES
        self.begin_row()

    def begin_row(self) -> None:
        self._row_offset, self._row_line = self.offset, self.line
        self._row: list[bytes] = []
        self._is_noted = False

    def end_row(self) -> None:
        if self._note is not None and not self._is_noted:
            self._note(self.raw)

    def keep_first(self) -> bool:
        """End the row with its first line; the others are given again. Return False if that is too much."""
        if self.spans_lines:
            self._left -= sum(map(len, self._row)) + _LINE_BYTES * len(self._row)
            self._again.extendleft(reversed(self._row[1:]))
            del self._row[1:]
            self.offset, self.line = self._row_offset + len(self._row[0]), self._row_line + 1
        return self._left >= 0

    @property
    def spans_lines(self) -> bool:
        return len(self._row) > 1

    @property
    def position(self) -> Position:
        return Position(line=self._row_line + 1, offset=self._row_offset, length=self.offset - self._row_offset)

    @property
    def raw(self) -> bytes:
        return b"".join(self._row)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._again:
            raw = self._again.popleft()
        else:
            raw = self._stream.readline(MAX_ROW_BYTES)
            self._left += _AGAIN_PER_BYTE * len(raw)
        if not raw:
            raise StopIteration
        if not self.offset and raw.startswith(BOM_UTF8):
            raw = raw[len(BOM_UTF8) :]
            self.offset = self._row_offset = len(BOM_UTF8)
        self.line += 1
        self.offset += len(raw)
        self._row.append(raw)
        if len(raw) > KEPT_BYTES and raw[-1] != 0x0A and not self.spans_lines:
            self._skip_rest(raw)
        if self.offset - self._row_offset > MAX_ROW_BYTES or len(self._row) > MAX_ROW_LINES:
            limit = f"{MAX_ROW_LINES:,} lines" if len(self._row) > MAX_ROW_LINES else f"{MAX_ROW_BYTES:,} bytes"
            raise NotAJob(
                f"is longer than {limit} and was skipped; look for a quote that is opened in this row and never closed"
            )
        if b"\0" in raw:
            raise NotAJob("holds a NUL byte; the file may be damaged: write it again")
        try:
            return raw.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise NotAJob(not_encoded(error, self._encoding)) from None

    def _skip_rest(self, raw: bytes) -> None:
        """Read a line that is too long up to its end, and keep its beginning."""
        self.end_row()
        self._is_noted = True
        skipped, end = skip_line(self._stream, self._note)
        if skipped:
            self.offset += skipped
            self._row = [raw[:KEPT_BYTES] + end]


def _check_names(columns: list[str], name: str, line: int) -> None:
    if len(columns) > MAX_COLUMNS:
        problem = f"the first row names {len(columns):,} columns; at most {MAX_COLUMNS:,} are read"
        raise JobFileError(problem, file=name, line=line)
    named: set[str] = set()
    for number, column in enumerate(columns, start=1):
        if not column:
            raise JobFileError(
                f"column {number} has no name; the first row must name every column", file=name, line=line
            )
        if column in named:
            raise JobFileError(f"two columns are named {column!r}; rename one", file=name, line=line)
        named.add(column)
    if all(_DATA.match(column) for column in columns) or any(map(_URL.match, columns)):
        problem = f"the first row looks like data ({columns[0]!r}), and not like names; write a row of names before it"
        raise JobFileError(problem, file=name, line=line)


def _teach(error: csv.Error, *, spans_lines: bool) -> str:
    if "unexpected end" in str(error):
        return NEVER_CLOSED
    if spans_lines:
        return NOT_ONE_ROW
    if "new-line" in str(error):
        return "holds a bare carriage return; put the cell in quotes, or convert the file's line ends"
    return f"is not CSV: {error}; write a quote inside a quoted cell twice"


def _misfit(cells: list[str], header: Header, *, spans_lines: bool) -> str:
    """Return what is wrong with the cells of a row; empty when nothing is."""
    columns = header.columns
    width = len(columns)
    if not width <= len(cells) <= width + header.unnamed or any(map(str.strip, cells[width:])):
        return NOT_ONE_ROW if spans_lines else _other_width(len(cells), header)
    if columns[0] in cells[0] and all(
        cell.lstrip("\ufeff").strip() == name for cell, name in zip(cells, columns, strict=False)
    ):
        return _REPEATED_HEADER
    return ""


def _other_width(cells: int, header: Header) -> str:
    columns = len(header.columns)
    if not header.fits_rows:
        advice = NAMES_FIRST
    elif cells > columns:
        advice = f"put a cell that holds {header.dialect.delimiter!r} in quotes"
    else:
        advice = "complete or delete the line, or put a cell that holds a line end in quotes"
    return (
        f"has {cells} cell{'' if cells == 1 else 's'} where the header names {columns}"
        f" column{'' if columns == 1 else 's'}; {advice}"
    )
